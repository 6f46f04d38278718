"""Scoring an evaluation: check the metrics that a recipe lists, load them, and compute their values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from pipeline.metrics.loss import LOSS, HasLoss, loss_statistic, mean_loss
from pipeline.metrics.resampling import Lines, Statistic
from pipeline.metrics.specs import (
    HUB_PREFIX,
    METRICS,
    find_spec,
    is_constant,
    is_hub_metric,
    metric_class,
    metric_names,
)
from pipeline.recipe.schema import Recipe
from pipeline.utils.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from pipeline.metrics.base import evaluate

EXAMPLES_AT_ONCE = 4096
NUMBER_TYPES = (int, float, np.number, np.bool_)


class Scored(HasLoss, Protocol):
    """A scored example: its loss, and the columns that metrics read, by name."""

    @property
    def columns(self) -> Mapping[str, object]: ...


def metric_problems(
    recipe: Recipe, names: tuple[str, ...], fitting: tuple[str, ...], num_labels: int, allow_hub_code: bool
) -> list[str]:
    """What is wrong with the metrics `names`, found before anything heavy is imported.

    `fitting` are the metrics of the task, and `num_labels` the number of its classes, 0 if it has none.
    """
    problems = [text for name in names for text in _problems_of_one(recipe, name, fitting, num_labels, allow_hub_code)]
    chosen = recipe.train.keep_metric
    compares_epochs = recipe.train.keep == "best" or recipe.train.early_stopping is not None
    if chosen is None and compares_epochs and (is_hub_metric(names[0]) or is_constant(names[0])):
        problems.append(
            f"metrics: the first metric chooses the epoch that is kept, and {names[0]} cannot; name another one in "
            "train.keep_metric"
        )
    if chosen is not None and chosen not in (*names, LOSS):
        problems.append(f'train.keep_metric is "{chosen}", but the recipe has: {", ".join((*names, LOSS))}')
    return problems


def _problems_of_one(
    recipe: Recipe, name: str, fitting: tuple[str, ...], num_labels: int, allow_hub_code: bool
) -> list[str]:
    if is_hub_metric(name):
        problems = []
        if "@" not in name:
            problems.append(f'metrics: "{name}" has no revision; write {HUB_PREFIX}NAME@REVISION')
        if not allow_hub_code:
            problems.append(f'metrics: "{name}" runs code from the Hub; allow it with allow_hub_code=True')
        return problems
    if name not in METRICS:
        known = metric_names()
        return [f'metrics: there is no metric "{name}".{did_you_mean(name, known)} Known: {", ".join(known)}']
    if name not in fitting:
        return [f"metrics: {name} does not fit this {recipe.task} recipe; these do: {', '.join(fitting)}"]
    if num_labels > 2 and METRICS[name].is_for_two_labels:
        return [f"metrics: {name} is for two labels, but the data has {num_labels}; use f1_macro or accuracy"]
    return []


def load_metrics(names: tuple[str, ...]) -> dict[str, evaluate.EvaluationModule]:
    """An `evaluate` metric for each name, ready for `add_batch` and `compute`. Raises UserError."""
    return {name: _load_from_hub(name) if is_hub_metric(name) else _load(name) for name in names}


def _load(name: str) -> evaluate.EvaluationModule:
    return metric_class(name)(keep_in_memory=True)


def _load_from_hub(name: str) -> evaluate.EvaluationModule:
    from pipeline.metrics.base import evaluate  # takes seconds, which a recipe without metrics of the Hub is spared

    path, revision = name.removeprefix(HUB_PREFIX).split("@", 1)
    try:
        return evaluate.load(path, revision=revision, keep_in_memory=True)
    except Exception as error:  # downloaded code may fail in any way
        raise UserError(f"metrics: {name} cannot be loaded: {' '.join(str(error).split())[:200]}") from error


def compute_metrics(metrics: Mapping[str, evaluate.EvaluationModule], scored: Sequence[Scored]) -> dict[str, float]:
    """The value of each metric over all examples, and the mean loss; a metric takes the columns that it knows."""
    values: dict[str, float] = {}
    for metric in metrics.values():
        columns = [name for name in _columns_of(metric) if name in scored[0].columns]
        for start in range(0, len(scored), EXAMPLES_AT_ONCE):
            examples = scored[start : start + EXAMPLES_AT_ONCE]
            metric.add_batch(**{name: [example.columns[name] for example in examples] for name in columns})
        computed = metric.compute() or {}
        # Metrics from the Hub may return lists and tables beside numbers.
        values |= {key: float(value) for key, value in computed.items() if isinstance(value, NUMBER_TYPES)}
    return values | {LOSS: mean_loss(scored)}


def _columns_of(metric: evaluate.EvaluationModule) -> list[str]:
    """The columns that a metric reads; if it accepts several types, the names are the same."""
    features = metric.features
    return list(features[0] if isinstance(features, list) else features)


def statistic_for(value_name: str, lines: Lines, labels: Sequence[str]) -> Statistic | None:
    """A recorded metric as a function of how often each example is drawn.

    `lines` are those of predictions.jsonl, and `labels` the class names in the order of the model, or none. Returns
    None if the metric is not in the table, or the lines do not hold what it needs.
    """
    if value_name == LOSS:
        return loss_statistic(lines)
    name, _, part = value_name.partition(".")
    if find_spec(value_name) is None:
        return None
    metric = metric_class(name)
    return metric.part_statistic(part, lines, labels) if part else metric.statistic(lines, labels)
