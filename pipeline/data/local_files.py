"""Reads the split of a local file, anew each time: no cache stands between the file and its rows."""

from __future__ import annotations

import contextlib
import csv
import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import datasets

from pipeline.data.formats import READERS
from pipeline.data.table import Column, Table, joined_tables
from pipeline.data.text_files import UNREADABLE, TextFile, cause_of
from pipeline.recipe.data import Data
from pipeline.recipe.formats import FORMATS
from pipeline.utils.errors import UserError, did_you_mean
from pipeline.utils.text import one_line


def read_local(data: Data, split: str, wanted: Sequence[Column]) -> Table:
    """The wanted columns of the files of a split, one file after the other. Raises UserError."""
    tables = [(path, _read_file(path, data, split, wanted)) for path in paths_of(data, split)]
    tables = [each for each in tables if each[1].num_rows or each[1].names] or tables[:1]
    first_path, first = tables[0]
    for path, table in tables[1:]:
        if set(table.columns) != set(first.columns):
            raise UserError(
                f"data.files.{split}: {path} has the columns {', '.join(table.names)}, but {first_path} has "
                f"{', '.join(first.names)}"
            )
    try:
        return joined_tables([table for _, table in tables])
    except ValueError as error:
        raise UserError(f"data.files.{split}: {error}") from error


def paths_of(data: Data, split: str) -> list[Path]:
    """The files of a split: a path alone is one file; in a list, what names no file is a pattern. Raises UserError."""
    files = getattr(data.files, split)
    if isinstance(files, str):
        return [_existing(Path(files), split)]
    paths: list[Path] = []
    for file in files:
        folder, rest = _literal_folder(file)
        pattern = os.path.join(glob.escape(folder), rest)
        if os.path.isfile(file) or not glob.has_magic(rest):
            paths.append(_existing(Path(file), split))
        elif matches := [Path(match) for match in sorted(glob.glob(pattern)) if os.path.isfile(match)]:
            paths += matches
        else:
            raise UserError(f"data.files.{split} has {file}, but no file has that name or matches it as a pattern")
    if repeated := [path for path in paths if paths.count(path) > 1]:
        raise UserError(f"data.files.{split} has {repeated[0]} more than once, so its rows would count twice")
    return paths


def _literal_folder(file: str) -> tuple[str, str]:
    """The innermost folder of a path that is there, and the rest: a folder called data[1] is no pattern."""
    folder = Path(file).parent
    while not folder.is_dir():
        folder = folder.parent
    return str(folder), os.path.relpath(file, folder)


def _existing(path: Path, split: str) -> Path:
    if path.is_file():
        return path
    near = did_you_mean(path.name, [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else [])
    pattern = "; a pattern must be in a list" if glob.has_magic(path.name) else ""
    raise UserError(f"data.files.{split} is {path}, but there is no such file{pattern}.{near}")


def _read_file(path: Path, data: Data, split: str, wanted: Sequence[Column]) -> Table:
    if path.stat().st_size == 0:
        raise UserError(f"data.{split}: the file {path} is empty")
    try:
        with _long_csv_fields():
            return READERS[FORMATS[data.path]](TextFile(path, data.encoding), wanted, data)
    except UNREADABLE as error:
        raise UserError(f"data.files.{split}: {path} cannot be read as {data.path}: {cause_of(error)}") from error


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
        files = getattr(data.files, split)
        return f"file {files if isinstance(files, str) else ', '.join(files)} (split {getattr(data, split)})"
    return f'split "{getattr(data, split)}" of {data.path}'
