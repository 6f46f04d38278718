"""What each example adds to a metric, so that the metric of any resample is a sum and a formula.

A statistic takes counts [R, N], how often each of N examples is in each of R resamples, and gives the metric of every
resample [R]. With a 1 everywhere it gives what the metric's own module gives, which the tests hold against it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics import BLEU, CHRF
from scipy.stats import rankdata
from seqeval.metrics.sequence_labeling import get_entities

from pipeline.metrics.scoring import load_metrics

# R resamples · N examples · C classes · K columns
Statistic = Callable[[NDArray], NDArray]
Lines = list[dict[str, Any]]


@dataclass(frozen=True)
class Sums:
    """A statistic that is a formula over the resample's sums of a few columns, so that many share one product."""

    columns_NK: NDArray[np.float64]
    formula: Callable[[NDArray], NDArray]  # [R, K] -> [R]

    def __call__(self, counts_RN: NDArray) -> NDArray:
        return self.formula(counts_RN @ self.columns_NK)


def _average(values: NDArray) -> Sums:
    """The mean over examples."""
    columns_NK = np.stack([values.astype(np.float64), np.ones(len(values))], axis=1)
    return Sums(columns_NK, lambda sums_RK: sums_RK[:, 0] / sums_RK[:, 1])


# Their value is the mean over examples of what the metric gives to each alone.
_MEANS = ("exact_match", "rouge1", "rouge2", "rougeL", "squad_exact_match", "squad_f1")
# (numerator, denominator, what is done with the ratio)
_RATIOS: dict[str, tuple[str, str, Callable]] = {
    "perplexity": ("loss_sum", "tokens", np.exp),
    "perplexity_floor": ("floor", "tokens", np.exp),
    "bits_per_byte": ("loss_sum", "bytes", lambda ratio: ratio / math.log(2)),
    "masked_accuracy": ("correct", "tokens", lambda ratio: ratio),
    "loss": ("loss_sum", "tokens", lambda ratio: ratio),
}
_SACREBLEU = {"sacrebleu": BLEU, "chrf": CHRF}


def statistic(metric: str, lines: Lines, labels: list[str]) -> Statistic | None:
    """The metric as a function of counts, or None where predictions.jsonl does not hold what it needs.

    `lines` are those of predictions.jsonl, `labels` the class names in the model's order.
    """
    if metric in _RATIOS and {_RATIOS[metric][0], _RATIOS[metric][1]} <= lines[0].keys():
        return _ratio(metric, lines)
    if "prediction" not in lines[0]:
        return None
    name, _, kind = metric.partition(".")
    if name in _MEANS:
        return _mean(metric, lines)
    if name in _SACREBLEU:
        return _sacrebleu(metric, lines)
    if name.startswith("seqeval_"):
        return _entities(name.removeprefix("seqeval_"), kind, lines)
    if isinstance(lines[0]["reference"], float):
        return _numbers(metric, lines)
    if isinstance(lines[0]["reference"], str) and labels and metric != "loss":
        return _classes(metric, lines, labels)
    if isinstance(lines[0].get("score"), dict) and metric != "loss":
        return _label_sets(metric, lines)
    return None


def _column(lines: Lines, name: str) -> NDArray[np.float64]:
    return np.array([line[name] for line in lines], dtype=np.float64)


def _divide(a: NDArray, b: NDArray) -> NDArray:
    """a / b, and 0 where b is 0, as the metrics have it."""
    return np.divide(a, b, out=np.zeros_like(a, dtype=np.float64), where=b != 0)


def _ratio(metric: str, lines: Lines) -> Statistic:
    top, bottom, finish = _RATIOS[metric]

    def value(sums_RK: NDArray) -> NDArray:
        with np.errstate(over="ignore"):  # an overflown perplexity is infinite
            return finish(sums_RK[:, 0] / sums_RK[:, 1])

    return Sums(np.stack([_column(lines, top), _column(lines, bottom)], axis=1), value)


def _mean(metric: str, lines: Lines) -> Statistic:
    module = load_metrics((metric,))[metric]
    references = [line["reference"] if isinstance(line["reference"], list) else [line["reference"]] for line in lines]
    values = np.array([
        module._compute([line["prediction"]], [texts])[metric] for line, texts in zip(lines, references, strict=True)
    ])  # fmt: skip
    return _average(values)


