"""Callbacks: what a sweep reports while it runs. Override what you need."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.sweeps.results import SweepSettings, TrialRecord


@dataclass(frozen=True)
class Progress:
    """What a trial tells while it runs: its score after an epoch of so many."""

    number: int
    epoch: int
    num_epochs: int
    score: float


class SweepCallback:
    """Called while a sweep runs; these methods do nothing. Override those that you need."""

    def on_begin(self, settings: SweepSettings, finished: list[TrialRecord], num_trials: int) -> None:
        """The trials begin, of which some were `finished` before."""

    def on_trial_begin(self, trial: TrialRecord, is_resumed: bool) -> None:
        """The process of a trial has started."""

    def on_evaluate(self, progress: Progress) -> None:
        """A trial has scored the validation split after an epoch."""

    def on_trial_end(self, trial: TrialRecord) -> None:
        """A trial was completed, pruned, or failed."""

    def on_test_begin(self, trial: TrialRecord) -> None:
        """The best trial is about to be scored on the test split."""
