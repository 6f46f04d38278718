"""Whether the files of a finished run are what a run writes and belong together, for those who read foreign runs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence

from pipeline.runs.directory import ProbeLogits, RunDirectory
from pipeline.runs.record import RunRecord, StepRecord
from pipeline.utils.errors import UserError
from pipeline.utils.files import JsonObject
from pipeline.utils.text import shorten

_JSON_TYPES = {
    bool: "true or false", int: "a number", float: "a number", str: "a text", list: "a list", dict: "an object",
}  # fmt: skip
# Fields that either all lines have, or none.
_ALL_OR_NONE = {"prediction", "reference"}


def refuse_unlike_a_run(
    directory: RunDirectory, record: RunRecord, history: Sequence[StepRecord], predictions: Sequence[JsonObject],
    probe: ProbeLogits,
) -> None:  # fmt: skip
    """Raise UserError naming file, line and field of what no run writes, such as a loss that is not finite."""
    for problem in (
        *_of_the_record(directory, record),
        *_of_the_history(directory, record, history),
        *_of_the_predictions(directory, predictions),
        *_of_the_probe(directory, probe),
    ):
        raise UserError(f"{problem}; the run was altered, or another program wrote it. Leave it out, or repeat it")


def _of_the_record(directory: RunDirectory, record: RunRecord) -> Iterator[str]:
    where = f"{directory.metrics_file}:"
    for name, value in record.metrics.items():
        if value is not None and not math.isfinite(value):
            yield f"{where} metrics.{name} is {value}, but must be finite"


def _of_the_history(directory: RunDirectory, record: RunRecord, history: Sequence[StepRecord]) -> Iterator[str]:
    if len(history) != record.train.steps:
        yield (
            f"{directory.history_file} has {len(history):,} lines, but {directory.metrics_file} has train.steps "
            f"{record.train.steps:,}"
        )
    for number, step in enumerate(history, start=1):
        if step.step != number:
            yield f"{directory.history_file} line {number}: step is {step.step}, but must be {number}"


def _of_the_predictions(directory: RunDirectory, predictions: Sequence[JsonObject]) -> Iterator[str]:
    """Every line is an object with its index, and a field has the same type in all lines that have it."""
    types: dict[str, str] = {}
    for number, line in enumerate(predictions, start=1):
        where = f"{directory.predictions_file} line {number}"
        if not isinstance(line, dict):
            yield f"{where} is {_shown(line)}, but must be an object"
            continue
        if line.get("index") != number - 1:
            yield f"{where}: index is {_shown(line.get('index'))}, but must be {number - 1}"
        if missing := _ALL_OR_NONE & types.keys() - line.keys():
            yield f"{where}: {min(missing)} is missing, but the lines before have it"
        for name, value in line.items():
            if value is None:
                continue
            kind = _JSON_TYPES[type(value)]
            if types.setdefault(name, kind) != kind:
                yield f"{where}: {name} is {_shown(value)}, but must be {types[name]} as in the lines before"


def _of_the_probe(directory: RunDirectory, probe: ProbeLogits) -> Iterator[str]:
    for name, logits in (("logits_before", probe.before), ("logits_after", probe.after)):
        if logits.dtype.kind != "f" or logits.ndim == 0 or logits.shape != probe.before.shape:
            what = f"{logits.dtype} {list(logits.shape)}"
            yield f"{directory.probe_file}: {name} is {what}, but must be the probe's logits"


def _shown(value: object) -> str:
    return shorten(json.dumps(value), 60)
