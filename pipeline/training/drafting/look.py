"""A look at a file of data: its format, its columns, and what their values are like."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

from pydantic import ValidationError

from pipeline.data.local_files import read_local
from pipeline.data.table import Table
from pipeline.data.text_files import UNREADABLE, TextFile
from pipeline.recipe.data import Data
from pipeline.recipe.formats import FORMATS, suffix_of
from pipeline.utils.errors import UserError

# Other suffixes of files whose format we read.
_SUFFIXES = {"bio": "conll", "conllu": "conll", "iob": "conll", "iob2": "conll", "ndjson": "jsonl", "tab": "tsv"}
_DELIMITERS = ("\t", ";", "|")
# So many rows are looked at.
MOST_ROWS = 20_000
# A name in a header is shorter; a row without a header has texts.
_LONGEST_NAME = 60


@dataclass(frozen=True)
class FoundColumn:
    """A column by its name, or position, and its first values; those that are missing are left out."""

    name: str | int
    values: Sequence[object]
    num_rows: int

    @cached_property
    def texts(self) -> list[str]:
        """The values that are text and not empty."""
        return [value for value in self.values if isinstance(value, str) and value.strip()]

    @cached_property
    def distinct(self) -> Counter[str]:
        """How often each value is, by its text."""
        return Counter(str(value) for value in self.values if not isinstance(value, list | dict))

    @property
    def is_text(self) -> bool:
        """Whether it holds texts of several words, not all the same."""
        if len(self.texts) < 0.9 * self.num_rows or self.is_number or (len(self.distinct) == 1 < self.num_rows):
            return False
        return sum(len(text.split()) for text in self.texts) >= 2 * len(self.texts)

    @property
    def is_number(self) -> bool:
        """Whether all its values are numbers, also if they are written as text."""
        return bool(self.values) and all(_number(value) is not None for value in self.values)

    @property
    def is_measure(self) -> bool:
        """Whether it holds numbers that are no classes: some have a fraction."""
        return self.is_number and any((_number(value) or 0.0) % 1 for value in self.values)

    @property
    def is_label(self) -> bool:
        """Whether it holds few values, each of several rows."""
        is_whole = len(self.values) == self.num_rows and not any(isinstance(v, list | dict) for v in self.values)
        short = all(len(value) <= 60 for value in self.distinct)
        return is_whole and short and 2 <= len(self.distinct) <= max(2, min(200, self.num_rows // 2))

    @property
    def is_list_of_texts(self) -> bool:
        """Whether each value is a list of texts."""
        return bool(self.values) and all(
            isinstance(value, list) and all(isinstance(item, str) for item in value) for value in self.values
        )


@dataclass(frozen=True)
class Look:
    """What a file holds: `data` are the keys with which a recipe reads it."""

    path: Path
    data: Data
    columns: tuple[FoundColumn, ...]
    num_rows: int

    @property
    def kind(self) -> str:
        """The format without its other names, such as "json" of "jsonl"."""
        return FORMATS[self.data.path]

    def column(self, *names: str) -> FoundColumn | None:
        """The column with one of these names, whatever the case; the first name goes first."""
        by_name = {str(column.name).lower(): column for column in self.columns}
        return next((by_name[name] for name in names if name in by_name), None)


def look_at(path: Path) -> Look:
    """Read the first rows of a file. Raises UserError if it cannot be read, or if its format is not known."""
    if not path.is_file():
        raise UserError(f"{path} is not a file; name a file of data, such as train.csv")
    suffix = suffix_of(path.name.lower())
    kind = _SUFFIXES.get(suffix, suffix)
    if kind not in FORMATS:
        known = ", ".join(dict.fromkeys([*FORMATS, *_SUFFIXES]))
        raise UserError(f"{path} has no suffix that says how it is read; known are: {known}")
    data = _data(kind, path)
    if FORMATS[kind] == "json":
        data = _in_json(path, data)
    elif FORMATS[kind] == "csv":
        data = _with_delimiter(data)
    table = _first_rows(data)
    if not table.num_rows:
        raise UserError(f"{path} has no rows")
    has_names = FORMATS[kind] != "conll" and list(table.names) != [str(i) for i in range(len(table.names))]
    columns = [
        _found(name if has_names else int(name), values, table.num_rows) for name, values in table.columns.items()
    ]
    return Look(path, data, tuple(columns), table.num_rows)


def _data(kind: str, path: Path) -> Data:
    return Data.model_validate(
        {"path": kind, "files": {"train": str(path)}, "split": {"validation": 0.1}}
    )  # fmt: skip


def _first_rows(data: Data) -> Table:
    """All columns of a file."""
    names = read_local(data, "train", ()).names
    if FORMATS[data.path] == "csv" and _is_row(names):
        return read_local(data, "train", range(len(names)))
    if FORMATS[data.path] == "conll":
        return read_local(data, "train", [int(name) for name in names])
    return read_local(data, "train", names)


def _is_row(names: Sequence[str]) -> bool:
    """Whether the first line of a delimited file looks like a row rather than a header."""
    return any(len(name) > _LONGEST_NAME or _number(name) is not None or not name.strip() for name in names) or (
        len(set(names)) < len(names)
    )


def _with_delimiter(data: Data) -> Data:
    """The data with the delimiter that separates the most columns, where the usual one separates none."""
    usual = _num_columns(data)
    others = [replace_key(data, delimiter=each) for each in _DELIMITERS] if usual == 1 else []
    best = max(others, key=_num_columns, default=data)
    return best if _num_columns(best) > usual else data


def _num_columns(data: Data) -> int:
    try:
        return len(read_local(data, "train", ["\0"]).names)  # a column that no file has: only the header is read
    except UserError:
        return 0


def _in_json(path: Path, data: Data) -> Data:
    """The data with the key under which the rows are, or as SQuAD, where the file is one object."""
    try:
        content = json.loads(TextFile(path, None).text())
    except (*UNREADABLE, RecursionError):  # a row on each line, or something that its reader explains
        return data
    for key, rows in _lists_of_rows(content, ""):
        return _data("squad", path) if "paragraphs" in rows[0] else replace_key(data, field=key)
    return data


def _lists_of_rows(content: object, prefix: str) -> Iterator[tuple[str, list[dict[str, object]]]]:
    """The lists of objects in an object, by dotted key, the outer ones first."""
    if not isinstance(content, dict):
        return
    for key, value in content.items():
        if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
            yield f"{prefix}{key}", value
    for key, value in content.items():
        yield from _lists_of_rows(value, f"{prefix}{key}.")


def replace_key(data: Data, **keys: object) -> Data:
    """The data with other values of some keys. Raises UserError."""
    try:
        return Data.model_validate(data.model_dump() | keys)
    except ValidationError as error:
        raise UserError(str(error)) from error


def _found(name: str | int, values: Collection[object], num_rows: int) -> FoundColumn:
    first = [value for value in islice(values, MOST_ROWS) if value is not None]
    return FoundColumn(name, first, min(num_rows, MOST_ROWS))


def _number(value: object) -> float | None:
    """A number, also one that is written as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and not re.fullmatch(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*", value):
        return None
    return float(value)
