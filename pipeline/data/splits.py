"""Reading the splits of a recipe, from the Hub, local files or drawn from the training split, and what is wrong there.

Messages count rows from 1, without the header. The digests of rows are the same for the same rows on any machine.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence

import datasets
import numpy as np
from numpy.typing import NDArray

from pipeline.data.columns import columns_of_fields, mapping_problems, missing_columns, typed_rows
from pipeline.data.hub import explain_hub_error, persistently
from pipeline.data.local_files import describe_source, read_local, slice_rows
from pipeline.data.table import Column, FieldColumn, Table, chunks_of, columns_in, table_of, values_of
from pipeline.recipe.data import Data, Split
from pipeline.recipe.formats import FORMATS, SPLITS, suffix_of
from pipeline.recipe.schema import Recipe
from pipeline.utils.errors import UserError
from pipeline.utils.hashing import sha256_of_bytes, short_digest


def read_splits(recipe: Recipe, required: tuple[str, ...], optional: tuple[str, ...]) -> dict[str, datasets.Dataset]:
    """The splits of the recipe, their columns renamed to the fields of the task.

    `required` and `optional` are the fields of the task. Raises UserError with every problem at once: unreadable
    files, missing columns, empty splits.
    """
    data, problems = recipe.data, mapping_problems(recipe.data, required, optional)
    splits: dict[str, datasets.Dataset] = {}
    for split in SPLITS:
        if getattr(data, split) is None or data.is_drawn(split):
            continue
        try:
            splits[split] = _read(data, split, columns_of_fields(data, split, required, optional))
        except UserError as error:
            problems += str(error).split("\n")
    if data.split is not None and "train" in splits:
        drawn = draw_splits(splits["train"], data.split, _stratum(recipe))
        problems += [f"data.split leaves {name} without rows" for name, rows in drawn.items() if len(rows) == 0]
        splits = {split: (splits | drawn)[split] for split in SPLITS if split in splits or split in drawn}
    if problems:
        raise UserError("\n".join(f"recipe {recipe.name}: {text}" for text in dict.fromkeys(problems)))
    return {split: _limited(rows, getattr(data.limit, split)) for split, rows in splits.items()}


def _limited(rows: datasets.Dataset, limit: int | None) -> datasets.Dataset:
    return rows if limit is None else rows.select(range(min(limit, len(rows))))


def _stratum(recipe: Recipe) -> str | None:
    """The field whose values are to have the same shares in all splits: the label of a classification."""
    problem = getattr(recipe.options, "problem_type", None)
    return "label" if problem == "single_label_classification" else None


def draw_splits(rows: datasets.Dataset, split: Split, stratum: str | None) -> dict[str, datasets.Dataset]:
    """The rows that remain for training, and those drawn for validation and test, each in file order.

    A function of rows and seed alone. With `stratum`, the column of a label, each label has the same share in every
    split, to a row.
    """
    order = np.random.default_rng(split.seed).permutation(len(rows))
    if stratum:
        rank = {label: i for i, label in enumerate(sorted(set(map(repr, values_of(rows, stratum)))))}
        labels = np.fromiter((rank[repr(label)] for label in values_of(rows, stratum)), np.int32, len(rows))
        order = order[np.argsort(labels[order], kind="stable")]
    parts: dict[str, NDArray[np.int64]] = {}
    for name in ("validation", "test"):
        share = getattr(split, name)
        if share is not None:
            chosen = _evenly_spaced(len(order), max(1, round(len(rows) * share)))
            parts[name], order = order[chosen], np.delete(order, chosen)
    return {name: rows.select(_in_file_order(part)) for name, part in {"train": order, **parts}.items()}


def _evenly_spaced(length: int, number: int) -> NDArray[np.int64]:
    """Positions with the same distance between them, at most all."""
    number = min(number, length)
    return (2 * np.arange(number) + 1) * length // (2 * max(number, 1))


def _in_file_order(part: NDArray[np.int64]) -> Sequence[int]:
    return np.sort(part).tolist()


def _read(data: Data, split: str, fields: dict[str, FieldColumn]) -> datasets.Dataset:
    """One split with the fields of the task. Raises UserError."""
    wanted = list(dict.fromkeys(part for column in fields.values() for part in columns_in(column)))
    table = read_local(data, split, wanted) if data.is_local else _hub_table(data, split, wanted)
    if table.names and (missing := missing_columns(fields, table, split, FORMATS.get(data.path) == "csv")):
        raise UserError("\n".join(missing))
    rows = typed_rows(split, fields, table, data.separator) if table.num_rows else None
    if rows is not None and data.is_local:
        rows = slice_rows(rows, data, split)
    if rows is None or len(rows) == 0:
        raise UserError(f"data.{split}: the {describe_source(data, split)} has no rows")
    return rows


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
        raise UserError(explain_hub_error(error, "data.path", data.path) + _local_hint(data.path)) from error
    return table_of(rows, wanted)


def _local_hint(path: str) -> str:
    """What to write instead of a `data.path` that looks like a file or a format; '' for any other."""
    if path.lower() in FORMATS:
        return f'. Did you mean "{path.lower()}"?'
    suffix = suffix_of(path)
    advice = f". For local files set data.path={suffix}, data.files.train={path} and data.files.validation"
    return advice if suffix in FORMATS else ""


def content_digest(rows: datasets.Dataset) -> str:
    """The SHA-256 of the contents of a split, which is the same for the same rows on any machine."""

    def pieces() -> Iterator[bytes]:
        for column in sorted(rows.column_names):
            kind = repr(rows.features[column])  # holds the names of labels that are stored as numbers
            yield f"{column}:{len(rows)}:{kind if 'ClassLabel' in kind else ''}\n".encode()
            yield from _json_of_list(rows, column)

    return sha256_of_bytes(pieces())


def _json_of_list(rows: datasets.Dataset, column: str) -> Iterator[bytes]:
    """The JSON of the list of a column's values, without having them all in memory."""
    start = b"["
    for values in chunks_of(rows, column):
        yield start + json.dumps(values, ensure_ascii=False, default=str)[1:-1].encode()
        start = b", "
    yield b"]" if len(rows) else b"[]"


def fingerprint(digests: dict[str, str]) -> str:
    """Sixteen hex digits for the contents of all splits, from the digest of each."""
    return short_digest(json.dumps(digests, sort_keys=True))
