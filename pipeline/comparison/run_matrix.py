"""The runs of a comparison: planned, checked before the first one, then made one by one in processes of their own."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.backend import FRAMEWORKS
from pipeline.comparison.run_set import Outcome, read_outcome
from pipeline.models.attention import name_problem
from pipeline.recipe.schema import Recipe
from pipeline.runs.directory import RunDirectory
from pipeline.runs.record import RunIdentity
from pipeline.training.checkpoints import TrainingCheckpoints
from pipeline.utils import processes
from pipeline.utils.errors import ProofError, UserError, did_you_mean

MOST_SEEDS = 1000


@dataclass(frozen=True)
class Planned:
    """A run to be: who, with which seed, where."""

    framework: str
    attention: str
    seed: int
    folder: Path
    done: bool
    again: bool = False

    @property
    def label(self) -> str:
        return f"{self.framework}/{self.attention} seed {self.seed}"


class ComparisonCallback:
    """What the runs tell while they run; silent. `pipeline.terminal` has the one that a person sees."""

    def on_check_begin(self, planned: list[Planned]) -> None:
        """The recipe is being checked."""

    def on_run_begin(self, run: Planned) -> None:
        """A run begins."""

    def on_run_end(self, run: Planned, outcome: Outcome, seconds: float) -> None:
        """A run is done, was done before (0 seconds), or failed."""

    def on_lockstep_begin(self, updates: int) -> None:
        """All runs are done; both frameworks take updates in lock-step, or what they did is read."""

    def on_report_begin(self) -> None:
        """The report is being made."""


def plan(
    recipe: Recipe, original: Recipe, frameworks: Sequence[str], attentions: Sequence[str], seeds: Sequence[int],
    rerun: bool,
) -> list[Planned]:  # fmt: skip
    """The runs in their order: seed by seed, and every other seed backwards, so that a machine that warms up or slows
    down favours nobody. Raises UserError with all that is wrong with the choice."""
    problems = [*_problems("framework", frameworks), *_problems("attention", attentions), *_problems("seed", seeds)]
    problems += [
        f'framework is "{name}", but there are: {", ".join(FRAMEWORKS)}.{did_you_mean(name, FRAMEWORKS)}'
        for name in frameworks
        if name not in FRAMEWORKS
    ]
    problems += [problem for name in attentions if (problem := name_problem(name))]
    wrong = [seed for seed in seeds if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32]
    problems += [f"seed is {seed!r}, want a whole number from 0 to 2^32 - 1" for seed in wrong]
    if problems:
        raise UserError("\n".join(problems))
    variants = [(framework, attention) for framework in frameworks for attention in attentions]
    planned = []
    for number, seed in enumerate(seeds):
        for framework, attention in variants[:: -1 if number % 2 else 1]:
            folder = RunDirectory.default(recipe, original, framework, attention, seed).path
            done = _is_done(folder, recipe, framework, attention, seed, rerun)
            planned.append(Planned(framework, attention, seed, folder, done, rerun))
    return planned


def check(planned: Iterable[Planned], recipe: Recipe, allow_hub_code: bool) -> None:
    """Do all that a run does before its first step, for every variant that is to run. Raises UserError."""
    wanted = defaultdict(list)
    for run in planned:
        if not run.done and run.attention not in wanted[run.framework]:
            wanted[run.framework].append(run.attention)
    problems: dict[str, None] = {}
    for framework, attentions in wanted.items():
        if attentions:
            found = processes.call(check_attentions, recipe, framework, attentions, allow_hub_code, framework=framework)
            problems |= dict.fromkeys(found)
    if problems:
        raise UserError("\n".join(problems))


def check_attentions(recipe: Recipe, framework: str, attentions: list[str], allow_hub_code: bool) -> list[str]:
    """What is wrong with the recipe in this process's framework; called in a process of its own."""
    from pipeline.training import experiment

    problems = []
    for attention in attentions:
        try:
            experiment.check(recipe, framework, attention, allow_hub_code)
        except UserError as error:
            problems += str(error).split("\n")
        except ProofError:
            pass  # no fault of the input: the run itself will stop on it, and be shown as failed with its log
        except Exception:
            if ":" not in attention:  # so it is with a class of one's own that breaks
                raise
    return problems


def execute(run: Planned, recipe: Recipe, arguments: Sequence[str]) -> Outcome:
    """Make one run in a process of its own, or read it where it is done; a failed one has the end of its log.

    `arguments` are those of the finetune verb that name recipe and settings.
    """
    if run.done:
        return read_outcome(run.folder)
    _clear_unfinished(run.folder)
    command = [sys.executable, "-m", "pipeline", "finetune", *arguments, "--framework", run.framework]
    command += ["--attention", run.attention, "--seed", str(run.seed), "--out", str(run.folder)]
    # What an earlier process has saved on its way is gone on with, unless everything is to be done again.
    has_checkpoints = TrainingCheckpoints(RunDirectory(run.folder).checkpoints_folder, keep=1).names()
    command.append("--resume" if has_checkpoints and not run.again else "--overwrite")
    with tempfile.TemporaryDirectory(prefix="twinstep-") as folder:
        log = Path(folder) / "log"
        code = processes.run_command(command, log)
        if code == 0:
            return read_outcome(run.folder)
        how = f"ended by signal {-code}" if code < 0 else f"exit code {code}"
        text = f"{processes.log_tail(log)}\n({how})".lstrip("\n")
    return Outcome(run.framework, run.attention, run.seed, run.folder, recipe, log_tail=text)


def _problems(name: str, values: Sequence[Any]) -> list[str]:
    if not values:
        return [f"no {name} is given"]
    twice = sorted({str(value) for value in values if list(values).count(value) > 1})
    return [f"{name} {value} is given twice" for value in twice]


def _is_done(folder: Path, recipe: Recipe, framework: str, attention: str, seed: int, rerun: bool) -> bool:
    """Whether the folder holds this run, finished. Raises UserError where it holds something that must not be lost."""
    directory = RunDirectory(folder)
    identity = RunIdentity(recipe=recipe.name, framework=framework, attention=attention, seed=seed)
    if directory.is_unfinished:
        return False
    try:
        return directory.finished_run(recipe, identity, rerun) is not None
    except UserError as error:
        message = str(error).replace("overwrite=True", "rerun=True")
        raise UserError(message, arguments=("rerun",)) from error


def _clear_unfinished(folder: Path) -> None:
    if RunDirectory(folder).is_unfinished:
        shutil.rmtree(folder)
