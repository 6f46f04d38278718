"""The control of a comparison: PyTorch against itself from a start in which each weight is off by one rounding.

Differences in rounding grow during training. How far PyTorch and its control are apart says how far two variants may
be apart and still do the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.comparison.examples import equal_predictions
from pipeline.comparison.lockstep import CONTROL_FACTOR, ROUNDING, Bounds
from pipeline.comparison.records.sameness import ControlComparison, PairDistance
from pipeline.comparison.run_set import ComparedRun, runs_of_shared_seeds
from pipeline.models.attention import STOCK
from pipeline.recipe.schema import Recipe

FRAMEWORK, ATTENTION = "torch", STOCK
RunPairs = list[tuple[ComparedRun, ComparedRun]]


def control_recipe(recipe: Recipe) -> Recipe | None:
    """The recipe of the control; None if the control says nothing about how far variants may be apart.

    With dropout masks of each framework's own, variants differ by more than rounding. In bf16, moving the fp32 weights
    by one rounding is a smaller change than the roundings of the computation.
    """
    train = recipe.train
    if train.precision != "fp32" or (train.dropout_masks == "framework" and train.dropout != 0.0):
        return None
    return recipe.model_copy(update={"perturb_weights": True})


def split_controls(runs: Iterable[ComparedRun]) -> tuple[list[ComparedRun], list[ComparedRun]]:
    """The runs to compare and the controls among them; all are to be compared if fewer than two would be left."""
    runs = list(runs)
    compared = [run for run in runs if not run.recipe.perturb_weights]
    if len(compared) < 2:
        return runs, []
    return compared, [run for run in runs if run.recipe.perturb_weights]


def compare_with_control(
    pairs: list[tuple[str, str]], runs: list[ComparedRun], controls: list[ComparedRun]
) -> ControlComparison | None:
    """How far the variants of each pair are apart, beside the control; None if no control has its run."""
    with_controls = runs_with_controls(runs, controls)
    if not with_controls:
        return None
    seeds = {run.seed for run, _ in with_controls}
    apart = _loss_distance(with_controls)
    distances = []
    for first, second in pairs:
        shared = [both for both in runs_of_shared_seeds(runs, first, second) if both[0].seed in seeds]
        if shared:
            distances.append(_pair_distance(first, second, shared, apart))
    return ControlComparison(
        seeds=sorted(seeds),
        first_step_over_rounding=_first_over_rounding(with_controls),
        loss_distance=apart,
        agree=_agreement(with_controls),
        seconds=sum(control.completed_record.train.seconds for _, control in with_controls),
        pairs=distances,
    )


def runs_with_controls(runs: list[ComparedRun], controls: Sequence[ComparedRun]) -> RunPairs:
    """Each run that has a control, with it: one of the same framework, attention, seed and experiment."""
    return [
        (run, control)
        for control in controls
        for run in runs
        if run.completed and control.completed and _is_control_of(control, run)
    ]


def _is_control_of(control: ComparedRun, run: ComparedRun) -> bool:
    same = (control.framework, control.attention, control.seed) == (run.framework, run.attention, run.seed)
    return same and control.recipe.experiment() == run.recipe.model_copy(update={"perturb_weights": True}).experiment()


def _pair_distance(first: str, second: str, shared: RunPairs, of_control: float) -> PairDistance:
    apart = _loss_distance(shared)
    return PairDistance(
        first=first,
        second=second,
        first_step_over_rounding=_first_over_rounding(shared),
        loss_distance=apart,
        share=apart / of_control if of_control else None,
        agree=_agreement(shared),
        within=apart <= max(Bounds().loss, CONTROL_FACTOR * of_control),
    )


def _loss_differences(a: ComparedRun, b: ComparedRun) -> NDArray[np.float64]:
    """The difference of each step's losses, relative to the loss, or to 1 where that is larger, [steps]."""
    length = min(len(a.history), len(b.history))
    first, second = a.column("loss")[:length], b.column("loss")[:length]
    return np.abs(first - second) / np.maximum(1.0, np.abs(first))


def _loss_distance(pairs: RunPairs) -> float:
    """The root mean square of the differences of all steps and seeds."""
    return float(np.sqrt(np.mean(np.concatenate([_loss_differences(a, b) for a, b in pairs]) ** 2)))


def _first_over_rounding(pairs: RunPairs) -> int | None:
    """The first step, from 1, at which the losses of a seed differ by more than rounding."""
    steps = [int(over[0]) + 1 for a, b in pairs if len(over := np.flatnonzero(~(_loss_differences(a, b) <= ROUNDING)))]
    return min(steps, default=None)


def _agreement(pairs: RunPairs) -> float | None:
    """The fraction of examples for which both runs predict the same, over all seeds; None without predictions."""
    if not all(run.predicts for both in pairs for run in both):
        return None
    return float(np.mean([equal for a, b in pairs for equal in equal_predictions(a, b)]))
