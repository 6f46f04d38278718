"""Reads the split of a local file, anew each time: no cache stands between the file and its rows."""

from __future__ import annotations

import contextlib
import csv
import lzma
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import datasets
import pyarrow

from pipeline.data.formats import READERS
from pipeline.data.table import Column, Table
from pipeline.data.text_files import TextFile
from pipeline.recipe.data import Data
from pipeline.recipe.formats import FORMATS
from pipeline.utils.errors import UserError, did_you_mean
from pipeline.utils.text import one_line

# What reading a file can raise, apart from the ValueError of our own readers.
_UNREADABLE = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, pyarrow.ArrowException)


def read_local(data: Data, split: str, chosen: Sequence[Column]) -> Table:
    """The chosen columns of the file of a split. Raises UserError."""
    path = Path(getattr(data.files, split))
    if not path.is_file():
        near = did_you_mean(path.name, [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else [])
        raise UserError(f"data.files.{split} is {path}, but there is no such file.{near}")
    if path.stat().st_size == 0:
        raise UserError(f"data.{split}: the file {path} is empty")
    try:
        with _long_csv_fields():
            return READERS[FORMATS[data.path]](TextFile(path, data.encoding), chosen, data)
    except _UNREADABLE as error:
        raise UserError(f"data.files.{split}: {path} cannot be read as {data.path}: {_cause(error)}") from error


@contextlib.contextmanager
def _long_csv_fields() -> Iterator[None]:
    """Allow fields as long as a document, which the default limit of the csv module forbids; restore it afterwards."""
    limit = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def slice_rows(rows: datasets.Dataset, data: Data, split: str) -> datasets.Dataset:
    """The rows that a split such as "train[:10%]" selects from a file, whose name before the bracket is free."""
    chosen = getattr(data, split)
    label = chosen.partition("[")[0]
    if chosen == label:
        return rows
    try:
        spans = datasets.ReadInstruction.from_spec(chosen).to_absolute({label: len(rows)})
    except (ValueError, AssertionError) as error:
        raise UserError(f'data.{split} is "{chosen}", which cannot be read: {one_line(error)}') from error
    parts = [rows.select(range(each.from_ or 0, len(rows) if each.to is None else each.to)) for each in spans]
    return datasets.concatenate_datasets(parts)


def describe_source(data: Data, split: str) -> str:
    """Where a split comes from, for messages."""
    if data.is_local:
        return f"file {getattr(data.files, split)} (split {getattr(data, split)})"
    return f'split "{getattr(data, split)}" of {data.path}'


def _cause(error: BaseException) -> str:
    """What an error says; its kind too, unless our own readers wrote the sentence."""
    return one_line(error if type(error) is ValueError else f"{type(error).__name__}: {error}", 500)
