"""The history of a training as it happens: history.jsonl grows by a line per step."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from pipeline.runs.record import StepRecord


class HistoryFile:
    """A history.jsonl that can be read while the training goes on, as `tail -f` does.

    It lies in the hidden folder beside the run directory, `.<name>.partial-<process id>-<machine>/`, where the run is
    staged. A resumed run begins it with the steps that its training checkpoint holds, so that it is whole at any time.
    Errors of writing are ignored: a full disk must not end a training whose state can still be saved, and the trainer
    writes the whole file once more at the end. Without a path, as at all ranks but the first, nothing is kept.
    """

    def __init__(self, path: Path | None, earlier: Iterable[StepRecord] = ()):
        # Line buffering: a line can be read as soon as its step is over.
        self._file = open(path or os.devnull, "w", encoding="utf-8", buffering=1)  # noqa: SIM115 (closed by __exit__)
        for record in earlier:
            self.append(record)

    def append(self, record: StepRecord) -> None:
        """Write the line of one step."""
        with contextlib.suppress(OSError):
            self._file.write(json.dumps(record.model_dump(), ensure_ascii=False) + "\n")

    def __enter__(self) -> HistoryFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        with contextlib.suppress(OSError):
            self._file.close()
