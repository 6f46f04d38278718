"""The card of a metric: what it says of itself and the columns it reads."""

from __future__ import annotations

import datasets
import evaluate

INTEGER = datasets.Value("int64")
NUMBER = datasets.Value("float64")
TEXT = datasets.Value("string")


def card(description: str, citation: str, inputs: str, *kinds: dict) -> evaluate.MetricInfo:
    """A card whose columns are those of one of `kinds`; the first example decides which.

    Every kind has the same column names. `inputs` says in words what a column holds.
    """
    features = [datasets.Features(kind) for kind in kinds]
    return evaluate.MetricInfo(
        description=description,
        citation=citation,
        inputs_description=inputs,
        features=features if len(features) > 1 else features[0],
    )
