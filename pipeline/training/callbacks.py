"""What a run tells while it runs. The base class says nothing; `pipeline.terminal` has the one that a person sees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.runs.directory import Run


class TrainingCallback:
    """Silent progress."""

    def on_train_begin(self, num_updates: int, num_epochs: int) -> None:
        """Training begins."""

    def on_resume(self, step: int, notes: list[str]) -> None:
        """The run goes on after update `step`, 0 for the beginning; `notes` say what is odd about it."""

    def on_step_end(self, line: dict[str, Any]) -> None:
        """One optimiser update is done; `line` is its line of history.jsonl."""

    def on_memory_split(self, step: int, parts: int) -> None:
        """Memory was short at update `step`, so it and all that follow are split into `parts` micro-batches."""

    def on_evaluate_begin(self, epoch: int) -> None:
        """Validation is about to be scored after an epoch."""

    def on_evaluate_end(self, epoch: int, metrics: dict[str, float]) -> None:
        """Validation was scored after an epoch."""

    def on_save_begin(self, step: int) -> None:
        """A checkpoint of update `step` is about to be written."""

    def on_save_end(self, step: int) -> None:
        """It is written."""

    def on_stop_requested(self) -> None:
        """Somebody asks the run to stop; it will save itself first."""

    def on_train_end(self) -> None:
        """The last update is done."""

    def on_run_end(self, run: Run) -> None:
        """The run directory is complete."""

    def on_run_found(self, run: Run) -> None:
        """A finished run of the same recipe was found."""
