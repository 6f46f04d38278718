"""What `from pipeline import ...` offers beyond training and predicting: check, lockstep, compare and report."""

from __future__ import annotations

import datetime
import html
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from pipeline.backend import FRAMEWORKS
from pipeline.comparison import lockstep_records, run_matrix
from pipeline.comparison.assembly import assemble
from pipeline.comparison.control import split_controls
from pipeline.comparison.lockstep import (
    LockstepReport,
    ProcessLockstepReport,
    compare_frameworks,
    compare_processes,
)
from pipeline.comparison.lockstep_records import LOCKSTEP_STEPS
from pipeline.comparison.records.sameness import LockstepResult
from pipeline.comparison.results import Problem, Results
from pipeline.comparison.run_matrix import ComparisonCallback, PlannedRun
from pipeline.comparison.run_set import ComparedRun, read_run, refuse_incomparable, with_variants
from pipeline.models.attention import ATTENTIONS, STOCK, attention_name
from pipeline.models.building import WeightSources
from pipeline.recipe.loading import LoadedRecipe, RecipeSource
from pipeline.reporting.first_screen import answers, notices, with_headline, write_headline
from pipeline.reporting.progress import following
from pipeline.reporting.sentences import verdict
from pipeline.runs.directory import TENSORBOARD
from pipeline.runs.machine import as_typed
from pipeline.training import first_step
from pipeline.training.first_step import FirstStep
from pipeline.training.trackers.tracking import track_report
from pipeline.utils.errors import UserError
from pipeline.utils.files import scratch_folder
from pipeline.utils.text import count

if TYPE_CHECKING:
    import pandas

SEEDS = (0, 1, 2)
Value = TypeVar("Value")


@dataclass(frozen=True)
class SplitSummary:
    """A checked split: its counts by name, and the tokens of the longest source and, if there is one, target.

    `observed` counts what may be a mistake, such as unknown tokens; `labels` how often each label is.
    """

    counts: dict[str, int]
    longest: tuple[int, ...]
    observed: dict[str, int]
    labels: dict[str, int]


@dataclass(frozen=True)
class CheckedRecipe:
    """What `check` found: everything that the recipe names can be loaded and fits together."""

    recipe: str
    splits: dict[str, SplitSummary]
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    weights: WeightSources
    first_step: FirstStep

    def __str__(self) -> str:
        lines = []
        for name, split in self.splits.items():
            counts = ", ".join(f"{number} {kind}" for kind, number in split.counts.items())
            lines.append(f"{name}: {counts}, longest {' and '.join(map(str, split.longest))} tokens")
            if observed := [f"{number} {kind}" for kind, number in split.observed.items() if number]:
                lines.append(f"{name}: {', '.join(observed)}")
            if split.labels:
                lines.append(f"{name}: {', '.join(f'{label} {number}' for label, number in split.labels.items())}")
        if self.labels:
            lines.append(f"labels: {', '.join(self.labels)}")
        return "\n".join([*lines, f"metrics: {', '.join(self.metrics)}", str(self.weights), str(self.first_step)])


@dataclass(frozen=True, repr=False)
class Comparison:
    """A comparison: its results, which are what results.json holds, and the folder of its report."""

    results: Results
    path: Path

    @property
    def runs(self) -> pandas.DataFrame:
        """A row for each run: variant, framework, attention, seed, status, path, each metric and each training cost."""
        import pandas

        keys = ("variant", "framework", "attention", "seed", "status", "path")
        rows = []
        for run in self.results.runs:
            costs = run.train.model_dump() if run.train else {}
            row = {key: getattr(run, key) for key in keys}
            rows.append(row | run.metrics | {f"train_{key}": cost for key, cost in costs.items()})
        return pandas.DataFrame(rows)

    @property
    def verdicts(self) -> pandas.DataFrame:
        """A row for each pair of variants and metric: the difference, its 95% interval and what can be claimed."""
        import pandas

        rows = []
        for pair in self.results.comparisons:
            for metric, comparison in pair.metrics.items():
                row = {"first": pair.first, "second": pair.second, "metric": metric}
                row |= comparison.seeds.model_dump(exclude={"n"})
                row |= {"equivalent": comparison.equivalence.equivalent, "code": comparison.verdict.code}
                rows.append(row | verdict(pair, metric).model_dump())
        return pandas.DataFrame(rows)

    def to_html(self) -> str:
        """The whole report as one page."""
        from pipeline.reporting import writer  # not above: matplotlib takes a second, and check draws nothing

        return writer.html(self.results)

    def __repr__(self) -> str:
        variants, runs = count(len(self.results.variants), "variant"), count(len(self.results.runs), "run")
        return f"Comparison({self.results.recipe}: {variants}, {runs}; report in {self.path})"

    def _repr_html_(self) -> str:
        """What a notebook shows: the first screen and the verdicts."""
        headline = self.results.headline or write_headline(self.results)
        lines = [*answers(headline).values(), *notices(headline)]
        items = "".join(f"<li>{html.escape(f'{line.word}. {line.sentence}')}</li>" for line in lines)
        return f"<ul>{items}</ul>{self.verdicts.to_html(escape=True, index=False)}"


