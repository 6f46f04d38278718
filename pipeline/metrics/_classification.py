"""What the classification metrics have in common: two columns of class ids."""

from __future__ import annotations

import datasets
import evaluate


def info(description: str, citation: str) -> evaluate.MetricInfo:
    """The card of a metric over predicted and true class ids."""
    return evaluate.MetricInfo(
        description=description,
        citation=citation,
        inputs_description="predictions and references: class ids",
        features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
    )
