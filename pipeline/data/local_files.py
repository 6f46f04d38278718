"""Reads the split of a local file through `datasets`, or through a reader of our own."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets

from pipeline.data.formats import READERS
from pipeline.recipe.formats import FORMATS
from pipeline.recipe.schema import Data
from pipeline.utils.errors import UserError, did_you_mean
from pipeline.utils.text import one_line


def read_local(data: Data, split: str) -> datasets.Dataset:
    """The split of a local file. Raises UserError."""
    path = Path(getattr(data.files, split))
    if not path.is_file():
        near = did_you_mean(path.name, [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else [])
        raise UserError(f"data.files.{split} is {path}, but there is no such file.{near}")
    if path.stat().st_size == 0:
        raise UserError(f"data.{split}: the file {path} is empty")
    # For a local file "train[:10%]" means a part of the file: "train" is only a name.
    wanted = getattr(data, split)
    label = wanted.partition("[")[0] or split
    try:
        if FORMATS[data.path] in READERS:
            return _slice(datasets.Dataset.from_list(READERS[FORMATS[data.path]](path)), wanted, label)
        with _long_csv_fields():
            options = _reader_options(data, path)
            rows = datasets.load_dataset(FORMATS[data.path], data_files={label: str(path)}, split=wanted, **options)
        assert isinstance(rows, datasets.Dataset)
        return rows
    except UserError:
        raise
    except Exception as error:  # pandas, pyarrow and datasets raise errors of their own kinds
        if "corresponds to no data" in str(error):
            raise UserError(f"data.{split}: the {describe_source(data, split)} has no rows") from error
        raise UserError(f"data.files.{split}: {path} cannot be read as {data.path}: {_cause(error)}") from error


def _slice(rows: datasets.Dataset, wanted: str, label: str) -> datasets.Dataset:
    """The rows that a split such as "train[:10%]" selects from a file."""
    if wanted == label:
        return rows
    read = datasets.ReadInstruction.from_spec(wanted).to_absolute({label: len(rows)})
    parts = [rows.select(range(part.from_ or 0, len(rows) if part.to is None else part.to)) for part in read]
    return datasets.concatenate_datasets(parts)


def _reader_options(data: Data, path: Path) -> dict[str, Any]:
    """Options instead of unsuitable defaults: byte-order marks, "NA" as a word, the quotation marks of GLUE."""
    kind = FORMATS[data.path]
    if kind == "csv":
        return _csv_options(data, path)
    if kind == "text":
        return {"encoding": "utf-8-sig", "keep_linebreaks": True}  # a language model may need them
    return {} if kind == "parquet" else {"encoding": "utf-8-sig"}


def _csv_options(data: Data, path: Path) -> dict[str, Any]:
    """Options of the CSV reader. Raises UserError for a row with more fields than the header."""
    is_tsv = path.suffix == ".tsv" or data.path == "tsv"
    quoting = data.quoting if data.quoting is not None else not is_tsv
    options: dict[str, Any] = {
        "encoding": "utf-8-sig",
        "sep": data.delimiter or ("\t" if is_tsv else ","),
        "quoting": csv.QUOTE_MINIMAL if quoting else csv.QUOTE_NONE,
        "keep_default_na": False,
        "skip_blank_lines": False,
    }
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, delimiter=options["sep"], quoting=options["quoting"], strict=quoting)
        first, second = next(rows, []), next(rows, [])
    if any(isinstance(column, int) for column in data.columns.values()):
        options["column_names"] = [str(i) for i in range(len(first))]
        options["header"] = None
    elif len(second) > len(first):
        # The reader would use the first fields of such rows as an index and shift the others.
        raise UserError(f"{path} row 1 has {len(second)} fields, but the header has {len(first)}")
    return options


@contextlib.contextmanager
def _long_csv_fields() -> Iterator[None]:
    """Allow fields as long as a document, which the default limit of the csv module forbids; restore it afterwards."""
    limit = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def describe_source(data: Data, split: str) -> str:
    """Where a split comes from, for messages."""
    if data.is_local:
        return f"file {getattr(data.files, split)} (split {getattr(data, split)})"
    return f'split "{getattr(data, split)}" of {data.path}'


def _cause(error: BaseException) -> str:
    """The first cause of a chain of errors, on one line: `datasets` wraps the errors of pandas and pyarrow."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(f"{type(error).__name__}: {error}")
