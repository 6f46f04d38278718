"""The runs of a comparison: planned, all checked before the first one, then made one by one in their own processes."""

from __future__ import annotations

import shutil
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.backend import framework_problem
from pipeline.comparison.control import ATTENTION, FRAMEWORK, control_recipe
from pipeline.comparison.run_set import ComparedRun, read_run
from pipeline.models.attention import name_problem
from pipeline.recipe.schema import Recipe
from pipeline.runs.directory import RunDirectory
from pipeline.runs.record import RunIdentity
from pipeline.training import experiment
from pipeline.training.callbacks import tracker_failure
from pipeline.training.checkpoints import TrainingCheckpoints
from pipeline.training.finetune import seed_problem
from pipeline.utils import processes
from pipeline.utils.errors import ProofError, UserError
from pipeline.utils.files import scratch_folder


@dataclass(frozen=True)
class PlannedRun:
    """A run of the matrix: framework, attention, seed, its directory, and whether it is done already."""

    framework: str
    attention: str
    seed: int
    folder: Path
    done: bool
    rerun: bool = False
    is_control: bool = False

    @property
    def label(self) -> str:
        return f"{'control ' if self.is_control else ''}{self.framework}/{self.attention} seed {self.seed}"


class ComparisonCallback:
    """Called while a comparison runs; these methods do nothing but warn of a tracker. Override those that you need."""

    def on_check_begin(self, planned: list[PlannedRun]) -> None:
        """The recipe is being checked."""

    def on_run_begin(self, run: PlannedRun) -> None:
        """A run begins."""

    def on_run_end(self, run: PlannedRun, outcome: ComparedRun, seconds: float) -> None:
        """A run is completed, was completed before (0 seconds), or failed."""

    def on_lockstep_begin(self, steps: int) -> None:
        """All runs are done; both frameworks take steps in lock-step, or an earlier result is read."""

    def on_report_begin(self) -> None:
        """The results are being computed and the report written."""

    def on_tracker_failed(self, tracker: str, cause: str) -> None:
        """The report is written, but one of the recipe's trackers could not take its figures."""
        warnings.warn(tracker_failure(tracker, cause), stacklevel=2)


def plan(
    recipe: Recipe, original: Recipe, frameworks: Sequence[str], attentions: Sequence[str], seeds: Sequence[int],
    rerun: bool,
) -> list[PlannedRun]:  # fmt: skip
    """The runs in their order: seed by seed, and every other seed backwards.

    So a machine that warms up or slows down favors no variant. Raises UserError with all that is wrong with the choice.
    """
    problems = [*_problems("framework", frameworks), *_problems("attention", attentions), *_problems("seed", seeds)]
    problems += [problem for name in frameworks if (problem := framework_problem(name))]
    problems += [problem for name in attentions if (problem := name_problem(name))]
    problems += [problem for seed in seeds if (problem := seed_problem(seed))]
    if problems:
        raise UserError("\n".join(problems))
    variants = [(framework, attention) for framework in frameworks for attention in attentions]
    planned = []
    for number, seed in enumerate(seeds):
        for framework, attention in variants[:: -1 if number % 2 else 1]:
            folder = RunDirectory.default(recipe, original, framework, attention, seed).path
            done = _is_done(folder, recipe, framework, attention, seed, rerun)
            planned.append(PlannedRun(framework, attention, seed, folder, done, rerun))
    return planned


def plan_controls(recipe: Recipe, original: Recipe, planned: Sequence[PlannedRun]) -> list[PlannedRun]:
    """A control for each seed: PyTorch with its stock attention, from a start in which each weight is one rounding off.

    None if the recipe has no control, if no such run without the rounding is planned, or if that is the only variant.
    Raises UserError if a folder holds something that must not be lost.
    """
    changed = control_recipe(recipe)
    references = [run for run in planned if (run.framework, run.attention) == (FRAMEWORK, ATTENTION)]
    if changed is None or len(references) == len(planned):
        return []
    controls = []
    for run in references:
        folder = RunDirectory.default(recipe, original, run.framework, run.attention, run.seed).path
        folder = folder.with_name(f"{folder.name}-control")
        done = _is_done(folder, changed, run.framework, run.attention, run.seed, run.rerun)
        controls.append(replace(run, folder=folder, done=done, is_control=True))
    return controls


