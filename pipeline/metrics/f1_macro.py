"""The plain mean of every class's F1, 0 to 1."""

from __future__ import annotations

import evaluate
from sklearn.metrics import f1_score

from pipeline.metrics._classification import info


class Metric(evaluate.Metric):
    """The plain mean of every class's F1, 0 to 1."""

    def _info(self) -> evaluate.MetricInfo:
        return info(self.__doc__, "Pedregosa et al. 2011, scikit-learn: f1_score")

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        return {"f1_macro": float(f1_score(references, predictions, average="macro", zero_division=0.0))}
