"""Statistics of resampled examples: a metric as a function of how often each validation example was drawn.

A statistic takes counts [R, N], how often each of N examples was drawn in each of R resamples, and returns the metric
of every resample [R]. If every count is 1, that is the value of the metric's own class, which the tests compare. Most
metrics are a formula over a few sums (`Sums`), so that the sums of many metrics cost one matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

# R resamples · N examples · K columns
Statistic = Callable[[NDArray], NDArray]
# The lines of predictions.jsonl. What a line holds beside its index is up to the task.
Lines = Sequence[Mapping[str, JsonValue]]


@dataclass(frozen=True)
class Sums:
    """A statistic that is a formula over the sums of a few columns, each example counted as often as it was drawn."""

    columns_NK: NDArray[np.float64]
    formula: Callable[[NDArray], NDArray]  # [R, K] -> [R]

    def __call__(self, counts_RN: NDArray) -> NDArray:
        return self.formula(counts_RN @ self.columns_NK)


def mean(values_N: NDArray) -> Sums:
    """The mean over examples."""
    columns_NK = np.stack([values_N.astype(np.float64), np.ones(len(values_N))], axis=1)
    return Sums(columns_NK, lambda sums_RK: sums_RK[:, 0] / sums_RK[:, 1])


def ratio(
    lines: Lines, numerator: str, denominator: str, finish: Callable[[NDArray], NDArray] = lambda ratio_R: ratio_R
) -> Sums | None:
    """`finish` of the ratio of two summed fields; None if the lines lack one of them."""
    if not {numerator, denominator} <= lines[0].keys():
        return None

    def formula(sums_RK: NDArray) -> NDArray:
        with np.errstate(over="ignore"):  # a perplexity that overflows is infinite
            return finish(sums_RK[:, 0] / sums_RK[:, 1])

    return Sums(np.stack([column(lines, numerator), column(lines, denominator)], axis=1), formula)


def column(lines: Lines, field: str) -> NDArray[np.float64]:
    """A field of every line, [N]."""
    return np.array([line[field] for line in lines], dtype=np.float64)


def texts(lines: Lines, field: str) -> list[str]:
    """A field of every line that is a text, [N]."""
    return cast(list[str], [line[field] for line in lines])


def lists_of_texts(lines: Lines, field: str) -> list[list[str]]:
    """A field of every line that is a list of texts, [N]; a single text is a list of one."""
    values = (line[field] for line in lines)
    return cast(list[list[str]], [value if isinstance(value, list) else [value] for value in values])


def finite_numbers(lines: Lines) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Predicted and true numbers, each [N]; None if the lines hold something else, or the model diverged."""
    if not isinstance(lines[0].get("reference"), float):
        return None
    predictions, references = column(lines, "prediction"), column(lines, "reference")
    return (predictions, references) if np.isfinite(predictions).all() else None


def divide(a: NDArray, b: NDArray) -> NDArray:
    """a / b, and 0 where b is 0, which is what the metrics return too."""
    return np.divide(a, b, out=np.zeros_like(a, dtype=np.float64), where=b != 0)


def correlation(
    xy: NDArray, xx: NDArray, yy: NDArray, size_of_xx: NDArray | float, size_of_yy: NDArray | float
) -> NDArray:
    """Correlation from the sums of centered products; 0 if either variable is constant.

    A constant leaves rounding errors instead of a variance of 0; the sizes, of the sums before centering, tell them
    from a small variance.
    """
    varies = (xx > 1e-12 * size_of_xx) & (yy > 1e-12 * size_of_yy)
    return np.where(varies, divide(xy, np.sqrt(np.abs(xx * yy))), 0.0)


class RankedValues:
    """The examples in ascending order of a value, equal values together: resampling does not change the order."""

    def __init__(self, values_N: NDArray):
        self.group_N = np.unique(values_N, return_inverse=True)[1]
        self.order_N = np.argsort(self.group_N, kind="stable")
        self.starts = np.flatnonzero(np.diff(self.group_N[self.order_N], prepend=-1))

    def ties(self, counts_RN: NDArray) -> NDArray:
        """How many of the drawn examples have each value, [R, values]."""
        return np.add.reduceat(counts_RN[:, self.order_N], self.starts, axis=1)
