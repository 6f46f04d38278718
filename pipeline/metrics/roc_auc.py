"""Area under the ROC curve of the classes' probabilities, 0 to 1; chance is 0.5.

Two classes: of class 1. More: one against the rest, the plain mean over classes. Lists of 0 and 1: the plain mean over
labels. A class or label that all or none of the examples have has no curve and is left out of the mean; where none is
left the value is NaN, as any number would be made up.
"""

from __future__ import annotations

import datasets
import evaluate
import numpy as np
from sklearn.metrics import roc_auc_score

from pipeline.metrics._classification import Classes, is_multi_label
from pipeline.metrics._columns import INTEGER, NUMBER, card


class Metric(evaluate.Metric):
    """Area under the ROC curve of the classes' probabilities, 0 to 1; chance is 0.5."""

    def _info(self) -> evaluate.MetricInfo:
        scores = datasets.List(NUMBER)
        return card(
            self.__doc__,
            "Fawcett 2006, An introduction to ROC analysis; scikit-learn: roc_auc_score",
            "scores: a probability for each class; references: class ids, or lists of 0 and 1",
            {"scores": scores, "references": INTEGER},
            {"scores": scores, "references": datasets.List(INTEGER)},
        )

    def _compute(self, scores: list[list[float]], references: Classes) -> dict[str, float]:
        scores_NC, truth_NC = np.array(scores), np.array(references)
        if not np.isfinite(scores_NC).all():
            return {"roc_auc": float("nan")}  # a model that diverged
        if not is_multi_label(references):
            truth_NC = np.eye(scores_NC.shape[1], dtype=int)[truth_NC]
            if scores_NC.shape[1] == 2:  # class 0 has the same curve, mirrored
                scores_NC, truth_NC = scores_NC[:, 1:], truth_NC[:, 1:]
        areas = [
            roc_auc_score(truth_N, scores_N)
            for truth_N, scores_N in zip(truth_NC.T, scores_NC.T, strict=True)
            if 0 < truth_N.sum() < len(truth_N)
        ]
        return {"roc_auc": float(np.mean(areas)) if areas else float("nan")}
