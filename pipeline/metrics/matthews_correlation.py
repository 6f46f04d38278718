"""Matthews correlation of predicted and true classes, -1 to 1; 0 where either has one class only."""

from __future__ import annotations

import evaluate
from sklearn.metrics import matthews_corrcoef

from pipeline.metrics._classification import info


class Metric(evaluate.Metric):
    """Matthews correlation of predicted and true classes, -1 to 1; 0 where either has one class only."""

    def _info(self) -> evaluate.MetricInfo:
        return info(self.__doc__, "Pedregosa et al. 2011, scikit-learn: matthews_corrcoef")

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        if len(set(predictions)) == 1 or len(set(references)) == 1:  # scikit-learn says 0 too, with a warning
            return {"matthews_correlation": 0.0}
        return {"matthews_correlation": float(matthews_corrcoef(references, predictions))}
