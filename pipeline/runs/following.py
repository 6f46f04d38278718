"""Following a run: its steps and scores, read from its files while it trains, or once when it is done."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pipeline.runs.directory import RunDirectory
from pipeline.runs.history import Progress, Steps
from pipeline.runs.record import EvaluationRecord, StepRecord, parse_record
from pipeline.utils.errors import UserError


class FollowedRun:
    """What is known of a run: call `read` for what is new. It reads only what was not there before.

    `steps` and `evaluations` are those so far, `num_steps` and `num_epochs` those of the whole run, 0 if not yet known.
    """

    def __init__(self, path: Path):
        self.directory = RunDirectory.at(path)
        self.state: Literal["training", "finished", "ended"] = "training"
        self.steps, self.evaluations = Steps(), list[EvaluationRecord]()
        self.num_steps = self.num_epochs = 0
        self._reading: RunDirectory | None = None
        self._offset = 0

    def read(self) -> None:
        """Read what is new, and set `state`: "ended" is a run whose process is gone before the run was complete.

        Raises UserError if there is no run, or if its files are not what a run writes.
        """
        live = self.directory.in_progress()
        if live is not None:
            self.state = "training"
            self._read_steps(live)
            self._read_progress(live)
        elif self.directory.is_finished:
            self._read_finished()
        elif self._reading is not None:
            self.state = "ended"
        else:
            raise self._no_run()

    def _read_steps(self, directory: RunDirectory) -> None:
        if directory != self._reading:
            self._reading, self._offset, self.steps = directory, 0, Steps()
        try:
            with open(directory.history_file, "rb") as file:
                file.seek(self._offset)
                content = file.read()
        except FileNotFoundError:  # the run has just been completed
            return
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.decode().splitlines():
            self.steps.append(parse_record(StepRecord, line, str(directory.history_file)))

    def _read_progress(self, directory: RunDirectory) -> None:
        try:
            text = directory.progress_file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return
        progress = parse_record(Progress, text, str(directory.progress_file))
        self.num_steps, self.num_epochs, self.evaluations = progress.steps, progress.epochs, progress.evaluations

    def _read_finished(self) -> None:
        record = self.directory.record()
        self.state, self.evaluations = "finished", record.evaluations
        self.num_steps, self.num_epochs = record.train.steps, len(record.evaluations)
        self._read_steps(self.directory)

    def _no_run(self) -> UserError:
        path = self.directory.path
        if self.directory.checkpoints_folder.exists():
            message = f"{path} is an unfinished run that no process trains at the moment; resume=True continues it"
            return UserError(message, arguments=("resume",))
        return UserError(
            f"{path} is not a run, and none is being trained there; one can be followed from its first step"
        )
