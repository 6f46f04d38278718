"""Reading the splits of a recipe, from the Hub or local files, and reporting what is wrong with them.

Messages count rows from 1, without the header.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import datasets

from pipeline.data.columns import columns_of_fields, mapping_problems, missing_columns, typed_rows
from pipeline.data.hub import explain_hub_error, persistently
from pipeline.data.local_files import describe_source, read_local, slice_rows
from pipeline.data.table import Column, Table, table_of
from pipeline.recipe.data import Data
from pipeline.recipe.formats import FORMATS, SPLITS
from pipeline.recipe.schema import Recipe
from pipeline.utils.errors import UserError


def read_splits(recipe: Recipe, required: tuple[str, ...], optional: tuple[str, ...]) -> dict[str, datasets.Dataset]:
    """The splits of the recipe, their columns renamed to the fields of the task.

    `required` and `optional` are the fields of the task. Raises UserError with every problem at once: unreadable
    files, missing columns, empty splits.
    """
    data, problems = recipe.data, mapping_problems(recipe.data, required, optional)
    fields = columns_of_fields(data, required, optional)
    splits: dict[str, datasets.Dataset] = {}
    for split in SPLITS:
        if getattr(data, split) is None:
            continue
        try:
            splits[split] = _read(data, split, fields)
        except UserError as error:
            problems += str(error).split("\n")
    if problems:
        raise UserError("\n".join(f"recipe {recipe.name}: {text}" for text in dict.fromkeys(problems)))
    return splits


def _read(data: Data, split: str, fields: dict[str, Column]) -> datasets.Dataset:
    """One split with the fields of the task, cut to its limit. Raises UserError."""
    wanted = list(dict.fromkeys(fields.values()))
    table = read_local(data, split, wanted) if data.is_local else _hub_table(data, split, wanted)
    if table.names and (missing := missing_columns(fields, table, split, FORMATS.get(data.path) == "csv")):
        raise UserError("\n".join(missing))
    rows = typed_rows(split, fields, table) if table.num_rows else None
    if rows is not None and data.is_local:
        rows = slice_rows(rows, data, split)
    if rows is None or len(rows) == 0:
        raise UserError(f"data.{split}: the {describe_source(data, split)} has no rows")
    limit = getattr(data.limit, split)
    return rows if limit is None else rows.select(range(min(limit, len(rows))))


def _hub_table(data: Data, split: str, wanted: Sequence[Column]) -> Table:
    # A local folder takes the place of a Hub id; the library's cache of it is not renewed with its files.
    mode = datasets.DownloadMode.FORCE_REDOWNLOAD if os.path.isdir(data.path) else None
    load = datasets.load_dataset
    try:
        rows = persistently(
            lambda: load(
                data.path, data.name, revision=data.revision, split=getattr(data, split), download_mode=mode
            )
        )  # fmt: skip
    except Exception as error:  # many kinds of errors can come from here
        raise UserError(explain_hub_error(error, "data.path", data.path)) from error
    return table_of(rows, wanted)
