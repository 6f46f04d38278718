"""What the runs cost: speed, start-up, time and memory of each variant, which one was best, and on which machine."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from pipeline.comparison.results import Cost, CostRanking, CostSummary, Machine
from pipeline.comparison.run_set import ComparedRun, by_variant
from pipeline.runs.record import EnvironmentRecord


@dataclass(frozen=True)
class _Kind:
    unit: str
    higher_is_better: bool


KINDS = {
    "examples_per_second": _Kind("examples/s", True),
    "steady_examples_per_second": _Kind("examples/s", True),
    "tokens_per_second": _Kind("tokens/s", True),
    "first_step_seconds": _Kind("s", False),
    "startup_seconds": _Kind("s", False),
    "train_seconds": _Kind("s", False),
    "peak_memory_bytes": _Kind("bytes", False),
}
MIN_RUNS = 3
# If the first step, in which TensorFlow traces its graph, took more of the training than this, speeds are compared
# without it: in a longer training it would hardly count.
MAX_FIRST_STEP_SHARE = 0.2


def costs(runs: list[ComparedRun]) -> list[Cost]:
    """Median and range of each cost over the runs of a variant, and the ratio of medians to the first variant."""
    return [
        Cost(
            name=name,
            unit=kind.unit,
            higher_is_better=kind.higher_is_better,
            variants=_summaries({variant: _costs_of_runs(group, name) for variant, group in by_variant(runs).items()}),
        )
        for name, kind in KINDS.items()
    ]


def _costs_of_runs(runs: list[ComparedRun], name: str) -> list[float]:
    return [value for run in runs if (value := cost_of_run(run, name)) is not None]


def _summaries(values: dict[str, list[float]]) -> dict[str, CostSummary]:
    medians = {variant: float(np.median(known)) if known else None for variant, known in values.items()}
    first = next(iter(medians.values()), None)
    return {
        variant: CostSummary(
            median=median,
            low=min(values[variant], default=None),
            high=max(values[variant], default=None),
            ratio=median / first if first and median is not None else None,
        )
        for variant, median in medians.items()
    }


def cost_of_run(run: ComparedRun, name: str) -> float | None:
    """One cost of one run; None if the run failed or did not record it."""
    if run.record is None or run.environment is None:
        return None
    if name == "startup_seconds":
        return run.environment.startup_seconds
    if name == "steady_examples_per_second":
        return _steady_speed(run)
    return getattr(run.record.train, "seconds" if name == "train_seconds" else name)


def _steady_speed(run: ComparedRun) -> float | None:
    """Examples per second in all steps but the first."""
    seconds, examples = run.column("seconds"), run.column("examples")
    if len(seconds) < 2 or not seconds[-1] > seconds[0]:
        return None
    return float(examples[1:].sum() / (seconds[-1] - seconds[0]))


def rank_speed(all_costs: list[Cost], runs: list[ComparedRun]) -> CostRanking:
    """Which variant was faster; without the first step if that was much of the training."""
    variant, share = _slowest_first_step(runs)
    steady = _cost("steady_examples_per_second", all_costs)
    if share <= MAX_FIRST_STEP_SHARE or len(_known(steady)) < 2:
        return _rank(_cost("examples_per_second", all_costs), runs)
    ranking = _rank(steady, runs)
    return ranking.model_copy(update={"slow_first_step": variant, "first_step_share": share})


def rank_memory(all_costs: list[Cost], runs: list[ComparedRun]) -> CostRanking:
    """Which variant took less memory."""
    return _rank(_cost("peak_memory_bytes", all_costs), runs)


def _rank(cost: Cost, runs: list[ComparedRun]) -> CostRanking:
    known = _known(cost)
    if len(known) < 2:
        return CostRanking(code="nothing_to_compare", cost=cost.name)
    best, *others = sorted(known, key=lambda variant: known[variant], reverse=cost.higher_is_better)
    completed = [run for run in runs if run.completed and run.variant in known]
    fewest_runs = min(len(group) for group in by_variant(completed).values())
    overlapping = [other for other in others if _overlap(cost.variants[best], cost.variants[other])]
    if len(machines(runs)) > 1:
        code = "different_machines"
    elif fewest_runs < MIN_RUNS or len(overlapping) == len(others):
        code = "uncertain"
    else:
        code = "ranked"
    return CostRanking(
        code=code,
        cost=cost.name,
        best=best,
        median=known[best],
        ratios={other: known[other] / known[best] for other in others},
        fewest_runs=fewest_runs,
        overlapping=overlapping,
    )


def _cost(name: str, all_costs: list[Cost]) -> Cost:
    (cost,) = (cost for cost in all_costs if cost.name == name)
    return cost


def _known(cost: Cost) -> dict[str, float]:
    """The medians of the variants that have one."""
    return {variant: row.median for variant, row in cost.variants.items() if row.median is not None}


def _slowest_first_step(runs: list[ComparedRun]) -> tuple[str, float]:
    """The variant in which the first step took the largest fraction of the training, and that fraction."""
    shares = {
        variant: float(np.median([_first_step_share(run) for run in group]))
        for variant, group in by_variant(run for run in runs if run.completed).items()
    }
    return max(shares.items(), key=lambda item: item[1], default=("", 0.0))


def _first_step_share(run: ComparedRun) -> float:
    first, total = cost_of_run(run, "first_step_seconds"), cost_of_run(run, "train_seconds")
    return first / total if first is not None and total else 0.0


def _overlap(a: CostSummary, b: CostSummary) -> bool:
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return False
    return a.low <= b.high and b.low <= a.high


def machines(runs: list[ComparedRun]) -> list[Machine]:
    """The machines, with the runs made on each and the versions that it had."""
    groups: dict[tuple[str, int | None, str], list[tuple[ComparedRun, EnvironmentRecord]]] = defaultdict(list)
    for run in runs:
        if run.environment is not None:
            machine = run.environment
            groups[machine.processor, machine.cores, machine.platform].append((run, machine))
    return [
        Machine(
            runs=[run.label for run, _ in group],
            processor=processor,
            cores=cores,
            threads={run.framework: environment.threads for run, environment in group},
            platform=platform,
            versions=_versions([environment for _, environment in group]),
        )
        for (processor, cores, platform), group in groups.items()
    ]


def _versions(environments: list[EnvironmentRecord]) -> dict[str, list[str]]:
    """Every version of every package, in the order of the runs."""
    versions: dict[str, list[str]] = {}
    for environment in environments:
        framework = {
            name: version for name, version in environment.framework.items() if name not in ("threads", "device")
        }
        for package, version in (environment.versions | framework).items():
            seen = versions.setdefault(package, [])
            if version not in seen:
                seen.append(version)
    return versions
