"""The sentences that say whether trainings are the same: what proves it, and what shows that they are not."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from typing import TypeVar

from pipeline.comparison.records.sameness import (
    BatchDifference,
    ControlComparison,
    LockstepResult,
    OptimizationDifference,
    PairDistance,
    ProbeDifference,
)
from pipeline.comparison.records.scores import PairComparison
from pipeline.comparison.results import RecipeDifference, Results
from pipeline.comparison.statistics.equivalence import MIN_SEEDS
from pipeline.models.attention import described
from pipeline.reporting.formatting import largest, spread
from pipeline.utils.text import count, factor, join_names

MAX_NAMED = 3
_PairRow = TypeVar("_PairRow", ProbeDifference, BatchDifference, OptimizationDifference)
_Pair = TypeVar("_Pair", PairComparison, PairDistance)


def evidence(results: Results) -> list[str]:
    """What lock-step and the control show, a sentence for each."""
    stepped = [result for result in results.sameness.lockstep if result.num_controls]
    control = results.sameness.control
    in_lockstep = _lockstep_evidence(stepped, compared_steps(results)) if stepped else []
    return [*in_lockstep, *(_control_evidence(results, control) if control else [])]


def across_and_within(results: Results, pairs: Iterable[_Pair]) -> tuple[list[_Pair], list[_Pair]]:
    """The pairs of variants of two frameworks, and those of one framework."""
    frameworks = {variant.name: variant.framework for variant in results.variants}
    across, within = [], []
    for pair in pairs:
        (within if frameworks.get(pair.first) == frameworks.get(pair.second) else across).append(pair)
    return across, within


def shares_of(pairs: Iterable[PairDistance]) -> str:
    """'1.07 to 1.16': how many times as far apart as the control the pairs are; empty if that of none is known."""
    shares = [pair.share for pair in pairs if pair.share is not None]
    return spread(shares, ".3g") if shares else ""


def compared_steps(results: Results) -> str:
    """'the first 50 of 375 steps': how much of a whole training was compared in lock-step."""
    steps = min(result.steps for result in results.sameness.lockstep)
    whole = max((run.train.steps for run in results.runs if run.train), default=steps)
    if steps > whole:
        return f"{count(steps, 'step')}, more than the {whole:,} of a training,"
    return f"the first {steps:,} of {count(whole, 'step')}" if steps < whole else f"all {count(steps, 'step')}"


def _lockstep_evidence(stepped: list[LockstepResult], compared: str) -> list[str]:
    shares = {
        described(result.attention): ours / theirs
        for result in stepped
        if (ours := result.differences["parameters"]) is not None and (theirs := result.control.get("parameters"))
    }
    steps = [result.first_step_over_rounding for result in stepped]
    first = min((step for step in steps if step is not None), default=None)
    until = "in all of them" if first is None else _until(first)
    seeds = sorted({result.seed for result in stepped if result.seed is not None})
    of_seed = f" of seed {', '.join(map(str, seeds))}" if seeds else ""
    equal = f"In lock-step, {compared}{of_seed} were taken, and the losses are equal except for rounding {until}"
    if not shares:
        return [f"{equal}."]
    each = " and ".join(f"{factor(share)} times ({name})" for name, share in shares.items())
    return [
        f"{equal}. After the last of them the parameters of PyTorch and TensorFlow differ {each} as much as those of "
        "two PyTorch trainings whose first weights differ by one rounding."
    ]


def _control_evidence(results: Results, control: ControlComparison) -> list[str]:
    within = [pair for pair in control.pairs if pair.within]
    if not within or len(within) < len(control.pairs):
        return []
    steps = [pair.first_step_over_rounding for pair in within]
    first = min((step for step in steps if step is not None), default=None)
    if first is None:
        return ["In whole trainings the losses are equal except for rounding until the end."]
    which = "pair and seed" if len(within) > 1 else "seed"
    text = (
        f"In whole trainings of {count(len(control.seeds), 'seed')}, step {first} is the earliest of any {which} at "
        "which the losses differ by more than rounding"
    )
    kinds = zip(("across frameworks", "within a framework"), across_and_within(results, within), strict=True)
    shares = [f"{shares} times as much {kind}" for kind, pairs in kinds if (shares := shares_of(pairs))]
    if not shares:
        return [f"{text}."]
    text += (
        f". Over all steps they differ {' and '.join(shares)} as those of two PyTorch trainings whose first weights "
        "differ by one rounding, which is within the bound."
    )
    agreed = [pair.agree for pair in within if pair.agree is not None]
    if control.agree is None or not agreed:
        return [text]
    return [
        text,
        f"Predictions agree in {spread(agreed, '.1%')} of the rows, those of the two PyTorch trainings in "
        f"{control.agree:.1%}.",
    ]


def _until(step: int | None) -> str:
    """How long something holds that first fails at `step`."""
    return "until the end" if step is None else f"until step {step}"


def is_explained_by_rounding(results: Results) -> bool:
    """Whether each pair has the same batches and starts and ends no further apart than the control's trainings."""
    control = results.sameness.control
    if control is None or len(control.seeds) < MIN_SEEDS:
        return False
    within = {(pair.first, pair.second) for pair in control.pairs if pair.within}
    return all((pair.first, pair.second) in within for pair in results.comparisons)


