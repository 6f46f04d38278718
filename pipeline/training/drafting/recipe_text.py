"""Writes the draft of a recipe: YAML with a comment on each choice, for a person who will change it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import yaml

from pipeline.models.families import suggested_checkpoint
from pipeline.recipe.formats import SPLITS, suffix_of
from pipeline.tasks.base import task_class
from pipeline.training.drafting.guess import Guess, guess
from pipeline.training.drafting.look import FoundColumn, Look, look_at
from pipeline.utils.errors import UserError
from pipeline.utils.files import atomic_write, reason
from pipeline.utils.text import count, shorten

# What files of the other splits are called beside one that is called "train".
_SPLIT_NAMES = {"validation": ("validation", "valid", "val", "dev", "eval"), "test": ("test",)}
_LENGTHS = (32, 64, 128, 256, 512)
# Tokens for each word of usual text, and those that a tokenizer adds.
_TOKENS_PER_WORD, _ADDED_TOKENS = 1.4, 3
# By the longest input, so that a step fits into the memory of usual machines.
_BATCH_SIZES = {32: 32, 64: 32, 128: 32, 256: 16, 512: 8}
_MOST_LABELS_SHOWN = 12
_FEW_ROWS = 2_000


def draft_recipe(
    file: str | os.PathLike[str], out: str | os.PathLike[str] | None = None, *, overwrite: bool = False
) -> Path:
    """Look at a file of data and write a recipe for it, with comments; returns its path, `out` or <file's name>.yaml.

    csv, tsv, json, jsonl, parquet, txt, conll and SQuAD files are understood. Task, columns, lengths and batch size are
    those that suit the file, and the checkpoint one that suits the task. Files named as its validation and test splits
    are used; otherwise a tenth of the rows is drawn for validation. An existing recipe is replaced only with
    `overwrite`. Raises UserError.

    >>> draft_recipe("reviews.csv")  # doctest: +SKIP
    PosixPath('reviews.yaml')
    """
    look = look_at(Path(file))
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", look.path.name.partition(".")[0]).strip("._-")[:80] or "recipe"
    path = Path(out) if out is not None else Path(f"{name}.yaml")
    if path.exists() and not overwrite:
        raise UserError(
            f"{path} is there already; choose another name with out, or replace it with overwrite=True",
            arguments=("out", "overwrite"),
        )
    text = "\n".join([*_lines(look, guess(look), name, path), ""])
    try:
        with atomic_write(path) as written:
            written.write(text)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {reason(error)}", arguments=("out",)) from error
    return path


def _lines(look: Look, found: Guess, name: str, path: Path) -> Iterator[str]:
    length = _length(found.text_columns)
    yield f"# A draft for {look.path.name}, {count(look.num_rows, 'row')}: change what does not suit you."
    yield f"name: {_value(name)}"
    yield from (f"# {reason}" for reason in found.reasons)
    yield f"task: {found.task}"
    yield from _checkpoint(found)
    yield from _data(look, found, path, length)
    yield from _train(look, found, length)
    yield from _options(found, length)


def _checkpoint(found: Guess) -> Iterator[str]:
    architecture = task_class(found.task).architectures[0]
    is_english = _is_mostly_ascii(found.text_columns)
    suggested = suggested_checkpoint(architecture, is_english, case_matters=found.task == "token-classification")
    yield f"# {suggested.reason}; any id of the Hub or folder with such a model can stand here."
    yield f"checkpoint: {suggested.name}"


def _data(look: Look, found: Guess, path: Path, length: int) -> Iterator[str]:
    yield "data:"
    yield f"  path: {look.data.path}"
    siblings = _siblings(look.path)
    yield "  files:"
    for split, file in {"train": look.path, **siblings}.items():
        yield f"    {split}: {_value(os.path.relpath(file, path.parent))}"
    if "validation" not in siblings:
        yield "  # A tenth of the rows is drawn for validation; for a file of its own, name it in files instead."
        yield "  split: {validation: 0.1}"
    for key in ("delimiter", "field"):
        if (value := getattr(look.data, key)) is not None:
            yield f"  {key}: {_value(value)}"
    if found.columns:
        yield f"  columns: {_value(found.columns)}"
    yield f"  # {_lengths_in_words(found.text_columns)}"
    yield f"  max_length: {length}"


def _train(look: Look, found: Guess, length: int) -> Iterator[str]:
    yield "train:"
    epochs = 5 if look.num_rows < _FEW_ROWS else 3
    yield f"  epochs: {epochs}"
    yield f"  batch_size: {_BATCH_SIZES[length]}"
    rate = suggested_checkpoint(task_class(found.task).architectures[0], True, False).learning_rate
    yield "  # Usual for such a checkpoint; try half and double of it, too."
    yield f"  learning_rate: {rate:g}"
    if found.label is not None and not found.options:
        counts = found.label.distinct.most_common()
        shown = ", ".join(f"{shorten(label, 30)} {number}" for label, number in counts[:_MOST_LABELS_SHOWN])
        more = f" and {len(counts) - _MOST_LABELS_SHOWN} more" if len(counts) > _MOST_LABELS_SHOWN else ""
        yield f"  # Rows of each label: {_comment(shown)}{more}."
        if counts[0][1] > 5 * counts[-1][1]:
            yield "  # Rare labels count more if this line is used:"
            yield "  # class_weights: balanced"


def _options(found: Guess, length: int) -> Iterator[str]:
    options = dict(found.options)
    if found.task == "question-answering":
        options["stride"] = length // 4  # windows of a context overlap by less than their length
    if found.target is not None:
        options["max_target_length"] = options["max_new_tokens"] = _length((found.target,))
    if options:
        yield "options:"
        yield from (f"  {key}: {_value(value)}" for key, value in options.items())


def _siblings(train: Path) -> dict[str, Path]:
    """The files beside a file called "train" that are called as its other splits."""
    found: dict[str, Path] = {}
    for split in SPLITS[1:]:
        for name in _SPLIT_NAMES[split] if "train" in train.name else ():
            sibling = train.with_name(train.name.replace("train", name))
            if split not in found and sibling.is_file() and suffix_of(sibling.name) == suffix_of(train.name):
                found[split] = sibling
    return found if "validation" in found else {}


def _words(columns: Sequence[FoundColumn]) -> list[int]:
    """The number of words of each row, over all columns that a model reads together."""
    numbers = [
        [len(value if isinstance(value, list) else str(value).split()) for value in column.values] for column in columns
    ]
    return [sum(row) for row in zip(*numbers, strict=False)]


def _length(columns: Sequence[FoundColumn]) -> int:
    """The length in tokens that nearly all rows have at most, of the usual lengths."""
    words = float(np.percentile(_words(columns) or [0], 98))
    tokens = words * _TOKENS_PER_WORD + _ADDED_TOKENS
    return next((length for length in _LENGTHS if tokens <= length), _LENGTHS[-1])


def _lengths_in_words(columns: Sequence[FoundColumn]) -> str:
    words = _words(columns) or [0]
    return f"Half of the inputs have up to {np.median(words):.0f} words, the longest has {max(words)}."


def _is_mostly_ascii(columns: Sequence[FoundColumn]) -> bool:
    """Whether texts look like English, by their letters."""
    letters = [
        letter for column in columns for value in column.values[:500] for letter in str(value) if letter.isalpha()
    ]
    return sum(letter.isascii() for letter in letters) >= 0.98 * len(letters)


def _value(value: object) -> str:
    """A value as YAML writes it on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...").rstrip("\n")


def _comment(text: str) -> str:
    return " ".join(text.split())
