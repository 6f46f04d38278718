"""The search of a sweep: trials in processes of their own, one study for all, then the best recipe and the report."""

from __future__ import annotations

import datetime
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import cast

from pipeline.recipe.schema import Recipe
from pipeline.reporting.writer import write_pages
from pipeline.runs.directory import RunDirectory
from pipeline.runs.machine import package_versions, processor
from pipeline.runs.record import Metrics
from pipeline.sweeps.callbacks import Progress, SweepCallback
from pipeline.sweeps.content import content_of
from pipeline.sweeps.folder import BEST, REPORT, RUNS, STUDY, run_folder
from pipeline.sweeps.results import SweepResults, SweepSettings, TrialRecord
from pipeline.sweeps.space import Parameter, Value
from pipeline.sweeps.study import StudyFile
from pipeline.sweeps.trial import Outcome, RunPlan, run_trial, score_on_test
from pipeline.training.checkpoints import TrainingCheckpoints
from pipeline.utils.errors import PipelineError, RunFailure
from pipeline.utils.files import atomic_write
from pipeline.utils.processes import (
    Child,
    EndedBySignal,
    ProcessError,
    ask_python_of,
    call,
    close_all,
    shared_threads,
)
from pipeline.utils.text import last_line, one_line

# Trials save after each epoch, unless the recipe says otherwise; no step has this number.
ONLY_AFTER_EPOCHS = 10**9
# Ends the name of the best recipe, whose runs have a folder of their own.
SUFFIX = "-best"
# Of a recipe's name, and of why a trial failed.
MOST_CHARACTERS, MOST_OF_A_CAUSE = 80, 600


@dataclass(frozen=True)
class _Running:
    """A trial whose process runs."""

    trial: TrialRecord
    child: Child[Outcome]
    began: float


