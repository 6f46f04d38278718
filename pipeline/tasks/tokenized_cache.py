"""Keeps tokenized splits by content, so that a second run over the same texts does not tokenize them again.

The name of an entry is a digest of everything that tokenizing reads; `utils/array_cache.py` writes and reads it.
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import datasets

from pipeline.data.ragged import Ragged, TextLists, Texts
from pipeline.tasks.base import Examples, Task
from pipeline.utils.array_cache import kept
from pipeline.utils.hashing import sha256_of_bytes, sha256_of_file, short_digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def encoded(task: Task, rows: datasets.Dataset, content: str) -> Examples:
    """What `task.encode(rows)` returns; `content` is the digest of the rows. Raises what `encode` raises.

    The arrays of an entry can be read, but not written. Raises UserError if TWINSTEP_CACHE_GB is wrong.
    """
    return kept(cache_key(task, content), (task.examples_class, Ragged, Texts, TextLists), lambda: task.encode(rows))


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
        "tokenizer": tokenizer_rules(task.tokenizer),
        "code": code_digest(),
    }
    return short_digest(json.dumps(read, default=str), 32)


def tokenizer_rules(tokenizer: PreTrainedTokenizerFast) -> dict[str, object]:
    """A tokenizer's own definition, without the truncation and padding that its last call set."""
    if tokenizer.is_fast:
        rules: dict[str, object] = json.loads(tokenizer.backend_tokenizer.to_str())
        rules = {key: value for key, value in rules.items() if key not in ("truncation", "padding")}
    else:
        rules = _files_of_tokenizer(tokenizer)
    settings = ("truncation_side", "model_input_names", "special_tokens_map", "all_special_ids", "split_special_tokens")
    return rules | {key: getattr(tokenizer, key, None) for key in settings}


def _files_of_tokenizer(tokenizer: PreTrainedTokenizerFast) -> dict[str, object]:
    """The digests of the files that define a tokenizer written in Python, and what else it depends on."""
    with tempfile.TemporaryDirectory() as folder:
        rules: dict[str, object] = {Path(file).name: sha256_of_file(file) for file in tokenizer.save_vocabulary(folder)}
    rules |= {key: tokenizer.init_kwargs.get(key) for key in ("source_lang", "target_lang", "sp_model_kwargs")}
    # If it is installed, it normalizes the punctuation of texts.
    return rules | {"sacremoses": importlib.util.find_spec("sacremoses") is not None}


@cache
def code_digest() -> str:
    """A digest of the source of all tasks and of the libraries' versions."""
    here = Path(__file__).parent
    data = here.parent / "data"
    sources = [*sorted(here.glob("*.py")), data / "token_stream.py", data / "ragged.py"]
    versions = [metadata.version(name) for name in ("datasets", "tokenizers", "transformers", "numpy")]
    return sha256_of_bytes([" ".join(versions).encode(), *(source.read_bytes() for source in sources)])
