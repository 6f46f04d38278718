"""The table of metrics: what the pipeline knows of each one without importing the libraries that compute it.

To add a metric, write its class in the file of its kind (`classification.py`, `regression.py`, ...), give it a row
here, and add cases to the tests in `tests/metrics`. Nothing outside this folder names it.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipeline.metrics.loss import LOSS

if TYPE_CHECKING:
    from pipeline.metrics.base import Metric

# What a metric can be for: a task, or one of the three problems of sequence classification.
Problem = Literal[
    "single_label_classification",
    "multi_label_classification",
    "regression",
    "token-classification",
    "question-answering",
    "masked-language-modeling",
    "causal-language-modeling",
    "sequence-to-sequence",
]
SINGLE: Problem = "single_label_classification"
MULTI: Problem = "multi_label_classification"
REGRESSION: Problem = "regression"
TOKENS: Problem = "token-classification"
QUESTIONS: Problem = "question-answering"
MASKED: Problem = "masked-language-modeling"
CAUSAL: Problem = "causal-language-modeling"
SEQ2SEQ: Problem = "sequence-to-sequence"

HUB_PREFIX = "hub:"


@dataclass(frozen=True)
class MetricSpec:
    """The facts of one metric.

    location: file and class in this folder, "file:Class".
    fits: the problems whose recipes may list it.
    default_for: the problems in which it is scored when a recipe lists no metrics; rows are in order of importance.
    scale: the upper end of its range, 1 or 100; None if it has no fixed one. Margins are in percent of it.
    lower_is_better: whether the smaller of two values is the better one.
    is_constant: whether it is a figure of the data, the same for every model, so that it cannot choose an epoch.
    is_for_two_labels: whether it scores class 1 of two, and has no meaning for three.
    reads_probabilities: whether it needs the probability of every class, not just the predicted one.
    """

    location: str
    fits: tuple[Problem, ...]
    default_for: tuple[Problem, ...] = ()
    scale: int | None = 1
    lower_is_better: bool = False
    is_constant: bool = False
    is_for_two_labels: bool = False
    reads_probabilities: bool = False


METRICS: dict[str, MetricSpec] = {
    "accuracy": MetricSpec("classification:Accuracy", (SINGLE, MULTI), (SINGLE,)),
    "f1": MetricSpec("classification:F1", (SINGLE,), is_for_two_labels=True),
    "f1_micro": MetricSpec("classification:F1Micro", (SINGLE, MULTI), (MULTI,)),
    "f1_macro": MetricSpec("classification:F1Macro", (SINGLE, MULTI)),
    "precision": MetricSpec("classification:Precision", (SINGLE,), is_for_two_labels=True),
    "recall": MetricSpec("classification:Recall", (SINGLE,), is_for_two_labels=True),
    "matthews_correlation": MetricSpec("classification:MatthewsCorrelation", (SINGLE,)),
    "roc_auc": MetricSpec("classification:RocAuc", (SINGLE, MULTI), reads_probabilities=True),
    "pearson": MetricSpec("regression:Pearson", (REGRESSION,), (REGRESSION,)),
    "spearman": MetricSpec("regression:Spearman", (REGRESSION,)),
    "mse": MetricSpec("regression:MeanSquaredError", (REGRESSION,), scale=None, lower_is_better=True),
    "seqeval_f1": MetricSpec("token_classification:SeqevalF1", (TOKENS,), (TOKENS,)),
    "seqeval_precision": MetricSpec("token_classification:SeqevalPrecision", (TOKENS,), (TOKENS,)),
    "seqeval_recall": MetricSpec("token_classification:SeqevalRecall", (TOKENS,), (TOKENS,)),
    "squad_f1": MetricSpec("question_answering:SquadF1", (QUESTIONS,), (QUESTIONS,), scale=100),
    "squad_exact_match": MetricSpec("question_answering:SquadExactMatch", (QUESTIONS,), (QUESTIONS,), scale=100),
    "sacrebleu": MetricSpec("generation:SacreBleu", (SEQ2SEQ,), (SEQ2SEQ,), scale=100),
    "chrf": MetricSpec("generation:Chrf", (SEQ2SEQ,), (SEQ2SEQ,), scale=100),
    "exact_match": MetricSpec("generation:ExactMatch", (SEQ2SEQ,)),
    "rouge1": MetricSpec("generation:Rouge1", (SEQ2SEQ,)),
    "rouge2": MetricSpec("generation:Rouge2", (SEQ2SEQ,)),
    "rougeL": MetricSpec("generation:RougeL", (SEQ2SEQ,)),
    "perplexity": MetricSpec(
        "language_modeling:Perplexity", (CAUSAL, MASKED, SEQ2SEQ), (CAUSAL, MASKED), scale=None, lower_is_better=True
    ),
    "bits_per_byte": MetricSpec(
        "language_modeling:BitsPerByte", (CAUSAL,), (CAUSAL,), scale=None, lower_is_better=True
    ),
    "perplexity_floor": MetricSpec(
        "language_modeling:PerplexityFloor", (CAUSAL,), scale=None, lower_is_better=True, is_constant=True
    ),
    "masked_accuracy": MetricSpec("language_modeling:MaskedAccuracy", (MASKED,), (MASKED,)),
}


def metric_names() -> list[str]:
    """The metrics that a recipe may list, in alphabetical order."""
    return sorted(METRICS)


def metrics_for(problem: str) -> tuple[str, ...]:
    """The metrics that fit a problem, the usual one first."""
    return tuple(name for name, spec in METRICS.items() if problem in spec.fits)


def default_metrics_for(problem: str) -> tuple[str, ...]:
    """The metrics of a problem whose recipe lists none."""
    return tuple(name for name, spec in METRICS.items() if problem in spec.default_for)


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
