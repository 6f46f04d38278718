"""Names of classes and tags: where they come from, their order, and what a model's config says about them."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, cast

import datasets

from pipeline.data.table import values_of
from pipeline.utils.text import join_names

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# How many names a message lists.
MOST_NAMES = 10
# A label as the data have it: a text, a number, or the id of a ClassLabel column.
Label = str | int
WHOLE_NUMBER = re.compile(r"[+-]?\d{1,18}", re.ASCII)


@dataclass(frozen=True)
class LabelNaming:
    """How the labels of the data become names of classes.

    `names` are those that the recipe gives, in order, or None if the data name their classes themselves. `name_of` has
    the name for a label as it is written. With `reads_vectors` each row has a 0 or a 1 for every name.
    """

    names: tuple[str, ...] | None = None
    name_of: Mapping[str, str] = field(default_factory=dict)
    reads_vectors: bool = False

    def names_of(self, value: Label | list[Label], stored_names: tuple[str, ...] | None) -> tuple[str, ...]:
        """The names of a row's label or labels; `stored_names` are those of a ClassLabel column."""
        values = value if isinstance(value, list) else [value]
        if self.reads_vectors:
            assert self.names is not None
            return tuple(name for name, is_set in zip(self.names, values, strict=True) if float(is_set) == 1)
        written = [str(v) if stored_names is None or isinstance(v, str) else stored_names[v] for v in values]
        return tuple(self.name_of.get(label, label) for label in written)


def naming_of(setting: tuple[str, ...] | Mapping[str, str] | None, written: Collection[str]) -> LabelNaming:
    """The naming that `data.labels` gives to the labels as they are written in all splits. Raises ValueError.

    A list names classes that have these names already, or numbers in order of size. A mapping's classes are in the
    order of its labels.
    """
    if setting is None:
        return LabelNaming()
    if isinstance(setting, Mapping):
        return LabelNaming(tuple(dict.fromkeys(setting[label] for label in in_order(setting))), setting)
    if set(written) <= set(setting):
        return LabelNaming(setting)
    if all(map(WHOLE_NUMBER.fullmatch, written)):
        if len(written) == len(setting):
            return LabelNaming(setting, dict(zip(in_order(written), setting, strict=True)))
        if {"0"} <= set(written) <= set(map(str, range(len(setting)))):
            return LabelNaming(setting, dict(zip(map(str, range(len(setting))), setting, strict=True)))
    first = in_order(written)[0]
    raise ValueError(
        f"data.labels names {len(setting)} classes ({listed(setting)}), but the data have the {len(written)} labels "
        f'{listed(in_order(written))}; name each, as in data.labels={{"{first}": "{setting[0]}"}}'
    )


def in_order(labels: Collection[str]) -> list[str]:
    """Whole numbers by size, other labels in alphabetical order."""
    if all(map(WHOLE_NUMBER.fullmatch, labels)):
        return sorted(labels, key=lambda label: (int(label), label))
    return sorted(labels)


def look_alikes(labels: Collection[str]) -> list[str]:
    """A problem for labels that a person cannot tell apart: they differ by white space or unseen characters only."""
    groups: dict[str, list[str]] = {}
    for label in sorted(labels):
        groups.setdefault(_as_seen(label), []).append(label)
    problems = []
    for group in groups.values():
        if len(group) > 1:
            shown = " and ".join(json.dumps(label, ensure_ascii=not label.isascii()) for label in group)
            problems.append(
                f"the labels {shown} differ by white space or unseen characters only; correct the file, or give both "
                "one name with data.labels"
            )
    return problems


def _as_seen(label: str) -> str:
    kept = (c for c in unicodedata.normalize("NFC", label) if unicodedata.category(c) != "Cf")
    return " ".join("".join(kept).split())


def labels_in(rows: datasets.Dataset, column: str) -> Iterator[Label | list[Label]]:
    """The label or labels of each row, which `row_problems` has found to be such."""
    return cast(Iterator[Label | list[Label]], values_of(rows, column))


def distinct_values(rows: datasets.Dataset, column: str) -> list[Label | list[Label]]:
    """The different values of a column, of which some may be lists, in the order of their first rows."""
    found: dict[object, Label | list[Label]] = {}
    for value in labels_in(rows, column):
        found.setdefault(tuple(value) if isinstance(value, list) else value, value)
    return list(found.values())


def vector_width(columns: Iterable[Iterable[object]]) -> int | None:
    """The length of all rows if each is a list of that length, at least 2, of zeros and ones; None if one is not."""
    width: int | None = None
    for value in chain.from_iterable(columns):
        if not isinstance(value, list) or len(value) < 2 or width not in (None, len(value)):
            return None
        if any(item not in (0, 1, "0", "1") for item in value):
            return None
        width = len(value)
    return width


def class_names(rows: datasets.Dataset, column: str) -> tuple[str, ...] | None:
    """The names of a ClassLabel column, or of a column of lists of them; None for another type."""
    feature = rows.features[column]
    feature = getattr(feature, "feature", feature)
    return tuple(feature.names) if isinstance(feature, datasets.ClassLabel) else None


def in_checkpoint_order(names: tuple[str, ...], checkpoint_labels: Mapping[str, int]) -> tuple[str, ...]:
    """The label names in the order of the checkpoint, if it has the same ones; else as they are."""
    is_same = set(names) == set(checkpoint_labels)
    return tuple(sorted(names, key=checkpoint_labels.__getitem__)) if is_same else names


def label_maps(labels: tuple[str, ...]) -> dict[str, object]:
    """The settings of a config that give the labels their names and numbers."""
    return {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {name: i for i, name in enumerate(labels)},
    }


def names_of_config(config: PretrainedConfig) -> tuple[str, ...]:
    """The label names of a trained model, in the order of their numbers."""
    assert config.id2label is not None, "a model that classifies has labels"
    return tuple(config.id2label[i] for i in range(config.num_labels))


def listed(names: Sequence[str]) -> str:
    """Label names for a message: the first ten, and how many more there are."""
    return join_names(names, MOST_NAMES)
