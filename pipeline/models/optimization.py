"""Rules of the optimisation that both frameworks read, so that neither can have its own."""

from __future__ import annotations

from fnmatch import fnmatchcase

from pipeline.utils.errors import RunFailure

# PyTorch's clip_grad_norm_ divides by (norm + this).
CLIP_EPSILON = 1e-6
# Added to the logits of positions that must not be chosen.
HIDDEN = -1e9
# What of a model's config generation must know.
SPECIAL_IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")


def more_parts(parts: int, num_rows: int, error: Exception) -> int:
    """Into how many micro-batches to split an update of `num_rows` for which memory was short. Raises RunFailure."""
    if parts >= num_rows:
        raise RunFailure(
            "memory does not hold the model's gradients for one example; lower data.max_length, or take a smaller model"
        ) from error
    return 2 * parts


def decays(name: str, num_dimensions: int) -> bool:
    """Whether weight decay applies to a weight: to matrices and embeddings, not to biases or LayerNorm."""
    return num_dimensions >= 2 and not name.endswith("bias")


def matching(names: list[str], patterns: tuple[str, ...]) -> tuple[set[str], list[str]]:
    """The names that match any shell-style pattern, and the patterns that match no name."""
    matched = {name for name in names for pattern in patterns if fnmatchcase(name, pattern)}
    idle = [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in names)]
    return matched, idle
