"""Metrics of predicted and true numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import mean_squared_error

from pipeline.metrics.base import NUMBER, Inputs, Metric
from pipeline.metrics.resampling import Lines, RankedValues, Statistic, Sums, correlation, finite_numbers, mean

NUMBERS = Inputs("predictions and references: numbers", ({"predictions": NUMBER, "references": NUMBER},))


class Pearson(Metric):
    """Pearson's correlation of predicted and true numbers, -1 to 1; 0 if either is constant."""

    source = "Virtanen et al. 2020, SciPy: stats.pearsonr"
    inputs = NUMBERS

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float]:
        return {"pearson": _correlation(pearsonr, predictions, references)}

    @classmethod
    def statistic(cls, lines: Lines, labels: Sequence[str]) -> Statistic | None:
        """From the sums of both numbers, their squares and their product, about the means of the whole split."""
        numbers = finite_numbers(lines)
        if numbers is None:
            return None
        x, y = (values_N - values_N.mean() for values_N in numbers)
        return Sums(np.stack([np.ones(len(x)), x, y, x * x, y * y, x * y], axis=1), _pearson_of_sums)


class Spearman(Metric):
    """Spearman's correlation of the ranks of predicted and true numbers, -1 to 1; 0 if either is constant."""

    source = "Virtanen et al. 2020, SciPy: stats.spearmanr"
    inputs = NUMBERS

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float]:
        return {"spearman": _correlation(spearmanr, predictions, references)}

    @classmethod
    def statistic(cls, lines: Lines, labels: Sequence[str]) -> Statistic | None:
        """Pearson's correlation of the ranks in each resample."""
        numbers = finite_numbers(lines)
        return None if numbers is None else _correlation_of_ranks(*map(RankedValues, numbers))


class MeanSquaredError(Metric):
    """The mean squared difference of predicted and true numbers, in the square of their unit."""

    source = "Pedregosa et al. 2011, scikit-learn: mean_squared_error"
    inputs = NUMBERS

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float]:
        if not np.isfinite(predictions).all():
            return {"mse": float("nan")}  # a model that diverged
        return {"mse": float(mean_squared_error(references, predictions))}

    @classmethod
    def statistic(cls, lines: Lines, labels: Sequence[str]) -> Statistic | None:
        """The mean of the squared differences."""
        numbers = finite_numbers(lines)
        return None if numbers is None else mean((numbers[0] - numbers[1]) ** 2)


def _correlation(
    measure: Callable[[list[float], list[float]], object], predictions: list[float], references: list[float]
) -> float:
    """`measure` of scipy.stats, or 0 if either is constant.

    The formula then divides 0 by 0. A constant does not tell one example from another, which is what 0 means, and NaN
    is not JSON.
    """
    if len(set(predictions)) == 1 or len(set(references)) == 1:
        return 0.0
    statistic, _ = np.asarray(measure(predictions, references))  # and the p-value
    return float(statistic)


def _pearson_of_sums(sums_RK: NDArray) -> NDArray:
    total, x, y, xx, yy, xy = sums_RK.T
    return correlation(xy - x * y / total, xx - x * x / total, yy - y * y / total, xx, yy)


def _correlation_of_ranks(x: RankedValues, y: RankedValues) -> Statistic:
    """Pearson's correlation of the midranks, whose mean is (N + 1) / 2."""

    def value(counts_RN: NDArray) -> NDArray:
        mean_rank = (counts_RN.sum(axis=1, keepdims=True) + 1) / 2
        ranks, squares = [], []
        for ranked in (x, y):
            ties = ranked.ties(counts_RN)
            centered = ties.cumsum(axis=1) - (ties - 1) / 2 - mean_rank
            squares.append((ties * centered**2).sum(axis=1))
            ranks.append(centered[:, ranked.group_N])
        products = np.einsum("rn,rn,rn->r", counts_RN, *ranks)
        size = float(counts_RN.shape[1] ** 3)
        return correlation(products, squares[0], squares[1], size, size)

    return value
