"""Reading the splits of a recipe, from the Hub or local files, and reporting what is wrong with them.

Messages count rows from 1, without the header.
"""

from __future__ import annotations

import datasets

from pipeline.data.columns import mapping_problems, missing_column, select_columns
from pipeline.data.hub import explain_hub_error, persistently
from pipeline.data.local_files import describe_source, read_local
from pipeline.recipe.formats import SPLITS
from pipeline.recipe.schema import Data, Recipe
from pipeline.utils.errors import UserError


def read_splits(recipe: Recipe, required: tuple[str, ...], optional: tuple[str, ...]) -> dict[str, datasets.Dataset]:
    """The splits of the recipe, their columns renamed to the fields of the task.

    `required` and `optional` are the fields of the task. Raises UserError with every problem at once: unreadable
    files, missing columns, empty splits.
    """
    data, problems = recipe.data, mapping_problems(recipe.data, required, optional)
    splits: dict[str, datasets.Dataset] = {}
    for split in SPLITS:
        if getattr(data, split) is None:
            continue
        try:
            rows = _read(data, split)
        except UserError as error:
            problems.append(str(error))
            continue
        fields = {field: data.columns.get(field, field) for field in required}
        fields |= {field: data.columns[field] for field in optional if field in data.columns}
        missing = [missing_column(field, column, rows, split) for field, column in fields.items()]
        missing = [text for text in missing if text]
        problems += missing
        if not missing:
            splits[split] = select_columns(rows, fields)
    if problems:
        raise UserError("\n".join(f"recipe {recipe.name}: {text}" for text in dict.fromkeys(problems)))
    return splits


def _read(data: Data, split: str) -> datasets.Dataset:
    """One split as `datasets` reads it, cut to its limit. Raises UserError."""
    rows = read_local(data, split) if data.is_local else _read_hub(data, split)
    if len(rows) == 0:
        raise UserError(f"data.{split}: the {describe_source(data, split)} has no rows")
    limit = getattr(data.limit, split)
    return rows if limit is None else rows.select(range(min(limit, len(rows))))


def _read_hub(data: Data, split: str) -> datasets.Dataset:
    chosen = getattr(data, split)
    try:
        return persistently(lambda: datasets.load_dataset(data.path, data.name, revision=data.revision, split=chosen))
    except Exception as error:  # many kinds of errors can come from here
        raise UserError(explain_hub_error(error, "data.path", data.path)) from error
