"""The share of examples whose predicted class is the true one, 0 to 1; with labels, all of them at once.

For lists of 0 and 1 this is subset accuracy: an example counts where every label is right.
"""

from __future__ import annotations

import evaluate
from sklearn.metrics import accuracy_score

from pipeline.metrics._classification import Classes, info


class Metric(evaluate.Metric):
    """The share of examples whose predicted class is the true one, 0 to 1; with labels, all of them at once."""

    def _info(self) -> evaluate.MetricInfo:
        return info(self.__doc__, "Pedregosa et al. 2011, scikit-learn: accuracy_score", multi_label=True)

    def _compute(self, predictions: Classes, references: Classes) -> dict[str, float]:
        return {"accuracy": float(accuracy_score(references, predictions))}
