"""Predicted classes: how often each is right, what it is confused with, and whether probabilities can be believed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from pipeline.comparison.records.predictions import (
    Bin,
    Calibration,
    ClassCounts,
    ClassCurves,
    ClassDetails,
    Operating,
    Threshold,
)
from pipeline.metrics.resampling import Lines, lists_of_texts, texts

# N predictions · C classes
THRESHOLDS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
NUM_BINS = 10
MAX_OPERATING, MAX_OPERATING_OF_SEVERAL = 40, 20
MAX_CONFUSED = 100  # classes of a confusion matrix
MAX_CURVES = 12  # classes with curves of their own


def class_details(lines: Lines, names: Sequence[str]) -> ClassDetails:
    """One class for each example; `names` are those of the model in its order, or none if it is gone."""
    predicted, true = texts(lines, "prediction"), texts(lines, "reference")
    in_model = list(names)
    names = list(dict.fromkeys([*names, *sorted({*predicted, *true})]))
    ids = {name: number for number, name in enumerate(names)}
    counts_CC = np.zeros((len(names), len(names)), int)  # [true, predicted]
    for one, other in zip(true, predicted, strict=True):
        counts_CC[ids[one], ids[other]] += 1
    right_N = np.array([one == other for one, other in zip(predicted, true, strict=True)])
    # Runs of the first versions have no probabilities, and a model that diverged has none that JSON could hold.
    probability_N = np.array([line.get("score") for line in lines], np.float64)
    is_binary = len(names) == 2
    positive_N = np.where([name == names[-1] for name in predicted], probability_N, 1 - probability_N)
    return ClassDetails(
        classes=[
            ClassCounts(
                name=name,
                right=int(counts_CC[i, i]),
                predicted=int(counts_CC[:, i].sum()),
                true=int(counts_CC[i].sum()),
            )
            for i, name in enumerate(names)
        ],
        confusion=counts_CC.tolist() if len(names) <= MAX_CONFUSED else None,
        calibration=calibration(probability_N, right_N),
        thresholds=_thresholds(probability_N, right_N),
        positive=names[1] if is_binary else None,
        operating=_operating(positive_N, np.array([name == names[-1] for name in true])) if is_binary else [],
        curves=_curves_of_classes(lines, in_model, np.array([ids[name] for name in true])),
    )


def label_details(lines: Lines) -> ClassDetails:
    """Any number of labels for each example; the lines have the probability of each."""
    scores = cast(list[dict[str, float]], [line["score"] for line in lines])
    names = list(scores[0])
    predicted_NC, true_NC = (
        np.array([[name in chosen for name in names] for chosen in lists_of_texts(lines, field)])
        for field in ("prediction", "reference")
    )
    probability_NC = np.array([[of_example[name] for name in names] for of_example in scores], np.float64)
    return ClassDetails(
        classes=[
            ClassCounts(
                name=name,
                right=int((predicted_NC[:, i] & true_NC[:, i]).sum()),
                predicted=int(predicted_NC[:, i].sum()),
                true=int(true_NC[:, i].sum()),
            )
            for i, name in enumerate(names)
        ],
        confusion=None,
        calibration=calibration(probability_NC.ravel(), true_NC.ravel()),
        curves=_curves(names, probability_NC, true_NC),
    )


def _curves_of_classes(lines: Lines, names: list[str], true_N: NDArray) -> list[ClassCurves]:
    """The curves of each class in the model's order; none if a line lacks their scores, or the model is gone."""
    if not names or not all("scores" in line for line in lines):  # some runs may be of an earlier version
        return []
    scores = [line["scores"] for line in lines]
    return _curves(names, np.array(scores, np.float64), np.eye(len(names), dtype=bool)[true_N])


def _curves(names: list[str], probability_NC: NDArray, true_NC: NDArray) -> list[ClassCurves]:
    """Calibration and thresholds of each class against the rest, of many those of the most frequent ones."""
    most = np.argsort(-true_NC.sum(axis=0), kind="stable")[:MAX_CURVES]
    return [
        ClassCurves(
            name=names[i],
            calibration=calibration(probability_NC[:, i], true_NC[:, i]),
            operating=_operating(probability_NC[:, i], true_NC[:, i], MAX_OPERATING_OF_SEVERAL),
        )
        for i in sorted(most.tolist())
    ]


def calibration(probability_N: NDArray, right_N: NDArray) -> Calibration | None:
    """How often predictions of each range of probability are right; None if no probability is finite."""
    is_finite = np.isfinite(probability_N)
    probability_N, right_N = probability_N[is_finite], right_N[is_finite]
    if not len(probability_N):
        return None
    edges = np.arange(NUM_BINS + 1) / NUM_BINS
    # A probability on an edge belongs to the range above it, except 1.
    bin_N = np.clip(np.searchsorted(edges, probability_N, side="right") - 1, 0, NUM_BINS - 1)
    bins = []
    for number in range(NUM_BINS):
        inside = bin_N == number
        bins.append(
            Bin(
                low=round(float(edges[number]), 3),
                high=round(float(edges[number + 1]), 3),
                count=int(inside.sum()),
                probability=_mean(probability_N[inside]),
                right=_mean(right_N[inside]),
            )
        )
    gaps = [each.count * abs(each.probability - each.right) for each in bins if each.probability is not None]
    return Calibration(
        bins=bins,
        error=sum(gaps) / len(probability_N),
        probability=float(probability_N.mean()),
        right=float(right_N.mean()),
    )


def _thresholds(probability_N: NDArray, right_N: NDArray) -> list[Threshold]:
    """What is right among the predictions that are sure enough, for rising thresholds."""
    points = []
    for least in THRESHOLDS:
        kept = probability_N >= least if least else np.ones(len(probability_N), bool)
        points.append(Threshold(at_least=least, kept=float(kept.mean()), right=_mean(right_N[kept])))
    return points


def _operating(probability_N: NDArray, true_N: NDArray, most: int = MAX_OPERATING) -> list[Operating]:
    """Precision and recall of the positive class at thresholds that are quantiles of its probabilities."""
    is_finite = np.isfinite(probability_N)
    probability_N, true_N = probability_N[is_finite], true_N[is_finite]
    if not true_N.any():
        return []
    thresholds = np.unique(np.quantile(probability_N, np.linspace(0, 1, most + 1), method="lower"))
    return [
        Operating(
            at_least=float(least),
            precision=_mean(true_N[probability_N >= least]),
            recall=float((true_N & (probability_N >= least)).sum() / true_N.sum()),
        )
        for least in thresholds
    ]


def _mean(values: NDArray) -> float | None:
    return float(values.mean()) if len(values) else None