def _sacrebleu(metric: str, lines: Lines) -> Statistic:
    """Counts of shared runs of words or characters, by sacrebleu, and its own formula over their sums."""
    scorer = _SACREBLEU[metric]()
    texts, references = [line["prediction"] for line in lines], [line["reference"] for line in lines]
    found = np.array(scorer._extract_corpus_statistics(texts, [references]), dtype=np.float64)

    def value(sums_RK: NDArray) -> NDArray:
        return np.array([scorer._compute_score_from_stats(row).score for row in sums_RK.round().astype(int).tolist()])

    return Sums(found, value)


def _entities(name: str, kind: str, lines: Lines) -> Statistic:
    """Entities that are right, predicted and true in each sentence, of one type or of all."""
    rows = []
    for line in lines:
        predicted, true = (
            {entity for entity in get_entities(line[key]) if kind in ("", entity[0])}
            for key in ("prediction", "reference")
        )
        rows.append((len(predicted & true), len(predicted), len(true)))

    def value(sums_RK: NDArray) -> NDArray:
        right, predicted, true = sums_RK.T
        if name == "f1":
            return _divide(2 * right, predicted + true)
        return _divide(right, predicted if name == "precision" else true)

    return Sums(np.array(rows, dtype=np.float64), value)


def _numbers(metric: str, lines: Lines) -> Statistic | None:
    predictions, references = _column(lines, "prediction"), _column(lines, "reference")
    if not np.isfinite(predictions).all():
        return None
    if metric in ("mse", "loss"):
        return _average((predictions - references) ** 2)
    if metric == "pearson":
        x, y = predictions - predictions.mean(), references - references.mean()
        return Sums(np.stack([np.ones(len(x)), x, y, x * x, y * y, x * y], axis=1), _pearson)
    return _spearman(_Ranks(predictions), _Ranks(references)) if metric == "spearman" else None


def _pearson(sums_RK: NDArray) -> NDArray:
    total, x, y, xx, yy, xy = sums_RK.T
    return _correlation(xy - x * y / total, xx - x * x / total, yy - y * y / total, xx, yy)


def _correlation(together: NDArray, xx: NDArray, yy: NDArray, x_size: NDArray, y_size: NDArray) -> NDArray:
    """From the centred sums; 0 where either is constant: what is left of one by rounding is no variance."""
    varies = (xx > 1e-12 * x_size) & (yy > 1e-12 * y_size)
    return np.where(varies, _divide(together, np.sqrt(np.abs(xx * yy))), 0.0)


class _Ranks:
    """Values of the examples in rising order, equal ones together: resampling does not change the order."""

    def __init__(self, values: NDArray):
        self.group = rankdata(values, method="dense").astype(int) - 1  # [N]
        self.order = np.argsort(self.group, kind="stable")
        self.starts = np.flatnonzero(np.diff(self.group[self.order], prepend=-1))

    def tied(self, counts_RN: NDArray) -> NDArray:
        """How many examples have each value, [R, values]."""
        return np.add.reduceat(counts_RN[:, self.order], self.starts, axis=1)


def _spearman(x: _Ranks, y: _Ranks) -> Statistic:
    """Pearson's correlation of the midranks, which have the mean (N + 1) / 2."""

    def value(counts_RN: NDArray) -> NDArray:
        middle, ranks, squares = (counts_RN.sum(axis=1, keepdims=True) + 1) / 2, [], []
        for each in (x, y):
            tied = each.tied(counts_RN)
            centred = tied.cumsum(axis=1) - (tied - 1) / 2 - middle
            squares.append((tied * centred**2).sum(axis=1))
            ranks.append(centred[:, each.group])
        together = np.einsum("rn,rn,rn->r", counts_RN, *ranks)
        sizes = (counts_RN.shape[1] ** 3 * np.ones(len(counts_RN)),) * 2
        return _correlation(together, *squares, *sizes)

    return value


