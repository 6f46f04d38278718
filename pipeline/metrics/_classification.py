"""What the classification metrics have in common: two columns of class ids, or of a 0 or 1 for each label."""

from __future__ import annotations

import datasets
import evaluate

from pipeline.metrics._columns import INTEGER, card

Classes = list[int] | list[list[int]]


def info(description: str, citation: str, multi_label: bool = False) -> evaluate.MetricInfo:
    """The card of a metric over predicted and true classes; with `multi_label`, lists of 0 and 1 are welcome too."""
    ids = {"predictions": INTEGER, "references": INTEGER}
    labels = {"predictions": datasets.List(INTEGER), "references": datasets.List(INTEGER)}
    if multi_label:
        return card(description, citation, "predictions and references: class ids, or lists of 0 and 1", ids, labels)
    return card(description, citation, "predictions and references: class ids", ids)


def is_multi_label(references: Classes) -> bool:
    """Whether each example has a list of 0 and 1, one for each label."""
    return isinstance(references[0], list)
