"""Every run's metrics on resampled validation examples, computed again from its predictions.jsonl."""

from __future__ import annotations

import json
import math

import numpy as np
from numpy.typing import NDArray

from pipeline.comparison.results import Problem
from pipeline.comparison.run_set import ComparedRun
from pipeline.comparison.statistics import bootstrap
from pipeline.metrics.scoring import statistic_for
from pipeline.runs.directory import RunDirectory
from pipeline.utils.errors import UserError
from pipeline.utils.files import reason
from pipeline.utils.text import one_line

# Scores in predictions.jsonl are rounded, those of earlier versions to six decimals, and an area under a curve can
# depend on the last one.
_RECORDED_PRECISION = 1e-3

# By run label and metric: the value on the full split and the resampled values [R].
Resampled = dict[tuple[str, str], tuple[float, NDArray[np.float64]]]


def resampled_metrics(runs: list[ComparedRun]) -> tuple[Resampled, list[Problem]]:
    """Each metric of each run over the same resamples of the examples, and the scores that could not be reproduced.

    Empty if the runs have predictions for different numbers of examples, which is a problem, or for fewer than two.
    """
    sizes = {len(run.predictions) for run in runs}
    if len(sizes) > 1:
        return {}, [Problem(code="different_example_counts")]
    if not sizes or min(sizes) < 2:
        return {}, []
    (num_examples,) = sizes
    problems, keys, full, statistics = [], [], [], []
    for run in runs:
        labels = class_names(run)
        for name, recorded in run.metrics.items():
            try:
                of_counts = statistic_for(name, run.predictions, labels)
                value = math.nan if of_counts is None else bootstrap.value_on_full_set(of_counts, num_examples)
            except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
                raise _not_computable(run, name, error) from error
            if of_counts is None:
                continue
            if _contradicts(value, recorded):
                problems.append(
                    Problem(
                        code="score_not_reproduced", run=run.label, metric=name, recorded=recorded, recomputed=value
                    )
                )
            keys.append((run.label, name))
            full.append(value)
            statistics.append(of_counts)
    if not statistics:
        return {}, problems
    rows = bootstrap.resample(statistics, num_examples)
    return {key: (value, row) for key, value, row in zip(keys, full, rows, strict=True)}, problems


def _not_computable(run: ComparedRun, metric: str, error: Exception) -> UserError:
    """The error for predictions that are not of the kind of their metric or labels: a run writes no such lines."""
    file = RunDirectory(run.path).predictions_file
    return UserError(
        f"{file} does not hold what {metric} is computed from ({type(error).__name__}: {one_line(error)}); the run was "
        "altered, or another program wrote it. Leave it out, or repeat it"
    )


def _contradicts(value: float, recorded: float | None) -> bool:
    if recorded is None or not math.isfinite(recorded) or not math.isfinite(value):
        return False
    return abs(value - recorded) > _RECORDED_PRECISION * max(1.0, abs(recorded))


def class_names(run: ComparedRun) -> list[str]:
    """The class names in the model's order; empty if the run has no model any more."""
    path = RunDirectory(run.path).model_folder / "config.json"
    if not path.exists():
        return []
    try:
        names = json.loads(path.read_text(encoding="utf-8"))["id2label"] or {}
        return [str(names[key]) for key in sorted(names, key=int)]
    except KeyError:  # a model without classes
        return []
    except OSError as error:
        raise UserError(f"{path} cannot be read: {reason(error)}") from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: id2label is not a mapping from numbers to names: {one_line(error)}") from error
