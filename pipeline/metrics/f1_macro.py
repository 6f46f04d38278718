"""The plain mean of every class's F1, 0 to 1; with lists of 0 and 1, of every label's.

A label that is neither predicted nor true has an F1 of 0; a class of which that holds is left out.
"""

from __future__ import annotations

import evaluate
import numpy as np
from sklearn.metrics import f1_score

from pipeline.metrics._classification import Classes, info, is_multi_label


class Metric(evaluate.Metric):
    """The plain mean of every class's F1, 0 to 1; with lists of 0 and 1, of every label's."""

    def _info(self) -> evaluate.MetricInfo:
        return info(self.__doc__, "Pedregosa et al. 2011, scikit-learn: f1_score", multi_label=True)

    def _compute(self, predictions: Classes, references: Classes) -> dict[str, float]:
        if is_multi_label(references):
            labels = zip(np.transpose(references), np.transpose(predictions), strict=True)
            return {"f1_macro": float(np.mean([f1_score(*label, zero_division=0.0) for label in labels]))}
        return {"f1_macro": float(f1_score(references, predictions, average="macro", zero_division=0.0))}
