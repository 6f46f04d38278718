"""What the report says is wrong or doubtful: settings, starts, batches or steps that differ, and runs that failed."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from typing import TypeVar

from pipeline.comparison.results import (
    BatchDifference,
    OptimizationDifference,
    ProbeDifference,
    Problem,
    RecipeDifference,
    Results,
    RunSummary,
    Statement,
)
from pipeline.comparison.same_experiment import USUAL_GRAD_NORM_RATIO
from pipeline.comparison.statistics.equivalence import MIN_SEEDS
from pipeline.utils.text import factor, join_names

MAX_NAMED = 3

_PairRow = TypeVar("_PairRow", ProbeDifference, BatchDifference, OptimizationDifference)


def faults(results: Results) -> list[str]:
    """What in the records shows that the experiments are not the same, whatever the scores."""
    return [
        *_recipe_faults(results.recipe_differences),
        *_probe_faults(results),
        *_batch_faults(results),
        *_rate_faults(results),
        *_lockstep_faults(results),
        *(_further_apart(results) if _has_enough_controls(results) else []),
    ]


def _recipe_faults(differences: list[RecipeDifference]) -> list[str]:
    faults = []
    for difference in differences:
        runs_by_value = defaultdict(list)
        for run, value in difference.values.items():
            runs_by_value[json.dumps(value, ensure_ascii=False)].append(run)
        values = "; ".join(f"{value} in {join_names(runs, MAX_NAMED)}" for value, runs in runs_by_value.items())
        faults.append(f"the setting {difference.key} differs: {values}")
    return faults


def _probe_faults(results: Results) -> list[str]:
    faults = []
    far = [row for row in results.sameness.probe if not row.within_tolerance]
    for (first, second), rows in _by_pair(far).items():
        if all(row.same_shape for row in rows):
            size = f"differ by up to {_largest(row.max_difference for row in rows)}"
        else:
            size = "have other shapes"
        seeds = f"seed {', '.join(str(row.seed) for row in rows)}"
        faults.append(
            f"the start of {first} and {second} is not the same function: the logits before training {size} "
            f"(tolerance {rows[0].tolerance:.0e}, {seeds})"
        )
    return faults


def _batch_faults(results: Results) -> list[str]:
    faults = []
    for (first, second), rows in _by_pair(row for row in results.sameness.batches if not row.same).items():
        seeds = ", ".join(f"seed {row.seed}{_since(row.first_different_step)}" for row in rows)
        text = f"the batches of {first} and {second} are not the same: {seeds}"
        for row in rows:
            for variant, other in ((first, row.first_order_of_seed), (second, row.second_order_of_seed)):
                if other is not None:
                    text += f"; the batches of {variant} seed {row.seed} are those of seed {other}"
        faults.append(text)
    return faults


def _since(step: int | None) -> str:
    return ", of equal sizes but other rows" if step is None else f" from step {step} on"


def _rate_faults(results: Results) -> list[str]:
    different = [
        row
        for row in results.sameness.optimization
        if row.learning_rate_max_difference is None or row.learning_rate_max_difference > 1e-12
    ]
    return [
        f"the learning rates of {first} and {second} differ by up to "
        f"{_largest(row.learning_rate_max_difference for row in rows)}"
        for (first, second), rows in _by_pair(different).items()
    ]


def _lockstep_faults(results: Results) -> list[str]:
    faults = []
    for result in (result for result in results.sameness.lockstep if not result.same):
        over = [
            f"{name.replace('_', ' ')} {_largest([difference])} (allowed {result.bounds[name]:.0e})"
            for name, difference in result.differences.items()
            if difference is None or not difference <= result.bounds[name]
        ]
        faults.append(
            f"in lock-step with {result.attention} attention PyTorch and TensorFlow differ: {', '.join(over)}"
        )
    return faults


def _further_apart(results: Results) -> list[str]:
    """The pairs of variants that are further apart than rounding explains."""
    control = results.sameness.control
    return [
        f"the losses of {pair.first} and {pair.second} are {factor(pair.share)} times as far apart as those of two "
        "PyTorch trainings whose first weights differ by one rounding"
        for pair in (control.pairs if control else [])
        if not pair.within and pair.share is not None
    ]


def _has_enough_controls(results: Results) -> bool:
    """Whether there are enough controls: with few, rounding may by chance begin to grow late in all of them."""
    return results.sameness.control is not None and len(results.sameness.control.seeds) >= MIN_SEEDS


def failures(runs: list[RunSummary]) -> list[str]:
    """The runs that failed."""
    return [f"the run {run.label} failed; the end of its log is below" for run in runs if not run.completed]


def problem_statement(problem: Problem) -> Statement:
    """What the comparison itself could not do, or found contradicted."""
    if problem.code == "different_example_counts":
        text = "the runs have predictions for different numbers of examples, so these are not resampled"
        return Statement(state="bad", sentence=text)
    if problem.code == "score_not_reproduced":
        text = f"the recorded {problem.metric} of {problem.run} is {problem.recorded:.4g}, "
        return Statement(state="bad", sentence=f"{text}but its predictions.jsonl gives {problem.recomputed:.4g}")
    if problem.code == "attention_map_failed":
        text = f"the attention of {problem.run} could not be drawn: {problem.error}"
    elif problem.code == "control_failed":
        text = f"the control of {problem.run} failed: {problem.error}"
    elif problem.code == "lockstep_failed":
        text = f"the lock-step with {problem.attention} attention failed: {problem.error}"
    else:
        text = (
            "the data or the checkpoint changed since the runs, so a lock-step would say nothing about them; repeat "
            "the runs to have one"
        )
    return Statement(state="unknown", sentence=text)


def doubts(results: Results) -> list[str]:
    """What is not a fault, but keeps a careful reader from being sure."""
    doubts = [] if _has_enough_controls(results) else _further_apart(results)
    low, high = USUAL_GRAD_NORM_RATIO
    for row in results.sameness.optimization:
        ratio = row.grad_norm_median_ratio
        if ratio is not None and not low <= ratio <= high:
            names = f"{row.first} and {row.second} in seed {row.seed}"
            doubts.append(f"the gradient norms of {names} have a ratio of {ratio:.2f}, far from 1")
    for run in results.runs:
        undefined = [name for name, value in run.metrics.items() if value is None]
        if undefined:
            doubts.append(f"undefined in {run.label}: {', '.join(undefined)}; the run may have diverged")
    resumed = [run.label for run in results.runs if run.train and run.train.resumed_at]
    if resumed:
        doubts.append(f"these runs were resumed, which changes their speed and first step: {', '.join(resumed)}")
    by_size = any(row.basis == "sizes" for row in results.sameness.batches)
    if by_size and not results.sameness.batch_sizes_vary:
        doubts.append(
            "all steps have about the same size, and not all runs recorded their rows, so the order of the data is not "
            "shown to be the same"
        )
    return doubts


def machine_doubts(results: Results) -> list[str]:
    """What keeps a careful reader from comparing speeds."""
    doubts = []
    if len(results.machines) > 1:
        names = "; ".join(f"{machine.processor}, {machine.cores} cores" for machine in results.machines)
        doubts.append(f"the runs were made on different machines, so their speeds cannot be compared: {names}")
    for machine in results.machines:
        mixed = [f"{name} {' and '.join(several)}" for name, several in machine.versions.items() if len(several) > 1]
        if mixed:
            doubts.append(f"versions differ between the runs: {', '.join(mixed)}")
    threads = {_threads(run) for run in results.runs if run.completed}
    if len(threads) > 1:
        doubts.append(f"the runs had different numbers of threads ({', '.join(sorted(threads))}), which changes speed")
    return doubts


def _threads(run: RunSummary) -> str:
    """Runs of earlier versions recorded "default" for TensorFlow's own choice, which was one for each core."""
    environment = run.environment
    assert environment is not None, "completed runs have one"
    return str(environment.cores) if environment.threads == "default" else environment.threads


def _by_pair(rows: Iterable[_PairRow]) -> dict[tuple[str, str], list[_PairRow]]:
    groups: dict[tuple[str, str], list[_PairRow]] = defaultdict(list)
    for row in rows:
        groups[row.first, row.second].append(row)
    return groups


def _largest(numbers: Iterable[float | None]) -> str:
    """The largest number; one that is undefined is larger than all."""
    known = list(numbers)
    return "an undefined amount" if None in known else f"{max(number for number in known if number is not None):.2g}"