class Search:
    """The trials of a sweep in its folder."""

    def __init__(
        self, folder: Path, recipe: Recipe, space: tuple[Parameter, ...], plan: RunPlan, settings: SweepSettings,
        callback: SweepCallback,
    ):  # fmt: skip
        self.folder, self.recipe, self.space, self.plan = folder, recipe, space, plan
        self.settings, self.callback = settings, callback
        self.file = StudyFile(folder / STUDY, settings.lower_is_better, plan.seed)
        self.study = self.file.open()
        self.running: list[_Running] = []

    # --- trials

    def run_trials(self, num_trials: int, workers: int) -> None:
        """Make trials until there are so many; `workers` train at a time and share the threads.

        If it is interrupted, each trial saves a training checkpoint first, and KeyboardInterrupt goes on.
        """
        finished = [trial for trial in self.study.trials() if trial.state != "unfinished"]
        self.callback.on_begin(self.settings, finished, num_trials)
        try:
            while True:
                while len(self.running) < workers and self._start(num_trials, workers):
                    pass
                if not self.running:
                    return
                self._wait()
        except KeyboardInterrupt:
            for each in self.running:
                each.child.send_signal(signal.SIGINT)
            for each in self.running:
                with suppress(PipelineError, ProcessError):
                    each.child.result()
            raise
        finally:
            close_all(each.child for each in self.running)

    def _start(self, num_trials: int, workers: int) -> bool:
        """Start the next trial, or take its result from an earlier one of the same values; whether there was one."""
        trial = self.study.next_trial(
            self.space, num_trials, [each.trial.number for each in self.running], self._own_values()
        )
        if trial is None:
            return False
        if self._repeat(trial):
            return True
        folder = run_folder(self.folder, trial.number)
        saved = TrainingCheckpoints(RunDirectory(folder).checkpoints_folder, keep=1).names()
        child = Child(
            run_trial, self._recipe_of(trial), self.plan, folder, self.file, trial.number, self.settings.metric,
            framework=self.plan.framework, sends_events=True, environment=shared_threads(workers),
        )  # fmt: skip
        self.running.append(_Running(trial, child, time.monotonic()))
        self.callback.on_trial_begin(trial, bool(saved))
        return True

    def _own_values(self) -> dict[str, Value] | None:
        """The recipe's own value of each key, if the space has them all."""
        own: dict[str, Value] = {}
        for parameter in self.space:
            value: object = self.recipe
            for part in parameter.key.split("."):
                value = getattr(value, part, None)
            if not parameter.contains(value):
                return None
            own[parameter.key] = cast(Value, value)
        return own

    def _recipe_of(self, trial: TrialRecord) -> Recipe:
        """The recipe of a trial; it saves after each epoch, so that the trial can be continued."""
        recipe = self.recipe.override(trial.values)
        if recipe.train.save_every is not None:
            return recipe
        return recipe.override({"train.save_every": ONLY_AFTER_EPOCHS, "train.keep_checkpoints": 1})

    def _repeat(self, trial: TrialRecord) -> bool:
        """Whether an earlier trial of the same values was completed; this one has its result, since it has its bits.

        If the earlier one failed, this one is trained: a kill or a full disk says nothing about the values.
        """
        for earlier in self.study.trials():
            if (
                earlier.number < trial.number
                and earlier.values == trial.values
                and earlier.state == "completed"
                and earlier.score is not None
            ):
                self.study.complete(trial.number, earlier.score, 0.0, earlier.number)
                self.callback.on_trial_end(self._found(trial.number))
                return True
        return False

    def _wait(self) -> None:
        """Wait until a process has something to tell, and keep the results of those that have ended."""
        ready = wait([each.child.fileno() for each in self.running])
        for each in [each for each in self.running if each.child.fileno() in ready]:
            event = each.child.next_event()
            if isinstance(event, Progress):
                self.callback.on_evaluate(event)
            if each.child.has_ended:
                self.running.remove(each)
                self._keep(each)
                each.child.close()

    def _keep(self, ended: _Running) -> None:
        """Keep the result of a trial. Raises KeyboardInterrupt if it was interrupted, as the whole sweep then is."""
        number, seconds = ended.trial.number, time.monotonic() - ended.began
        try:
            outcome = ended.child.result()
        except (PipelineError, ProcessError) as error:
            self.study.fail(number, self._cause(number, error), seconds)
        else:
            if outcome.score is not None:
                self.study.complete(number, outcome.score, seconds)
            elif outcome.is_pruned:
                self.study.prune(number, seconds)
            else:
                raise KeyboardInterrupt
        self.callback.on_trial_end(self._found(number))

    def _cause(self, number: int, error: Exception) -> str:
        """Why a trial failed; the end of what its process wrote before it crashed is kept beside its run."""
        has_written = "\n" in str(error)  # a single line is all that there is to say, often that nothing was written
        if not isinstance(error, EndedBySignal | ProcessError) or not has_written:
            return one_line(error, MOST_OF_A_CAUSE)
        log = run_folder(self.folder, number).with_suffix(".log")
        log.parent.mkdir(exist_ok=True)
        with atomic_write(log) as file:
            file.write(f"{error}\n")
        return f"{last_line(error)}; the end of what its process wrote is in {RUNS}/{log.name}"

    def _found(self, number: int) -> TrialRecord:
        return next(trial for trial in self.study.trials() if trial.number == number)

    # --- what comes of them

    def finish(self) -> SweepResults:
        """Score the best trial on the test split, and write best.yaml and the report. Raises RunFailure."""
        results = self._results()
        if results.best is None:
            causes = [trial.cause for trial in results.trials if trial.cause]
            raise RunFailure(
                f"no trial was completed; the last one failed: {causes[-1] if causes else 'it was pruned'}"
            )
        best = results.trial(results.best)
        if self.recipe.data.test is not None and str(best.number) not in self.study.tested():
            self.callback.on_test_begin(best)
            self.study.keep_test(best.number, self._test(best))
        results = self._results()
        recipe = self.recipe.override({**best.values, "name": _best_name(self.recipe.name)})
        with atomic_write(self.folder / BEST) as file:
            file.write(
                f"# The values of trial {best.number}, the best of a sweep of {self.recipe.name}.\n{recipe.to_yaml()}"
            )
        write_pages(self.folder / REPORT, content_of(results), results.model_dump(mode="json"))
        return results

    def _test(self, best: TrialRecord) -> Metrics:
        number = best.number if best.repeats is None else best.repeats
        return call(score_on_test, run_folder(self.folder, number), self.plan, framework=self.plan.framework)

    def _results(self) -> SweepResults:
        tested = self.study.tested()
        results = SweepResults(
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            recipe=self.recipe.name,
            task=self.recipe.task,
            checkpoint=self.recipe.checkpoint,
            settings=self.settings,
            trials=self.study.trials(),
            best=None,
            tested=sorted(map(int, tested)),
            importance=self.study.importance(),
            processor=processor(),
            versions=ask_python_of(self.plan.framework, package_versions),
        )
        completed, own = results.completed, self._own_values()
        found: dict[str, object] = {"own": next((t.number for t in completed if t.values == own), None)}
        if completed:
            found |= {"best": completed[0].number, "test": tested.get(str(completed[0].number))}
        return results.model_copy(update=found)


def _best_name(name: str) -> str:
    return name[: MOST_CHARACTERS - len(SUFFIX)] + SUFFIX