def check(
    recipe: RecipeSource, framework: str = "torch", attention: str | type = STOCK, *, allow_hub_code: bool = False,
    allow_pickle: bool = False,
) -> CheckedRecipe:  # fmt: skip
    """Do all that a training does up to one step, on its largest batch, and write nothing.

    Raises UserError with all that is wrong, and RunFailure if the memory is too small for one example.

    >>> print(check("sentiment_bert", framework="tensorflow"))  # doctest: +SKIP
    train: 4000 rows, 0 truncated, longest 41 tokens
    """
    checked, weights, step = first_step.check(
        LoadedRecipe.of(recipe).recipe, framework, attention_name(attention), allow_hub_code, allow_pickle
    )
    splits = {}
    for name, examples in checked.examples.items():
        longest = examples.lengths.reshape(len(examples.lengths), -1).max(axis=0)
        splits[name] = SplitSummary(
            dict(examples.counts), tuple(map(int, longest)), checked.observations[name].counts,
            checked.observations[name].labels,
        )  # fmt: skip
    return CheckedRecipe(
        checked.recipe.name, splits, tuple(checked.task.labels), tuple(checked.metric_names), weights, step
    )


def lockstep(
    recipe: RecipeSource,
    steps: int = LOCKSTEP_STEPS,
    attention: str | type = STOCK,
    seed: int = 0,
    *,
    dropout: bool = True,
    processes: int | Sequence[int] = (),
) -> LockstepReport | ProcessLockstepReport:
    """Take the same training steps in both frameworks, each in a process of its own, and compare them one by one.

    The frameworks are judged against PyTorch itself from starts that are off by one rounding. Dropout is that of the
    recipe, with the same masks in both frameworks; it is off without `dropout`, or if the recipe sets
    `train.dropout_masks` to framework. With `processes`, such as (1, 2, 4), the steps are also taken by so many
    processes together, and each framework is compared with itself in one process. Raises UserError for anything that is
    wrong with the input.

    >>> lockstep("sentiment_bert", steps=10).same  # doctest: +SKIP
    True
    """
    resolved, name = LoadedRecipe.of(recipe).recipe, attention_name(attention)
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise UserError(f"steps is {steps!r}, but must be a whole number from 1")
    if counts := _several(processes):
        return compare_processes(resolved, counts, steps, name, seed, dropout=dropout)
    return compare_frameworks(resolved, steps, name, seed, dropout=dropout)


def compare(
    recipe: RecipeSource,
    frameworks: str | Sequence[str] = tuple(FRAMEWORKS),
    attentions: str | type | Sequence[str | type] = ATTENTIONS,
    seeds: int | Sequence[int] = SEEDS,
    out: str | os.PathLike[str] | None = None,
    *,
    rerun: bool = False,
    control: bool = True,
    allow_hub_code: bool = False,
    callback: ComparisonCallback | None = None,
    quiet: bool = False,
) -> Comparison:
    """Run a recipe with every framework, attention and seed, and compare; the report is `out` or reports/<recipe>.

    With overrides, a short hash of the resolved recipe is appended to the default folder. A single name or seed may be
    given as it is.

    Each run has a process of its own, one after the other. Finished runs are used as they are unless `rerun`; a run
    that fails is shown as failed. With `control` PyTorch also trains each seed from a start in which each weight is off
    by one rounding: how far it gets from itself says what rounding explains. `callback` follows the comparison; without
    one, its progress is printed, unless `quiet`. Raises UserError before the first run for anything that is wrong with
    the input.

    >>> comparison = compare("sentiment_bert", attentions=["stock"])  # doctest: +SKIP
    >>> comparison.verdicts  # doctest: +SKIP
    """
    loaded = LoadedRecipe.of(recipe)
    with following(loaded.recipe.name, callback, quiet) as callback:
        return _compare(
            loaded, _several(frameworks), _several(attentions), _several(seeds), out, rerun, control, allow_hub_code,
            callback,
        )  # fmt: skip


