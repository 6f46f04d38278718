"""Which columns of a file become which fields of a task, and what is wrong with such a mapping."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

import datasets
import pyarrow

from pipeline.data.delimited import delimiter_hint
from pipeline.data.table import Column, ColumnValues, FieldColumn, Table, columns_in, joined_text
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
    """What is wrong with `data.columns` and `data.split_columns`, whatever the files hold."""
    known = (*required, *optional)
    problems = []
    for key, columns in [
        ("columns", data.columns),
        *((f"split_columns.{k}", v) for k, v in data.split_columns.items()),
    ]:
        problems += [
            f'data.{key} has "{field}", but the task knows: {", ".join(known)}.{did_you_mean(field, known)}'
            for field in columns
            if field not in known
        ]
    for split in ("train", *data.split_columns):
        problems += _position_problems(data, data.columns_of(split), required)
    return list(dict.fromkeys(problems))


def _position_problems(data: Data, columns: Mapping[str, FieldColumn], required: tuple[str, ...]) -> list[str]:
    positions = [field for field, column in columns.items() if any(isinstance(c, int) for c in columns_in(column))]
    whole = [field for field in positions if all(isinstance(c, int) for c in columns_in(columns[field]))]
    named = sorted({*required, *columns} - set(whole))
    if positions and FORMATS.get(data.path) not in ("csv", "conll"):
        return [f"data.columns.{positions[0]} is a position, but only csv, tsv and conll files have positions"]
    if named and data.path == "conll":
        return [f"data.columns.{named[0]} must be a position from 0, since conll files have no header"]
    if positions and named:
        return [f"data.columns mixes positions and names ({', '.join(named)}); give a position for every column"]
    return []


def columns_of_fields(
    data: Data, split: str, required: tuple[str, ...], optional: tuple[str, ...]
) -> dict[str, FieldColumn]:
    """The columns of each field that the task needs or that the recipe maps."""
    columns = data.columns_of(split)
    fields: dict[str, FieldColumn] = {field: columns.get(field, field) for field in required}
    return fields | {field: columns[field] for field in optional if field in columns}


def missing_columns(fields: Mapping[str, FieldColumn], table: Table, split: str, is_delimited: bool) -> list[str]:
    """A line for each field whose column the file does not have."""
    wanted = [(field, part) for field, column in fields.items() for part in columns_in(column)]
    hint = delimiter_hint(table.names, [str(part) for _, part in wanted]) if is_delimited else ""
    return [f"{_absent(field, part, table, split)}{hint}" for field, part in wanted if str(part) not in table.columns]


def _absent(field: str, column: Column, table: Table, split: str) -> str:
    if isinstance(column, int):
        return f"data.columns.{field} is position {column}, but {split} has columns 0 to {len(table.names) - 1}"
    where = f'data.columns.{field} is "{column}", but'
    near = did_you_mean(column, table.names)
    return f"{where} {split} has: {', '.join(table.names)}.{near}"


def typed_rows(
    split: str, fields: Mapping[str, FieldColumn], table: Table, separator: str | None = None
) -> datasets.Dataset:
    """The rows of a split with the task's field names; one column may serve two fields. Raises UserError with the row.

    Types that the file itself does not say are those of the values, which must be the same in all rows.
    """
    columns = {field: _values(table, column, separator) for field, column in fields.items()}
    features = {field: _feature(table, column) for field, column in fields.items()}
    untyped = [field for field, feature in features.items() if feature is None or isinstance(fields[field], tuple)]
    if problems := [text for field in untyped if (text := _type_problem(field, columns[field]))]:
        raise UserError("\n".join(f"{split} {text}" for text in problems))
    types = datasets.Features(features) if all(feature is not None for feature in features.values()) else None
    arrays = {field: values.as_arrow() for field, values in columns.items() if isinstance(values, ColumnValues)}
    arrays = {field: array for field, array in arrays.items() if array is not None}
    if len(arrays) < len(columns):
        return datasets.Dataset.from_dict({field: list(values) for field, values in columns.items()}, features=types)
    rows = pyarrow.table(arrays)
    # Without a fingerprint the library makes one of a copy of all rows.
    return datasets.Dataset(rows if types is None else rows.cast(types.arrow_schema), fingerprint=split)


def _values(table: Table, column: FieldColumn, separator: str | None) -> Collection[object]:
    if not isinstance(column, tuple):
        return table.columns[str(column)]
    parts = zip(*(table.columns[str(part)] for part in column), strict=True)
    return ColumnValues(joined_text(values, separator) for values in parts)


def _feature(table: Table, column: FieldColumn) -> object:
    """The type of a field if the file says it."""
    if isinstance(column, tuple):
        return datasets.Value("string") if table.features else None
    return table.features.get(str(column))


def _type_problem(field: str, values: Collection[object]) -> str | None:
    """The first row whose value cannot stand in one column with those of the other rows."""
    if isinstance(values, ColumnValues):
        if values.as_arrow() is not None:
            return None
        values = list(values)
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


def _odd_value(number: int, field: str, value: object, kind: type) -> str:
    shown = shorten(repr(value), 60)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return f"row {number}: {field} is {shown}, which is too large for a number: write it in quotation marks"
    if isinstance(value, str) and not _is_unicode(value):
        return f"row {number}: {field} is {shown}, which holds half of a character (a lone surrogate)"
    if type(value) is kind:
        return f"row {number}: {field} is {shown}, whose values are of other types than in the rows before"
    ours, usual = (_TYPE_NAMES.get(each, each.__name__) for each in (type(value), kind))
    return f"row {number}: {field} is {shown}, which is {ours}, but most rows have {usual}"


def _is_unicode(value: object) -> bool:
    """Whether a value can be stored as UTF-8; one that is not text can."""
    if not isinstance(value, str) or value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
