"""The history of a training as it happens: its steps in memory, and history.jsonl, which grows by a line per step."""

from __future__ import annotations

import contextlib
import json
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Annotated, overload

from pydantic import PlainSerializer, PlainValidator, TypeAdapter

from pipeline.runs.directory import RunDirectory
from pipeline.runs.record import EvaluationRecord, Record, StepRecord
from pipeline.utils.files import write_json

# The fields of a step, and how each is kept: whole numbers of eight bytes, or floats.
_COLUMNS = {name: "q" if field.annotation is int else "d" for name, field in StepRecord.model_fields.items()}


class Steps(Sequence[StepRecord]):
    """The records of a training's steps, to which each step adds one.

    They are kept as columns of numbers: 64 bytes a step, where a list of records takes two thousand.
    """

    def __init__(self, records: Iterable[StepRecord] = ()):
        self._columns = {name: array(kind) for name, kind in _COLUMNS.items()}
        for record in records:
            self.append(record)

    def append(self, record: StepRecord) -> None:
        """Add the record of the next step."""
        for name, column in self._columns.items():
            column.append(getattr(record, name))

    def __len__(self) -> int:
        return len(self._columns["step"])

    @overload
    def __getitem__(self, index: int) -> StepRecord: ...
    @overload
    def __getitem__(self, index: slice) -> list[StepRecord]: ...
    def __getitem__(self, index: int | slice) -> StepRecord | list[StepRecord]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return StepRecord(**{name: column[index] for name, column in self._columns.items()})

    def lines(self) -> Iterator[dict[str, int | float]]:
        """The fields of each step, as in history.jsonl."""
        for values in zip(*self._columns.values(), strict=True):
            yield dict(zip(self._columns, values, strict=True))


def _steps_of(value: object) -> Steps:
    try:
        return value if isinstance(value, Steps) else Steps(TypeAdapter(list[StepRecord]).validate_python(value))
    except OverflowError as error:
        raise ValueError("a step has a number of more than eight bytes") from error


# Steps as a field of a pydantic model, which reads and writes them as a list of records.
StepsField = Annotated[Steps, PlainValidator(_steps_of), PlainSerializer(lambda steps: list(steps.lines()))]


class Progress(Record):
    """How far a training is: the content of progress.json, which vanishes when the run is complete."""

    steps: int
    """Optimizer steps of the whole run."""
    epochs: int
    """Epochs of the whole run."""
    evaluations: list[EvaluationRecord]
    """The validation scores so far."""


class HistoryFile:
    """The history.jsonl of a run, which can be read while the training goes on, as `tail -f` does, and progress.json.

    Both lie in the hidden folder beside the run directory, `.<name>.partial-<process id>-<machine>/`, where the run is
    staged. A resumed run begins it with the steps that its training checkpoint holds, so that it is whole at any time.
    Errors of writing are ignored: a full disk must not end a training whose state can still be saved, and the trainer
    writes the whole file once more at the end. Without a staging directory, as at all ranks but the first, nothing is
    kept.
    """

    def __init__(self, staging: RunDirectory | None, earlier: Iterable[StepRecord] = ()):
        self._progress_file = None if staging is None else staging.progress_file
        # Line buffering: a line can be read as soon as its step is over.
        self._file = open(staging.history_file if staging else os.devnull, "w", encoding="utf-8", buffering=1)  # noqa: SIM115 (closed by __exit__)
        for record in earlier:
            self.append(record)

    def append(self, record: StepRecord) -> None:
        """Write the line of one step."""
        with contextlib.suppress(OSError):
            self._file.write(json.dumps(record.model_dump(), ensure_ascii=False) + "\n")

    def show_progress(self, progress: Progress) -> None:
        """Write how far the training is."""
        if self._progress_file is not None:
            with contextlib.suppress(OSError):
                write_json(self._progress_file, progress.model_dump())

    def __enter__(self) -> HistoryFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        with contextlib.suppress(OSError):
            self._file.close()