def _compare(
    loaded: LoadedRecipe, frameworks: list[str], attentions: list[str | type], seeds: list[int],
    out: str | os.PathLike[str] | None, rerun: bool, control: bool, allow_hub_code: bool, callback: ComparisonCallback,
) -> Comparison:  # fmt: skip
    """The runs, the lock-step and the report of a comparison."""
    names = [attention_name(attention) for attention in attentions]
    folder = _report_folder(loaded.recipe.name + loaded.recipe.suffix(loaded.original), out)
    planned = run_matrix.plan(loaded.recipe, loaded.original, frameworks, names, seeds, rerun)
    controls = run_matrix.plan_controls(loaded.recipe, loaded.original, planned) if control else []
    callback.on_check_begin([*planned, *controls])
    run_matrix.check(planned, loaded.recipe, allow_hub_code)
    made = _make_runs([*planned, *controls], loaded, allow_hub_code, callback)
    runs, control_runs = made[: len(planned)], made[len(planned) :]
    variants = [(framework, attention) for framework in frameworks for attention in names]
    runs.sort(key=lambda run: (variants.index((run.framework, run.attention)), run.seed))
    completed = [run for run in (*runs, *control_runs) if run.completed]
    if completed:
        remedy = "\nSome were made earlier, from other data or another checkpoint: repeat them with rerun=True"
        refuse_incomparable(completed, remedy, arguments=("rerun",))
    lockstep_results, problems = [], []
    if len(frameworks) > 1 and completed:
        callback.on_lockstep_begin(LOCKSTEP_STEPS)
        lockstep_results, problems = lockstep_records.take_or_read(
            loaded.recipe, names, seeds[0], planned[0].folder.parent, LOCKSTEP_STEPS, rerun,
            lockstep_records.fingerprints(completed[0]),
        )  # fmt: skip
    callback.on_report_begin()
    margin = loaded.recipe.margin
    comparison = _written(with_variants(runs), control_runs, margin, lockstep_results, problems, folder)
    if loaded.recipe.train.trackers:
        track_report(loaded.recipe, folder, callback.on_tracker_failed)
    return comparison


def report(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], out: str | os.PathLike[str] | None = None
) -> Comparison:
    """Compare finished runs, made on any machine at any time; the report is `out` or reports/<recipe>.

    A short hash at the end of the first run's directory, which overrides make, is appended to the default folder.

    Raises UserError if a directory is not a run, or if task, checkpoint, data or metrics differ.

    >>> report(["runs/mine/torch-stock-seed0", "runs/mine/tensorflow-stock-seed0"])  # doctest: +SKIP
    """
    # A shell's pattern also finds what lies beside runs.
    directories = [Path(path) for path in _several(paths) if not str(path).endswith(TENSORBOARD)]
    if len(directories) < 2:
        raise UserError(f"a report needs two or more run directories, but got {len(directories)}")
    runs, controls = split_controls(read_run(directory) for directory in directories)
    runs = with_variants(runs)
    refuse_incomparable([*runs, *controls])
    recipe = runs[0].recipe
    # The suffix of runs whose recipe was overridden, if they are where a run is by default.
    suffix = f"-{recipe.digest()}"
    folder = _report_folder(recipe.name + (suffix if directories[0].name.endswith(suffix) else ""), out)
    return _written(runs, controls, recipe.margin, lockstep_records.recorded(runs), [], folder)


def _several(values: Value | Iterable[Value]) -> list[Value]:
    """The values, or the single one: a text is one value, not a series of letters."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        return [cast("Value", values)]
    return list(cast("Iterable[Value]", values))


# The name of `report` in earlier versions.
compare_runs = report


def _report_folder(name: str, out: str | os.PathLike[str] | None) -> Path:
    from pipeline.reporting import writer

    folder = Path(out) if out is not None else Path("reports") / name
    writer.refuse_unless_report(folder)
    return folder


def _make_runs(
    planned: list[PlannedRun], loaded: LoadedRecipe, allow_hub_code: bool, callback: ComparisonCallback
) -> list[ComparedRun]:
    """The planned runs, made one after the other, or read if they are done."""
    runs = []
    with scratch_folder("recipe") as scratch:
        arguments = loaded.arguments
        if arguments is None:
            file = scratch / "recipe.yaml"
            file.write_text(loaded.recipe.to_yaml(), encoding="utf-8")
            arguments = (str(file),)
        if allow_hub_code:
            arguments = (*arguments, "--allow-hub-code")
        for run in planned:
            callback.on_run_begin(run)
            begun = time.perf_counter()
            runs.append(run_matrix.execute(run, loaded.recipe, arguments))
            callback.on_run_end(run, runs[-1], 0.0 if run.done else time.perf_counter() - begun)
    return runs


def _written(
    runs: list[ComparedRun],
    controls: list[ComparedRun],
    margin: float,
    lockstep_results: list[LockstepResult],
    problems: list[Problem],
    folder: Path,
) -> Comparison:
    from pipeline.reporting import writer

    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    results = assemble(
        runs, margin, lockstep_results, problems, created=created, command=as_typed(sys.argv), controls=controls
    )
    assembled = with_headline(results)
    writer.write_report(assembled, folder)
    return Comparison(assembled, folder)