def _area(scores: NDArray, truth: NDArray) -> Statistic:
    """Area under the ROC curve by Mann and Whitney's count of pairs; NaN where one side is empty."""
    ranks = _Ranks(scores)

    def value(counts_RN: NDArray) -> NDArray:
        positives = ranks.tied(counts_RN * truth)
        negatives = ranks.tied(counts_RN) - positives
        below = negatives.cumsum(axis=1) - negatives / 2
        pairs = positives.sum(axis=1) * negatives.sum(axis=1)
        with np.errstate(invalid="ignore"):
            return np.where(pairs > 0, (positives * below).sum(axis=1) / pairs, np.nan)

    return value


def _classes(metric: str, lines: Lines, labels: list[str]) -> Statistic | None:
    """Metrics of one class an example, from the confusion counts of each resample."""
    ids = {name: i for i, name in enumerate(labels)}
    predicted, true = (np.array([ids[line[key]] for line in lines]) for key in ("prediction", "reference"))
    if metric == "roc_auc":
        if len(labels) != 2:
            return None  # predictions.jsonl has the likeliest class's probability only
        scores = _column(lines, "score")
        return _area(np.where(predicted == 1, scores, 1 - scores), true == 1)
    places = np.arange(len(labels))
    predicted_NC, true_NC = predicted[:, None] == places, true[:, None] == places
    found = np.concatenate([predicted_NC & true_NC, predicted_NC, true_NC], axis=1).astype(np.float64)
    formula = _CLASS_FORMULAS.get(metric)
    if formula is None:
        return None
    return Sums(found, lambda sums_RK: formula(*np.split(sums_RK, 3, axis=1)))


def _f1_macro(right: NDArray, predicted: NDArray, true: NDArray) -> NDArray:
    """Classes that are neither predicted nor true are left out of the mean."""
    return _divide(2 * right, predicted + true).sum(axis=1) / (predicted + true > 0).sum(axis=1)


def _matthews(right: NDArray, predicted: NDArray, true: NDArray) -> NDArray:
    """Gorodkin 2004, for any number of classes."""
    total = true.sum(axis=1)
    covariance = right.sum(axis=1) * total - (predicted * true).sum(axis=1)
    spread = (total**2 - (predicted**2).sum(axis=1)) * (total**2 - (true**2).sum(axis=1))
    return _divide(covariance, np.sqrt(spread))


_CLASS_FORMULAS: dict[str, Callable[[NDArray, NDArray, NDArray], NDArray]] = {
    "accuracy": lambda right, predicted, true: right.sum(axis=1) / true.sum(axis=1),
    "f1_micro": lambda right, predicted, true: right.sum(axis=1) / true.sum(axis=1),
    "f1": lambda right, predicted, true: _divide(2 * right, predicted + true)[:, 1],
    "precision": lambda right, predicted, true: _divide(right, predicted)[:, 1],
    "recall": lambda right, predicted, true: _divide(right, true)[:, 1],
    "f1_macro": _f1_macro,
    "matthews_correlation": _matthews,
}


def _label_sets(metric: str, lines: Lines) -> Statistic | None:
    """Metrics of any number of labels an example."""
    names = list(lines[0]["score"])
    predicted, true = (
        np.array([[name in line[key] for name in names] for line in lines]) for key in ("prediction", "reference")
    )
    if metric == "accuracy":
        return _average((predicted == true).all(axis=1))
    if metric == "roc_auc":
        scores = np.array([[line["score"][name] for name in names] for line in lines])
        areas = [_area(scores[:, i], true[:, i]) for i in range(len(names))]
        return lambda counts_RN: _mean_of_defined(np.stack([area(counts_RN) for area in areas]))
    found = np.concatenate([predicted & true, predicted, true], axis=1).astype(np.float64)

    def value(sums_RK: NDArray) -> NDArray:
        right, above, below = np.split(sums_RK, 3, axis=1)
        if metric == "f1_micro":
            return _divide(2 * right.sum(axis=1), (above + below).sum(axis=1))
        return _divide(2 * right, above + below).mean(axis=1)

    return Sums(found, value) if metric in ("f1_micro", "f1_macro") else None


def _mean_of_defined(values: NDArray) -> NDArray:
    """The mean over the first axis of what is not NaN."""
    return np.where(
        np.isnan(values).all(axis=0), np.nan, np.nansum(values, axis=0) / np.maximum((~np.isnan(values)).sum(axis=0), 1)
    )
