"""Tracking: tells the trackers of a recipe what happens in a run. A tracker that fails never stops the run.

Each tracker works in a thread of its own, so that a slow server or disk delays no step.
"""

from __future__ import annotations

import contextlib
import math
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.recipe.schema import Recipe, TrackerName
from pipeline.runs.directory import Run, RunDirectory
from pipeline.runs.machine import peak_memory_bytes
from pipeline.runs.record import EvaluationRecord, StepRecord
from pipeline.training.callbacks import TrainingCallback
from pipeline.training.processes import combined
from pipeline.training.trackers.base import Outcome, Point, TrackedRun, Tracker, flattened
from pipeline.training.trackers.mlflow import MLflow
from pipeline.training.trackers.tensorboard import TensorBoard
from pipeline.training.trackers.wandb import WandB
from pipeline.training.trainer import Trainer
from pipeline.utils.errors import Stopped
from pipeline.utils.hashing import short_digest
from pipeline.utils.text import count, one_line

TRACKERS: Mapping[TrackerName, Callable[[TrackedRun], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "mlflow": MLflow,
}
# How long a run waits for its trackers before the first step and at its end.
SECONDS_TO_OPEN, SECONDS_TO_CLOSE = 30.0, 30.0
# So many points may wait for a slow tracker.
MOST_WAITING = 20_000


class TrackerThread:
    """One tracker in a thread of its own, fed through a queue; its first failure ends it.

    `failure` is why it ended, in words; None while all is well.
    """

    def __init__(self, name: TrackerName, run: TrackedRun):
        self.name: TrackerName = name
        self.failure: str | None = None
        self._run = run
        self._outcome: Outcome = "failed"
        self._waiting: queue.Queue[Point | list[Path] | None] = queue.Queue(MOST_WAITING)
        self._opened = threading.Event()
        # A daemon: Python's end does not wait for a server that does not answer.
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def wait_until_open(self, deadline: float) -> None:
        """Wait until the tracker is open or has failed, or until the deadline."""
        self._opened.wait(max(0.0, deadline - time.monotonic()))

    def put(self, item: Point | list[Path]) -> None:
        """Hand over a point or some files."""
        try:
            if self.failure is None:
                self._waiting.put_nowait(item)
        except queue.Full:
            self.failure = f"{count(MOST_WAITING, 'point')} are waiting for it"

    def close(self, outcome: Outcome, deadline: float) -> None:
        """End the tracking once everything is written, or at the deadline."""
        self._outcome = outcome
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(None)
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive() and self.failure is None:
            self.failure = f"it did not take everything within {SECONDS_TO_CLOSE:.0f} seconds"

    def _work(self) -> None:
        tracker = None
        try:
            tracker = TRACKERS[self.name](self._run)
            self._opened.set()
            known: dict[str, int] = {}
            while self.failure is None and (items := self._next_items()):
                points = [item for item in items if isinstance(item, Point)]
                for kind in {point.kind for point in points} - known.keys():
                    known[kind] = tracker.last_step(f"{kind}/loss")
                if new := [point for point in points if point.step > known[point.kind]]:
                    tracker.log(new)
                for files in items:
                    if isinstance(files, list):
                        tracker.add_files(files)
            tracker.close(self._outcome)
        except (Exception, SystemExit) as error:  # each client has its own
            self.failure = self.failure or one_line(f"{type(error).__name__}: {error}")
            if tracker is not None:
                with contextlib.suppress(Exception, SystemExit):
                    tracker.close("failed")
        finally:
            self._opened.set()

    def _next_items(self) -> list[Point | list[Path]]:
        """All that waits, or what comes next; nothing at the end."""
        items: list[Point | list[Path]] = []
        item = self._waiting.get()
        while item is not None:
            items.append(item)
            try:
                item = self._waiting.get_nowait()
            except queue.Empty:
                return items
        if items:
            self._waiting.put(None)
        return items


class Tracking(TrainingCallback):
    """Tells every tracker of a run about its steps and scores; `on_failure` is told of one that failed, once."""

    def __init__(self, names: Iterable[TrackerName], run: TrackedRun, on_failure: Callable[[str, str], None]):
        self._trackers = [TrackerThread(name, run) for name in names]
        self._on_failure, self._told = on_failure, set[str]()
        self._seconds, self._step = 0.0, 0
        deadline = time.monotonic() + SECONDS_TO_OPEN
        for tracker in self._trackers:
            tracker.wait_until_open(deadline)
        self._tell_failures()

    def replay(self, history: Iterable[StepRecord], evaluations: Sequence[EvaluationRecord], steps: int) -> None:
        """Tell what a resumed run did before, with so many `steps` in an epoch; a tracker takes only what it lacks."""
        for record in history:
            self._put_step(record, {})
        for record in evaluations:
            self._put("validation", record.epoch * steps, record.metrics)

    def on_step_end(self, record: StepRecord) -> None:
        self._put_step(record, {"peak_memory_mib": peak_memory_bytes() / 2**20})

    def on_evaluate_end(self, epoch: int, metrics: dict[str, float]) -> None:
        self._put("validation", self._step, metrics)

    def add_run(self, run: Run) -> None:
        """Tell what a finished run has besides: its scores on the test split, its recipe and its record."""
        self._put("test", self._step, run.record.test or {})
        directory = run.directory
        self.add_files([directory.recipe_file, directory.metrics_file, directory.environment_file])

    def add_files(self, files: list[Path]) -> None:
        """Hand files over."""
        for tracker in self._trackers:
            tracker.put(files)

    def close(self, outcome: Outcome) -> None:
        """End the tracking."""
        deadline = time.monotonic() + SECONDS_TO_CLOSE
        for tracker in self._trackers:
            tracker.close(outcome, deadline)
        self._tell_failures()

    def _put_step(self, record: StepRecord, more: Mapping[str, float]) -> None:
        seconds, self._seconds, self._step = record.seconds - self._seconds, record.seconds, record.step
        names = ("loss", "learning_rate", "grad_norm", "epoch")
        values = {name: float(getattr(record, name)) for name in names} | dict(more)
        if seconds > 0:
            values |= {"examples_per_second": record.examples / seconds, "tokens_per_second": record.tokens / seconds}
        self._put("train", record.step, values)

    def _put(self, kind: str, step: int, values: Mapping[str, float | None]) -> None:
        finite = {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
        if finite:
            for tracker in self._trackers:
                tracker.put(Point(kind, step, finite))
        self._tell_failures()

    def _tell_failures(self) -> None:
        for tracker in self._trackers:
            if tracker.failure is not None and tracker.name not in self._told:
                self._told.add(tracker.name)
                self._on_failure(tracker.name, tracker.failure)


@contextlib.contextmanager
def tracked(trainer: Trainer, directory: RunDirectory) -> Iterator[Tracking]:
    """Track what a trainer does in the block, with the trackers of its recipe."""
    recipe, identity, state = trainer.experiment.recipe, trainer.identity, trainer.state
    state.tracking_id = state.tracking_id or uuid.uuid4().hex[:12]
    settings = recipe.model_dump(mode="json") | identity.model_dump(exclude={"recipe"})
    run = TrackedRun(
        state.tracking_id, directory.path.name, recipe.name, directory.tensorboard_folder, flattened(settings)
    )
    callback = trainer.callback
    tracking = Tracking(recipe.train.trackers, run, callback.on_tracker_failed)
    tracking.replay(state.history, state.evaluations, len(trainer.epoch_plans[0]))
    trainer.callback = combined(callback, tracking)
    outcome: Outcome = "failed"
    try:
        yield tracking
        outcome = "finished"
    except Stopped:
        outcome = "stopped"
        raise
    finally:
        trainer.callback = callback
        tracking.close(outcome)


def track_report(recipe: Recipe, folder: Path, on_failure: Callable[[str, str], None]) -> None:
    """Hand the figures and the pages of a comparison's report to the trackers of its recipe, as a run of their own."""
    run = TrackedRun(
        short_digest(str(folder.resolve()), 12), f"report {folder.name}", recipe.name,
        RunDirectory.at(folder).tensorboard_folder, flattened(recipe.model_dump(mode="json")),
    )  # fmt: skip
    tracking = Tracking(recipe.train.trackers, run, on_failure)
    tracking.add_files([*sorted((folder / "figures").glob("*.png")), folder / "report.md", folder / "results.json"])
    tracking.close("finished")
