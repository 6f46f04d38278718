"""Precision, recall and F1 of whole entities, through the `seqeval` library.

An entity counts as found where its type, its first and its last word are right. A tag I-x that no B-x precedes opens an
entity, as in CoNLL-2000's script: seqeval's default mode.
"""

from __future__ import annotations

import datasets
import evaluate
from seqeval.metrics.sequence_labeling import get_entities, precision_recall_fscore_support

from pipeline.metrics._columns import TEXT, card

Tags = list[list[str]]

_PLACE = {"precision": 0, "recall": 1, "f1": 2}


def info(description: str) -> evaluate.MetricInfo:
    """The card of a metric over predicted and true tags."""
    tags = datasets.List(TEXT)
    return card(
        description,
        "Nakayama 2018, seqeval; Ramshaw and Marcus 1995",
        "predictions and references: lists of tags, IOB2",
        {"predictions": tags, "references": tags},
    )


def values(name: str, predictions: Tags, references: Tags) -> dict[str, float]:
    """`name` (seqeval_f1 and so on) over all entities, then name.TYPE for each type that is predicted or true.

    What would divide by zero is 0: the precision of a type that is never predicted, or everything without entities.
    """
    place = _PLACE[name.removeprefix("seqeval_")]
    overall, each = (
        precision_recall_fscore_support(references, predictions, average=average, zero_division=0)[place]
        for average in ("micro", None)
    )
    types = sorted({entity[0] for tags in (predictions, references) for entity in get_entities(tags)})
    by_type = {f"{name}.{kind}": float(value) for kind, value in zip(types, each, strict=True)}
    return {name: float(overall)} | by_type
