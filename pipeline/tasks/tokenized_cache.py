"""Keeps tokenized splits by content, so that a second run over the same texts does not tokenize them again.

An entry is a folder of NumPy files beside the `datasets` library's own cache (HF_DATASETS_CACHE), which are mapped into
memory and not read whole. Its name is a digest of everything that tokenizing reads, so that an entry is never stale,
only unused; it holds arrays and JSON, nothing pickled. Of several processes that need an entry one makes it, and the
others wait, also on machines that share a disk. The cache has at most MOST_BYTES, or TWINSTEP_CACHE_GB
gigabytes; what was used least recently is removed first, and nothing that a running process uses.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypedDict

import datasets
import numpy as np

from pipeline.data.batches import Ragged
from pipeline.tasks.base import Examples, Task
from pipeline.utils.errors import UserError
from pipeline.utils.files import may_be_written, staged_folder
from pipeline.utils.hashing import sha256_of_bytes, sha256_of_file, short_digest
from pipeline.utils.mapped_arrays import cache_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


# How large the cache may be if TWINSTEP_CACHE_GB does not say it.
MOST_BYTES = 10 * 10**9
LAYOUT = "layout.json"
# Larger arrays are mapped into memory.
_SMALL_BYTES = 2**16
# What systems say of a disk whose files cannot be locked, such as some that are shared over a network.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class Layout(TypedDict, total=False):
    """How a value is stored, under one of four keys: by the names of its arrays, as a dict of values, or as JSON."""

    array: str
    ragged: list[str]
    dict: dict[str, Layout]
    json: object


def encoded(task: Task, rows: datasets.Dataset, content: str) -> Examples:
    """What `task.encode(rows)` returns; `content` is the digest of the rows. Raises what `encode` raises.

    The arrays of an entry can be read, but not written. Raises UserError if TWINSTEP_CACHE_GB is wrong.
    """
    most_bytes, folder = size_limit(), cache_folder()
    entry = folder / cache_key(task, content)
    if (found := _read_if_whole(entry, task.examples_class)) is not None:
        return found
    with _made_by_one(entry) as is_kept:
        # Another process may have made it while this one waited.
        if is_kept and (found := _read_if_whole(entry, task.examples_class)) is not None:
            return found
        examples = task.encode(rows)
        # A full or read-only disk costs the next run time, and must not end this one.
        with contextlib.suppress(OSError):
            if is_kept:
                write_entry(entry, examples)
                examples = read_entry(entry, task.examples_class)  # the memory of its arrays becomes free
                make_room(folder, most_bytes)
    return examples


def _read_if_whole(entry: Path, kind: type[Examples]) -> Examples | None:
    """An entry, or None if it has to be made, also because it is damaged."""
    try:
        return read_entry(entry, kind)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            shutil.rmtree(entry, ignore_errors=True)
    except (ValueError, EOFError, KeyError):
        shutil.rmtree(entry, ignore_errors=True)
    return None


@contextlib.contextmanager
def _made_by_one(entry: Path) -> Iterator[bool]:
    """Wait until no other process makes an entry; one that dies meanwhile holds up nobody.

    False if nothing can be kept there: the cache cannot be written, or its disk has no locks, without which machines
    that share it would remove what others read.
    """
    with contextlib.ExitStack() as stack:
        try:
            entry.parent.mkdir(parents=True, exist_ok=True)
            path = entry.with_name(f".{entry.name}.lock")
            file = stack.enter_context(open(path, "w", encoding="utf-8"))
            stack.callback(path.unlink, missing_ok=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            yield False
            return
        yield True


def size_limit() -> int:
    """How many bytes the cache may have. Raises UserError if TWINSTEP_CACHE_GB is not a number of gigabytes."""
    setting = os.environ.get("TWINSTEP_CACHE_GB")
    if setting is None:
        return MOST_BYTES
    try:
        gigabytes = float(setting)
        if 0 <= gigabytes < float("inf"):
            return int(gigabytes * 10**9)
    except ValueError:
        pass
    raise UserError(
        f'the environment variable TWINSTEP_CACHE_GB is "{setting}", but must be a number of gigabytes: how large the '
        "cache of tokenized data may be"
    )


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
    sources = [*sorted(here.glob("*.py")), data / "token_stream.py", data / "batches.py"]
    versions = [metadata.version(name) for name in ("datasets", "tokenizers", "transformers", "numpy")]
    return sha256_of_bytes([" ".join(versions).encode(), *(source.read_bytes() for source in sources)])


def write_entry(path: Path, examples: Examples) -> None:
    """Write an entry: the arrays by name, and a layout in JSON that says where in the examples they belong.

    The layout holds the digests of the arrays, and begins with a line that is its own.
    """
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
    layouts = {name: layout_of(name, value) for name, value in fields.items()}
    with staged_folder(path, durable=True) as staging:
        digests = {f"{name}.npy": _save(staging / f"{name}.npy", array) for name, array in arrays.items()}
        content = json.dumps({"layouts": layouts, "sha256": digests})
        (staging / LAYOUT).write_text(f"{sha256_of_bytes([content.encode()])}\n{content}", encoding="utf-8")


def _save(path: Path, array: np.ndarray) -> str:
    """Write an array; returns the digest of what was to be written. Raises OSError."""
    with open(path, "wb") as file:
        digested = _DigestedFile(file)
        np.save(digested, array, allow_pickle=False)
    return digested.digest.hexdigest()


class _DigestedFile:
    """What NumPy writes an array into piece by piece; into a plain file, it may lose the end if the disk is full."""

    def __init__(self, file: IO[bytes]):
        self._file, self.digest = file, hashlib.sha256()

    def write(self, piece: bytes) -> None:
        self._file.write(piece)
        self.digest.update(piece)


def read_entry(path: Path, kind: type[Examples]) -> Examples:
    """Read an entry back as it was written, and keep it from being removed as long as the examples are there.

    Raises OSError, ValueError, EOFError or KeyError if it is damaged or removed just now.
    """

    def value_of(layout: Layout) -> object:
        if "array" in layout:
            return _read_array(path / f"{layout['array']}.npy")
        if "ragged" in layout:
            return Ragged(*(_read_array(path / f"{name}.npy") for name in layout["ragged"]))
        if "dict" in layout:
            return {key: value_of(item) for key, item in layout["dict"].items()}
        return layout.get("json")

    file = open(path / LAYOUT, encoding="utf-8")  # noqa: SIM115 -- closed with the examples
    try:
        fcntl.flock(file, fcntl.LOCK_SH)
        os.utime(path / LAYOUT)  # when it was used last; an error if it was removed meanwhile
        fields = _verified_layouts(path, file.read())
        examples = kind(**{name: value_of(layout) for name, layout in fields.items()})  # pyright: ignore[reportArgumentType] (as it was written)
    except BaseException:
        file.close()
        raise
    weakref.finalize(examples, file.close)
    return examples


def _verified_layouts(path: Path, layout: str) -> dict[str, Layout]:
    """The layouts of an entry. Raises ValueError if it or an array is not as it was written."""
    digest, _, content = layout.partition("\n")
    if sha256_of_bytes([content.encode()]) != digest:
        raise ValueError(f"{path / LAYOUT} was altered")
    entry = json.loads(content)
    for name, expected in entry["sha256"].items():
        if sha256_of_file(path / name) != expected:
            raise ValueError(f"{path / name} was altered")
    return entry["layouts"]


def _read_array(path: Path) -> np.ndarray:
    is_small = path.stat().st_size < _SMALL_BYTES
    array = np.load(path, mmap_mode=None if is_small else "r", allow_pickle=False).view(np.ndarray)
    array.flags.writeable = False
    return array


@dataclass(frozen=True)
class Entry:
    """A folder, or a file of an older version, in the cache: its size in bytes and when it was used last."""

    path: Path
    num_bytes: int
    last_used: float

    def remove(self) -> bool:
        """Remove the entry; False if a running process uses or writes it."""
        writer = self.path.name.partition(".partial-")[2]
        if writer and may_be_written(self.path, writer):
            return False
        try:
            with _opened_layout(self.path) as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _delete(self.path)
        except BlockingIOError:
            return False
        except FileNotFoundError:
            _delete(self.path)
        return not self.path.exists()


def _opened_layout(path: Path) -> IO[str]:
    return open(path / LAYOUT if path.is_dir() else path, encoding="utf-8")


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def entries(folder: Path) -> list[Entry]:
    """All entries of a cache, the least recently used first."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        with contextlib.suppress(FileNotFoundError):  # another process has just removed it
            files = [each.stat() for each in (path.iterdir() if path.is_dir() else (path,))]
            found.append(Entry(path, sum(f.st_size for f in files), max((f.st_mtime for f in files), default=0.0)))
    return sorted(found, key=lambda entry: entry.last_used)


def make_room(folder: Path, most_bytes: int) -> list[Entry]:
    """Remove entries until the cache is small enough, the least recently used first; returns those removed."""
    found = entries(folder)
    excess, removed = sum(entry.num_bytes for entry in found) - most_bytes, []
    for entry in found:
        if excess > 0 and entry.remove():
            removed.append(entry)
            excess -= entry.num_bytes
    return removed
