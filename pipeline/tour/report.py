"""Takes the tour: each experiment has a process of its own; writes tour.html, tour.md, tour.json and figures."""

from __future__ import annotations

import datetime
import itertools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import cast

from numpy.typing import NDArray

from pipeline.backend import FRAMEWORKS
from pipeline.comparison.lockstep import compare_frameworks
from pipeline.comparison.lockstep_records import as_result
from pipeline.comparison.records.sameness import LockstepResult
from pipeline.deploy.manifest import PORTABLE_FORMATS
from pipeline.deploy.report.deployment import (
    ONE_THREAD,
    QUICK,
    Effort,
    fresh_compiler,
    measure_deployment,
)
from pipeline.deploy.report.mode_costs import Plan
from pipeline.deploy.report.results import DeploymentResults
from pipeline.models.attention import STOCK
from pipeline.recipe.loading import load_recipe
from pipeline.reporting.writer import refuse_unless_report, write_pages
from pipeline.runs.machine import processor, versions_of_both
from pipeline.tour import sentence
from pipeline.tour.code import compare_code
from pipeline.tour.content import NAMES, content_of
from pipeline.tour.experiments import CALL_SHAPES, Findings, run_experiments
from pipeline.tour.results import StepCost, TourResults
from pipeline.tour.steps import measure_step
from pipeline.tour.words import WORDS
from pipeline.training.finetune import finetune
from pipeline.utils.cores import usable_cores
from pipeline.utils.environment import NO_FRAMEWORK
from pipeline.utils.files import scratch_folder
from pipeline.utils.processes import Child, close_all

FOLDER = Path("reports") / "tour"
# The recipe that is deployed and taken in lock-step, and those of which a step is measured.
RECIPE = "sentiment_bert"
STEP_RECIPES = (RECIPE, "stories_gpt2", "dates_t5")


# Processes that run at a time, each with one thread; what is measured is processor time.
AT_ONCE = 2


@dataclass(frozen=True)
class Scope:
    """How much is done: repeats and what is left out, in experiments and for the whole model; recipes and steps;
    and formats of export.
    """

    effort: Effort
    whole_model: Effort
    step_recipes: tuple[str, ...]
    num_steps: int
    lockstep_steps: int
    formats: tuple[str, ...]
    recipe_changes: Mapping[str, object]


ALL_MODES = Effort(processes=1, repeats=5, seconds=0.1, left_out={})
# In a quick tour only small functions are compiled by XLA and exported: whole training steps take long.
SLOW_TO_MAKE = dict.fromkeys(("torch.export", "XLA"), "for a whole model it takes long, and this was to be quick")
FEW_MODES = replace(QUICK, repeats=2, left_out=QUICK.left_out | SLOW_TO_MAKE)
FEW_ROWS: Mapping[str, object] = {"data.limit.train": 256, "data.limit.validation": 32, "train.epochs": 1}
EVERYTHING = Scope(ALL_MODES, ALL_MODES, STEP_RECIPES, 20, 50, PORTABLE_FORMATS, {"train.epochs": 1})
LITTLE = Scope(QUICK, FEW_MODES, (RECIPE,), 5, 5, ("torchscript",), FEW_ROWS)


@dataclass(frozen=True)
class Job:
    """A process to start, from the results of those before; `after` names one that must have ended."""

    start: Callable[[dict[str, object]], Child]
    after: str = ""


@dataclass(frozen=True)
class Tour:
    """The tour's folder, and what was found."""

    path: Path
    results: TourResults


def tour_report(
    out: str | os.PathLike[str] | None = None,
    *,
    quick: bool = False,
    on_event: Callable[[str], None] = lambda text: None,
) -> Tour:
    """Measure on this machine what the two frameworks differ in, and write tour.html, tour.md, tour.json and figures.

    The tour goes to `out`, by default reports/tour, and replaces an older one. `quick` makes few repeats and leaves out
    what compiles for minutes. `on_event` is told what is being done. Raises
    UserError if the folder holds something else.

    >>> tour_report(quick=True).path  # doctest: +SKIP
    PosixPath('reports/tour')
    """
    folder = FOLDER if out is None else Path(out)
    refuse_unless_report(folder, NAMES)
    results = measure_tour(LITTLE if quick else EVERYTHING, on_event)
    write_pages(folder, content_of(results), results.model_dump(mode="json"))
    return Tour(folder, results)


