"""Metrics as `evaluate.Metric` modules that work offline, one file per metric, each with a class `Metric`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.recipe.schema import Recipe
from pipeline.utils.errors import UserError, did_you_mean

# Metrics of which less is better; `keep: best` reads it.
LOWER_IS_BETTER = {"loss", "perplexity", "perplexity_floor", "bits_per_byte", "mse"}

_PART = 4096


def metric_names() -> list[str]:
    """The metrics that a recipe may name."""
    files = (file for file in Path(__file__).parent.glob("*.py") if file != Path(__file__))
    return sorted(file.stem for file in files if not file.stem.startswith("_"))


def metric_problems(
    recipe: Recipe, names: tuple[str, ...], fitting: tuple[str, ...], num_labels: int, allow_hub_code: bool
) -> list[str]:
    """What is wrong with the recipe's metrics, before anything heavy is loaded; `fitting` are those of its task."""
    problems = []
    for name in names:
        if name.startswith("hub:"):
            if "@" not in name:
                problems.append(f'metrics: "{name}" names no revision; want hub:NAME@REVISION')
            if not allow_hub_code:
                problems.append(f'metrics: "{name}" runs code from the Hub; allow it with --allow-hub-code')
        elif name not in metric_names():
            problems.append(
                f'metrics: there is no "{name}"; there are: {", ".join(metric_names())}.'
                + did_you_mean(name, metric_names())
            )
        elif name not in fitting:
            problems.append(f"metrics: {name} does not fit this {recipe.task}, which has: {', '.join(fitting)}")
        elif num_labels > 2 and name in ("f1", "precision", "recall"):
            problems.append(f"metrics: {name} is for two labels and there are {num_labels}; use f1_macro or accuracy")
    wanted = recipe.train.keep_metric
    is_chosen = recipe.train.keep == "best" or recipe.train.early_stopping is not None
    if wanted is None and is_chosen and (names[0].startswith("hub:") or names[0] == "perplexity_floor"):
        problems.append(f"metrics: {names[0]} comes first, but cannot choose an epoch; set train.keep_metric")
    if wanted is not None and wanted not in (*names, "loss"):
        problems.append(f'train.keep_metric is "{wanted}", but the recipe scores: {", ".join((*names, "loss"))}')
    return problems


def load_metrics(names: tuple[str, ...]) -> dict[str, Any]:
    """An `evaluate` metric for each name, ready for `add_batch` and `compute`."""
    evaluate = _import_evaluate()
    metrics = {}
    for name in names:
        if name.startswith("hub:"):
            module, revision = name.removeprefix("hub:").split("@", 1)
            try:
                metrics[name] = evaluate.load(module, revision=revision, keep_in_memory=True)
            except Exception as error:  # a downloaded module may fail in any way
                raise UserError(f"metrics: {name} cannot be loaded: {' '.join(str(error).split())[:200]}") from error
        else:
            metrics[name] = importlib.import_module(f"pipeline.metrics.{name}").Metric(keep_in_memory=True)
    return metrics


def compute(scorers: dict[str, Any], scored: list[Any]) -> dict[str, float]:
    """The value of each metric over the examples' columns, handed over in parts; a metric takes those it knows."""
    values: dict[str, float] = {}
    for scorer in scorers.values():
        wanted = [name for name in read_columns(scorer) if name in scored[0].columns]
        for start in range(0, len(scored), _PART):
            part = scored[start : start + _PART]
            scorer.add_batch(**{name: [example.columns[name] for example in part] for name in wanted})
        # Metrics from the Hub may add lists and tables to their figures.
        values |= {key: float(value) for key, value in scorer.compute().items() if np.isscalar(value)}
    return values


def read_columns(scorer: Any) -> list[str]:
    """The columns that a metric reads; one with several kinds of input has the same ones in each."""
    features = scorer.features
    return list(features[0] if isinstance(features, list) else features)


def _import_evaluate() -> Any:
    """`evaluate` without its evaluator, which would import transformers' pipelines and with them both frameworks."""
    if "evaluate" not in sys.modules and "transformers.pipelines" not in sys.modules:
        sys.modules["transformers.pipelines"] = None  # evaluate then knows itself to be without pipelines
        try:
            return importlib.import_module("evaluate")
        finally:
            del sys.modules["transformers.pipelines"]
    return importlib.import_module("evaluate")
