"""Rules of the optimization that both frameworks follow, so that neither can have its own."""

from __future__ import annotations

from fnmatch import fnmatchcase

from pipeline.utils.errors import RunFailure

# PyTorch's clip_grad_norm_ divides by (norm + this).
CLIP_EPSILON = 1e-6
# Added to the logits of positions that must not be chosen.
HIDDEN_LOGIT = -1e9


def more_micro_batches(micro_batches: int, num_rows: int, error: Exception) -> int:
    """Twice as many micro-batches for a batch of `num_rows` rows that did not fit in memory.

    Raises RunFailure if a micro-batch is a single row already, which in a packed batch has several examples.
    """
    if micro_batches >= num_rows:
        raise RunFailure(
            "there is not enough memory for the gradients of a single row of the batch; set data.batching to padded, "
            "whose rows have one example each, lower data.max_length, or use a smaller model"
        ) from error
    return 2 * micro_batches


def decays(name: str, num_dimensions: int) -> bool:
    """Whether weight decay applies to a weight: to matrices and embeddings, not to biases or LayerNorm."""
    return num_dimensions >= 2 and not name.endswith("bias")


def matching(names: list[str], patterns: tuple[str, ...]) -> tuple[set[str], list[str]]:
    """The names that match any shell-style pattern, and the patterns that match no name."""
    matched = {name for name in names for pattern in patterns if fnmatchcase(name, pattern)}
    idle = [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in names)]
    return matched, idle
