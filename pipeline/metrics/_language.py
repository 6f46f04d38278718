"""What the metrics of language models have in common: sums per example, divided once at the end."""

from __future__ import annotations

import math

import evaluate

from pipeline.metrics._columns import INTEGER, NUMBER, card


def info(description: str, citation: str, total: str, count: str, meaning: str) -> evaluate.MetricInfo:
    """The card of a metric over two columns: `total`, which `meaning` explains, and the `count` that divides it."""
    kind = INTEGER if total == "correct" else NUMBER
    return card(description, citation, f"{total}: {meaning}; {count}: how many", {total: kind, count: INTEGER})


def mean(totals: list[float], counts: list[int]) -> float:
    """The sum of `totals` over the sum of `counts`: long examples weigh as much as their tokens."""
    assert sum(counts) > 0, "nothing was counted"
    return math.fsum(totals) / sum(counts)


def exponential(nats: float) -> float:
    """exp(nats), or infinity where that is more than a float holds (about 709 nats)."""
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf
