"""Matthews correlation of predicted and true classes, -1 to 1."""

from __future__ import annotations

import evaluate
from sklearn.metrics import matthews_corrcoef

from pipeline.metrics._classification import info


class Metric(evaluate.Metric):
    """Matthews correlation of predicted and true classes, -1 to 1."""

    def _info(self) -> evaluate.MetricInfo:
        return info(self.__doc__, "Pedregosa et al. 2011, scikit-learn: matthews_corrcoef")

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        return {"matthews_correlation": float(matthews_corrcoef(references, predictions))}
