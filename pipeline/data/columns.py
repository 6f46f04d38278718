"""From the columns of a data set to the fields of a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import datasets

from pipeline.recipe.formats import FORMATS
from pipeline.recipe.schema import Data
from pipeline.utils.errors import did_you_mean


def mapping_problems(data: Data, required: tuple[str, ...], optional: tuple[str, ...]) -> list[str]:
    """What is wrong with `data.columns`, before any file is read."""
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


def missing_column(field: str, column: str | int, rows: datasets.Dataset, split: str) -> str | None:
    """A message if the split has no such column."""
    if _type_of(rows.features, str(column)) is not None:
        return None
    if isinstance(column, int):
        return f"data.columns.{field} is position {column}, but {split} has columns 0 to {len(rows.column_names) - 1}"
    where = f'data.columns.{field} is "{column}", but'
    near = did_you_mean(column, rows.column_names)
    return f"{where} {split} has: {', '.join(rows.column_names)}.{near}"


def select_columns(rows: datasets.Dataset, fields: dict[str, str | int]) -> datasets.Dataset:
    """Only the columns that are used, named as the fields; one column may serve two fields."""
    features = datasets.Features({field: _type_of(rows.features, str(column)) for field, column in fields.items()})
    columns = {field: _values(rows, str(column)) for field, column in fields.items()}
    return datasets.Dataset.from_dict(columns, features=features)


def _type_of(features: Mapping[str, Any], column: str) -> Any:
    """The type of a column; "translation.en" is inside a nested one. None if there is no such column."""
    if column in features:
        return features[column]
    outer, dot, inner = column.partition(".")
    nested = features.get(outer)
    return _type_of(nested, inner) if dot and isinstance(nested, Mapping) else None


def _values(rows: datasets.Dataset, column: str) -> list[Any]:
    if column in rows.column_names:
        return rows[column][:]
    outer, *path = column.split(".")
    values = rows[outer][:]
    for key in path:
        values = [None if value is None else value[key] for value in values]
    return values
