"""Callbacks: what a training run reports while it runs, and the one that prints it."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from pipeline.models.building import WeightSources
from pipeline.runs.directory import Run
from pipeline.runs.record import StepRecord
from pipeline.utils.text import count, escape_controls

# Without a bar: a line after the first step, then after every tenth of the run and every ten seconds.
NUM_LINES = 10
SECONDS_BETWEEN_LINES = 10.0
# Counts of a split that do not say that something was lost.
_PLAIN_COUNTS = ("rows", "windows", "tokens")


class TrainingCallback:
    """Receives the events of a run, in the order below; `PrintedProgress` is one. Override what you need.

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


def python_console() -> Console:
    """Where calls from Python print their progress: the error output of a script, or the cell of a notebook."""
    if "ipykernel" in sys.modules:
        return Console(file=sys.stdout, highlight=False, force_jupyter=False)
    return Console(stderr=True, highlight=False)


class PrintedProgress(TrainingCallback):
    """Prints what a run does, the same for both frameworks: a bar on a terminal if `has_bar`, else lines."""

    how_to_repeat = "overwrite=True"

    def __init__(self, title: str, console: Console | None = None, has_bar: bool = True):
        self.title, self.console = escape_controls(title), console or Console(highlight=False)
        self.has_bar = has_bar and self.console.is_terminal
        self.weights: WeightSources | None = None
        self.bar: Progress | None = None
        self.task: TaskID | None = None
        self.num_steps = self.num_epochs = self.num_examples = 0
        self.first: StepRecord | None = None
        self.most_rate: float | None = None
        self.last_line: tuple[int, float] = (0, 0.0)  # which tenth of the run it told, and when

    def on_start(self, weights: WeightSources) -> None:
        self.weights = weights

    def on_train_begin(self, num_steps: int, num_epochs: int) -> None:
        self.num_steps, self.num_epochs, self.num_examples, self.first = num_steps, num_epochs, 0, None
        if not self.has_bar:
            self.print(f"{self.title}: {count(num_steps, 'step')} in {count(num_epochs, 'epoch')}")
        if self.weights is not None and not self.weights.is_plain:
            self.print(f"  {self.weights}")
        if not self.has_bar:
            return
        self.bar = Progress(
            TextColumn(self.title, markup=False), BarColumn(bar_width=20), TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[note]}"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
            console=self.console, transient=True,
        )  # fmt: skip
        self.task = self.bar.add_task("train", total=num_steps, note="first step ...")
        self.bar.start()

    def on_restart(self, restart: int, restarts: int, cause: str) -> None:
        self.close()
        self.print(f"{cause}. Restart {restart} of {restarts}.")

    def on_resume(self, step: int, notes: list[str]) -> None:
        for note in notes:
            self.print(note)
        self.print(
            f"Resuming after step {step}."
            if step
            else "There is no valid training checkpoint, so training starts from the beginning."
        )

    def on_step_end(self, record: StepRecord) -> None:
        self.num_examples += record.examples
        self.first = self.first or record
        self.most_rate = max(self.most_rate or 0.0, record.learning_rate)
        note = f"loss {record.loss:.4f}{self._speed(record)}"
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=record.step, note=note)
            return
        tenth, (last_tenth, last_seconds) = record.step * NUM_LINES // self.num_steps, self.last_line
        if record.step == 1 or tenth > last_tenth or record.seconds > last_seconds + SECONDS_BETWEEN_LINES:
            self.last_line = (tenth, record.seconds)
            self.print(f"  {record.step}/{self.num_steps}  {note}{self._time_left(record)}")

    def _speed(self, record: StepRecord) -> str:
        """Examples per second since the start; since the first step of this process if the run was resumed."""
        assert self.first is not None
        examples, seconds = self.num_examples, record.seconds
        if self.first.step > 1:
            examples, seconds = examples - self.first.examples, seconds - self.first.seconds
        return f"  {examples / seconds:.0f} examples/s" if examples and seconds > 0 else ""

    def on_tracker_failed(self, tracker: str, cause: str) -> None:
        self.print(f"  {tracker_failure(tracker, cause)}")

    def on_memory_split(self, step: int, micro_batches: int) -> None:
        self.print(
            f"  memory was too small at step {step}: from here on each batch is split into {micro_batches} "
            f"micro-batches, which does not change the steps; train.gradient_accumulation={micro_batches} does so from "
            "the start"
        )

    def on_evaluate_end(self, epoch: int, metrics: dict[str, float]) -> None:
        scores = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        self.print(f"  epoch {epoch}/{self.num_epochs}: {scores}")

    def on_stop_requested(self) -> None:
        # Straight to the descriptor: a signal may come while Python is printing.
        os.write(2, b"\nstopping: saving after the current step; a second signal stops without saving\n")

    def on_train_end(self) -> None:
        self.close()

    def close(self) -> None:
        """Take the progress bar away."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def on_run_end(self, run: Run) -> None:
        self.show(run)

    def on_run_found(self, run: Run) -> None:
        self.print(f"Already done: this is the finished run of the same recipe; {self.how_to_repeat} repeats it.")
        self.show(run)

    def _time_left(self, record: StepRecord) -> str:
        """How long the rest takes; nothing after the first step, in which TensorFlow traces its graph."""
        if self.first is None or record.step == self.first.step:
            return ""
        seconds_per_step = (record.seconds - self.first.seconds) / (record.step - self.first.step)
        return f"  {seconds_per_step * (self.num_steps - record.step):.0f} s left"

    def show(self, run: Run) -> None:
        """Print the results of a finished run."""
        record, train = run.record, run.record.train
        rows: list[tuple[str, str]] = []
        for split, metrics in (("validation", record.metrics), ("test", record.test or {})):
            for name, value in metrics.items():
                rows.append((f"{split} {name}", "undefined" if value is None else f"{value:.4f}"))
        rows.append(("training", f"{train.seconds:.1f} s, {train.examples_per_second:.0f} examples/s"))
        if record.attention_sites:
            difference = f"{record.attention_max_difference:.1e} from stock at the start"
            rows.append(("attention", f"{record.attention_sites} sites, {difference}"))
        rows.append(("padding", f"{train.padding_fraction:.1%} of positions"))
        for name, counts in _losses(record.data.splits).items():
            rows.append((name, ", ".join(f"{split} {number}" for split, number in counts.items())))
        rows.append(("results", os.path.relpath(run.path)))
        # Plain lines, which are never cut: a path is there to be copied.
        width = max(cell_len(name) for name, _ in rows)
        for name, value in rows:
            self.print(f"{name}{' ' * (width - cell_len(name))}  {value}")
        if train.steps == 1 and self.most_rate == 0:
            self.print(
                "The only step is in the warm-up and has learning rate 0, so nothing was trained; set "
                "train.warmup_ratio=0, or take more steps."
            )

    def print(self, text: str) -> None:
        """Print a line, which is never cut."""
        self.console.print(Text(escape_controls(text)), soft_wrap=True)


@contextlib.contextmanager
def following(
    title: str, callback: TrainingCallback | None, quiet: bool, has_bar: bool = True
) -> Iterator[TrainingCallback]:
    """What follows a run that is started from Python: the callback, else printed progress, or nothing if `quiet`."""
    if callback is not None or quiet:
        yield callback or TrainingCallback()
        return
    with contextlib.closing(PrintedProgress(title, python_console(), has_bar)) as progress:
        yield progress


def _losses(splits: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    """What was lost in preparing the data, such as truncated rows, by kind and split."""
    losses: dict[str, dict[str, int]] = {}
    for split, counts in splits.items():
        for name, number in counts.items():
            if number and name not in _PLAIN_COUNTS:
                losses.setdefault("truncated rows" if name == "truncated" else name, {})[split] = number
    return losses
