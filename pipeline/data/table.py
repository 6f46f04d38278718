"""Tables: the columns of a file that a recipe maps, as the readers of all formats return them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import datasets

# A column as a recipe names it: its name, or its position from 0.
Column = str | int
# The columns of a field: several are joined.
FieldColumn = Column | tuple[Column, ...]


@dataclass(frozen=True)
class Table:
    """Some columns of a file, each [num_rows].

    `names` are all columns that the file has; `columns` has the values of those that were asked for and are there, by
    name or position as text; `features` has their types where the file itself says them.
    """

    names: tuple[str, ...]
    columns: Mapping[str, Sequence[object]]
    num_rows: int
    features: Mapping[str, object] = field(default_factory=dict)


def joined_tables(tables: Sequence[Table]) -> Table:
    """The rows of several tables as one. Raises ValueError if a column's type differs between them."""
    first = tables[0]
    for table in tables[1:]:
        for column, feature in table.features.items():
            if column in first.features and repr(feature) != repr(first.features[column]):
                raise ValueError(f'column "{column}" is {feature}, but {first.features[column]} in the first file')
    columns = {name: list(chain.from_iterable(table.columns[name] for table in tables)) for name in first.columns}
    return Table(first.names, columns, sum(table.num_rows for table in tables), first.features)


def value_at(row: Mapping[str, object], column: str) -> object:
    """The value of a column; "translation.en" reaches into a nested one. None if there is none."""
    value: object = row
    for key in [column] if column in row else column.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def columns_in(column: FieldColumn) -> tuple[Column, ...]:
    """The columns of a field: one, or those that are joined."""
    return column if isinstance(column, tuple) else (column,)


def joined_text(parts: Sequence[object], separator: str | None) -> object:
    """The texts of several columns as one, without empty ones; None if there is none. What is no text is returned."""
    if odd := [part for part in parts if part is not None and not isinstance(part, str)]:
        return odd[0]
    texts = [part for part in parts if isinstance(part, str)]
    return (" " if separator is None else separator).join(text for text in texts if text) if texts else None


def has_column(row: Mapping[str, object], column: str) -> bool:
    """Whether a row has a column, which may be nested."""
    value: object = row
    for key in [column] if column in row else column.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return False
        value = value[key]
    return True


def table_of(rows: datasets.Dataset, wanted: Sequence[Column]) -> Table:
    """Columns of a data set, some of them inside nested ones, with their types."""
    columns, features = {}, {}
    for column in map(str, wanted):
        feature = _feature_at(rows.features, column)
        if feature is not None:
            columns[column], features[column] = _values_at(rows, column), feature
    return Table(tuple(rows.column_names), columns, len(rows), features)


def _feature_at(features: Mapping[str, object], column: str) -> object:
    """The type of a column; "translation.en" is inside a nested one. None if there is no such column."""
    if column in features:
        return features[column]
    outer, dot, inner = column.partition(".")
    nested = features.get(outer)
    return _feature_at(nested, inner) if dot and isinstance(nested, Mapping) else None


def _values_at(rows: datasets.Dataset, column: str) -> Sequence[object]:
    if column in rows.column_names:
        return rows[column][:]
    outer, *path = column.split(".")
    values = rows[outer][:]
    for key in path:
        values = [None if value is None else value[key] for value in values]
    return values
