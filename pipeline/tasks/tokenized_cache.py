"""Keeps tokenized splits by content, so that a second run over the same texts does not tokenize them again.

An entry is one .npz beside the `datasets` library's own cache (HF_DATASETS_CACHE). Its name is a digest of everything
that tokenizing reads, so that an entry is never stale, only unused; it holds arrays and JSON, nothing pickled.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import zipfile
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import datasets
import numpy as np
from datasets import config as datasets_config

from pipeline.data.batches import Ragged
from pipeline.tasks.base import Examples, Task
from pipeline.utils.files import atomic_write
from pipeline.utils.hashing import sha256_of_bytes, short_digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class Layout(TypedDict, total=False):
    """How a value is stored, under one of four keys: by the names of its arrays, as a dict of values, or as JSON."""

    array: str
    ragged: list[str]
    dict: dict[str, Layout]
    json: object


def encoded(task: Task, rows: datasets.Dataset, content: str) -> Examples:
    """What `task.encode(rows)` returns; `content` is the digest of the rows. Raises what `encode` raises."""
    path = Path(datasets_config.HF_DATASETS_CACHE) / "twinstep" / f"{cache_key(task, content)}.npz"
    if path.exists():
        try:
            return read_entry(path, task.examples_class)
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
            path.unlink(missing_ok=True)  # a damaged entry is made again
    examples = task.encode(rows)
    with contextlib.suppress(OSError):  # a full or read-only disk costs the next run time, and must not end this one
        write_entry(path, examples)
    return examples


def cache_key(task: Task, content: str) -> str:
    """A digest of the rows and of all that the task reads of recipe, tokenizer and its own code."""
    recipe = task.recipe
    read = {
        "content": content,
        "task": recipe.task,
        "options": task.options.model_dump(mode="json"),
        "max_length": recipe.data.max_length,
        "columns": sorted(recipe.data.columns),
        "labels": task.labels,
        "data.labels": recipe.data.labels,
        "tokenizer": _rules(task.tokenizer),
        "code": code_digest(),
    }
    return short_digest(json.dumps(read, default=str), 32)


def _rules(tokenizer: PreTrainedTokenizerFast) -> dict[str, object]:
    """A tokenizer's own definition, without the truncation and padding that its last call set."""
    rules: dict[str, object] = json.loads(tokenizer.backend_tokenizer.to_str())
    rules = {key: value for key, value in rules.items() if key not in ("truncation", "padding")}
    settings = ("truncation_side", "model_input_names", "special_tokens_map", "all_special_ids", "split_special_tokens")
    return rules | {key: getattr(tokenizer, key, None) for key in settings}


@cache
def code_digest() -> str:
    """A digest of the source of all tasks and of the libraries' versions."""
    here = Path(__file__).parent
    data = here.parent / "data"
    sources = [*sorted(here.glob("*.py")), data / "token_stream.py", data / "batches.py"]
    versions = [metadata.version(name) for name in ("datasets", "tokenizers", "transformers", "numpy")]
    return sha256_of_bytes([" ".join(versions).encode(), *(source.read_bytes() for source in sources)])


def write_entry(path: Path, examples: Examples) -> None:
    """Write an entry: the arrays by name, and a layout in JSON that says where in the examples they belong."""
    arrays: dict[str, np.ndarray] = {}

    def layout_of(name: str, value: object) -> Layout:
        if isinstance(value, np.ndarray):
            arrays[name] = value
            return {"array": name}
        if isinstance(value, Ragged):
            parts = {f"{name}.values": value.values, f"{name}.offsets": value.offsets}
            arrays.update(parts)
            return {"ragged": list(parts)}
        if isinstance(value, dict):
            return {"dict": {key: layout_of(f"{name}.{key}", item) for key, item in value.items()}}
        return {"json": value}

    fields = {field.name: getattr(examples, field.name) for field in dataclasses.fields(examples)}
    layout = json.dumps({name: layout_of(name, value) for name, value in fields.items()})
    with atomic_write(path, binary=True) as file:
        arrays["layout"] = np.frombuffer(layout.encode(), np.uint8)
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType] (the names are no arguments of savez)


def read_entry(path: Path, kind: type[Examples]) -> Examples:
    """Read an entry back as it was written. Raises OSError, ValueError, KeyError, BadZipFile if it is damaged."""
    with np.load(path, allow_pickle=False) as stored:

        def value_of(layout: Layout) -> object:
            if "array" in layout:
                return stored[layout["array"]]
            if "ragged" in layout:
                return Ragged(*(stored[name] for name in layout["ragged"]))
            if "dict" in layout:
                return {key: value_of(item) for key, item in layout["dict"].items()}
            return layout.get("json")

        fields = json.loads(stored["layout"].tobytes())
        return kind(**{name: value_of(layout) for name, layout in fields.items()})  # pyright: ignore[reportArgumentType] (as it was written)
