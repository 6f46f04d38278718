"""Checks of a split's rows that several tasks share; each problem names the row, counted from 1."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator

import datasets

from pipeline.data.table import values_of

# How many rows of a split are named for one kind of problem.
MOST_ROWS = 3


# A number as people write it in a file; Python itself would also read 1_000 and the digits of other scripts.
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def number_of(value: object) -> float | None:
    """A finite number, or a text that is one, as in a delimited file; None for anything else."""
    if isinstance(value, str):
        value = float(value) if _NUMBER.fullmatch(value.strip()) else None
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def first_problems(split: str, problems: Iterable[str], most: int = MOST_ROWS) -> list[str]:
    """The first few problems, and a line that says that there are more."""
    named: list[str] = []
    for text in problems:
        if len(named) == most:
            return [*named, f"{split}: more rows like these follow"]
        named.append(text)
    return named


def text_problems(split: str, field: str, rows: datasets.Dataset, blank_is_wrong: bool = True) -> list[str]:
    """Rows in which a field is null, blank or not a text."""

    def problems() -> Iterator[str]:
        for number, text in enumerate(values_of(rows, field), start=1):
            if text is None:
                yield f"{split} row {number}: {field} is null; correct or remove the row"
            elif not isinstance(text, str):
                yield f"{split} row {number}: {field} is {text!r}, but must be text"
            elif blank_is_wrong and not text.strip():
                yield f"{split} row {number}: {field} is empty; correct or remove the row"

    return first_problems(split, problems())
