"""Callbacks: what a training run reports while it runs. Override what you need."""

from __future__ import annotations

import warnings

from pipeline.models.building import WeightSources
from pipeline.runs.directory import Run
from pipeline.runs.record import StepRecord


class TrainingCallback:
    """Receives the events of a run, in the order below; the command line's progress display is one.

    These methods do nothing, but for a warning in `on_tracker_failed`.
    """

    def on_run_found(self, run: Run) -> None:
        """A finished run of the same recipe is there already, so nothing is trained and no other event follows."""

    def on_launch(self, pids: list[int]) -> None:
        """The processes that train together have started, the one that writes and reports first."""

    def on_restart(self, restart: int, restarts: int, cause: str) -> None:
        """One of several processes died, and all start again: the `restart`-th time of at most `restarts`."""

    def on_start(self, weights: WeightSources) -> None:
        """The model is built: which of its weights are the checkpoint's, and which are new."""

    def on_resume(self, step: int, notes: list[str]) -> None:
        """The run resumes after `step`, 0 for the beginning; `notes` name training checkpoints that were skipped."""

    def on_train_begin(self, num_steps: int, num_epochs: int) -> None:
        """Training begins; both numbers are those of the whole run."""

    def on_step_end(self, record: StepRecord) -> None:
        """One optimizer step is done; `record` is its line of history.jsonl."""

    def on_tracker_failed(self, tracker: str, cause: str) -> None:
        """A tracker of the recipe failed and is used no more; the run goes on."""
        warnings.warn(tracker_failure(tracker, cause), stacklevel=2)

    def on_memory_split(self, step: int, micro_batches: int) -> None:
        """Memory was too small at `step`: this step and all later ones are split into so many micro-batches."""

    def on_evaluate_begin(self, epoch: int) -> None:
        """The validation split is about to be scored after an epoch."""

    def on_evaluate_end(self, epoch: int, metrics: dict[str, float]) -> None:
        """The validation split was scored after an epoch."""

    def on_save_begin(self, step: int) -> None:
        """A training checkpoint is about to be written after `step`."""

    def on_save_end(self, step: int) -> None:
        """The training checkpoint is written."""

    def on_stop_requested(self) -> None:
        """The run was asked to stop; it saves a training checkpoint first."""

    def on_train_end(self) -> None:
        """The last step and its evaluation are done."""

    def on_run_end(self, run: Run) -> None:
        """The run directory is complete."""


def tracker_failure(tracker: str, cause: str) -> str:
    """The sentence for people about a tracker that failed."""
    return f"the tracker {tracker} failed and is used no more: {cause}"
