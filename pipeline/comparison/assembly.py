"""The results of a comparison, assembled from its runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline.comparison import examples, same_experiment
from pipeline.comparison.attention_maps import maps_from_control, maps_of_frameworks
from pipeline.comparison.control import compare_with_control
from pipeline.comparison.costs import break_even, compare_memory, compare_speed, compare_time, costs, machines
from pipeline.comparison.predictions.details import prediction_details
from pipeline.comparison.records.sameness import LockstepResult, Sameness
from pipeline.comparison.records.scores import Agreement, Metric, MetricComparison, PairComparison
from pipeline.comparison.resampling import Resampled, resampled_metrics
from pipeline.comparison.results import DataSummary, Problem, RecipeMargin, Results, RunSummary, Variant
from pipeline.comparison.run_set import ComparedRun, by_variant, runs_of_shared_seeds, variant_pairs
from pipeline.comparison.statistics import bootstrap
from pipeline.comparison.statistics.agreement import agreement
from pipeline.comparison.statistics.equivalence import compare_metric, metric_margin, summarize
from pipeline.metrics.specs import ends, lower_is_better, scale
from pipeline.recipe.schema import Data
from pipeline.runs.directory import RunDirectory
from pipeline.tasks.base import load_task

SharedSeeds = list[tuple[ComparedRun, ComparedRun]]


def assemble(
    runs: list[ComparedRun], margin: float, lockstep: list[LockstepResult], problems: list[Problem], *, created: str,
    command: list[str], controls: Sequence[ComparedRun] = (),
) -> Results:  # fmt: skip
    """All results but the headline. `runs` have the names of their variants; `problems` are those known already."""
    completed = [run for run in runs if run.completed]
    recipe = runs[0].recipe
    checkpoint = Path(recipe.checkpoint)
    resampled, resampling_problems = resampled_metrics(completed)
    metrics = _metrics(completed)
    rows = examples.validation_rows(completed[0]) if completed else []
    task = load_task(recipe)
    predictions = prediction_details(completed, task.outcomes, rows if task.has_prediction_per_row else [])
    disagreements = examples.disagreements(runs, rows if task.has_prediction_per_row else [])
    text = examples.text_to_draw(task, disagreements, rows)
    maps, map_problems = maps_of_frameworks(completed, text) if text else ([], [])
    map_control, control_problems = maps_from_control(completed, controls, text) if text and len(maps) > 1 else ([], [])
    run_costs = costs(runs)
    time, speed = compare_time(run_costs, runs), compare_speed(run_costs, runs)
    is_relative = all(metric.scale is None for metric in list(metrics.values())[:1])
    comparisons = [_compare(pair, runs, metrics, margin, resampled) for pair in variant_pairs(runs)]
    return Results(
        created=created,
        command=command,
        recipe=recipe.name,
        task=recipe.task,
        checkpoint=checkpoint.name if checkpoint.is_absolute() else recipe.checkpoint,
        checkpoint_fingerprint=completed[0].completed_record.checkpoint_fingerprint if completed else None,
        weights=recipe.weights,
        data=_data(runs[0], completed),
        margin=RecipeMargin(value=margin, kind="relative" if is_relative else "absolute"),
        variants=_variants(runs),
        runs=[_summary(run) for run in runs],
        settings=runs[0].settings,
        recipe_differences=same_experiment.recipe_differences(runs),
        metrics=metrics,
        comparisons=[comparison for comparison in comparisons if comparison is not None],
        sameness=_sameness(runs, lockstep, list(controls)),
        predictions=predictions,
        disagreements=disagreements,
        costs=run_costs,
        time=time,
        speed=speed,
        memory=compare_memory(run_costs, runs),
        break_even=break_even(time, speed, runs),
        machines=machines(runs),
        attention_maps=maps,
        map_control=map_control,
        problems=[*problems, *_failed_controls(controls), *resampling_problems, *map_problems, *control_problems],
    )


def _data(run: ComparedRun, completed: list[ComparedRun]) -> DataSummary:
    data = run.recipe.data
    recorded = completed[0].completed_record.data if completed else None
    return DataSummary(
        source=_source(data),
        fingerprint=recorded.fingerprint if recorded else None,
        splits=recorded.splits if recorded else {},
    )


def _source(data: Data) -> str:
    """'glue (sst2)' of the Hub, and 'json files in reviews' of local files, without the rest of their path."""
    named = data.path + (f" ({data.name})" if data.name else "")
    files = [file for file in (data.files.train, data.files.validation) if file] if data.files else []
    first = next(iter(files), "")
    folder = Path(first if isinstance(first, str) else first[0]).parent.name
    return f"{named} files in {folder}" if folder else named


def _variants(runs: list[ComparedRun]) -> list[Variant]:
    return [
        Variant(
            name=name,
            framework=group[0].framework,
            attention=group[0].attention,
            seeds=sorted(run.seed for run in group),
            completed=sum(run.completed for run in group),
            failed=sum(not run.completed for run in group),
        )
        for name, group in by_variant(runs).items()
    ]


def _summary(run: ComparedRun) -> RunSummary:
    return RunSummary(
        variant=run.variant,
        framework=run.framework,
        attention=run.attention,
        seed=run.seed,
        path=str(run.path),
        status="completed" if run.completed else "failed",
        log_tail=run.log_tail,
        metrics=run.metrics,
        train=run.record.train if run.record else None,
        startup_seconds=run.environment.startup_seconds if run.environment else None,
        attention_sites=run.record.attention_sites if run.record else None,
        attention_max_difference=run.record.attention_max_difference if run.record else None,
        environment=run.environment,
        weights_sha256=_weights_digest(run),
    )


def _weights_digest(run: ComparedRun) -> str | None:
    files = run.record.model_files if run.record else {}
    weights = files.get(RunDirectory(run.path).weights_file.name)
    return weights.sha256 if weights else None


def _metrics(completed: list[ComparedRun]) -> dict[str, Metric]:
    """Every metric of every variant over its seeds."""
    return {
        name: Metric(
            lower_is_better=lower_is_better(name),
            scale=scale(name),
            variants={
                variant: summarize({run.seed: run.metrics.get(name) for run in group}, ends(name))
                for variant, group in by_variant(completed).items()
            },
        )
        for name in dict.fromkeys(name for run in completed for name in run.metrics)
    }


def _sameness(runs: list[ComparedRun], lockstep: list[LockstepResult], controls: list[ComparedRun]) -> Sameness:
    pairs = variant_pairs(runs)
    return Sameness(
        probe=same_experiment.probe_differences(pairs, runs),
        batches=same_experiment.batch_differences(pairs, runs),
        batch_sizes_vary=same_experiment.batch_sizes_vary(runs),
        optimization=same_experiment.optimization_differences(pairs, runs),
        lockstep=lockstep,
        control=compare_with_control(pairs, runs, controls),
        curves=same_experiment.curves(runs),
        evaluations=same_experiment.evaluations(runs),
    )


def _failed_controls(controls: Iterable[ComparedRun]) -> list[Problem]:
    return [
        Problem(code="control_failed", run=f"seed {run.seed}", error=" ".join(run.log_tail.split("\n")[-2:]))
        for run in controls
        if run.log_tail is not None
    ]


def _compare(
    pair: tuple[str, str], runs: list[ComparedRun], metrics: dict[str, Metric], margin: float, resampled: Resampled
) -> PairComparison | None:
    """Two variants, metric by metric; None if no seed was completed by both."""
    shared = runs_of_shared_seeds(runs, *pair)
    if not shared:
        return None
    same_predictions = all(examples.same_predictions(a, b) for a, b in shared)
    compared = {
        name: _compare_metric(name, metric, pair, shared, margin, resampled, same_predictions)
        for name, metric in metrics.items()
        if any(name in run.metrics for both in shared for run in both)
    }
    return PairComparison(first=pair[0], second=pair[1], metrics=compared, agreement=_agreement(shared))


def _compare_metric(
    name: str, metric: Metric, pair: tuple[str, str], shared: SharedSeeds, margin: float, resampled: Resampled,
    same_predictions: bool,
) -> MetricComparison:  # fmt: skip
    first, second = zip(*shared, strict=True)
    reference = next((row.mean for row in metric.variants.values() if row.mean is not None), None)
    difference = None
    if all((run.label, name) in resampled for run in (*first, *second)):
        difference = bootstrap.difference(
            [resampled[run.label, name] for run in first], [resampled[run.label, name] for run in second]
        )
    return compare_metric(
        name,
        pair,
        [run.metrics.get(name) for run in first],
        [run.metrics.get(name) for run in second],
        metric_margin(name, margin, reference),
        difference,
        len(first[0].predictions),
        same_predictions,
    )


def _agreement(shared: SharedSeeds) -> Agreement | None:
    """For tasks that predict classes only: other predictions are not right or wrong as a whole."""
    if not load_task(shared[0][0].recipe).predicts_classes:
        return None
    return agreement(
        (
            [line["prediction"] for line in a.predictions],
            [line["prediction"] for line in b.predictions],
            [line["reference"] for line in a.predictions],
        )
        for a, b in shared
    )
