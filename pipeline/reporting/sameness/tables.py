"""The tables of what was the same in the trainings, and how far apart they are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from pipeline.comparison.records.sameness import BatchDifference, LockstepResult, ProbeDifference
from pipeline.comparison.results import Results
from pipeline.models.attention import described
from pipeline.reporting.elements import WORDS, Cell, Finding, Table
from pipeline.reporting.formatting import UNDEFINED, maximum, pair_name, ratio, small
from pipeline.utils.text import count

LOCKSTEP_TITLES = {
    "logits": "Initial logits, largest difference",
    "early_loss": "Loss of the first three steps",
    "early_parameters": "Parameters after three steps, relative to how far they moved",
    "loss": "Loss, largest difference of a step",
    "grad_norm": "Gradient norm, largest relative difference",
    "parameters": "Parameters at the end, relative to how far they moved",
}


def sameness(results: Results) -> Table:
    """Start, batches and optimization of each pair, all seeds together."""
    rows: list[list[Cell]] = []
    for pair in results.comparisons:
        names = (pair.first, pair.second)
        probe = [row for row in results.sameness.probe if (row.first, row.second) == names]
        batches = [row for row in results.sameness.batches if (row.first, row.second) == names]
        optimization = [row for row in results.sameness.optimization if (row.first, row.second) == names]
        ratios = [row.grad_norm_median_ratio for row in optimization if row.grad_norm_median_ratio is not None]
        rows.append([
            pair_name(pair),
            _start(probe),
            _batches(batches),
            small(maximum(row.learning_rate_max_difference for row in optimization)),
            f"{min(ratios):.3f} to {max(ratios):.3f}" if ratios else UNDEFINED,
        ])  # fmt: skip
    tolerances = sorted({f"{row.tolerance:.0e}" for row in results.sameness.probe})
    return Table(
        "The same start, the same batches, the same rates",
        ["Pair", "Logits before training", "Batches", "Learning rate, largest difference", "Gradient norm, ratio"],
        {"": rows},
        "Logits: the largest difference on the probe rows, relative to the largest logit, over all seeds "
        f"(tolerance {' or '.join(tolerances)}). {_what_of_batches(results.sameness.batches)} "
        "Gradient norm: the median over steps of first divided by second, lowest to highest seed.",
        num_texts=3,
    )


def _start(rows: list[ProbeDifference]) -> Cell:
    if not rows:
        return UNDEFINED
    far = [str(row.seed) for row in rows if not row.within_tolerance]
    largest = small(maximum(row.max_difference for row in rows))
    if far:
        return Finding("bad", WORDS["check"]["bad"], f"{largest}, over the tolerance in seed {', '.join(far)}")
    return Finding("good", WORDS["check"]["good"], largest)


def _what_of_batches(rows: list[BatchDifference]) -> str:
    """What of the batches was compared."""
    known = [row.basis == "rows" for row in rows]
    digests = "a digest of the rows of each epoch in their order"
    if all(known) and known:
        return f"Batches: the number of examples and tokens of every step, and {digests}."
    where = f"; {digests} only where both runs recorded it" if any(known) else "; their rows were not recorded by both"
    return f"Batches: the number of examples and tokens of every step{where}."


def _batches(rows: list[BatchDifference]) -> Cell:
    if not rows:
        return UNDEFINED
    different = [row for row in rows if not row.same]
    if not different:
        return Finding("good", "Same", f"in {count(len(rows), 'seed')}")
    where = ", ".join(
        f"seed {row.seed}" + ("" if row.first_different_step is None else f" from step {row.first_different_step}")
        for row in different
    )
    return Finding("bad", "Different", where)


def lockstep(stepped: Iterable[LockstepResult]) -> Table:
    """The largest differences of the lock-step beside those of the control, and what is allowed."""
    groups: dict[str, list[list[Cell]]] = {}
    for result in stepped:
        rows: list[list[Cell]] = []
        for name, difference in result.differences.items():
            bound = result.bounds[name]
            within = difference is not None and difference <= bound
            check = Finding("good", "Within") if within else Finding("bad", "Over")
            control = small(result.control.get(name))
            rows.append([LOCKSTEP_TITLES[name], check, small(difference), control, f"{bound:.0e}"])
        worst = f"; the parameter that differs most is {result.worst_parameter}" if result.worst_parameter else ""
        masks = "same dropout masks" if result.dropout else "no dropout"
        groups[f"{described(result.attention)}, {count(result.steps, 'step')}, {masks}{worst}"] = rows
    return Table(
        "Step by step, fp32",
        ["Quantity", "Check", "Difference", "Control", "Allowed"],
        groups,
        "Difference: PyTorch against TensorFlow from the same weights over the same batches. Control: PyTorch against "
        "itself from starts in which each weight is off by one rounding, the largest difference of several such "
        "starts. Allowed: a fixed bound, or three times the control's difference if that is larger. Losses are "
        "compared relative to the loss, or to 1 where that is larger.",
        num_texts=2,
    )


def control(results: Results) -> Table:
    """How far whole trainings are apart, beside PyTorch and its control."""
    found = results.sameness.control
    if found is None or not found.pairs:
        return Table("", [], {})
    rows: list[list[Cell]] = []
    for pair in found.pairs:
        share = UNDEFINED if pair.share is None else ratio(pair.share)
        cell = Finding("good", "Within", share) if pair.within else Finding("bad", "Over", share)
        agree = UNDEFINED if pair.agree is None else f"{pair.agree:.1%}"
        step = str(pair.first_step_over_rounding or "never")
        rows.append([f"{pair.first} and {pair.second}", cell, small(pair.loss_distance), step, agree])
    agree = UNDEFINED if found.agree is None else f"{found.agree:.1%}"
    step = str(found.first_step_over_rounding or "never")
    rows.append(["control: torch/stock and itself", UNDEFINED, small(found.loss_distance), step, agree])
    return Table(
        "Whole trainings, beside the control",
        ["Pair", "Of the control", "Difference in loss", "First step apart by more than rounding", "Same predictions"],
        {"": rows},
        "The control is torch/stock trained once more from a start in which each weight is moved to the next fp32 "
        f"number, with {count(len(found.seeds), 'seed')} ({found.seconds or 0:,.0f} s of training in all). Difference "
        "in loss: the root mean square over all steps and seeds, relative to the loss, or to 1 where that is larger; "
        "within: at most three times the control's. First step apart by more than rounding: the "
        "earliest step of any seed at which the difference is more than 1e-6.",
        num_texts=2,
    )


def map_differences(results: Results) -> Table:
    """How far the attention maps of two frameworks differ, layer by layer; empty if their tokens differ."""
    maps = results.attention_maps
    if len(maps) < 2 or any((other.tokens, other.written) != (maps[0].tokens, maps[0].written) for other in maps):
        return Table("", [], {})
    groups: dict[str, list[list[Cell]]] = defaultdict(list)
    for other in maps[1:]:
        rows = groups[f"{maps[0].variant} and {other.variant}"]
        for layer, (ours, theirs) in enumerate(zip(maps[0].weights, other.weights, strict=True), start=1):
            distances = [abs(a - b) for a, b in zip(_flat(ours), _flat(theirs), strict=True)]
            rows.append(_map_row(layer, max(distances), sum(distances) / len(distances)))
    for layer, control in enumerate(results.map_control, start=1):
        groups["control: torch/stock and itself"].append(_map_row(layer, control.largest, control.mean))
    heads = ["Largest difference of a weight", "Mean difference"]
    note = "The control is that of the whole trainings, with one seed: its start is off by one rounding."
    return Table("How far the maps differ", ["Layer", *heads], groups, note if results.map_control else "")


def _map_row(layer: int, largest: float, mean: float) -> list[Cell]:
    return [str(layer), f"{largest:.3f}", f"{mean:.4f}"]


def _flat(weights: list[list[list[float]]]) -> list[float]:
    return [number for head in weights for row in head for number in row]
