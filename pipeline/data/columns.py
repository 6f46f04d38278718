"""Which columns of a file become which fields of a task, and what is wrong with such a mapping."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import pyarrow

from pipeline.data.delimited import delimiter_hint
from pipeline.data.table import Column, Table
from pipeline.recipe.data import Data
from pipeline.recipe.formats import FORMATS
from pipeline.utils.errors import UserError, did_you_mean
from pipeline.utils.text import shorten

# What a person calls the types of JSON.
_TYPE_NAMES = {
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "an object",
}


def mapping_problems(data: Data, required: tuple[str, ...], optional: tuple[str, ...]) -> list[str]:
    """What is wrong with `data.columns`, whatever the files hold."""
    known = (*required, *optional)
    problems = [
        f'data.columns has "{field}", but the task knows: {", ".join(known)}.{did_you_mean(field, known)}'
        for field in data.columns
        if field not in known
    ]
    positions = [field for field, column in data.columns.items() if isinstance(column, int)]
    named = [field for field in {*required, *data.columns} if field not in positions]
    if positions and FORMATS.get(data.path) not in ("csv", "conll"):
        problems.append(f"data.columns.{positions[0]} is a position, but only csv, tsv and conll files have positions")
    elif named and data.path == "conll":
        problems.append(f"data.columns.{named[0]} must be a position from 0, since conll files have no header")
    elif positions and set(positions) != {*required, *data.columns}:
        named = sorted({*required, *data.columns} - set(positions))
        problems.append(
            f"data.columns mixes positions and names ({', '.join(named)}); give a position for every column"
        )
    return problems


def columns_of_fields(data: Data, required: tuple[str, ...], optional: tuple[str, ...]) -> dict[str, Column]:
    """The column of each field that the task needs or that the recipe maps."""
    fields = {field: data.columns.get(field, field) for field in required}
    return fields | {field: data.columns[field] for field in optional if field in data.columns}


def missing_columns(fields: Mapping[str, Column], table: Table, split: str, is_delimited: bool) -> list[str]:
    """A line for each field whose column the file does not have."""
    absent = {field: column for field, column in fields.items() if str(column) not in table.columns}
    hint = delimiter_hint(table.names, [str(column) for column in fields.values()]) if is_delimited else ""
    return [f"{_absent(field, column, table, split)}{hint}" for field, column in absent.items()]


def _absent(field: str, column: Column, table: Table, split: str) -> str:
    if isinstance(column, int):
        return f"data.columns.{field} is position {column}, but {split} has columns 0 to {len(table.names) - 1}"
    where = f'data.columns.{field} is "{column}", but'
    near = did_you_mean(column, table.names)
    return f"{where} {split} has: {', '.join(table.names)}.{near}"


def typed_rows(split: str, fields: Mapping[str, Column], table: Table) -> datasets.Dataset:
    """The rows of a split with the task's field names; one column may serve two fields. Raises UserError with the row.

    Types that the file itself does not say are those of the values, which must be the same in all rows.
    """
    columns = {field: table.columns[str(column)] for field, column in fields.items()}
    if table.features:
        features = {field: table.features[str(column)] for field, column in fields.items()}
        return datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    if problems := [text for field, values in columns.items() if (text := _type_problem(field, values))]:
        raise UserError("\n".join(f"{split} {text}" for text in problems))
    return datasets.Dataset.from_dict(columns)


def _type_problem(field: str, values: Sequence[Any]) -> str | None:
    """The first row whose value cannot stand in one column with those of the other rows."""
    kinds = Counter(map(type, values))
    kinds.pop(type(None), None)
    if len(kinds) < 2 and set(kinds) <= {str} and all(map(_is_unicode, values)):
        return None
    kind = kinds.most_common(1)[0][0] if kinds else type(None)
    example = next((value for value in values if type(value) is kind), None)
    try:
        pyarrow.array(values)
        return None
    except (pyarrow.ArrowException, ValueError, TypeError, OverflowError):
        pass
    for number, value in enumerate(values, start=1):
        try:
            pyarrow.array([example, value])
        except (pyarrow.ArrowException, ValueError, TypeError, OverflowError):
            return _odd_value(number, field, value, kind)
    return f"{field} holds values of different types that cannot stand in one column"


def _odd_value(number: int, field: str, value: Any, kind: type) -> str:
    shown = shorten(repr(value), 60)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return f"row {number}: {field} is {shown}, which is too large for a number: write it in quotation marks"
    if isinstance(value, str) and not _is_unicode(value):
        return f"row {number}: {field} is {shown}, which holds half of a character (a lone surrogate)"
    if type(value) is kind:
        return f"row {number}: {field} is {shown}, whose values are of other types than in the rows before"
    ours, usual = (_TYPE_NAMES.get(each, each.__name__) for each in (type(value), kind))
    return f"row {number}: {field} is {shown}, which is {ours}, but most rows have {usual}"


def _is_unicode(text: Any) -> bool:
    if text is None or text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
