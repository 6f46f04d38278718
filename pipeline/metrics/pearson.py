"""Pearson's correlation of predicted and true numbers, -1 to 1; 0 where either is constant."""

from __future__ import annotations

import evaluate
from scipy.stats import pearsonr

from pipeline.metrics._regression import correlation, info


class Metric(evaluate.Metric):
    """Pearson's correlation of predicted and true numbers, -1 to 1; 0 where either is constant."""

    def _info(self) -> evaluate.MetricInfo:
        return info(self.__doc__, "Virtanen et al. 2020, SciPy: stats.pearsonr")

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float]:
        return {"pearson": correlation(pearsonr, predictions, references)}
