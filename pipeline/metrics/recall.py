"""Recall of class 1 among two: predicted ones of those true, 0 to 1."""

from __future__ import annotations

import evaluate
from sklearn.metrics import recall_score

from pipeline.metrics._classification import info


class Metric(evaluate.Metric):
    """Recall of class 1 among two: predicted ones of those true, 0 to 1."""

    def _info(self) -> evaluate.MetricInfo:
        return info(self.__doc__, "Pedregosa et al. 2011, scikit-learn: recall_score")

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        return {"recall": float(recall_score(references, predictions, zero_division=0.0))}
