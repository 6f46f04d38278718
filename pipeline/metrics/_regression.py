"""What the metrics of numbers have in common: two columns of numbers, and correlations that are always defined."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import evaluate

from pipeline.metrics._columns import NUMBER, card


def info(description: str, citation: str) -> evaluate.MetricInfo:
    """The card of a metric over predicted and true numbers."""
    columns = {"predictions": NUMBER, "references": NUMBER}
    return card(description, citation, "predictions and references: numbers", columns)


def correlation(measure: Callable[..., Any], predictions: list[float], references: list[float]) -> float:
    """`measure` (of scipy.stats) of the two, or 0 where either is constant.

    A constant has no correlation: the formula divides 0 by 0. It tells no example from another, which is what 0
    says, and NaN is not JSON.
    """
    if len(set(predictions)) == 1 or len(set(references)) == 1:
        return 0.0
    return float(measure(predictions, references).statistic)
