"""Prints what a comparison does while it runs: a bar over all runs on a terminal, and a line for each run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.text import Text

from pipeline.comparison.run_matrix import ComparisonCallback, PlannedRun
from pipeline.comparison.run_set import ComparedRun
from pipeline.training.callbacks import python_console, tracker_failure
from pipeline.utils.text import visible

LAST_LINES = 5  # of a failed run's log; the report has more


class ComparisonProgress(ComparisonCallback):
    """The progress of a comparison's runs."""

    def __init__(self, title: str, console: Console | None = None):
        self.title, self.console = title, console or Console(highlight=False)
        self.bar: Bar | None = None
        self.task = TaskID(0)  # of the bar
        self.ended_runs = self.num_runs = 0

    def on_check_begin(self, planned: list[PlannedRun]) -> None:
        self.num_runs = len(planned)
        done = sum(run.done for run in planned)
        already = f", {done} of them done already" if done else ""
        self._say(f"{self.title}: {self.num_runs} runs{already}, one after the other")
        if self.console.is_terminal:
            self.bar = Bar(
                BarColumn(bar_width=20), TextColumn("{task.completed}/{task.total}"), TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(), console=self.console, transient=True,
            )  # fmt: skip
            self.task = self.bar.add_task("runs", total=self.num_runs, note="checking the recipe ...")
            self.bar.start()

    def on_run_begin(self, run: PlannedRun) -> None:
        self._note(f"{run.label} ...")

    def on_run_end(self, run: PlannedRun, outcome: ComparedRun, seconds: float) -> None:
        self.ended_runs += 1
        if outcome.log_tail is not None:
            self._say(f"  {self.ended_runs}/{self.num_runs}  {run.label}  FAILED after {seconds:.0f} s", "red")
            for line in outcome.log_tail.splitlines()[-LAST_LINES:]:
                self._say(f"      {line}", "dim")
        else:
            name, value = next(iter(outcome.metrics.items()))
            how = f"{seconds:.0f} s" if seconds else "done already"
            shown = "undefined" if value is None else f"{value:.4f}"
            speed = f"{outcome.completed_record.train.examples_per_second:.0f} examples/s"
            self._say(f"  {self.ended_runs}/{self.num_runs}  {run.label}  {name} {shown}  {speed}  {how}")
        if self.bar is not None:
            self.bar.update(self.task, completed=self.ended_runs)

    def on_lockstep_begin(self, steps: int) -> None:
        self._note(f"{steps} steps in lock-step ...")

    def on_report_begin(self) -> None:
        self._note("comparing ...")

    def on_tracker_failed(self, tracker: str, cause: str) -> None:
        self._say(f"  {tracker_failure(tracker, cause)}", "yellow")

    def close(self) -> None:
        """Take the progress line away."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _note(self, text: str) -> None:
        if self.bar is not None:
            self.bar.update(self.task, note=visible(text))
        else:
            self._say(f"  {text}")

    def _say(self, text: str, style: str = "") -> None:
        self.console.print(Text(visible(text), style=style), soft_wrap=True)


@contextlib.contextmanager
def following(title: str, callback: ComparisonCallback | None, quiet: bool) -> Iterator[ComparisonCallback]:
    """What follows a comparison from Python: the callback, else printed progress, or nothing if `quiet`."""
    if callback is not None or quiet:
        yield callback or ComparisonCallback()
        return
    with contextlib.closing(ComparisonProgress(title, python_console())) as progress:
        yield progress
