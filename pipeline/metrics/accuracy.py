"""The share of examples whose predicted class is the true one, 0 to 1."""

from __future__ import annotations

import evaluate
from sklearn.metrics import accuracy_score

from pipeline.metrics._classification import info


class Metric(evaluate.Metric):
    """The share of examples whose predicted class is the true one, 0 to 1."""

    def _info(self) -> evaluate.MetricInfo:
        return info(self.__doc__, "Pedregosa et al. 2011, scikit-learn: accuracy_score")

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        return {"accuracy": float(accuracy_score(references, predictions))}
