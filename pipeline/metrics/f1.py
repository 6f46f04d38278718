"""F1 of class 1 among two: the harmonic mean of precision and recall, 0 to 1."""

from __future__ import annotations

import evaluate
from sklearn.metrics import f1_score

from pipeline.metrics._classification import info


class Metric(evaluate.Metric):
    """F1 of class 1 among two: the harmonic mean of precision and recall, 0 to 1."""

    def _info(self) -> evaluate.MetricInfo:
        return info(self.__doc__, "Pedregosa et al. 2011, scikit-learn: f1_score")

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        return {"f1": float(f1_score(references, predictions, zero_division=0.0))}
