"""Measures what it costs to use a finished run, in every export format and every mode of execution, and reports it."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from pipeline.backend import FRAMEWORKS
from pipeline.deploy.export import FinishedExport, export_run, writing_problem, writing_settings
from pipeline.deploy.manifest import FORMATS, PORTABLE_FORMATS, Format, Quantization, format_problem
from pipeline.deploy.proof import validation_of
from pipeline.deploy.report.content import answers, facts, sections
from pipeline.deploy.report.export_costs import Measured, measure_export
from pipeline.deploy.report.figures import pictures
from pipeline.deploy.report.mode_costs import Plan, measure_run, mode_costs
from pipeline.deploy.report.results import DeploymentResults, FormatCost, ModeCost, ProcessCost, Spread
from pipeline.deploy.runtimes import Arrays
from pipeline.models.families import family_of
from pipeline.reporting.formatting import FRAMEWORK_NAMES, date
from pipeline.reporting.writer import Content, refuse_unless_report, write_pages
from pipeline.runs.directory import Run, load_run
from pipeline.runs.machine import processor, versions_of_both
from pipeline.runs.model_files import refuse_altered
from pipeline.training.experiment import Experiment
from pipeline.utils.environment import THREAD_VARIABLES
from pipeline.utils.errors import PipelineError, UserError
from pipeline.utils.files import scratch_folder
from pipeline.utils.processes import Child, ProcessError
from pipeline.utils.text import last_line, one_line

# Rows and tokens of the batches: one short text, and many longer ones.
SHAPES = ((1, 32), (32, 64))
ONE_THREAD: dict[str, str] = {name: "1" for name in THREAD_VARIABLES}


@dataclass(frozen=True)
class Effort:
    """How much is measured: processes for each format, repeats for each mode, and the time of one measurement."""

    processes: int
    repeats: int
    seconds: float
    left_out: dict[str, str]
    is_quick: bool = False


FULL = Effort(processes=3, repeats=9, seconds=0.3, left_out={})
QUICK = Effort(
    processes=1,
    repeats=3,
    seconds=0.05,
    left_out={"torch.compile": "it compiles for minutes, and the report was to be quick"},
    is_quick=True,
)


@dataclass(frozen=True)
class DeploymentReport:
    """A report's folder, and its figures."""

    path: Path
    results: DeploymentResults


def deployment_report(
    run: Run | str | os.PathLike[str],
    formats: str | Sequence[str] = PORTABLE_FORMATS,
    *,
    out: str | os.PathLike[str] | None = None,
    quick: bool = False,
    on_event: Callable[[str], None] = lambda text: None,
) -> DeploymentReport:
    """Measure what using a finished run costs, and write report.html, report.md, results.json and figures/*.png.

    Each format is exported into a temporary folder, with int8 weights, too, where it has them, and measured in its own
    runtime. Then each mode of execution of both frameworks is compared with eager execution. Whatever cannot be done
    has a line with the cause. The report goes to `out`, by default reports/deployment/<recipe>/<run>, and replaces an
    older one. `quick` makes few repeats and leaves out torch.compile. `on_event` is told what is being done. Raises
    UserError.

    >>> report = deployment_report("runs/sentiment_bert/torch-stock-seed0", quick=True)  # doctest: +SKIP
    >>> report.path  # doctest: +SKIP
    PosixPath('reports/deployment/sentiment_bert/torch-stock-seed0')
    """
    run, names = run if isinstance(run, Run) else load_run(run), [formats] if isinstance(formats, str) else [*formats]
    if problems := [problem for name in names if (problem := format_problem(name))]:
        raise UserError("\n".join(problems))
    place = Path("reports") / "deployment" / run.record.recipe / run.path.resolve().name
    folder = Path(out) if out is not None else place
    refuse_unless_report(folder)
    refuse_altered(run.directory.model_folder, run.record.model_files, thorough=True)
    results = measure_deployment(run, names, QUICK if quick else FULL, on_event)
    write_pages(folder, content_of(results), results.model_dump(mode="json"))
    return DeploymentReport(folder, results)


def content_of(results: DeploymentResults) -> Content:
    """What the report says."""
    return Content(
        kind="deployment report",
        heading=results.run.recipe,
        created=date(results.created),
        facts=facts(results),
        answers=answers(results),
        sections=sections(results),
        pictures=pictures(results),
    )


def measure_deployment(
    run: Run, formats: Sequence[str], effort: Effort, on_event: Callable[[str], None] = lambda text: None
) -> DeploymentResults:
    """The figures of a report. Raises UserError if the run's data cannot be read."""
    experiment = validation_of(run)
    batches = batches_of(experiment)
    with scratch_folder("deployment") as scratch:
        costs = format_costs(run, formats, batches, effort, scratch, on_event)
        environment = ONE_THREAD | fresh_compiler(scratch)
        modes = [cost for name in FRAMEWORKS for cost in _modes_of(run, name, batches, effort, environment, on_event)]
    return DeploymentResults(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        quick=effort.is_quick,
        run=run.record.identity,
        run_folder=str(run.path),
        task=experiment.recipe.task,
        checkpoint=run.directory.recipe().checkpoint,
        writes_texts=writing_settings(experiment.recipe) is not None,
        validation_rows=len(experiment.examples["validation"].lengths),
        shapes=[(rows, length) for rows, length in (batch["input_ids"].shape for batch in batches)],
        processes=effort.processes,
        repeats=effort.repeats,
        processor=processor(),
        versions=versions_of_both(),
        formats=costs,
        modes=modes,
    )


