"""The Optuna study of a sweep, in SQLite: draws the values of trials, stops poor ones early, and keeps every result.

No other file imports Optuna. A sweep can be killed at any moment: the study's file holds each trial from the moment
when its values are drawn, and a trial that was neither completed nor pruned is handed out again.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.runs.record import Metrics
from pipeline.sweeps.results import State, TrialRecord
from pipeline.sweeps.space import Parameter, Value
from pipeline.utils.errors import UserError

try:
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
    from optuna.trial import FrozenTrial, TrialState
except ImportError as error:
    raise UserError("a sweep needs optuna, which is not installed; pip install '.[sweep]'") from error

NAME = "sweep"
# Values are drawn at random until so many trials are finished.
RANDOM_TRIALS = 10
# So many trials must be completed before others are compared with their median.
TRIALS_BEFORE_PRUNING = 4
# Less says nothing about what explains the scores.
TRIALS_FOR_IMPORTANCE = 4
# How long a process waits while another writes the file.
SECONDS_TO_WAIT = 60
_STATES: dict[TrialState, State] = {
    TrialState.COMPLETE: "completed",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "unfinished",
}


@dataclass(frozen=True)
class StudyFile:
    """Where a study lies, and what every process that opens it must know."""

    path: Path
    lower_is_better: bool
    seed: int

    def open(self) -> Study:
        """The study, made if it is not there."""
        return Study(self)


class Study:
    """A study that is open in this process."""

    def __init__(self, file: StudyFile):
        self._seed = file.seed
        with _quiet():
            storage = optuna.storages.RDBStorage(
                f"sqlite:///{file.path.resolve()}", {"connect_args": {"timeout": SECONDS_TO_WAIT}}
            )
            self._study = optuna.create_study(
                study_name=NAME, storage=storage, load_if_exists=True,
                direction="minimize" if file.lower_is_better else "maximize",
                pruner=optuna.pruners.MedianPruner(n_startup_trials=TRIALS_BEFORE_PRUNING),
            )  # fmt: skip

    # --- drawing values

    def next_trial(
        self, space: Sequence[Parameter], most: int, running: Collection[int], own: Mapping[str, Value] | None
    ) -> TrialRecord | None:
        """A trial to make: one that was interrupted, else a new one; None if there are `most` already.

        `running` are the numbers of those that are being made. The first trial has the recipe's `own` values, if the
        space has them. A space of no more than `most` points is searched point by point.
        """
        trials = self.trials()
        for trial in trials:
            if trial.state == "unfinished" and trial.number not in running:
                return trial
        if len(trials) >= most:
            return None
        if not trials and own is not None:
            return self._draw(space, own)
        points = _points(space, most)
        if points is None:
            return self._draw(space)
        left = [point for point in points if point not in [trial.values for trial in trials]]
        return self._draw(space, left[0]) if left else None

    def _draw(self, space: Sequence[Parameter], values: Mapping[str, Value] | None = None) -> TrialRecord:
        """A new trial, with these values or with some that are drawn."""
        with _quiet():
            if values is not None:
                self._study.enqueue_trial(dict(values))
            # A generator of its own for each trial: a sweep that goes on draws what it would have drawn.
            seed = self._seed + len(self._study.get_trials(deepcopy=False))
            self._study.sampler = optuna.samplers.TPESampler(n_startup_trials=RANDOM_TRIALS, seed=seed % 2**32)
            asked = self._study.ask({parameter.key: _distribution(parameter) for parameter in space})
        return self._record(self._study.trials[asked.number])

    # --- results

    def report(self, number: int, epoch: int, score: float) -> bool:
        """Keep the score of a trial after an epoch; returns whether the trial is to be pruned."""
        trial = self._trial(number)
        with _quiet():
            if epoch not in self._study.trials[number].intermediate_values and math.isfinite(score):
                trial.report(score, epoch)
            return trial.should_prune()

    def complete(self, number: int, score: float, seconds: float, repeats: int | None = None) -> None:
        """A trial has been trained to its end."""
        self._end(number, TrialState.COMPLETE, score, seconds=seconds, repeats=repeats)

    def prune(self, number: int, seconds: float) -> None:
        """A trial has been stopped early; its score is the last that was reported."""
        self._end(number, TrialState.PRUNED, seconds=seconds)

    def fail(self, number: int, cause: str, seconds: float) -> None:
        """A trial could not go on."""
        self._end(number, TrialState.FAIL, seconds=seconds, cause=cause)

    def _end(self, number: int, state: TrialState, score: float | None = None, **notes: object) -> None:
        trial = self._trial(number)
        with _quiet():
            for name, note in notes.items():
                trial.set_user_attr(name, note)
            self._study.tell(number, score, state)

    def _trial(self, number: int) -> optuna.Trial:
        return optuna.Trial(self._study, self._study.trials[number]._trial_id)

    # --- reading

    def trials(self) -> list[TrialRecord]:
        """Every trial whose values are drawn."""
        return [self._record(trial) for trial in self._study.trials if trial.state in _STATES]

    @staticmethod
    def _record(trial: FrozenTrial) -> TrialRecord:
        return TrialRecord(
            number=trial.number, state=_STATES[trial.state], values=trial.params, score=trial.value,
            scores=trial.intermediate_values, **trial.user_attrs,
        )  # fmt: skip

    def importance(self) -> dict[str, float]:
        """How much of the variance of the scores each key explains, largest first; empty if that cannot be said."""
        done = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if len(done) < TRIALS_FOR_IMPORTANCE or len({trial.value for trial in done}) < 2:
            return {}
        with _quiet():
            evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
            found = optuna.importance.get_param_importances(self._study, evaluator=evaluator)
        return {key: float(share) for key, share in found.items()}

    def keep_test(self, number: int, metrics: Metrics) -> None:
        """Keep what a trial scores on the test split."""
        self._study.set_user_attr("test", {**self.tested(), str(number): metrics})

    def tested(self) -> dict[str, Metrics]:
        """What trials scored on the test split, by number."""
        return self._study.user_attrs.get("test", {})


def _distribution(parameter: Parameter) -> BaseDistribution:
    if parameter.kind == "choice":
        return CategoricalDistribution(parameter.values)
    low, high = parameter.values
    if parameter.kind == "int":
        assert isinstance(low, int) and isinstance(high, int)
        return IntDistribution(low, high)
    assert isinstance(low, float) and isinstance(high, float)
    return FloatDistribution(low, high, log=parameter.kind == "log")


def _points(space: Sequence[Parameter], most: int) -> list[dict[str, Value]] | None:
    """Every point of the space, if there are no more than `most`."""
    values = [parameter.all_values() for parameter in space]
    if any(each is None for each in values) or math.prod(len(each or ()) for each in values) > most:
        return None
    keys = [parameter.key for parameter in space]
    return [dict(zip(keys, point, strict=True)) for point in itertools.product(*(each or () for each in values))]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's log, and without its warnings of what is experimental in it."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)
