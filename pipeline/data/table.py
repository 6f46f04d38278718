"""Tables: the columns of a file that a recipe maps, as the readers of all formats return them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import cast

import datasets
import pyarrow

from pipeline.utils import mapped_arrays

# A column as a recipe names it: its name, or its position from 0.
Column = str | int
# The columns of a field: several are joined.
FieldColumn = Column | tuple[Column, ...]
# Columns whose values are the same in Arrow and in Python.
_PLAIN_TYPES = {
    pyarrow.string(),
    pyarrow.large_string(),
    pyarrow.int32(),
    pyarrow.int64(),
    pyarrow.float64(),
    pyarrow.bool_(),
}
_PLAIN_FEATURES = (datasets.Value, datasets.ClassLabel)
# How many values become Python's objects, or Arrow's, at a time.
CHUNK_ROWS = 2**13


class ColumnValues(Collection[object]):
    """The values of a column in order, read one by one, with little memory for many.

    Texts, numbers, true and false, and lists and objects of these, are kept as Arrow arrays, in memory or, if they are
    many, in a file; where types are mixed, the values themselves are kept in memory.
    """

    def __init__(self, values: Iterable[object] = ()):
        self._chunks: list[pyarrow.Array | list[object]] = []
        # The chunks at the end that are Arrow arrays of one type and in memory.
        self._in_memory: list[pyarrow.Array] = []
        self._num_bytes_in_memory = 0
        self._last: list[object] = []
        for value in values:
            self.append(value)

    @classmethod
    def of_arrow(cls, column: pyarrow.ChunkedArray) -> ColumnValues:
        """The values of an Arrow column, without a copy."""
        values = cls()
        for chunk in column.chunks:
            values._chunks += [chunk.slice(start, CHUNK_ROWS) for start in range(0, len(chunk), CHUNK_ROWS)]
        return values

    def append(self, value: object) -> None:
        """Add a value at the end."""
        self._last.append(value)
        if len(self._last) == CHUNK_ROWS:
            self._append_chunk(_packed(self._last))
            self._last = []

    def _append_chunk(self, chunk: pyarrow.Array | list[object]) -> None:
        self._chunks.append(chunk)
        if isinstance(chunk, list) or (self._in_memory and self._in_memory[-1].type != chunk.type):
            self._in_memory, self._num_bytes_in_memory = [], 0
        if not isinstance(chunk, list):
            self._in_memory.append(chunk)
            self._num_bytes_in_memory += chunk.nbytes
        if self._num_bytes_in_memory > mapped_arrays.MOST_BYTES:
            batches = [pyarrow.record_batch([chunk], ["values"]) for chunk in self._in_memory]
            self._chunks[-len(batches) :] = [batch.column(0) for batch in mapped_arrays.mapped_batches(batches)]
            self._in_memory, self._num_bytes_in_memory = [], 0

    def extend(self, other: ColumnValues) -> None:
        """Add the values of another column."""
        self._chunks += [_packed(self._last), *other._chunks]
        self._in_memory, self._num_bytes_in_memory = [], 0
        self._last = list(other._last)

    def as_arrow(self) -> pyarrow.ChunkedArray | None:
        """All values as an Arrow column; None if they are not plain values of one type."""
        chunks = [chunk for chunk in (*self._chunks, _packed(self._last)) if len(chunk)]
        arrays = [chunk for chunk in chunks if not isinstance(chunk, list)]
        if not chunks or len(arrays) < len(chunks) or len({array.type for array in arrays}) > 1:
            return None
        return pyarrow.chunked_array(arrays)

    def __iter__(self) -> Iterator[object]:
        for chunk in (*self._chunks, self._last):
            yield from chunk if isinstance(chunk, list) else chunk.to_pylist()

    def __len__(self) -> int:
        return sum(map(len, self._chunks)) + len(self._last)

    def __contains__(self, value: object) -> bool:
        return any(value == each for each in self)


def _packed(values: list[object]) -> pyarrow.Array | list[object]:
    kinds = {*map(type, values)} - {type(None)}
    if len(kinds) != 1 or not kinds <= {str, int, float, bool, list, dict}:
        return values
    try:
        array = pyarrow.array(values)
    except (pyarrow.ArrowException, ValueError, OverflowError):
        return values  # half of a character, or a number of more than 64 bits; a check of the rows names it
    # Arrow has no lists of mixed types, and no objects without a key that others have.
    is_same = kinds <= {str, int, float, bool} or repr(array.to_pylist()) == repr(values)
    return array if is_same else values


@dataclass(frozen=True)
class Table:
    """Some columns of a file, each [num_rows].

    `names` are all columns that the file has; `columns` has the values of those that were asked for and are there, by
    name or position as text; `features` has their types where the file itself says them.
    """

    names: tuple[str, ...]
    columns: Mapping[str, Collection[object]]
    num_rows: int
    features: Mapping[str, object] = field(default_factory=dict)


def joined_tables(tables: Sequence[Table]) -> Table:
    """The rows of several tables as one. Raises ValueError if a column's type differs between them."""
    first = tables[0]
    for table in tables[1:]:
        for column, feature in table.features.items():
            if column in first.features and repr(feature) != repr(first.features[column]):
                raise ValueError(f'column "{column}" is {feature}, but {first.features[column]} in the first file')
    if len(tables) == 1:
        return first
    columns = {name: _joined([table.columns[name] for table in tables]) for name in first.columns}
    return Table(first.names, columns, sum(table.num_rows for table in tables), first.features)


def _joined(parts: Sequence[Collection[object]]) -> Collection[object]:
    if not all(isinstance(part, ColumnValues) for part in parts):
        return list(chain.from_iterable(parts))
    values = ColumnValues()
    for part in parts:
        assert isinstance(part, ColumnValues)
        values.extend(part)
    return values


def values_of(rows: datasets.Dataset, column: str) -> Iterator[object]:
    """The values of a column of a data set, read some thousand rows at a time."""
    return chain.from_iterable(chunks_of(rows, column))


def chunks_of(rows: datasets.Dataset, column: str) -> Iterator[list[object]]:
    """The values of a column of a data set, some thousand rows at a time."""
    for chunk in rows.select_columns([column]).iter(CHUNK_ROWS):
        yield cast(dict[str, list[object]], chunk)[column]


def some_at_a_time(rows: datasets.Dataset) -> Iterator[tuple[int, datasets.Dataset]]:
    """Some thousand rows of a data set at a time, with the number of the first of them, from 0; at least once."""
    for first in range(0, max(1, len(rows)), CHUNK_ROWS):
        yield first, rows.select(range(first, min(first + CHUNK_ROWS, len(rows))))


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


def _values_at(rows: datasets.Dataset, column: str) -> Collection[object]:
    if column in rows.column_names:
        arrow = cast(pyarrow.Table, rows.select_columns([column]).with_format("arrow")[:]).column(column)
        is_plain = _PLAIN_TYPES.issuperset({arrow.type}) and isinstance(rows.features[column], _PLAIN_FEATURES)
        return ColumnValues.of_arrow(arrow) if is_plain else rows[column][:]
    outer, *path = column.split(".")
    values = rows[outer][:]
    for key in path:
        values = [None if value is None else value[key] for value in values]
    return values