def fresh_compiler(scratch: Path) -> dict[str, str]:
    """Variables of a process with torch.compile: nothing that was compiled before is used, and nothing stays behind."""
    return {"TORCHINDUCTOR_CACHE_DIR": str(scratch / "compiled"), "TORCHINDUCTOR_COMPILE_THREADS": "1"}


def batches_of(experiment: Experiment) -> list[Arrays]:
    """A batch of each shape, of validation tokens and without padding, with all inputs that the model reads."""
    probe, longest = experiment.probe(), family_of(experiment.config).max_positions(experiment.config)
    tokens = probe["input_ids"][probe["attention_mask"] > 0]
    batches = []
    for rows, length in SHAPES:
        ids = np.resize(tokens, (rows, min(length, longest or length))).astype(np.int32)
        batch = {name: np.zeros_like(ids) for name in probe}
        batch |= {name: ids for name in ("input_ids", "decoder_input_ids") if name in probe}
        batches.append(batch | {"attention_mask": np.ones_like(ids)})
    return batches


def format_costs(
    run: Run,
    formats: Sequence[str],
    batches: Sequence[Arrays],
    effort: Effort,
    scratch: Path,
    on_event: Callable[[str], None],
) -> list[FormatCost]:
    """The run itself and each format, each in fresh processes that take turns."""
    wanted: list[tuple[Format, Quantization | None]] = []
    for name in cast(Sequence[Format], formats):
        wanted.append((name, None))
        wanted.extend((name, quantization) for quantization in FORMATS[name].quantizations)
    weights = run.directory.weights_file.stat().st_size
    title = f"The run, {FRAMEWORK_NAMES[run.record.framework]}"
    costs = [FormatCost(format=None, title=title, runtime=run.record.framework, model_bytes=weights, agreement=1.0)]
    jobs: dict[int, Callable[[], Child[Measured]]] = {
        0: lambda: Child(
            measure_run, str(run.path), batches, effort.seconds,
            framework=run.record.framework, environment=ONE_THREAD,
        )
    }  # fmt: skip
    for name, quantization in wanted:
        cost, export = _exported(run, name, quantization, scratch, on_event)
        costs.append(cost)
        if export is not None:
            jobs[len(costs) - 1] = lambda folder=export.path, framework=FORMATS[name].framework: Child(
                measure_export, folder, batches, effort.seconds, framework=framework, environment=ONE_THREAD
            )
    on_event(f"measuring {len(jobs)} models, each in a fresh process")
    for number, found in _in_turns(jobs, effort.processes).items():
        costs[number] = costs[number].model_copy(update=found)
    return costs


def _exported(
    run: Run, name: Format, quantization: Quantization | None, scratch: Path, on_event: Callable[[str], None]
) -> tuple[FormatCost, FinishedExport | None]:
    """A proved export with what its manifest says of it, or why there is none."""
    title = f"{FORMATS[name].title}{f' {quantization}' if quantization else ''}"
    cost = FormatCost(format=name, quantization=quantization, title=title)
    if problem := writing_problem(run.directory.recipe(), name, quantization):
        return cost.model_copy(update={"problem": problem, "is_unsupported": True}), None
    on_event(f"exporting: {title}")
    try:
        (export,) = export_run(run, name, quantize=quantization, out=scratch)
    except PipelineError as error:
        return cost.model_copy(update={"problem": one_line(error)}), None
    manifest, proof = export.manifest, export.manifest.proof
    assert proof is not None, "a finished export has been proved"
    found = {
        "runtime": proof.runtime,
        "model_bytes": manifest.model_bytes,
        "largest_difference": proof.largest_difference,
        "agreement": proof.agreement,
    }
    return cost.model_copy(update=found), export


def _in_turns(jobs: dict[int, Callable[[], Child[Measured]]], rounds: int) -> dict[int, dict[str, object]]:
    """The fields "cost" or "problem" of each job, from one fresh process of each in every round."""
    found: dict[int, list[Measured]] = {number: [] for number in jobs}
    problems: dict[int, dict[str, object]] = {}
    for _ in range(rounds):
        for number, start in jobs.items():
            try:
                with start() as child:
                    found[number].append(child.result())
            except (PipelineError, ProcessError) as error:
                problems[number] = {"problem": last_line(error)}
    return {number: problems.get(number) or {"cost": _cost(each)} for number, each in found.items()}


def _cost(found: Sequence[Measured]) -> ProcessCost:
    return ProcessCost(
        first_answer_seconds=Spread.of([each.first_answer_seconds for each in found]),
        milliseconds=[Spread.of(each) for each in zip(*(each.milliseconds for each in found), strict=True)],
        peak_memory_bytes=Spread.of([each.peak_memory_bytes for each in found]),
    )


def _modes_of(
    run: Run,
    framework: str,
    batches: Sequence[Arrays],
    effort: Effort,
    environment: dict[str, str],
    on_event: Callable[[str], None],
) -> Iterator[ModeCost]:
    """The modes of a framework, all in one process; one line with the cause if that fails."""
    plan = Plan(effort.repeats, effort.seconds, effort.left_out)
    try:
        with Child(
            mode_costs, str(run.path), framework, batches, plan,
            framework=framework, sends_events=True, environment=environment,
        ) as child:  # fmt: skip
            while not child.has_ended:
                if (event := child.next_event()) is not None:
                    on_event(str(event))
            yield from child.result()
    except (PipelineError, ProcessError) as error:
        for work in ("inference", "training step"):
            yield ModeCost(framework=framework, work=work, mode="every mode", problem=last_line(error))