def measure_tour(scope: Scope, on_event: Callable[[str], None] = lambda text: None) -> TourResults:
    """Everything that the tour shows."""
    with scratch_folder("tour") as scratch:
        found = run_jobs(_jobs(scope, scratch), min(AT_ONCE, usable_cores()), on_event)
    findings = {framework: cast(Findings, found[framework]) for framework in FRAMEWORKS}
    deployment = cast(DeploymentResults, found["deployment"])
    return TourResults(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        quick=scope.effort.is_quick,
        processor=processor(),
        versions=versions_of_both(),
        code={
            name: {framework: each.code[name] for framework, each in findings.items()}
            for name in next(iter(findings.values())).code
        },
        sentence=sentence.compared(
            {framework: each.followed for framework, each in findings.items()},
            sentence.language(),
            next(iter(findings.values())).num_parameters,
        ),
        call_shapes=[list(shape) for shape in CALL_SHAPES],
        calls=[cost for each in findings.values() for cost in each.calls],
        probes=[probe for each in findings.values() for probe in each.probes],
        comparisons=compare_code(),
        errors=[error for each in findings.values() for error in each.errors],
        stops=[stop for each in findings.values() for stop in each.stops],
        nan_checks=[each.nan_check for each in findings.values()],
        steps=[cast(StepCost, each) for name, each in found.items() if name.startswith("step ")],
        deployment=deployment,
        lockstep_recipe=RECIPE,
        lockstep=cast(LockstepResult, found["lockstep"]),
        facts=WORDS.facts,
    )


def _jobs(scope: Scope, scratch: Path) -> dict[str, Job]:
    """The processes, each with one thread; what takes longest is first."""
    plan = Plan(scope.effort.repeats, scope.effort.seconds, scope.effort.left_out)
    environment = ONE_THREAD | fresh_compiler(scratch)
    first, second = FRAMEWORKS

    def experiments(framework: str, weights: dict[str, NDArray] | None = None) -> Child:
        return Child(
            run_experiments, framework, plan, weights, framework=framework, sends_events=True, environment=environment
        )

    def steps(name: str, framework: str) -> Child:
        return Child(measure_step, framework, name, scope.num_steps, framework=framework, environment=ONE_THREAD)

    def told(framework: str, function: Callable[..., object], *arguments: object) -> Child:
        return Child(function, *arguments, framework=framework, sends_events=True, environment=ONE_THREAD)

    jobs = {
        "deployment": Job(lambda found: told(first, deploy, scratch / "run", scope)),
        first: Job(lambda found: experiments(first)),
        "lockstep": Job(lambda found: told(NO_FRAMEWORK, step_together, scope.lockstep_steps)),
        # The second framework follows the sentence with the weights that the first has trained.
        second: Job(lambda found: experiments(second, cast(Findings, found[first]).followed.weights), after=first),
    }
    for name, framework in itertools.product(scope.step_recipes, FRAMEWORKS):
        jobs[f"step {name} {framework}"] = Job(lambda found, name=name, framework=framework: steps(name, framework))
    return jobs


def deploy(send: Callable[[str], None], folder: Path, scope: Scope) -> DeploymentResults:
    """A small run is trained and measured as the deployment report does."""
    send(f"training {RECIPE}, to export it")
    run = finetune(load_recipe(RECIPE, scope.recipe_changes), out=folder, quiet=True)
    return measure_deployment(run, scope.formats, scope.whole_model, send)


def step_together(send: Callable[[str], None], steps: int) -> LockstepResult:
    """The same steps in both frameworks."""
    send(f"{RECIPE}: {steps} steps in lock-step")
    return as_result(compare_frameworks(load_recipe(RECIPE), steps), STOCK)


def run_jobs(jobs: Mapping[str, Job], at_once: int, on_event: Callable[[str], None]) -> dict[str, object]:
    """The result of each job; at most `at_once` run at a time. Raises what `Child.result` raises."""
    waiting, running, results = dict(jobs), dict[str, Child](), dict[str, object]()
    try:
        while waiting or running:
            free = [name for name, job in waiting.items() if not job.after or job.after in results]
            for name in free[: at_once - len(running)]:
                on_event(f"started: {name}")
                running[name] = waiting.pop(name).start(results)
            ready = wait([child.fileno() for child in running.values()])
            for name, child in [(name, child) for name, child in running.items() if child.fileno() in ready]:
                if (event := child.next_event()) is not None:
                    on_event(str(event))
                if child.has_ended:
                    results[name] = child.result()
                    running.pop(name).close()
    finally:
        close_all(running.values())
    return {name: results[name] for name in jobs}
