"""What a sweep holds, typed: settings.json says what it searches, sweep.json what it found."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.runs.record import Metrics, Record
from pipeline.sweeps.space import Value

# The version of sweep.json.
VERSION = 1
State = Literal["completed", "pruned", "failed", "unfinished"]


class SweepSettings(Record):
    """What a sweep searches, and how it scores: the content of settings.json. Its recipe is in recipe.yaml."""

    framework: str
    attention: str
    seed: int
    """Of every run, and of the values that are drawn."""
    space: dict[str, str]
    """The values of each key that is searched, such as log(1e-05,0.001)."""
    metric: str
    """The validation metric by which trials are compared."""
    lower_is_better: bool
    scale: int | None
    """1 or 100 for a metric that ends there."""


class TrialRecord(Record):
    """One trial: the values that it was given, and what came of it."""

    number: int
    """Counted from 0, in the order in which values were drawn; names the folder of the run."""
    state: State
    values: dict[str, Value]
    """By key of the recipe."""
    score: float | None = None
    """Of the validation split, for the weights that the recipe keeps; of a pruned trial the last."""
    scores: dict[int, float] = Field(default_factory=dict, strict=False)
    """After each epoch."""
    seconds: float | None = None
    """From the start of its process to the end, without what an earlier process did that was killed."""
    cause: str | None = None
    """Why it failed."""
    repeats: int | None = None
    """The number of an earlier trial of the same values, whose result this one took."""


class SweepResults(Record):
    """The content of sweep.json."""

    version: int = VERSION
    created: str
    """When, as an ISO time."""
    recipe: str
    """The recipe's name."""
    task: str
    checkpoint: str
    settings: SweepSettings
    trials: list[TrialRecord]
    best: int | None
    """The number of the completed trial with the best score, the first if several have it."""
    own: int | None = None
    """The number of the trial that has the recipe's own values, if the space has them."""
    test: Metrics | None = None
    """What the best trial scores on the test split; no other trial was scored on it, unless it was best before."""
    tested: list[int] = Field(default_factory=list)
    """The trials that were ever scored on the test split."""
    importance: dict[str, float] = Field(default_factory=dict)
    """How much of the scores' variance each key explains, together 1; empty if too few trials are completed."""
    processor: str
    versions: dict[str, str]

    @property
    def completed(self) -> list[TrialRecord]:
        """The trials that were trained to their end, the best first."""
        done = [trial for trial in self.trials if trial.state == "completed"]
        sign = 1 if self.settings.lower_is_better else -1
        return sorted(done, key=lambda trial: (sign * score_of(trial), trial.number))

    def trial(self, number: int) -> TrialRecord:
        """A trial by its number."""
        return next(trial for trial in self.trials if trial.number == number)


def score_of(trial: TrialRecord) -> float:
    """The score of a trial that has one."""
    assert trial.score is not None, "only such a trial is asked for it"
    return trial.score
