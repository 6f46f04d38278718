"""What a person sees of a comparison or a sweep: a line for each run as it ends, then the answers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.status import Status
from rich.text import Text

from pipeline.api import Comparison
from pipeline.comparison.run_matrix import ComparisonCallback, PlannedRun
from pipeline.comparison.run_set import ComparedRun
from pipeline.reporting.first_screen import answers, notices, write_headline
from pipeline.reporting.formatting import score
from pipeline.sweeps.callbacks import Progress, SweepCallback
from pipeline.sweeps.content import answers as sweep_answers
from pipeline.sweeps.folder import BEST, REPORT
from pipeline.sweeps.results import SweepSettings, TrialRecord
from pipeline.sweeps.space import brief
from pipeline.training.callbacks import tracker_failure
from pipeline.utils.text import count, visible

if TYPE_CHECKING:
    from pipeline.sweeps.sweep import Sweep

LAST_LINES = 5  # of a failed run's log; the report has more
_STYLES = {"good": "green", "unknown": "yellow", "bad": "red"}


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

    def show(self, comparison: Comparison) -> None:
        """The answers, the notices, the means of the first metric, and where the report lies."""
        self.close()
        results = comparison.results
        headline = results.headline or write_headline(results)
        for question, answer in answers(headline).items():
            asked = question if question.endswith("?") else f"{question}:"
            self._say(f"{asked} {answer.word}.", f"bold {_STYLES[answer.state]}")
            self._say(f"  {answer.sentence}")
        for notice in notices(headline):
            self._say(f"{notice.word}: {notice.sentence}", _STYLES[notice.state])
        for name, metric in list(results.metrics.items())[:1]:
            for variant, row in metric.variants.items():
                spread = "" if row.sd is None else f"  sd {score(row.sd, metric.scale)}"
                self._say(f"{name} {variant}  {score(row.mean, metric.scale)}{spread}  n {row.n}")
        self._say(f"report: {os.path.relpath(comparison.path / 'report.html')}")

    def _note(self, text: str) -> None:
        if self.bar is not None:
            self.bar.update(self.task, note=visible(text))
        else:
            self._say(f"  {text}")

    def _say(self, text: str, style: str = "") -> None:
        self.console.print(Text(visible(text), style=style), soft_wrap=True)


class SweepProgress(SweepCallback):
    """The progress of a sweep's trials: a line when one ends, and on a terminal one that shows what goes on."""

    def __init__(self, title: str, console: Console | None = None):
        self.title, self.console = title, console or Console(highlight=False)
        self.settings: SweepSettings | None = None
        self.num_trials = self.num_ended = 0
        self.status = Status("", console=self.console) if self.console.is_terminal else None

    def on_begin(self, settings: SweepSettings, finished: list[TrialRecord], num_trials: int) -> None:
        self.settings, self.num_trials, self.num_ended = settings, num_trials, len(finished)
        already = f", {len(finished)} of them done already" if finished else ""
        self._say(f"{self.title}: {count(num_trials, 'trial')}{already}, chosen by {settings.metric} on validation")
        if self.status is not None:
            self.status.start()

    def on_trial_begin(self, trial: TrialRecord, is_resumed: bool) -> None:
        if is_resumed:
            self._say(f"  trial {trial.number} goes on from its training checkpoint")
        self._note(f"trial {trial.number} ...")

    def on_evaluate(self, progress: Progress) -> None:
        assert self.settings is not None, "trials begin after the sweep"
        found = score(progress.score, self.settings.scale)
        self._note(
            f"trial {progress.number}: epoch {progress.epoch}/{progress.num_epochs}, {self.settings.metric} {found}"
        )

    def on_trial_end(self, trial: TrialRecord) -> None:
        assert self.settings is not None, "trials begin after the sweep"
        self.num_ended += 1
        found = "" if trial.score is None else f"  {self.settings.metric} {score(trial.score, self.settings.scale)}"
        state = {"completed": "", "pruned": "  pruned", "failed": "  FAILED"}.get(trial.state, "")
        values = "  ".join(f"{key} {brief(value)}" for key, value in trial.values.items())
        took = f"as trial {trial.repeats}" if trial.repeats is not None else f"{trial.seconds or 0:.0f} s"
        style = "red" if trial.state == "failed" else ""
        self._say(f"  {self.num_ended}/{self.num_trials}  trial {trial.number}{found}{state}  {values}  {took}", style)
        if trial.cause:
            self._say(f"      {trial.cause}", "dim")

    def on_test_begin(self, trial: TrialRecord) -> None:
        self._note(f"scoring trial {trial.number} on the test split ...")

    def close(self) -> None:
        """Take the line away that shows what goes on."""
        if self.status is not None:
            self.status.stop()

    def show(self, sweep: Sweep) -> None:
        """The answers, and where the best recipe and the report lie."""
        self.close()
        for question, answer in sweep_answers(sweep.results).items():
            self._say(f"{question} {answer.word}.", f"bold {_STYLES[answer.state]}")
            self._say(f"  {answer.sentence}")
        self._say(f"best recipe: {os.path.relpath(sweep.path / BEST)}")
        self._say(f"report: {os.path.relpath(sweep.path / REPORT / 'sweep.html')}")

    def _note(self, text: str) -> None:
        if self.status is not None:
            self.status.update(visible(text))

    def _say(self, text: str, style: str = "") -> None:
        self.console.print(Text(visible(text), style=style), soft_wrap=True)
