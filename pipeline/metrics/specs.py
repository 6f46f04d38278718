"""The table of metrics: what the pipeline knows of each one without importing the libraries that compute it.

To add a metric, write its class in the file of its kind (`classification.py`, `regression.py`, ...), give it a row
here, and add cases to the tests in `tests/metrics`. It fits every task that gives what it reads.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipeline.metrics.loss import LOSS

if TYPE_CHECKING:
    from pipeline.metrics.base import Metric

# What a scored example can hold. A task says which of these it gives, a metric which it reads: a class, any number of
# labels, a number, the tags of words, an answer beside those that are accepted, or a text beside its reference; of a
# language model the summed loss of tokens, their bytes, the lowest possible loss, or how many hidden tokens are right.
Outcome = Literal[
    "class",
    "labels",
    "number",
    "tags",
    "answer",
    "text",
    "token_losses",
    "token_bytes",
    "loss_floor",
    "hidden_tokens",
]

HUB_PREFIX = "hub:"


@dataclass(frozen=True)
class MetricSpec:
    """The facts of one metric.

    location: file and class in this folder, "file:Class".
    reads: what it needs of each example; any one of several is enough.
    scale: the upper end of its range, 1 or 100; None if it has no fixed one. Margins are in percent of it.
    lower_is_better: whether the smaller of two values is the better one.
    is_constant: whether it is a figure of the data, the same for every model, so that it cannot choose an epoch.
    can_be_negative: whether the lower end of its range is minus the upper one, instead of 0.
    is_for_two_labels: whether it scores class 1 of two, and has no meaning for three.
    reads_probabilities: whether it needs the probability of every class, not just the predicted one.
    """

    location: str
    reads: tuple[Outcome, ...]
    scale: int | None = 1
    lower_is_better: bool = False
    is_constant: bool = False
    can_be_negative: bool = False
    is_for_two_labels: bool = False
    reads_probabilities: bool = False


# In each group, the usual metric comes first.
METRICS: dict[str, MetricSpec] = {
    "accuracy": MetricSpec("classification:Accuracy", ("class", "labels")),
    "f1": MetricSpec("classification:F1", ("class",), is_for_two_labels=True),
    "f1_micro": MetricSpec("classification:F1Micro", ("class", "labels")),
    "f1_macro": MetricSpec("classification:F1Macro", ("class", "labels")),
    "precision": MetricSpec("classification:Precision", ("class",), is_for_two_labels=True),
    "recall": MetricSpec("classification:Recall", ("class",), is_for_two_labels=True),
    "matthews_correlation": MetricSpec("classification:MatthewsCorrelation", ("class",), can_be_negative=True),
    "roc_auc": MetricSpec("classification:RocAuc", ("class", "labels"), reads_probabilities=True),
    "pearson": MetricSpec("regression:Pearson", ("number",), can_be_negative=True),
    "spearman": MetricSpec("regression:Spearman", ("number",), can_be_negative=True),
    "mse": MetricSpec("regression:MeanSquaredError", ("number",), scale=None, lower_is_better=True),
    "seqeval_f1": MetricSpec("token_classification:SeqevalF1", ("tags",)),
    "seqeval_precision": MetricSpec("token_classification:SeqevalPrecision", ("tags",)),
    "seqeval_recall": MetricSpec("token_classification:SeqevalRecall", ("tags",)),
    "squad_f1": MetricSpec("question_answering:SquadF1", ("answer",), scale=100),
    "squad_exact_match": MetricSpec("question_answering:SquadExactMatch", ("answer",), scale=100),
    "sacrebleu": MetricSpec("generation:SacreBleu", ("text",), scale=100),
    "chrf": MetricSpec("generation:Chrf", ("text",), scale=100),
    "exact_match": MetricSpec("generation:ExactMatch", ("text",)),
    "rouge1": MetricSpec("generation:Rouge1", ("text",)),
    "rouge2": MetricSpec("generation:Rouge2", ("text",)),
    "rougeL": MetricSpec("generation:RougeL", ("text",)),
    "perplexity": MetricSpec("language_modeling:Perplexity", ("token_losses",), scale=None, lower_is_better=True),
    "bits_per_byte": MetricSpec("language_modeling:BitsPerByte", ("token_bytes",), scale=None, lower_is_better=True),
    "perplexity_floor": MetricSpec(
        "language_modeling:PerplexityFloor", ("loss_floor",), scale=None, lower_is_better=True, is_constant=True
    ),
    "masked_accuracy": MetricSpec("language_modeling:MaskedAccuracy", ("hidden_tokens",)),
}


def metric_names() -> list[str]:
    """The metrics that a recipe may list, in alphabetical order."""
    return sorted(METRICS)


def metrics_for(outcomes: Collection[str]) -> tuple[str, ...]:
    """The metrics that fit a task whose scored examples hold these outcomes."""
    return tuple(name for name, spec in METRICS.items() if not set(spec.reads).isdisjoint(outcomes))


def find_spec(value_name: str) -> MetricSpec | None:
    """The metric of a recorded value ("seqeval_f1" of seqeval_f1.person); None for the loss and metrics of the Hub."""
    return METRICS.get(value_name.partition(".")[0])


def lower_is_better(value_name: str) -> bool:
    """Whether the smaller of two values is the better one; for a metric that is not in the table, the larger is."""
    spec = find_spec(value_name)
    return value_name == LOSS or (spec is not None and spec.lower_is_better)


def scale(value_name: str) -> int | None:
    """1 or 100 for a metric between 0 (or -1) and that; None for one without such an end, or not in the table."""
    spec = find_spec(value_name)
    return None if spec is None else spec.scale


def ends(value_name: str) -> tuple[float, float]:
    """The lowest and the highest value that a metric can have; infinite where there is none, or none that is known."""
    spec = find_spec(value_name)
    if value_name == LOSS or (spec is not None and spec.scale is None):
        return 0.0, math.inf
    if spec is None or spec.scale is None:
        return -math.inf, math.inf
    return float(-spec.scale if spec.can_be_negative else 0), float(spec.scale)


def is_constant(value_name: str) -> bool:
    """Whether the metric is a figure of the data, which no model changes."""
    spec = find_spec(value_name)
    return spec is not None and spec.is_constant


def is_hub_metric(name: str) -> bool:
    """Whether a recipe's metric is a script from the Hub, as in "hub:NAME@REVISION"."""
    return name.startswith(HUB_PREFIX)


def need_probabilities(names: Iterable[str]) -> bool:
    """Whether any of the metrics reads every class's probability; a metric of the Hub might."""
    return any(is_hub_metric(name) or (name in METRICS and METRICS[name].reads_probabilities) for name in names)


def metric_class(name: str) -> type[Metric]:
    """The class of a metric in the table; imports the libraries of its kind."""
    file, class_name = METRICS[name].location.split(":")
    return getattr(importlib.import_module(f"pipeline.metrics.{file}"), class_name)
