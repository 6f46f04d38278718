"""Names of classes and tags: where they come from, their order, and what a model's config says about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import datasets

from pipeline.utils.text import join_names

# So many names stand in a message.
MOST_NAMES = 10


def class_names(rows: datasets.Dataset, column: str) -> tuple[str, ...] | None:
    """The names of a ClassLabel column, or of a column of lists of them; None for another type."""
    feature = rows.features[column]
    feature = getattr(feature, "feature", feature)
    return tuple(feature.names) if isinstance(feature, datasets.ClassLabel) else None


def in_checkpoint_order(names: tuple[str, ...], checkpoint_labels: Mapping[str, int]) -> tuple[str, ...]:
    """The label names in the order of the checkpoint, if it has the same ones; else as they are."""
    is_same = set(names) == set(checkpoint_labels)
    return tuple(sorted(names, key=checkpoint_labels.__getitem__)) if is_same else names


def label_maps(labels: tuple[str, ...]) -> dict[str, Any]:
    """The settings of a config that give the labels their names and numbers."""
    return {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {name: i for i, name in enumerate(labels)},
    }


def listed(names: Sequence[str]) -> str:
    """Label names for a message: the first ten, and how many more there are."""
    return join_names(names, MOST_NAMES)
