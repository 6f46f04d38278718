"""Reads csv and tsv files as text, only the columns that a recipe maps, and checks every line of them.

Nothing is guessed: 007 stays 007, TRUE stays TRUE, and a row with a field too many is refused with its line.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from pipeline.data.table import Column, ColumnValues, Table
from pipeline.data.text_files import TextFile
from pipeline.recipe.data import Data
from pipeline.recipe.formats import suffix_of
from pipeline.utils.text import count, join_names, shorten

_DELIMITERS = (",", ";", "|", "\t")
# If a field holds this many lines that would each be a whole row, a quotation mark has probably swallowed them.
_SWALLOWED_LINES = 2
_MOST_NAMES = 10
_NO_QUOTING = "if quotation marks are part of the texts, set data.quoting=false"


@dataclass(frozen=True)
class Dialect:
    """How fields are separated and quoted; `trusts_quotes` if the recipe itself says that they are quoted."""

    delimiter: str
    quoting: bool
    trusts_quotes: bool

    @classmethod
    def of(cls, data: Data, path: Path) -> Dialect:
        """What the recipe says; by default commas and quotation marks, and in tsv files tabs and none."""
        is_tsv = suffix_of(path.name) == "tsv" or data.path == "tsv"
        quoting = data.quoting if data.quoting is not None else not is_tsv
        return cls(data.delimiter or ("\t" if is_tsv else ","), quoting, data.quoting is True)


def read_delimited(file: TextFile, wanted: Sequence[Column], data: Data) -> Table:
    """The wanted columns of a file as text. Raises ValueError with the line of whatever is wrong.

    If a column is missing, only the names of the columns are read.
    """
    dialect = Dialect.of(data, file.path)
    by_position = any(isinstance(column, int) for column in wanted)
    records = _records(file, dialect)
    first_line, header = next(records, (1, []))
    names = tuple(str(i) for i in range(len(header))) if by_position else tuple(header)
    positions = _positions(names, wanted, first_line)
    if len(positions) < len({*map(str, wanted)}):
        return Table(names, {}, 0)
    columns = {column: ColumnValues() for column in positions}
    num_rows = 0
    for number, fields in chain([(first_line, header)] if by_position else [], records):
        if len(fields) != len(names):
            raise ValueError(_wrong_number_of_fields(number, fields, names, by_position, dialect))
        num_rows += 1
        for column, position in positions.items():
            columns[column].append(fields[position])
    return Table(names, columns, num_rows)


def delimiter_hint(names: Sequence[str], wanted: Sequence[str]) -> str:
    """The delimiter to set if the header seems to be separated by another one; '' if it does not."""
    for delimiter in _DELIMITERS:
        fields = [name.strip('" ') for name in delimiter.join(names).split(delimiter)]
        if len(fields) > len(names) and (set(wanted) <= set(fields) or len(names) == 1):
            shown = "\\t" if delimiter == "\t" else delimiter
            return f' The fields seem to be separated by "{shown}": set data.delimiter=\'"{shown}"\'.'
    return ""


def _positions(names: tuple[str, ...], wanted: Sequence[Column], line: int) -> dict[str, int]:
    for column in map(str, wanted):
        if names.count(column) > 1:
            raise ValueError(
                f'line {line} has {names.count(column)} columns named "{column}", and data.columns uses that name; '
                "give each column a name of its own"
            )
    return {str(column): names.index(str(column)) for column in wanted if str(column) in names}


def _records(file: TextFile, dialect: Dialect) -> Iterator[tuple[int, list[str]]]:
    """The line on which each row begins, and its fields. Blank lines at the end of the file are no rows.

    In a file of one column a blank line is a row with an empty text.
    """
    quoting = csv.QUOTE_MINIMAL if dialect.quoting else csv.QUOTE_NONE
    reader = csv.reader(
        file.lines(newline=""), delimiter=dialect.delimiter, quoting=quoting, strict=dialect.quoting
    )  # fmt: skip
    start, num_fields, blank = 1, 0, None
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            hint = "" if num_fields else delimiter_hint([next(file.lines(newline=""))], ())
            raise ValueError(_quoting_fault(error, start, reader.line_num) + (f".{hint}" if hint else "")) from None
        num_fields = num_fields or max(1, len(fields))
        if not fields and num_fields == 1:
            fields = [""]
        if not fields:
            blank = blank or start
        elif blank is not None:
            raise ValueError(f"line {blank} is blank, but rows follow; remove the line")
        else:
            if dialect.quoting and not dialect.trusts_quotes and reader.line_num - start > _SWALLOWED_LINES:
                _refuse_swallowed_rows(fields, start, dialect)
            yield start, fields
        start = reader.line_num + 1


def _refuse_swallowed_rows(fields: list[str], line: int, dialect: Dialect) -> None:
    """Raise ValueError if the lines inside a field look like rows: its opening quotation mark may be a mistake."""
    for field in fields:
        inner = field.splitlines()[1:-1]
        split = list(csv.reader(inner, delimiter=dialect.delimiter))
        if len(inner) >= _SWALLOWED_LINES and all(len(row) == len(fields) > 1 and all(row) for row in split):
            raise ValueError(
                f"line {line} opens a quotation mark that is closed {len(inner) + 1} lines later, and each line "
                f"between them looks like a row; close it where it ends. "
                f"If it is right, set data.quoting=true; {_NO_QUOTING}"
            )


def _quoting_fault(error: csv.Error, start: int, line: int) -> str:
    if "unexpected end of data" in str(error):
        return f"line {start} opens a quotation mark that is never closed (the last line is {line}); {_NO_QUOTING}"
    if "expected after" in str(error):
        opened = f" (the field begins on line {start})" if start != line else ""
        advice = f'write "" for one inside a field; {_NO_QUOTING}'
        return f"line {line} has text behind a closing quotation mark{opened}; {advice}"
    return f"line {line}: {error}"


def _wrong_number_of_fields(
    line: int, fields: list[str], names: tuple[str, ...], by_position: bool, dialect: Dialect
) -> str:
    header = "the first line" if by_position else "the header"
    listed = "" if by_position else f" ({join_names([shorten(name, 40) for name in names], _MOST_NAMES)})"
    if dialect.quoting:
        way_out = f"a field that holds the delimiter must be in quotation marks; {_NO_QUOTING}"
    else:
        way_out = "if fields that hold the delimiter are in quotation marks, set data.quoting=true"
    return f"line {line} has {count(len(fields), 'field')}, but {header} has {len(names)}{listed}; {way_out}"
