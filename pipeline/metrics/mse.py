"""The mean squared difference of predicted and true numbers, in the square of their unit."""

from __future__ import annotations

import evaluate
import numpy as np
from sklearn.metrics import mean_squared_error

from pipeline.metrics._regression import info


class Metric(evaluate.Metric):
    """The mean squared difference of predicted and true numbers, in the square of their unit."""

    def _info(self) -> evaluate.MetricInfo:
        return info(self.__doc__, "Pedregosa et al. 2011, scikit-learn: mean_squared_error")

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float]:
        if not np.isfinite(predictions).all():
            return {"mse": float("nan")}  # a model that diverged
        return {"mse": float(mean_squared_error(references, predictions))}