def check(planned: Iterable[PlannedRun], recipe: Recipe, allow_hub_code: bool) -> None:
    """Do all that a run does before its first step, for every variant that is to run. Raises UserError."""
    attentions: dict[str, list[str]] = defaultdict(list)
    for run in planned:
        if not run.done and run.attention not in attentions[run.framework]:
            attentions[run.framework].append(run.attention)
    problems: dict[str, None] = {}
    for framework, names in attentions.items():
        if names:
            problems |= dict.fromkeys(
                processes.call(check_attentions, recipe, framework, names, allow_hub_code, framework=framework)
            )
    if problems:
        raise UserError("\n".join(problems))


def check_attentions(recipe: Recipe, framework: str, attentions: list[str], allow_hub_code: bool) -> list[str]:
    """What is wrong with the recipe in one framework; called in a process of its own."""
    problems = []
    for attention in attentions:
        try:
            experiment.check(recipe, framework, attention, allow_hub_code)
        except UserError as error:
            problems += str(error).split("\n")
        except ProofError:
            pass  # not a fault of the input: the run itself will stop on it, and the report shows it as failed
        except Exception:
            if ":" not in attention:  # a class of the user's own that breaks is shown as a failed run too
                raise
    return problems


def execute(run: PlannedRun, recipe: Recipe, arguments: Sequence[str]) -> ComparedRun:
    """Make one run in a process of its own, or read it if it is done; a failed run has the end of its log.

    `arguments` are those of the command `finetune` that name the recipe and its settings.
    """
    if run.done:
        return read_run(run.folder)
    if RunDirectory(run.folder).is_unfinished:
        shutil.rmtree(run.folder)
    python = processes.interpreter(run.framework)
    command = [python, "-m", "pipeline", "finetune", *arguments, "--framework", run.framework]
    command += ["--attention", run.attention, "--seed", str(run.seed), "--out", str(run.folder)]
    # Resume from what an earlier process saved, unless all runs are to be repeated.
    has_checkpoints = TrainingCheckpoints(RunDirectory(run.folder).checkpoints_folder, keep=1).names()
    command += ["--set", "perturb_weights=true"] if run.is_control else []
    command.append("--resume" if has_checkpoints and not run.rerun else "--overwrite")
    with scratch_folder("log") as folder:
        log = folder / "log"
        code = processes.run_command(command, log)
        if code == 0:
            return read_run(run.folder)
        how = f"ended by signal {-code}" if code < 0 else f"exit code {code}"
        text = f"{processes.log_tail(log)}\n({how})".lstrip("\n")
    return ComparedRun(run.framework, run.attention, run.seed, run.folder, recipe, log_tail=text)


def _problems(name: str, values: Sequence[object]) -> list[str]:
    if not values:
        return [f"no {name} is given"]
    repeated = sorted({str(value) for value in values if list(values).count(value) > 1})
    return [f"{name} {value} is given twice" for value in repeated]


def _is_done(folder: Path, recipe: Recipe, framework: str, attention: str, seed: int, rerun: bool) -> bool:
    """Whether the folder holds this run, finished. Raises UserError if it holds something that must not be lost."""
    directory = RunDirectory(folder)
    if not directory.contents() or directory.is_unfinished:
        return False
    if not directory.is_finished:
        raise UserError(f"{folder} holds something that is not a run; move it away")
    if rerun:
        directory.refuse_foreign_files()
        return False
    identity = RunIdentity(recipe=recipe.name, framework=framework, attention=attention, seed=seed)
    try:
        different = directory.differences(recipe, identity)
        if not different:
            return True
        problem = f"{folder} holds a run of another {' and '.join(different)}"
    except UserError as error:  # it is damaged
        problem = str(error)
    raise UserError(f"{problem}; move it away, or replace it with rerun=True", arguments=("rerun",))
