"""Metrics of classes: one class for each example, or any number of labels for each.

Class ids come as integers, and labels as a list of 0 and 1 with a place for each label.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import datasets
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef, precision_score, recall_score, roc_auc_score

from pipeline.metrics.base import INTEGER, NUMBER, Inputs, Metric
from pipeline.metrics.resampling import (
    Lines,
    RankedValues,
    Statistic,
    Sums,
    column,
    divide,
    lists_of_texts,
    mean,
    texts,
)

# R resamples · N examples · C classes or labels
Classes = list[int] | list[list[int]]
# From (right, predicted, true), the counts of each class [R, C], to the metric [R].
CountFormula = Callable[[NDArray, NDArray, NDArray], NDArray]

# What a division by 0 gives. In the types that are inferred for scikit-learn it can only be "warn".
ZERO: Any = 0.0

_IDS = {"predictions": INTEGER, "references": INTEGER}
_FLAGS = {"predictions": datasets.List(INTEGER), "references": datasets.List(INTEGER)}
CLASS_IDS = Inputs("predictions and references: class ids", (_IDS,))
CLASS_IDS_OR_LABELS = Inputs("predictions and references: class ids, or lists of 0 and 1", (_IDS, _FLAGS))
PROBABILITIES = Inputs(
    "scores: a probability for each class; references: class ids, or lists of 0 and 1",
    (
        {"scores": datasets.List(NUMBER), "references": INTEGER},
        {"scores": datasets.List(NUMBER), "references": datasets.List(INTEGER)},
    ),
)


class Accuracy(Metric):
    """The share of examples whose predicted class is the true one, 0 to 1.

    For lists of 0 and 1 this is subset accuracy: an example counts if every label is right.
    """

    source = "Pedregosa et al. 2011, scikit-learn: accuracy_score"
    inputs = CLASS_IDS_OR_LABELS

    def _compute(self, predictions: Classes, references: Classes) -> dict[str, float]:
        return {"accuracy": float(accuracy_score(references, predictions))}

    @classmethod
    def statistic(cls, lines: Lines, labels: Sequence[str]) -> Statistic | None:
        """From the right predictions among all; of labels, from the examples without a wrong one."""
        if _has_labels(lines):
            predicted_NC, true_NC = _label_flags(lines)
            return mean((predicted_NC == true_NC).all(axis=1))
        return _from_counts(lines, labels, _share_right)


class F1(Metric):
    """F1 of class 1 among two: the harmonic mean of precision and recall, 0 to 1."""

    source = "Pedregosa et al. 2011, scikit-learn: f1_score"
    inputs = CLASS_IDS

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        return {"f1": float(f1_score(references, predictions, zero_division=ZERO))}

    @classmethod
    def statistic(cls, lines: Lines, labels: Sequence[str]) -> Statistic | None:
        """From the counts of class 1."""
        return _from_counts(lines, labels, lambda right, predicted, true: _f1(right, predicted, true)[:, 1])


class F1Macro(Metric):
    """The plain mean of the F1 of every class, 0 to 1; for lists of 0 and 1, of every label.

    A label that is neither predicted nor true has an F1 of 0, and a class that is neither is left out of the mean.
    """

    source = "Pedregosa et al. 2011, scikit-learn: f1_score"
    inputs = CLASS_IDS_OR_LABELS

    def _compute(self, predictions: Classes, references: Classes) -> dict[str, float]:
        if _is_multi_label(references):
            by_label = zip(np.transpose(references), np.transpose(predictions), strict=True)
            return {"f1_macro": float(np.mean([f1_score(*pair, zero_division=ZERO) for pair in by_label]))}
        return {"f1_macro": float(f1_score(references, predictions, average="macro", zero_division=ZERO))}

    @classmethod
    def statistic(cls, lines: Lines, labels: Sequence[str]) -> Statistic | None:
        """From the counts of every class or label."""
        return _from_counts(lines, labels, _mean_f1_of_present_classes, lambda *counts: _f1(*counts).mean(axis=1))


class F1Micro(Metric):
    """F1 of all decisions together, 0 to 1; with one class for each example it equals accuracy.

    For lists of 0 and 1 the right and wrong labels of all examples are counted into one F1, so that frequent labels
    weigh more.
    """

    source = "Pedregosa et al. 2011, scikit-learn: f1_score"
    inputs = CLASS_IDS_OR_LABELS

    def _compute(self, predictions: Classes, references: Classes) -> dict[str, float]:
        if _is_multi_label(references):
            return {"f1_micro": float(f1_score(np.ravel(references), np.ravel(predictions), zero_division=ZERO))}
        return {"f1_micro": float(f1_score(references, predictions, average="micro", zero_division=ZERO))}

    @classmethod
    def statistic(cls, lines: Lines, labels: Sequence[str]) -> Statistic | None:
        """From the counts of all classes or labels together."""
        return _from_counts(lines, labels, _share_right, _f1_of_all_labels)


class Precision(Metric):
    """Precision of class 1 among two: the share of those predicted to be of class 1 that are, 0 to 1."""

    source = "Pedregosa et al. 2011, scikit-learn: precision_score"
    inputs = CLASS_IDS

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        return {"precision": float(precision_score(references, predictions, zero_division=ZERO))}

    @classmethod
    def statistic(cls, lines: Lines, labels: Sequence[str]) -> Statistic | None:
        """From the counts of class 1."""
        return _from_counts(lines, labels, lambda right, predicted, true: divide(right, predicted)[:, 1])


class Recall(Metric):
    """Recall of class 1 among two: the share of those of class 1 that are predicted to be, 0 to 1."""

    source = "Pedregosa et al. 2011, scikit-learn: recall_score"
    inputs = CLASS_IDS

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        return {"recall": float(recall_score(references, predictions, zero_division=ZERO))}

    @classmethod
    def statistic(cls, lines: Lines, labels: Sequence[str]) -> Statistic | None:
        """From the counts of class 1."""
        return _from_counts(lines, labels, lambda right, predicted, true: divide(right, true)[:, 1])


class MatthewsCorrelation(Metric):
    """Matthews correlation of predicted and true classes, -1 to 1; 0 if either consists of one class only."""

    source = "Pedregosa et al. 2011, scikit-learn: matthews_corrcoef"
    inputs = CLASS_IDS

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        if len(set(predictions)) == 1 or len(set(references)) == 1:  # scikit-learn returns 0 too, with a warning
            return {"matthews_correlation": 0.0}
        return {"matthews_correlation": float(matthews_corrcoef(references, predictions))}

    @classmethod
    def statistic(cls, lines: Lines, labels: Sequence[str]) -> Statistic | None:
        """From the counts of every class."""
        return _from_counts(lines, labels, _matthews)


class RocAuc(Metric):
    """Area under the ROC curve of the class probabilities, 0 to 1; chance is 0.5.

    Two classes: of class 1. More: of each class against the rest, the plain mean over classes. Lists of 0 and 1: the
    plain mean over labels. A class or label that all or none of the examples have has no curve and is left out of the
    mean. If none remains, or a probability is not finite, the value is NaN.
    """

    source = "Fawcett 2006, An introduction to ROC analysis; scikit-learn: roc_auc_score"
    inputs = PROBABILITIES

    def _compute(self, scores: list[list[float]], references: Classes) -> dict[str, float]:
        scores_NC, truth_NC = np.array(scores), np.array(references)
        if not np.isfinite(scores_NC).all():
            return {"roc_auc": float("nan")}  # a model that diverged
        if not _is_multi_label(references):
            truth_NC = np.eye(scores_NC.shape[1], dtype=int)[truth_NC]
            if scores_NC.shape[1] == 2:  # class 0 has the same curve, mirrored
                scores_NC, truth_NC = scores_NC[:, 1:], truth_NC[:, 1:]
        areas = [
            roc_auc_score(truth_N, scores_N)
            for truth_N, scores_N in zip(truth_NC.T, scores_NC.T, strict=True)
            if 0 < truth_N.sum() < len(truth_N)
        ]
        return {"roc_auc": float(np.mean(areas)) if areas else float("nan")}

    @classmethod
    def statistic(cls, lines: Lines, labels: Sequence[str]) -> Statistic | None:
        """From the pairs in order; None for more than two classes if the lines have the likeliest's score only."""
        if _has_labels(lines):
            names = _label_names(lines)
            by_name = cast(list[dict[str, float]], [line["score"] for line in lines])
            _, true_NC = _label_flags(lines)
            scores_NC = np.array([[scores[name] for name in names] for scores in by_name], np.float64)
            return _mean_area(scores_NC, true_NC)
        if not _has_classes(lines, labels):
            return None
        predicted_N, true_N = _class_ids(lines, labels)
        if len(labels) == 2:
            scores_N = column(lines, "score")
            return _area(np.where(predicted_N == 1, scores_N, 1 - scores_N), true_N == 1)
        if "scores" not in lines[0]:
            return None
        scores_NC = np.array([line["scores"] for line in lines], np.float64)
        return _mean_area(scores_NC, np.eye(len(labels), dtype=bool)[true_N])