def faults(results: Results) -> list[str]:
    """What in the records shows that the experiments are not the same, whatever the scores."""
    return [
        *_recipe_faults(results.recipe_differences),
        *_probe_faults(results),
        *_batch_faults(results),
        *_rate_faults(results),
        *_lockstep_faults(results),
        *(further_apart(results) if has_enough_controls(results) else []),
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
            size = f"differ by up to {largest(row.max_difference for row in rows)}"
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
        f"{largest(row.learning_rate_max_difference for row in rows)}"
        for (first, second), rows in _by_pair(different).items()
    ]


def _lockstep_faults(results: Results) -> list[str]:
    faults = []
    for result in (result for result in results.sameness.lockstep if not result.same):
        over = [
            f"{name.replace('_', ' ')} {largest([difference])} (allowed {result.bounds[name]:.0e})"
            for name, difference in result.differences.items()
            if difference is None or not difference <= result.bounds[name]
        ]
        faults.append(
            f"in lock-step with {described(result.attention)} PyTorch and TensorFlow differ: {', '.join(over)}"
        )
    return faults


def further_apart(results: Results) -> list[str]:
    """The pairs of variants that are further apart than rounding explains."""
    control = results.sameness.control
    return [
        f"the losses of {pair.first} and {pair.second} are {factor(pair.share)} times as far apart as those of two "
        "PyTorch trainings whose first weights differ by one rounding"
        for pair in (control.pairs if control else [])
        if not pair.within and pair.share is not None
    ]


def has_enough_controls(results: Results) -> bool:
    """Whether there are enough controls: with few, rounding may by chance begin to grow late in all of them."""
    return results.sameness.control is not None and len(results.sameness.control.seeds) >= MIN_SEEDS


def sameness_lead(results: Results) -> str:
    """Why the report shows more than scores, and what was compared."""
    if not results.comparisons:
        return "There are no two variants to compare."
    alike = results.of_one_recipe()
    left_out = "Variants of different recipes are left out here: nothing of them has to be the same."
    if not alike.comparisons:
        return f"No two variants have the same recipe. {left_out}"
    steps = ", and the steps themselves one by one" if results.sameness.lockstep else ""
    why = (
        "Scores alone cannot tell: two different trainings can score alike. So the start and the batches of every step "
        f"were compared{steps}."
    )
    is_partial = len(alike.comparisons) < len(results.comparisons)
    return " ".join([why, *evidence(alike), *([left_out] if is_partial else [])])


def _by_pair(rows: Iterable[_PairRow]) -> dict[tuple[str, str], list[_PairRow]]:
    groups: dict[tuple[str, str], list[_PairRow]] = defaultdict(list)
    for row in rows:
        groups[row.first, row.second].append(row)
    return groups
