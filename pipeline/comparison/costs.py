"""What the runs cost: time, speed and memory of each variant, which of two took less, and on which machine."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.comparison.records.costs import BreakEven, Cost, CostComparison, CostPair, CostSummary, Machine
from pipeline.comparison.run_set import ComparedRun, by_variant, variant_pairs
from pipeline.runs.record import EnvironmentRecord


@dataclass(frozen=True)
class _Kind:
    unit: str
    higher_is_better: bool


KINDS = {
    "total_seconds": _Kind("s", False),
    "examples_per_second": _Kind("examples/s", True),
    "steady_examples_per_second": _Kind("examples/s", True),
    "tokens_per_second": _Kind("tokens/s", True),
    "first_step_seconds": _Kind("s", False),
    "launch_seconds": _Kind("s", False),
    "startup_seconds": _Kind("s", False),
    "train_seconds": _Kind("s", False),
    "peak_memory_bytes": _Kind("bytes", False),
    "trainable_parameters": _Kind("parameters", False),
}
MIN_RUNS = 3
# With fewer runs, a factor of at least this shows a difference. Repeated on a machine that does other things besides,
# the same training took up to 1.5 times as long, and up to 1.02 times as much memory.
PLAIN_FACTOR_OF_TIME, PLAIN_FACTOR_OF_MEMORY = 1.5, 1.1


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
    launch = run.environment.launch_seconds
    if name == "launch_seconds":
        return launch
    if name == "startup_seconds":
        return run.environment.startup_seconds
    if name == "total_seconds":
        return None if launch is None else launch + run.record.train.seconds
    if name == "steady_examples_per_second":
        return _steady_speed(run)
    return getattr(run.record.train, "seconds" if name == "train_seconds" else name)


def _steady_speed(run: ComparedRun) -> float | None:
    """Examples per second in all steps but the first."""
    seconds, examples = run.column("seconds"), run.column("examples")
    if len(seconds) < 2 or not seconds[-1] > seconds[0]:
        return None
    return float(examples[1:].sum() / (seconds[-1] - seconds[0]))


def compare_time(all_costs: list[Cost], runs: list[ComparedRun]) -> CostComparison:
    """The total time of each pair, or that of the training if not all recorded when their process began."""
    total = _cost("total_seconds", all_costs)
    training = _cost("train_seconds", all_costs)
    return _compare(total if len(_known(total)) == len(_known(training)) else training, runs)


def compare_speed(all_costs: list[Cost], runs: list[ComparedRun]) -> CostComparison:
    """The speed after the first step; of the whole training if there was only one step."""
    steady = _cost("steady_examples_per_second", all_costs)
    return _compare(steady if len(_known(steady)) > 1 else _cost("examples_per_second", all_costs), runs)


def compare_memory(all_costs: list[Cost], runs: list[ComparedRun]) -> CostComparison:
    """The peak memory of each pair."""
    return _compare(_cost("peak_memory_bytes", all_costs), runs)


def _compare(cost: Cost, runs: list[ComparedRun]) -> CostComparison:
    known = _known(cost)
    names = variant_pairs(run for run in runs if run.variant in known) if known else []
    first_runs = {variant: group[0] for variant, group in by_variant(runs).items()}
    completed = by_variant(run for run in runs if run.completed)
    pairs = [
        _pair(cost, first_runs[first], first_runs[second], min(len(completed[first]), len(completed[second])))
        for first, second in names
    ]
    return CostComparison(
        cost=cost.name,
        higher_is_better=cost.higher_is_better,
        is_same_machine=len(machines(runs)) <= 1,
        pairs=sorted(pairs, key=lambda pair: ("framework", "attention", "other").index(pair.differ_in)),
    )


def _pair(cost: Cost, first: ComparedRun, second: ComparedRun, fewest_runs: int) -> CostPair:
    known = _known(cost)
    medians = known[first.variant], known[second.variant]
    low, high = sorted(medians)
    better = first if medians[0] == (high if cost.higher_is_better else low) else second
    factor = high / low if low > 0 else None
    overlapping = _overlap(cost.variants[first.variant], cost.variants[second.variant])
    plain = PLAIN_FACTOR_OF_MEMORY if cost.unit == "bytes" else PLAIN_FACTOR_OF_TIME
    return CostPair(
        first=first.variant,
        second=second.variant,
        differ_in=_difference(first, second),
        first_median=medians[0],
        second_median=medians[1],
        better=better.variant,
        factor=factor,
        overlapping=overlapping,
        fewest_runs=fewest_runs,
        is_shown=not overlapping and (fewest_runs >= MIN_RUNS or (factor is not None and factor >= plain)),
    )


def _difference(first: ComparedRun, second: ComparedRun) -> Literal["framework", "attention", "other"]:
    same_framework, same_attention = first.framework == second.framework, first.attention == second.attention
    if same_framework == same_attention:
        return "other"
    return "attention" if same_framework else "framework"


def break_even(time: CostComparison, speed: CostComparison, runs: list[ComparedRun]) -> list[BreakEven]:
    """From how many examples on the faster framework takes less time in all, for each pair of frameworks.

    The time for n examples is taken to be a + n / speed, with a such that these runs took what they took.
    """
    if time.cost != "total_seconds" or not time.is_same_machine:
        return []
    speeds = {(pair.first, pair.second): pair for pair in speed.pairs}
    examples = {name: _examples(group) for name, group in by_variant(run for run in runs if run.completed).items()}
    found = []
    for pair in (pair for pair in time.pairs if pair.differ_in == "framework"):
        rates = speeds.get((pair.first, pair.second))
        if rates is None or not min(rates.first_median, rates.second_median) > 0:
            continue
        first_start = pair.first_median - examples[pair.first] / rates.first_median
        second_start = pair.second_median - examples[pair.second] / rates.second_median
        gained = 1 / rates.second_median - 1 / rates.first_median  # by the first variant, with each example
        if gained:
            found.append(
                BreakEven(
                    first=pair.first,
                    second=pair.second,
                    faster=rates.better,
                    examples=max(0.0, (first_start - second_start) / gained),
                    examples_of_run=examples[pair.first],
                )
            )
    return found


def _examples(runs: list[ComparedRun]) -> float:
    """How many training examples a run read."""
    return float(np.median([run.column("examples").sum() for run in runs]))


def _cost(name: str, all_costs: list[Cost]) -> Cost:
    (cost,) = (cost for cost in all_costs if cost.name == name)
    return cost


def _known(cost: Cost) -> dict[str, float]:
    """The medians of the variants that have one."""
    return {variant: row.median for variant, row in cost.variants.items() if row.median is not None}


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
