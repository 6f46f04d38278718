"""Metrics of whole entities in tagged words, computed by the `seqeval` library.

An entity is right if its type, its first word and its last word are. A tag I-x that no B-x precedes opens an entity, as
in the script of CoNLL-2000: the default mode of seqeval.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import datasets
import numpy as np
from numpy.typing import NDArray
from seqeval.metrics.sequence_labeling import get_entities, precision_recall_fscore_support

from pipeline.metrics.base import TEXT, Inputs, Metric
from pipeline.metrics.resampling import Lines, Statistic, Sums, divide, lists_of_texts

Tags = list[list[str]]
TAGS = Inputs(
    "predictions and references: lists of tags, IOB2",
    ({"predictions": datasets.List(TEXT), "references": datasets.List(TEXT)},),
)
# Where they stand in what seqeval returns.
_PLACES = {"seqeval_precision": 0, "seqeval_recall": 1, "seqeval_f1": 2}


class EntityMetric(Metric):
    """A metric of all entities together, and of each entity type as NAME.TYPE."""

    name_in_results: ClassVar[str]
    source = "Nakayama 2018, seqeval; Ramshaw and Marcus 1995"
    inputs = TAGS

    def _compute(self, predictions: Tags, references: Tags) -> dict[str, float]:
        """Of every type that is predicted or true; 0 instead of a division by 0, as for a type never predicted."""
        name = self.name_in_results
        overall, by_type = (_of_library(name, predictions, references, average) for average in ("micro", None))
        types = sorted({entity[0] for tags in (predictions, references) for entity in get_entities(tags)})
        values = {f"{name}.{kind}": float(value) for kind, value in zip(types, by_type, strict=True)}
        return {name: float(overall)} | values

    @classmethod
    @abstractmethod
    def of_counts(cls, right_R: NDArray, predicted_R: NDArray, true_R: NDArray) -> NDArray:
        """The metric from the numbers of entities that are right, predicted and true."""

    @classmethod
    def statistic(cls, lines: Lines, labels: Sequence[str]) -> Statistic | None:
        """From the entities of each example."""
        return cls._from_entities(lines, None)

    @classmethod
    def part_statistic(cls, part: str, lines: Lines, labels: Sequence[str]) -> Statistic | None:
        """From the entities of one type."""
        return cls._from_entities(lines, part)

    @classmethod
    def _from_entities(cls, lines: Lines, entity_type: str | None) -> Statistic | None:
        if "prediction" not in lines[0]:
            return None
        counts = []
        for pair in zip(lists_of_texts(lines, "prediction"), lists_of_texts(lines, "reference"), strict=True):
            predicted, true = (
                {entity for entity in get_entities(tags) if entity_type in (None, entity[0])} for tags in pair
            )
            counts.append((len(predicted & true), len(predicted), len(true)))
        return Sums(np.array(counts, dtype=np.float64), lambda sums_RK: cls.of_counts(*sums_RK.T))


class SeqevalF1(EntityMetric):
    """F1 of whole entities, 0 to 1; seqeval_f1.TYPE for each entity type."""

    name_in_results = "seqeval_f1"

    @classmethod
    def of_counts(cls, right_R: NDArray, predicted_R: NDArray, true_R: NDArray) -> NDArray:
        """The harmonic mean of precision and recall."""
        return divide(2 * right_R, predicted_R + true_R)


class SeqevalPrecision(EntityMetric):
    """The share of predicted entities that are right, 0 to 1; seqeval_precision.TYPE for each entity type."""

    name_in_results = "seqeval_precision"

    @classmethod
    def of_counts(cls, right_R: NDArray, predicted_R: NDArray, true_R: NDArray) -> NDArray:
        """Right ones among those predicted."""
        return divide(right_R, predicted_R)


class SeqevalRecall(EntityMetric):
    """The share of true entities that are predicted, 0 to 1; seqeval_recall.TYPE for each entity type."""

    name_in_results = "seqeval_recall"

    @classmethod
    def of_counts(cls, right_R: NDArray, predicted_R: NDArray, true_R: NDArray) -> NDArray:
        """Right ones among those true."""
        return divide(right_R, true_R)


def _of_library(name: str, predictions: Tags, references: Tags, average: str | None) -> NDArray:
    """With "micro" one number, []; without an average a number for each type in alphabetical order, [types]."""
    zero: Any = 0  # what a division by 0 gives; the types of seqeval know only its default, "warn"
    scores = precision_recall_fscore_support(references, predictions, average=average, zero_division=zero)
    return np.asarray(scores[_PLACES[name]])
