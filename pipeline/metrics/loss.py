"""The mean loss, which every evaluation records beside the metrics of the recipe.

It is no `evaluate.Metric` and no recipe lists it: it comes from the same loss that training minimizes, without label
smoothing and class weights, in nats a target (for regression, the squared error).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pipeline.metrics.resampling import Lines, Statistic, finite_numbers, mean, ratio

LOSS = "loss"


class HasLoss(Protocol):
    """A scored example: the sum of its targets' losses, and how many targets it has."""

    @property
    def loss(self) -> float: ...
    @property
    def num_targets(self) -> int: ...


def mean_loss(scored: Sequence[HasLoss]) -> float:
    """The mean over all targets: an example weighs as much as it has targets."""
    return sum(example.loss for example in scored) / sum(example.num_targets for example in scored)


def loss_statistic(lines: Lines) -> Statistic | None:
    """The mean loss of resampled examples; None if predictions.jsonl does not hold what each one adds to it."""
    of_tokens = ratio(lines, "loss_sum", "tokens")
    if of_tokens is not None:
        return of_tokens
    numbers = finite_numbers(lines)
    return None if numbers is None else mean((numbers[0] - numbers[1]) ** 2)
