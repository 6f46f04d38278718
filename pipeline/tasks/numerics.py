"""The arithmetic that tasks share, in NumPy: probabilities of logits, and weights of targets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from transformers import BatchEncoding


def log_softmax(logits: NDArray) -> NDArray[np.float64]:
    """Log probabilities over the last axis, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def sigmoid(logits: NDArray) -> NDArray[np.float64]:
    """The probability of each label on its own, in float64."""
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


# Read from text, since a computed power may be off by one rounding, and numbers would then have needless digits.
_POWERS_OF_TEN = np.array([float(f"1e{power}") for power in range(305)])


def recorded(probabilities: NDArray) -> NDArray[np.float64]:
    """Probabilities as files of predictions hold them: with six significant digits, also of what is missing to 1.

    So the probabilities of a model that is very sure keep their order, near 0 and near 1.
    """
    exact = probabilities.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        digits = 5 - np.floor(np.log10(np.minimum(exact, 1 - exact)))
    is_between = np.isfinite(digits)
    power = _POWERS_OF_TEN[np.where(is_between, digits, 0).astype(int).clip(0, len(_POWERS_OF_TEN) - 1)]
    return np.where(is_between, np.rint(exact * power) / power, exact)


def equal_weights(mask: NDArray) -> NDArray[np.float32]:
    """Equal weights for the targets that `mask` marks, summing to 1, and 0 for all others."""
    weights = mask.astype(np.float64)
    return (weights / max(weights.sum(), 1.0)).astype(np.float32)


def sums_by_position(values_T: NDArray) -> list[float]:
    """The sums of a row's values at positions 1, 2, 3 to 4, 5 to 8 and so on, each twice as many as before."""
    starts = [
        start for start in (0, *(2**power for power in range(len(values_T).bit_length()))) if start < len(values_T)
    ]
    return np.add.reduceat(values_T.astype(np.float64), starts).round(4).tolist()


def truncated_rows(encoded: BatchEncoding) -> NDArray[np.bool_]:
    """Which rows of a tokenizer's output lost text to truncation, [N]."""
    assert encoded.encodings is not None, "a fast tokenizer keeps its encodings"
    return np.array([bool(encoding.overflowing) for encoding in encoded.encodings], dtype=bool)
