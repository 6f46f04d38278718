"""The types of a recipe's values: lists as tuples, paths as text."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _several(value: object) -> object:
    """A list as a tuple, and a text as its only item; each item once."""
    items = (value,) if isinstance(value, str) else _as_tuple(value)
    return tuple(dict.fromkeys(items)) if isinstance(items, tuple) and all(isinstance(x, str) for x in items) else items


def _as_text(value: object) -> object:
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if isinstance(text, str) and "\0" in text:
        raise ValueError("has a null character, which no path may have")
    return text


def files_of_a_split(value: object) -> object:
    """A path, or a list of paths and patterns as a tuple. Raises ValueError for anything else."""
    value = _as_text(value)
    if isinstance(value, list | tuple) and value:
        value = tuple(map(_as_text, value))
        if all(isinstance(path, str) and path for path in value):
            return value
    if value is None or (isinstance(value, str) and value):
        return value
    raise ValueError(f"is {value!r}, but must be a path or a list of paths")


def text_encoding(name: object) -> str:
    """The name of an encoding that Python knows. Raises ValueError for anything else."""
    try:
        if isinstance(name, str):
            "".encode(name)
            return name
    except (LookupError, ValueError):
        pass
    raise ValueError(f'is "{name}", which is not a text encoding; common ones: utf-8, utf-16, latin-1, cp1252')


def label_text(value: object) -> str:
    """A label in a recipe as text: YAML reads 1 as a number. Raises ValueError for anything else."""
    if isinstance(value, bool):
        raise ValueError(
            f"has the label {str(value).lower()}: YAML reads yes, no, on, off, true and false as truth values; "
            'write it in quotation marks, as in "yes"'
        )
    if not isinstance(value, str | int | float):
        raise ValueError(f"has {value!r} where a label must be, a text or a number")
    return str(value)


def labels_as_texts(by_label: Mapping[object, object]) -> dict[str, object]:
    """The keys of a mapping from labels as texts. Raises ValueError for a truth value, and for a label given twice."""
    texts = {label_text(label): item for label, item in by_label.items()}
    if len(texts) < len(by_label):
        raise ValueError("names a label twice, as a number and as a text")
    return texts


# YAML and JSON have lists where a recipe has tuples.
LIST = BeforeValidator(_as_tuple)
# A list of one name may be written as the name alone.
TEXT_OR_LIST = BeforeValidator(_several)
Names = Annotated[tuple[str, ...], LIST]
PathText = Annotated[str, BeforeValidator(_as_text)]
