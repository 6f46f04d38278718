"""Evidence from the runs' own records that they were the same experiment: start, batches, learning rates, curves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from pipeline.comparison.records.sameness import (
    BatchDifference,
    Curve,
    Evaluation,
    OptimizationDifference,
    ProbeDifference,
)
from pipeline.comparison.results import RecipeDifference
from pipeline.comparison.run_set import ComparedRun, by_variant, differing_keys, runs_of_shared_seeds
from pipeline.models.attention_check import TOLERANCE

# bf16 has 8 bits: a model of a few layers rounds to about a percent of its largest logit.
BF16_TOLERANCE = 5e-2
# Dropout draws differ between the frameworks, so gradient norms do; their median over a run stays in this range.
USUAL_GRAD_NORM_RATIO = (0.5, 2.0)
CURVE_POINTS = 400

Pairs = list[tuple[str, str]]


def probe_differences(pairs: Pairs, runs: list[ComparedRun]) -> list[ProbeDifference]:
    """The probe's logits before training: the largest difference relative to the logits, as in the swap's proof."""
    differences = []
    for first, second, a, b in _runs_of_pairs(pairs, runs):
        fp32 = a.recipe.train.precision == b.recipe.train.precision == "fp32"
        tolerance = TOLERANCE if fp32 else BF16_TOLERANCE
        assert a.probe is not None and b.probe is not None
        same_shape, difference = a.probe.shape == b.probe.shape, None
        if same_shape:
            difference = float(np.abs(a.probe - b.probe).max() / max(1.0, np.abs(a.probe).max()))
        differences.append(
            ProbeDifference(
                first=first,
                second=second,
                seed=a.seed,
                max_difference=difference,
                tolerance=tolerance,
                same_shape=same_shape,
                within_tolerance=difference is not None and difference <= tolerance,
            )
        )
    return differences


def batch_differences(pairs: Pairs, runs: list[ComparedRun]) -> list[BatchDifference]:
    """The batches of the same seed: examples and tokens of every step, and the rows if both runs recorded them.

    If the sizes are equal, the first step with other rows is not known.
    """
    differences = []
    for first, second, a, b in _runs_of_pairs(pairs, runs):
        step = _first_different_step(a.sizes(), b.sizes(), a.recipe.train.early_stopping is not None)
        same = step is None and all(x == y for x, y in zip(a.batches, b.batches, strict=False))
        differences.append(
            BatchDifference(
                first=first,
                second=second,
                seed=a.seed,
                same=same,
                first_different_step=step,
                basis="rows" if a.batches and b.batches else "sizes",
                first_order_of_seed=None if same else seed_with_the_same_batches(a, runs),
                second_order_of_seed=None if same else seed_with_the_same_batches(b, runs),
            )
        )
    return differences


def optimization_differences(pairs: Pairs, runs: list[ComparedRun]) -> list[OptimizationDifference]:
    """The learning rate of every step, and the gradient norms: the median over steps of first divided by second."""
    differences = []
    for first, second, a, b in _runs_of_pairs(pairs, runs):
        length = min(len(a.history), len(b.history))
        rates = [run.column("learning_rate")[:length] for run in (a, b)]
        norms = [run.column("grad_norm")[:length] for run in (a, b)]
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = norms[0] / norms[1]
        ratios = ratios[np.isfinite(ratios)]
        differences.append(
            OptimizationDifference(
                first=first,
                second=second,
                seed=a.seed,
                learning_rate_max_difference=float(np.abs(rates[0] - rates[1]).max()),
                grad_norm_median_ratio=float(np.median(ratios)) if len(ratios) else None,
            )
        )
    return differences


def batch_sizes_vary(runs: Iterable[ComparedRun]) -> bool:
    """Whether sizes can tell batches apart: not if every step but the last has as many examples and tokens."""
    return any(len(np.unique(run.sizes(), axis=0)) > 2 for run in runs if run.completed)


def seed_with_the_same_batches(run: ComparedRun, runs: Iterable[ComparedRun]) -> int | None:
    """The seed of another run that has the same batches as this run; None if there is none."""
    others = [other for other in runs if other.completed and other.seed != run.seed]
    if all(other.batches for other in (run, *others)):
        matches = {other.seed for other in others if other.batches == run.batches}
    elif batch_sizes_vary([run]):
        matches = {other.seed for other in others if _first_different_step(run.sizes(), other.sizes()) is None}
    else:
        return None
    return min(matches) if matches else None


def curves(runs: list[ComparedRun]) -> dict[str, Curve]:
    """Loss with its range over seeds, smoothed too, gradient norm and learning rate of each variant, thinned."""
    thinned = {}
    for name, group in by_variant(run for run in runs if run.completed).items():
        length = min(len(run.history) for run in group)
        points = np.unique(np.linspace(0, length - 1, min(CURVE_POINTS, length)).round().astype(int))
        loss, grad_norm, learning_rate = (
            np.stack([run.column(key)[points] for run in group]) for key in ("loss", "grad_norm", "learning_rate")
        )
        all_losses = np.stack([run.column("loss")[:length] for run in group]).mean(axis=0)
        thinned[name] = Curve(
            step=[int(point) + 1 for point in points],
            loss_mean=_rounded(loss.mean(axis=0)),
            loss_low=_rounded(loss.min(axis=0)),
            loss_high=_rounded(loss.max(axis=0)),
            loss_smooth=_rounded(smoothed(all_losses)[points]),
            grad_norm=_rounded(grad_norm.mean(axis=0)),
            learning_rate=_rounded(learning_rate[0]),
        )
    return thinned


def smoothed(values: NDArray) -> NDArray:
    """The mean of the values around each, a twentieth of all together, and fewer near the ends; [steps]."""
    half = len(values) // 40
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    # As many on either side, so that a curve that falls is not moved up or down near its ends.
    reach = np.minimum(half, np.minimum(places, len(values) - 1 - places))
    return (sums[places + reach + 1] - sums[places - reach]) / (2 * reach + 1)


def evaluations(runs: list[ComparedRun]) -> dict[str, dict[int, list[Evaluation]]]:
    """The scores after each epoch, by variant and seed."""
    scores: dict[str, dict[int, list[Evaluation]]] = {}
    for run in runs:
        if run.completed:
            ends = {step.epoch: step.seconds for step in run.history}
            scores.setdefault(run.variant, {})[run.seed] = [
                Evaluation(epoch=evaluation.epoch, metrics=evaluation.metrics, seconds=ends.get(evaluation.epoch))
                for evaluation in run.completed_record.evaluations
            ]
    return scores


def recipe_differences(runs: list[ComparedRun]) -> list[RecipeDifference]:
    """The settings that are not the same in all runs, with each run's value."""
    alike: dict[tuple[str, str], list[ComparedRun]] = defaultdict(list)
    for run in runs:
        alike[run.framework, run.attention].append(run)
    compared = {key for group in alike.values() for key in differing_keys(group)}
    return [
        RecipeDifference(
            key=key, values={run.label: run.settings.get(key) for run in runs}, is_compared=key in compared
        )
        for key in differing_keys(runs)
    ]


def _runs_of_pairs(pairs: Pairs, runs: list[ComparedRun]) -> Iterator[tuple[str, str, ComparedRun, ComparedRun]]:
    for first, second in pairs:
        for a, b in runs_of_shared_seeds(runs, first, second):
            yield first, second, a, b


def _first_different_step(a: NDArray, b: NDArray, may_end: bool = False) -> int | None:
    """The first step, from 1, at which two records differ, or at which one ended although it may not."""
    length = min(len(a), len(b))
    different = np.flatnonzero((a[:length] != b[:length]).any(axis=1))
    if len(different):
        return int(different[0]) + 1
    return None if len(a) == len(b) or may_end else length + 1


def _rounded(values: NDArray) -> list[float | None]:
    return [float(f"{value:.6g}") for value in values]
