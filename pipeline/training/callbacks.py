"""What a run tells while it runs. The base class says nothing; `pipeline.terminal` has the one that a person sees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.runs.directory import Run


class Progress:
    """Silent progress."""

    def started(self, num_updates: int, num_epochs: int) -> None:
        """Training begins."""

    def resumed(self, step: int, notes: list[str]) -> None:
        """The run goes on after update `step`, 0 for the beginning; `notes` say what is odd about it."""

    def update(self, line: dict[str, Any]) -> None:
        """One optimiser update is done; `line` is its line of history.jsonl."""

    def split(self, step: int, parts: int) -> None:
        """Memory was short at update `step`, so it and all that follow are split into `parts` micro-batches."""

    def evaluating(self, epoch: int) -> None:
        """Validation is about to be scored after an epoch."""

    def evaluated(self, epoch: int, metrics: dict[str, float]) -> None:
        """Validation was scored after an epoch."""

    def saving(self, step: int) -> None:
        """A checkpoint of update `step` is about to be written."""

    def saved(self, step: int) -> None:
        """It is written."""

    def stopping(self) -> None:
        """Somebody asks the run to stop; it will save itself first."""

    def trained(self) -> None:
        """The last update is done."""

    def finished(self, run: Run) -> None:
        """The run directory is complete."""

    def already_done(self, run: Run) -> None:
        """A finished run of the same recipe was found."""
