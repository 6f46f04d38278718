"""Predicted entities: how many of each type are right, and what became of the others."""

from __future__ import annotations

from collections import Counter

from seqeval.metrics.sequence_labeling import get_entities

from pipeline.comparison.records.predictions import ClassCounts, EntityErrors, TagDetails
from pipeline.metrics.resampling import Lines, lists_of_texts

Entity = tuple[str, int, int]  # type, first word, last word


def tag_details(lines: Lines) -> TagDetails:
    """Entities of all sentences, as seqeval reads them from the tags."""
    counts: Counter[tuple[str, str]] = Counter()  # by type and what is counted
    for predicted_tags, true_tags in zip(
        lists_of_texts(lines, "prediction"), lists_of_texts(lines, "reference"), strict=True
    ):
        predicted, true = set(get_entities(predicted_tags)), set(get_entities(true_tags))
        for entity in true:
            counts[entity[0], "true"] += 1
            counts[entity[0], _fate(entity, predicted)] += 1
        for entity in predicted:
            counts[entity[0], "predicted"] += 1
            counts[entity[0], "invented"] += not any(_overlap(entity, other) for other in true)
    types = sorted({kind for kind, _ in counts})
    return TagDetails(
        entities=[
            ClassCounts(
                name=kind, right=counts[kind, "right"], predicted=counts[kind, "predicted"], true=counts[kind, "true"]
            )
            for kind in types
        ],
        errors=[
            EntityErrors(
                name=kind,
                right=counts[kind, "right"],
                other_type=counts[kind, "other_type"],
                other_words=counts[kind, "other_words"],
                missed=counts[kind, "missed"],
                invented=counts[kind, "invented"],
            )
            for kind in types
        ],
    )


def _fate(entity: Entity, predicted: set[Entity]) -> str:
    """What became of a true entity."""
    if entity in predicted:
        return "right"
    if any(other[1:] == entity[1:] for other in predicted):
        return "other_type"
    return "other_words" if any(_overlap(entity, other) for other in predicted) else "missed"


def _overlap(one: Entity, other: Entity) -> bool:
    """Whether two entities share a word."""
    return one[1] <= other[2] and other[1] <= one[2]
