"""Reading the splits of a recipe, from the Hub or local files, and reporting what is wrong with them.

Messages count rows from 1, without the header.
"""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets

from pipeline.data.formats import READERS
from pipeline.data.hub import explain_hub_error, persistently
from pipeline.recipe.formats import FORMATS, SPLITS
from pipeline.recipe.schema import Data, Recipe
from pipeline.utils.errors import UserError, did_you_mean
from pipeline.utils.hashing import sha256_of_bytes, short_digest
from pipeline.utils.text import one_line


def read_splits(recipe: Recipe, required: tuple[str, ...], optional: tuple[str, ...]) -> dict[str, datasets.Dataset]:
    """The splits of the recipe, their columns renamed to the fields of the task.

    `required` and `optional` are the fields of the task. Raises UserError with every problem at once: unreadable
    files, missing columns, empty splits.
    """
    data, problems = recipe.data, _mapping_problems(recipe.data, required, optional)
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
        missing = [_missing(field, column, rows, split) for field, column in fields.items()]
        missing = [text for text in missing if text]
        problems += missing
        if not missing:
            splits[split] = _named(rows, fields)
    if problems:
        raise UserError("\n".join(f"recipe {recipe.name}: {text}" for text in dict.fromkeys(problems)))
    return splits


def content_digest(rows: datasets.Dataset) -> str:
    """The SHA-256 of the contents of a split, which is the same for the same rows on any machine."""

    def pieces() -> Iterator[bytes]:
        for column in sorted(rows.column_names):
            kind = repr(rows.features[column])  # holds the names of labels that are stored as numbers
            yield f"{column}:{len(rows)}:{kind if 'ClassLabel' in kind else ''}\n".encode()
            yield json.dumps(rows[column][:], ensure_ascii=False, default=str).encode()

    return sha256_of_bytes(pieces())


def fingerprint(digests: dict[str, str]) -> str:
    """Sixteen hex digits for the contents of all splits, from the digest of each."""
    return short_digest(json.dumps(digests, sort_keys=True))


def _mapping_problems(data: Data, required: tuple[str, ...], optional: tuple[str, ...]) -> list[str]:
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


def _read(data: Data, split: str) -> datasets.Dataset:
    """One split as `datasets` reads it, cut to its limit. Raises UserError."""
    with _long_csv_fields():
        rows = _read_local(data, split) if data.is_local else _read_hub(data, split)
    if len(rows) == 0:
        raise UserError(f"data.{split}: the {_source(data, split)} has no rows")
    limit = getattr(data.limit, split)
    return rows if limit is None else rows.select(range(min(limit, len(rows))))


@contextlib.contextmanager
def _long_csv_fields() -> Iterator[None]:
    """Allow fields as long as a document, which the default limit of the csv module forbids; restore it afterwards."""
    limit = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _read_hub(data: Data, split: str) -> datasets.Dataset:
    wanted = getattr(data, split)
    try:
        return persistently(lambda: datasets.load_dataset(data.path, data.name, revision=data.revision, split=wanted))
    except Exception as error:  # many kinds of errors can come from here
        raise UserError(explain_hub_error(error, "data.path", data.path)) from error


def _read_local(data: Data, split: str) -> datasets.Dataset:
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
        return datasets.load_dataset(
            FORMATS[data.path],
            data_files={label: str(path)},
            split=wanted,
            **_reader_options(data, path),
        )
    except UserError:
        raise
    except Exception as error:  # pandas, pyarrow and datasets raise errors of their own kinds
        if "corresponds to no data" in str(error):
            raise UserError(f"data.{split}: the {_source(data, split)} has no rows") from error
        raise UserError(f"data.files.{split}: {path} cannot be read as {data.path}: {_cause(error)}") from error


def _slice(rows: datasets.Dataset, wanted: str, label: str) -> datasets.Dataset:
    """The rows that a split such as "train[:10%]" selects from a file."""
    if wanted == label:
        return rows
    read = datasets.ReadInstruction.from_spec(wanted).to_absolute({label: len(rows)})
    parts = [rows.select(range(part.from_ or 0, len(rows) if part.to is None else part.to)) for part in read]
    return datasets.concatenate_datasets(parts)


def _reader_options(data: Data, path: Path) -> dict[str, object]:
    """Options instead of unsuitable defaults: byte-order marks, "NA" as a word, the quotation marks of GLUE."""
    kind = FORMATS[data.path]
    if kind == "parquet":
        return {}
    if kind == "text":
        return {"encoding": "utf-8-sig", "keep_linebreaks": True}  # a language model may need them
    if kind != "csv":
        return {"encoding": "utf-8-sig"}
    is_tsv = path.suffix == ".tsv" or data.path == "tsv"
    quoting = data.quoting if data.quoting is not None else not is_tsv
    options: dict[str, object] = {
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


def _missing(field: str, column: str | int, rows: datasets.Dataset, split: str) -> str | None:
    if _inside(rows.features, str(column)) is not None:
        return None
    if isinstance(column, int):
        return f"data.columns.{field} is position {column}, but {split} has columns 0 to {len(rows.column_names) - 1}"
    where = f'data.columns.{field} is "{column}", but'
    near = did_you_mean(column, rows.column_names)
    return f"{where} {split} has: {', '.join(rows.column_names)}.{near}"


def _named(rows: datasets.Dataset, fields: dict[str, str | int]) -> datasets.Dataset:
    """Only the columns that are used, named as the fields; one column may serve two fields."""
    features = datasets.Features({field: _inside(rows.features, str(column)) for field, column in fields.items()})
    columns = {field: _values(rows, str(column)) for field, column in fields.items()}
    return datasets.Dataset.from_dict(columns, features=features)


def _inside(features: Mapping[str, Any], column: str) -> Any:
    """The type of a column; "translation.en" is inside a nested one. None if there is no such column."""
    if column in features:
        return features[column]
    outer, dot, inner = column.partition(".")
    found = features.get(outer)
    return _inside(found, inner) if dot and isinstance(found, Mapping) else None


def _values(rows: datasets.Dataset, column: str) -> list[Any]:
    if column in rows.column_names:
        return rows[column][:]
    outer, *path = column.split(".")
    values = rows[outer][:]
    for key in path:
        values = [None if value is None else value[key] for value in values]
    return values


def _source(data: Data, split: str) -> str:
    if data.is_local:
        return f"file {getattr(data.files, split)} (split {getattr(data, split)})"
    return f'split "{getattr(data, split)}" of {data.path}'


def _cause(error: BaseException) -> str:
    """The first cause of a chain of errors, on one line: `datasets` wraps the errors of pandas and pyarrow."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(f"{type(error).__name__}: {error}")
