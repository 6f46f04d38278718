"""Files and folders that are whole or not there: written aside and renamed; locks; JSON that every reader accepts."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Literal, overload

from pydantic import JsonValue

from pipeline.utils.errors import UserError

# A JSON object, such as a line of predictions.jsonl.
JsonObject = dict[str, JsonValue]


def json_safe(value: object) -> object:
    """The value with null for the numbers that JSON does not have: an undefined metric, an overflowed perplexity."""
    if isinstance(value, dict):
        return {key: json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write one JSON object, indented for people, whole or not at all. Raises OSError."""
    with atomic_write(path) as file:
        file.write(json.dumps(json_safe(content), indent=2, ensure_ascii=False) + "\n")


def write_json_lines(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write one JSON object a line, whole or not at all. Raises OSError."""
    with atomic_write(path) as file:
        for row in rows:
            file.write(json.dumps(json_safe(row), ensure_ascii=False) + "\n")


def read_json_lines(path: Path) -> list[JsonObject]:
    """The objects that `write_json_lines` wrote. Raises OSError, and ValueError for a line that is not JSON."""
    # Not splitlines: JSON keeps line separators such as U+2028 inside its strings.
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


@overload
def atomic_write(path: Path) -> AbstractContextManager[IO[str]]: ...
@overload
def atomic_write(path: Path, *, binary: Literal[True]) -> AbstractContextManager[IO[bytes]]: ...
@contextlib.contextmanager
def atomic_write(path: Path, *, binary: bool = False) -> Iterator[IO[str] | IO[bytes]]:
    """A file beside `path` to write into; it takes the name if the block ends well, and vanishes if it does not.

    Text is UTF-8. The folder is made if it is missing. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        with open(partial, "wb" if binary else "w", encoding=None if binary else "utf-8") as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def staged_folder(folder: Path, *, durable: bool = False) -> Iterator[Path]:
    """A folder beside `folder` to write into; it takes the name if the block ends well, and vanishes if it does not.

    What `folder` held is replaced as a whole. What a killed process left half-written is removed first, and an older
    folder that it had moved aside is put back. With `durable`, everything is on the disk before the folder has its
    name, so that it survives a power failure. A link stays one: the folder that it leads to is written. Raises OSError.
    """
    folder = folder.resolve() if folder.is_symlink() else folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    _clear_abandoned(folder)
    staging = folder.parent / f".{folder.name}.partial-{os.getpid()}"
    staging.mkdir()
    try:
        yield staging
        if durable:
            for path in (*sorted(staging.rglob("*")), staging):
                sync(path)
        if folder.exists():
            replaced = folder.parent / f".{folder.name}.replaced.partial-{os.getpid()}"
            folder.rename(replaced)
            staging.rename(folder)
            shutil.rmtree(replaced)
        else:
            staging.rename(folder)
        if durable:
            sync(folder.parent)
            sync(folder.parent.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def sync(path: Path) -> None:
    """Have the system write a file's or folder's content to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep every other process out of a folder; the lock is released when its process ends, however that happens.

    Raises UserError if another process has it, or if the lock cannot be written beside the folder.
    """
    path = _lock_file(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}", arguments=("out",)) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its last holder may have removed the file between the two calls.
            is_ours = path.exists() and os.path.samestat(os.fstat(handle), path.stat())
        except BlockingIOError:
            is_ours = False
        if not is_ours:
            holder = os.pread(handle, 20, 0).decode() or "just starting"
            raise UserError(
                f"{folder} is being written by another process ({holder}); wait for it, stop it, or choose another "
                "folder with out",
                arguments=("out",),
            )
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        os.ftruncate(handle, len(str(os.getpid())))
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(handle)


def refuse_locked(folder: Path) -> None:
    """Raise UserError if another process has locked the folder."""
    if _lock_file(folder).exists():
        with locked(folder):
            pass


def _lock_file(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.lock"


def _clear_abandoned(folder: Path) -> None:
    """Remove what ended processes left beside `folder`; put back an older folder that they moved aside."""
    for abandoned in sorted(folder.parent.glob(f".{glob.escape(folder.name)}.*partial-*"), reverse=True):
        if is_alive(int(abandoned.name.rpartition("-")[2])):
            continue
        if ".replaced." in abandoned.name and not folder.exists():
            abandoned.rename(folder)
        else:
            shutil.rmtree(abandoned)


def is_alive(pid: int) -> bool:
    """Whether there is a process of this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