def _is_multi_label(references: Classes) -> bool:
    return isinstance(references[0], list)


def _has_classes(lines: Lines, labels: Sequence[str]) -> bool:
    """Whether each line has one class, and `labels` names the classes."""
    return isinstance(lines[0].get("reference"), str) and len(labels) > 0


def _has_labels(lines: Lines) -> bool:
    """Whether each line has a list of labels, and a score for every label."""
    return isinstance(lines[0].get("score"), dict)


def _label_names(lines: Lines) -> list[str]:
    scores = lines[0]["score"]
    assert isinstance(scores, dict), "`_has_labels` has been asked"
    return list(scores)


def _class_ids(lines: Lines, labels: Sequence[str]) -> tuple[NDArray, NDArray]:
    """Predicted and true class ids, each [N]."""
    ids = {name: i for i, name in enumerate(labels)}
    predicted_N, true_N = (
        np.array([ids[name] for name in texts(lines, field)]) for field in ("prediction", "reference")
    )
    return predicted_N, true_N


def _label_flags(lines: Lines) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which labels are predicted and which are true, each [N, C]."""
    names = _label_names(lines)
    predicted_NC, true_NC = (
        np.array([[name in chosen for name in names] for chosen in lists_of_texts(lines, field)])
        for field in ("prediction", "reference")
    )
    return predicted_NC, true_NC


def _from_counts(
    lines: Lines, labels: Sequence[str], of_classes: CountFormula, of_labels: CountFormula | None = None
) -> Statistic | None:
    """A formula over how often each class is right, predicted and true; another one for lists of labels."""
    if _has_classes(lines, labels):
        formula, ids = of_classes, np.arange(len(labels))
        predicted_NC, true_NC = (ids_N[:, None] == ids for ids_N in _class_ids(lines, labels))
    elif _has_labels(lines) and of_labels is not None:
        formula = of_labels
        predicted_NC, true_NC = _label_flags(lines)
    else:
        return None
    columns_NK = np.concatenate([predicted_NC & true_NC, predicted_NC, true_NC], axis=1).astype(np.float64)
    return Sums(columns_NK, lambda sums_RK: formula(*np.split(sums_RK, 3, axis=1)))


def _share_right(right_RC: NDArray, predicted_RC: NDArray, true_RC: NDArray) -> NDArray:
    return right_RC.sum(axis=1) / true_RC.sum(axis=1)


def _f1(right_RC: NDArray, predicted_RC: NDArray, true_RC: NDArray) -> NDArray:
    return divide(2 * right_RC, predicted_RC + true_RC)


def _mean_f1_of_present_classes(right_RC: NDArray, predicted_RC: NDArray, true_RC: NDArray) -> NDArray:
    return _f1(right_RC, predicted_RC, true_RC).sum(axis=1) / (predicted_RC + true_RC > 0).sum(axis=1)


def _f1_of_all_labels(right_RC: NDArray, predicted_RC: NDArray, true_RC: NDArray) -> NDArray:
    return divide(2 * right_RC.sum(axis=1), (predicted_RC + true_RC).sum(axis=1))


def _matthews(right_RC: NDArray, predicted_RC: NDArray, true_RC: NDArray) -> NDArray:
    """For any number of classes: Gorodkin 2004, Comparing two K-category assignments by a K-category correlation."""
    total = true_RC.sum(axis=1)
    covariance = right_RC.sum(axis=1) * total - (predicted_RC * true_RC).sum(axis=1)
    spread = (total**2 - (predicted_RC**2).sum(axis=1)) * (total**2 - (true_RC**2).sum(axis=1))
    return divide(covariance, np.sqrt(spread))


def _area(scores_N: NDArray, is_true_N: NDArray) -> Statistic:
    """Area under the ROC curve, as Mann and Whitney's share of ordered pairs; NaN if one side is empty.

    Also NaN if a score is not finite, as after a training that diverged.
    """
    if not np.isfinite(scores_N).all():
        return lambda counts_RN: np.full(len(counts_RN), np.nan)
    ranked = RankedValues(scores_N)

    def value(counts_RN: NDArray) -> NDArray:
        positives = ranked.ties(counts_RN * is_true_N)
        negatives = ranked.ties(counts_RN) - positives
        below = negatives.cumsum(axis=1) - negatives / 2
        pairs = positives.sum(axis=1) * negatives.sum(axis=1)
        with np.errstate(invalid="ignore"):
            return np.where(pairs > 0, (positives * below).sum(axis=1) / pairs, np.nan)

    return value


def _mean_area(scores_NC: NDArray, is_true_NC: NDArray) -> Statistic:
    """The mean of the areas of all classes or labels that have one."""
    areas = [_area(*of_class) for of_class in zip(scores_NC.T, is_true_NC.T, strict=True)]
    return lambda counts_RN: _mean_of_defined(np.stack([area(counts_RN) for area in areas]))


def _mean_of_defined(values_CR: NDArray) -> NDArray:
    """The mean over labels of the values that are not NaN; NaN if all are."""
    is_defined = ~np.isnan(values_CR)
    means = np.nansum(values_CR, axis=0) / np.maximum(is_defined.sum(axis=0), 1)
    return np.where(is_defined.any(axis=0), means, np.nan)
