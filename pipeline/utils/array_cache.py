"""A folder of arrays that processes share: of those that need an entry one makes it, and all map the same files.

An entry is a folder of NumPy files and a layout in JSON, nothing pickled, beside the `datasets` library's own cache
(HF_DATASETS_CACHE). Large arrays are mapped into memory and not read whole. Of several processes that need an entry one
makes it, and the others wait, also on machines that share a disk. The cache has at most MOST_BYTES, or
TWINSTEP_CACHE_GB gigabytes; what was used least recently is removed first, and nothing that a running process uses.
Some entries are kept for later runs. Others are only shared, such as the order of an epoch: the last user removes them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import shutil
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypedDict, TypeVar

import numpy as np

from pipeline.utils.environment import before_ending, give_back_freed_memory
from pipeline.utils.errors import UserError
from pipeline.utils.files import may_be_written, staged_folder
from pipeline.utils.hashing import sha256_of_bytes, sha256_of_file
from pipeline.utils.mapped_arrays import cache_folder

# How large the cache may be if TWINSTEP_CACHE_GB does not say it.
MOST_BYTES = 10 * 10**9
LAYOUT = "layout.json"
# Larger arrays are mapped into memory.
SMALL_BYTES = 2**16
# What has at least so many bytes is shared by the processes of a machine.
SHARED_BYTES = 2**20
# What systems say of a disk whose files cannot be locked, such as some that are shared over a network.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
Kept = TypeVar("Kept")


class Layout(TypedDict, total=False):
    """How a value is stored, under one of four keys.

    By the name of its array, as a dict of values, as the class and the fields of a dataclass, or as JSON.
    """

    array: str
    dict: dict[str, Layout]
    kind: str
    fields: dict[str, Layout]
    json: object


def kept(name: str, kinds: tuple[type, ...], make: Callable[[], Kept], used_once: bool = False) -> Kept:
    """What `make` returns, from the entry of this name if there is one; raises what `make` raises.

    It consists of arrays, JSON and dataclasses, all of which are among `kinds`. The name must hold a digest of all that
    `make` reads, so that an entry is never stale, only unused. Its arrays can be read, but not written. What is
    `used_once` is removed when no process has its arrays any more. Raises UserError if TWINSTEP_CACHE_GB is wrong.
    """
    most_bytes, folder = size_limit(), cache_folder()
    entry = folder / name
    if (found := _read_if_whole(entry, kinds, used_once)) is not None:
        return found  # pyright: ignore[reportReturnType] (what was written under this name)
    with _made_by_one(entry) as is_kept:
        # Another process may have made it while this one waited.
        if is_kept and (found := _read_if_whole(entry, kinds, used_once)) is not None:
            return found  # pyright: ignore[reportReturnType]
        made = make()
        # A full or read-only disk costs the next run time, and must not end this one.
        with contextlib.suppress(OSError):
            if is_kept:
                write_entry(entry, made, durable=not used_once)
                made: Kept = read_entry(entry, kinds, used_once)  # pyright: ignore[reportAssignmentType]; frees the memory of its arrays
                make_room(folder, most_bytes)
                give_back_freed_memory()
    return made


def shared(
    make: Callable[[], Kept], kinds: tuple[type, ...], num_bytes: int, reads: Callable[[], Iterable[bytes | memoryview]]
) -> Kept:
    """What `make` returns; if it has many bytes, one copy of it in a file, as long as a process of the machine uses it.

    `reads` returns all that `make` reads, its own source included; `kinds` are the dataclasses that it consists of.
    """
    if num_bytes < SHARED_BYTES:
        return make()
    return kept(f"shared-{sha256_of_bytes(reads())[:32]}", kinds, make, used_once=True)


def _read_if_whole(entry: Path, kinds: tuple[type, ...], used_once: bool) -> object | None:
    """An entry, or None if it has to be made, also because it is damaged."""
    try:
        return read_entry(entry, kinds, used_once)
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


def write_entry(path: Path, value: object, durable: bool = True) -> None:
    """Write an entry: the arrays by name, and a layout in JSON that says where in the value they belong.

    The layout holds the digests of the arrays, and begins with a line that is its own. `durable` says that the entry is
    to outlast a loss of power. Raises OSError.
    """
    arrays: dict[str, np.ndarray] = {}
    layout = _layout_of("", value, arrays)
    with staged_folder(path, durable=durable) as staging:
        digests = {f"{name}.npy": _save(staging / f"{name}.npy", array) for name, array in arrays.items()}
        content = json.dumps({"layout": layout, "sha256": digests})
        (staging / LAYOUT).write_text(f"{sha256_of_bytes([content.encode()])}\n{content}", encoding="utf-8")


def _layout_of(name: str, value: object, arrays: dict[str, np.ndarray]) -> Layout:
    """The layout of a value that has this name in its entry; its arrays are added to `arrays`."""

    def inside(values: Mapping[str, object]) -> dict[str, Layout]:
        return {key: _layout_of(f"{name}.{key}".removeprefix("."), each, arrays) for key, each in values.items()}

    if isinstance(value, np.ndarray):
        arrays[name] = value
        return {"array": name}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {"kind": type(value).__name__, "fields": inside(fields)}
    return {"dict": inside(value)} if isinstance(value, dict) else {"json": value}


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


class _User:
    """This process as a user of an entry, which is not removed as long as there is one of its mapped arrays.

    The last user removes an entry that is used once.
    """

    def __init__(self, entry: Path, used_once: bool):
        self._entry, self._file = entry, open(entry / LAYOUT, encoding="utf-8")  # noqa: SIM115 -- closed with the arrays
        self.leave = weakref.finalize(self, _leave, self._file, entry if used_once else None)
        _users.add(self)

    def layout(self) -> str:
        """What the file of the layout says, from now on in use. Raises OSError if there are no locks."""
        fcntl.flock(self._file, fcntl.LOCK_SH)
        os.utime(self._entry / LAYOUT)  # when it was used last; an error if it was removed meanwhile
        return self._file.read()


def _leave(file: IO[str], used_once: Path | None) -> None:
    file.close()
    if used_once is not None:
        with contextlib.suppress(OSError):
            Entry(used_once, 0, 0.0).remove()


# Those of this process.
_users: weakref.WeakSet[_User] = weakref.WeakSet()


def _leave_all() -> None:
    for user in list(_users):
        user.leave()


before_ending(_leave_all)


class _MappedArray(np.memmap):
    """An array of an entry, with its user."""

    user: _User


def read_entry(path: Path, kinds: tuple[type, ...], used_once: bool = False) -> object:
    """Read an entry back as it was written, and keep it from being removed as long as its mapped arrays are there.

    Raises OSError, ValueError, EOFError or KeyError if it is damaged or removed just now.
    """
    user = _User(path, used_once)
    return _value_of(_verified_layout(path, user.layout()), path, {kind.__name__: kind for kind in kinds}, user)


def _value_of(layout: Layout, path: Path, kinds: Mapping[str, type], user: _User) -> object:
    """The value of a layout, or of a part of it."""

    def inside(layouts: Mapping[str, Layout]) -> dict[str, object]:
        return {key: _value_of(each, path, kinds, user) for key, each in layouts.items()}

    if "array" in layout:
        return _read_array(path / f"{layout['array']}.npy", user)
    if "kind" in layout and "fields" in layout:
        return kinds[layout["kind"]](**inside(layout["fields"]))
    return inside(layout["dict"]) if "dict" in layout else layout.get("json")


def _verified_layout(path: Path, layout: str) -> Layout:
    """The layout of an entry. Raises ValueError if it or an array is not as it was written."""
    digest, _, content = layout.partition("\n")
    if sha256_of_bytes([content.encode()]) != digest:
        raise ValueError(f"{path / LAYOUT} was altered")
    entry = json.loads(content)
    for name, expected in entry["sha256"].items():
        if sha256_of_file(path / name) != expected:
            raise ValueError(f"{path / name} was altered")
    return entry["layout"]


def _read_array(path: Path, user: _User) -> np.ndarray:
    if path.stat().st_size < SMALL_BYTES:
        array = np.load(path, allow_pickle=False)
    else:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False).view(_MappedArray)
        mapped.user = user
        array = mapped.view(np.ndarray)  # whose base is the mapped one
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
