"""F1 over all decisions together, 0 to 1; with one class an example it equals accuracy.

With lists of 0 and 1 the right and wrong labels of all examples are counted into one F1, so frequent labels weigh more.
"""

from __future__ import annotations

import evaluate
import numpy as np
from sklearn.metrics import f1_score

from pipeline.metrics._classification import Classes, info, is_multi_label


class Metric(evaluate.Metric):
    """F1 over all decisions together, 0 to 1; with one class an example it equals accuracy."""

    def _info(self) -> evaluate.MetricInfo:
        return info(self.__doc__, "Pedregosa et al. 2011, scikit-learn: f1_score", multi_label=True)

    def _compute(self, predictions: Classes, references: Classes) -> dict[str, float]:
        if is_multi_label(references):
            return {"f1_micro": float(f1_score(np.ravel(references), np.ravel(predictions), zero_division=0.0))}
        return {"f1_micro": float(f1_score(references, predictions, average="micro", zero_division=0.0))}
