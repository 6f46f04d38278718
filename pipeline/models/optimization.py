"""Rules of the optimization that both frameworks follow, so that neither can have its own: learning rates, decay."""

from __future__ import annotations

import math
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from pipeline.recipe.schema import Train
from pipeline.utils.errors import RunFailure

# PyTorch's clip_grad_norm_ divides by (norm + this).
CLIP_EPSILON = 1e-6
# Added to the logits of positions that must not be chosen.
HIDDEN_LOGIT = -1e9
# Where logits are computed only of the tokens that have a loss, their number is a multiple of this.
COUNTED_MULTIPLE = 8


def learning_rates(train: Train, num_steps: int) -> NDArray[np.float64]:
    """The rate applied at each step, shape [num_steps], computed once so that both frameworks apply the same numbers.

    Warm-up is linear from 0 over ceil(warmup_ratio · num_steps) steps; then the rate is constant, falls linearly
    to 0, or follows half a cosine to 0. The same numbers as transformers.get_scheduler, so that a recipe's rate means
    what it means elsewhere.
    """
    warmup = math.ceil(train.warmup_ratio * num_steps)
    step = np.arange(num_steps)
    rising = step / max(1, warmup)
    progress = (step - warmup) / max(1, num_steps - warmup)
    falling = {
        "constant": np.ones(num_steps),
        "linear": 1 - progress,
        "cosine": 0.5 * (1 + np.cos(np.pi * progress)),
    }[train.schedule]
    return train.learning_rate * np.where(step < warmup, rising, falling)


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
    matched = set(names) & set(patterns)
    others = [pattern for pattern in patterns if pattern not in matched]
    matched |= {name for name in names for pattern in others if fnmatchcase(name, pattern)}
    idle = [pattern for pattern in others if not any(fnmatchcase(name, pattern) for name in names)]
    return matched, idle
