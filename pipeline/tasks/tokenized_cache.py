"""Tokenised splits kept by content, so that a second run over the same texts does not tokenise them again.

An entry is one .npz beside the `datasets` library's own cache (HF_DATASETS_CACHE). Its name is a digest of everything
that tokenising reads, so that an entry is never stale, only unused; it holds arrays and JSON, nothing pickled.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import zipfile
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from pipeline.data.batches import Ragged
from pipeline.tasks.base import Examples, Task
from pipeline.utils.files import atomic_write
from pipeline.utils.hashing import sha256_of_bytes, short_digest


def encoded(task: Task, rows: datasets.Dataset, content: str) -> Examples:
    """What `task.encode(rows)` returns; `content` is the digest of the rows. Raises what `encode` raises."""
    path = Path(datasets.config.HF_DATASETS_CACHE) / "twinstep" / f"{_key(task, content)}.npz"
    if path.exists():
        try:
            return _read(path)
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
            path.unlink(missing_ok=True)  # a damaged entry is made again
    examples = task.encode(rows)
    with contextlib.suppress(OSError):  # a full or read-only disk costs the next run time, not this one its end
        _write(path, examples)
    return examples


def _key(task: Task, content: str) -> str:
    """A digest of the rows and of all that the task reads of recipe, tokenizer and its own code."""
    recipe = task.recipe
    read = {
        "content": content,
        "task": recipe.task,
        "options": recipe.options.model_dump(mode="json"),
        "max_length": recipe.data.max_length,
        "columns": sorted(recipe.data.columns),
        "labels": task.labels,
        "tokenizer": _rules(task.tokenizer),
        "code": _code(),
    }
    return short_digest(json.dumps(read, default=str), 32)


def _rules(tokenizer: Any) -> dict[str, Any]:
    """A tokenizer's own definition, without the truncation and padding that its last call left behind."""
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    rules = {key: value for key, value in rules.items() if key not in ("truncation", "padding")}
    settings = ("truncation_side", "model_input_names", "special_tokens_map", "all_special_ids", "split_special_tokens")
    return rules | {key: getattr(tokenizer, key, None) for key in settings}


@cache
def _code() -> str:
    """A digest of the source of every task family and of the libraries' versions."""
    here = Path(__file__).parent
    data = here.parent / "data"
    sources = [*sorted(here.glob("*.py")), data / "token_stream.py", data / "batches.py"]
    versions = [metadata.version(name) for name in ("datasets", "tokenizers", "transformers", "numpy")]
    return sha256_of_bytes([" ".join(versions).encode(), *(source.read_bytes() for source in sources)])


def _write(path: Path, examples: Examples) -> None:
    """Write an entry, whole or not at all."""
    arrays: dict[str, np.ndarray] = {}

    def plain(name: str, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            arrays[name] = value
            return {"array": name}
        if isinstance(value, Ragged):
            return {"ragged": [plain(f"{name}.values", value.values), plain(f"{name}.offsets", value.offsets)]}
        return {"json": value}

    parts = {field.name: getattr(examples, field.name) for field in dataclasses.fields(examples)}
    layout = {
        name: {key: plain(f"{name}.{key}", item) for key, item in value.items()}
        if isinstance(value, dict)
        else plain(name, value)
        for name, value in parts.items()
    }
    with atomic_write(path, binary=True) as file:
        np.savez(file, layout=np.frombuffer(json.dumps(layout).encode(), np.uint8), **arrays)


def _read(path: Path) -> Examples:
    with np.load(path, allow_pickle=False) as stored:

        def whole(part: dict[str, Any]) -> Any:
            if "array" in part:
                return stored[part["array"]]
            if "ragged" in part:
                return Ragged(*map(whole, part["ragged"]))
            return part["json"]

        layout = json.loads(stored["layout"].tobytes())
        one = {"lengths", "num_targets"}
        return Examples(
            **{
                name: whole(value) if name in one else {key: whole(item) for key, item in value.items()}
                for name, value in layout.items()
            }
        )
