"""What the metrics of generated text have in common: a text, and one or more references."""

from __future__ import annotations

from itertools import zip_longest

import datasets
import evaluate

from pipeline.metrics._columns import TEXT, card


def info(description: str, citation: str) -> evaluate.MetricInfo:
    """The card of a metric over generated texts and their references."""
    return card(
        description,
        citation,
        "predictions: texts; references: lists of one or more texts",
        {"predictions": TEXT, "references": datasets.List(TEXT)},
    )


def check(references: list[list[str]]) -> None:
    """Raises ValueError where an example has no reference: it could be scored by no rule."""
    for number, texts in enumerate(references, start=1):
        if not texts:
            raise ValueError(f"example {number} has no reference; want one or more")


def streams(references: list[list[str]]) -> list[list[str | None]]:
    """References as sacrebleu wants them: the first ones of all examples, then the second ones and so on.

    None fills up where an example has fewer; sacrebleu leaves it out, while an empty text would be a reference.
    """
    check(references)
    return [list(stream) for stream in zip_longest(*references)]
