"""Spearman's correlation of the ranks of predicted and true numbers, -1 to 1; 0 where either is constant."""

from __future__ import annotations

import evaluate
from scipy.stats import spearmanr

from pipeline.metrics._regression import correlation, info


class Metric(evaluate.Metric):
    """Spearman's correlation of the ranks of predicted and true numbers, -1 to 1; 0 where either is constant."""

    def _info(self) -> evaluate.MetricInfo:
        return info(self.__doc__, "Virtanen et al. 2020, SciPy: stats.spearmanr")

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float]:
        return {"spearman": correlation(spearmanr, predictions, references)}
