"""Prints what a sweep does while it runs: a line for each trial as it ends, and on a terminal what goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.status import Status
from rich.text import Text

from pipeline.reporting.formatting import score
from pipeline.sweeps.callbacks import Progress, SweepCallback
from pipeline.sweeps.results import SweepSettings, TrialRecord
from pipeline.sweeps.space import brief
from pipeline.training.callbacks import python_console
from pipeline.utils.text import count, visible


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

    def _note(self, text: str) -> None:
        if self.status is not None:
            self.status.update(visible(text))

    def _say(self, text: str, style: str = "") -> None:
        self.console.print(Text(visible(text), style=style), soft_wrap=True)


@contextlib.contextmanager
def following(title: str, callback: SweepCallback | None, quiet: bool) -> Iterator[SweepCallback]:
    """What follows a sweep from Python: the callback, else printed progress, or nothing if `quiet`."""
    if callback is not None or quiet:
        yield callback or SweepCallback()
        return
    with contextlib.closing(SweepProgress(title, python_console())) as progress:
        yield progress
