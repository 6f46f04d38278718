"""Reads JSON lines, a JSON list, and a list inside a JSON object; values stay as they are written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TypeGuard

from pipeline.data.table import Column, ColumnValues, Table, has_column, value_at
from pipeline.data.text_files import TextFile
from pipeline.recipe.data import Data
from pipeline.utils.text import shorten


class RepeatedKeys(dict[str, object]):
    """A JSON object in which a key stands more than once; `repeated` are such keys."""

    repeated: frozenset[str] = frozenset()


def read_json(file: TextFile, wanted: Sequence[Column], data: Data) -> Table:
    """The wanted columns; keys that are not wanted may hold anything. Raises ValueError with the line or row."""
    names: dict[str, None] = {}
    columns = {str(column): ColumnValues() for column in wanted}
    present: set[str] = set()
    num_rows = 0
    row: object = None
    for place, row in _rows(file, data):
        if not isinstance(row, dict):
            raise ValueError(f"{place} is {_shown(row)}, but must be an object whose keys are the columns")
        names.update(dict.fromkeys(row))
        num_rows += 1
        for column, values in columns.items():
            if isinstance(row, RepeatedKeys) and column.partition(".")[0] in row.repeated:
                raise ValueError(f'{place} has the key "{column}" more than once')
            if column not in present and has_column(row, column):
                present.add(column)
            values.append(row[column] if column in row else value_at(row, column))
    if num_rows == 1 and not present and isinstance(row, dict) and (hint := _field_hint(row)):
        raise ValueError(f"the file is one object, not a list of rows or a row on each line{hint}")
    return Table(tuple(names), {column: columns[column] for column in columns if column in present}, num_rows)


def parse_json(text: str, place: str) -> object:
    """A JSON text as Python values. Raises ValueError that begins with the place and says line and column in it."""
    try:
        try:
            return _DECODER.decode(text)
        except json.JSONDecodeError:
            raise
        except ValueError:  # a whole number of more digits than Python reads
            return json.loads(text, object_pairs_hook=_object, parse_int=float)
    except json.JSONDecodeError as error:
        where = f"column {error.colno}" if "\n" not in text.strip() else f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"{place}: {error.msg} ({where})".removeprefix(": ")) from None
    except RecursionError:
        raise ValueError(f"{place}: it is nested too deeply".removeprefix(": ")) from None


def _rows(file: TextFile, data: Data) -> Iterator[tuple[str, object]]:
    """Each row with its place for a message."""
    start = next((line for line in file.lines("\n") if line.strip()), "")
    if data.field is not None:
        rows = _list_at(parse_json(file.text(), ""), data.field)
    elif start.lstrip().startswith("["):
        rows = parse_json(file.text(), "")
        assert isinstance(rows, list), "JSON that begins with [ is a list"
    elif not _is_complete(start) and isinstance(whole := _parsed_or_none(file.text()), dict):
        raise ValueError(f"the file is one object, not a list of rows or a row on each line{_field_hint(whole)}")
    else:
        numbered = enumerate(file.lines("\n"), start=1)
        yield from ((f"line {number}", parse_json(line, f"line {number}")) for number, line in numbered if line.strip())
        return
    yield from ((f"row {number}", row) for number, row in enumerate(rows, start=1))


def _field_hint(whole: dict[str, object]) -> str:
    """How to read the first list of rows in an object; empty if it has none."""
    key, rows = next(((key, value) for key, value in whole.items() if _is_list_of_rows(value)), ("", []))
    if rows and "paragraphs" in rows[0]:
        return ": it looks like the JSON of SQuAD: set data.path=squad"
    return f': to read the list under "{key}", set data.field={key}' if rows else ""


def _is_list_of_rows(value: object) -> TypeGuard[list[dict[str, object]]]:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _list_at(whole: object, field: str) -> list[object]:
    value = value_at(whole, field) if isinstance(whole, dict) else None
    if not isinstance(value, list):
        keys = f"; the file has: {', '.join(whole)}" if isinstance(whole, dict) else ""
        kind = "nothing" if value is None else _shown(value)
        raise ValueError(f'data.field is "{field}", but must lead to a list of rows, not to {kind}{keys}')
    return value


def _is_complete(line: str) -> bool:
    return _parsed_or_none(line) is not None


def _parsed_or_none(text: str) -> object:
    try:
        return parse_json(text, "")
    except ValueError:
        return None


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    keys = [key for key, _ in pairs]
    repeated = RepeatedKeys(found)
    repeated.repeated = frozenset(key for key in found if keys.count(key) > 1)
    return repeated


# json.loads would make one for each line.
_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def _shown(value: object) -> str:
    return shorten(json.dumps(value, ensure_ascii=False, default=str), 40)
