"""Files and folders that are whole or not there: written aside and renamed; locks; JSON that every reader accepts."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import math
import os
import re
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Literal, overload

from pydantic import JsonValue

from pipeline.utils.errors import UserError
from pipeline.utils.hashing import short_digest
from pipeline.utils.text import escape_controls, one_line

# A JSON object, such as a line of predictions.jsonl.
JsonObject = dict[str, JsonValue]
# Ends the name of an older folder that is moved aside.
_REPLACED = ".replaced"
# Matches what `writer_mark` returns, and what older versions wrote.
_MARK = re.compile(r"\d{1,7}(?:-[0-9a-f]{8})?")
# After so long without a change, what a process of another machine writes is taken to be abandoned.
ABANDONED_SECONDS = 86_400.0
# The file by whose lock a temporary folder is known to be in use.
_IN_USE = "in-use"


def json_safe(value: object) -> object:
    """The value with null for the numbers that JSON does not have: an undefined metric, an overflowed perplexity."""
    if isinstance(value, dict):
        return {key: json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_line(content: Mapping[str, object]) -> str:
    """One JSON object on one line that cannot change a terminal; see `escape_controls`."""
    return escape_controls(json.dumps(json_safe(content), ensure_ascii=False))


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
    """The objects that `write_json_lines` wrote. Raises OSError, and ValueError naming a line that is not JSON."""
    objects = []
    # Not splitlines: JSON keeps line separators such as U+2028 inside its strings.
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        try:
            objects += [strict_json(line)] if line else []
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number}: {error}") from error
    return objects


def strict_json(text: str) -> JsonValue:
    """The value of a JSON text without the NaN and the infinities that Python writes. Raises ValueError."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


@overload
def atomic_write(path: Path) -> AbstractContextManager[IO[str]]: ...
@overload
def atomic_write(path: Path, *, binary: Literal[True]) -> AbstractContextManager[IO[bytes]]: ...
@contextlib.contextmanager
def atomic_write(path: Path, *, binary: bool = False) -> Iterator[IO[str] | IO[bytes]]:
    """A file beside `path` to write into; it takes the name if the block ends well, and vanishes if it does not.

    Text is UTF-8. The folder is made if it is missing. A link stays one: the file that it leads to is written. A device
    or a pipe stays one too: it is written into at once. Raises OSError.
    """
    mode, encoding = ("wb", None) if binary else ("w", "utf-8")
    if path.exists() and not path.is_file():
        with open(path, mode, encoding=encoding) as stream:
            yield stream
        return
    path = path.resolve() if path.is_symlink() else path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{writer_mark()}")
    try:
        with open(partial, mode, encoding=encoding) as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def staged_folder(folder: Path, *, durable: bool = False, own: Container[str] | None = None) -> Iterator[Path]:
    """A folder beside `folder` to write into; it takes the name if the block ends well, and vanishes if it does not.

    What `folder` held is replaced as a whole, or, with `own`, what has one of these names: anything else is kept. What
    a killed process left half-written is removed first, and an older folder that it had moved aside is put back. With
    `durable`, everything is on the disk before the folder has its name, so that it survives a power failure. A link
    stays one: the folder that it leads to is written. Raises OSError.
    """
    folder = folder.resolve() if folder.is_symlink() else folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    _clear_abandoned(folder)
    staging = folder.parent / f".{folder.name}.partial-{writer_mark()}"
    staging.mkdir()
    try:
        yield staging
        if durable:
            for path in (*sorted(staging.rglob("*")), staging):
                sync(path)
        if folder.exists():
            replaced = staging.with_name(staging.name + _REPLACED)
            folder.rename(replaced)
            staging.rename(folder)
            others = [] if own is None else [entry for entry in replaced.iterdir() if entry.name not in own]
            for entry in others:
                entry.rename(folder / entry.name)
            if replaced.is_dir():
                shutil.rmtree(replaced)
            else:
                replaced.unlink()
        else:
            staging.rename(folder)
        if durable:
            sync(folder.parent)
            sync(folder.parent.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def reason(error: BaseException) -> str:
    """Why a file could not be written, in the system's words if it gave any."""
    return one_line(getattr(error, "strerror", None) or str(error) or type(error).__name__)


def remedy(error: BaseException) -> str:
    """What to do about it: only a full disk needs room."""
    full = (errno.ENOSPC, errno.EDQUOT)
    # The library that writes tensors puts the system's number into its message.
    is_full = getattr(error, "errno", None) in full or any(f"os error {code}" in str(error) for code in full)
    return "Free some space" if is_full else "Correct the cause"


def sync(path: Path) -> None:
    """Have the system write a file's or folder's content to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def scratch_folder(purpose: str) -> Iterator[Path]:
    """A temporary folder that vanishes when the block ends, or with the next one of its purpose if the process dies.

    Raises OSError.
    """
    prefix, place = f"twinstep-{purpose}-", Path(tempfile.gettempdir())
    for abandoned in place.glob(f"{prefix}*"):
        # An error: another user's, one in use, or one that is just being made or removed.
        with contextlib.suppress(OSError), open(abandoned / _IN_USE, "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not abandoned.is_symlink() and abandoned.stat().st_uid == os.getuid():
                shutil.rmtree(abandoned)
    with tempfile.TemporaryDirectory(prefix=prefix) as folder:
        making = Path(folder) / f"{_IN_USE}.making"
        with open(making, "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            making.rename(Path(folder) / _IN_USE)
            yield Path(folder)


@contextlib.contextmanager
def temporary_files_vanish(purpose: str) -> Iterator[None]:
    """Have what this process writes as temporary files in the block vanish with it; see `scratch_folder`.

    TensorFlow's AutoGraph deletes its files when Python ends, and our processes end without that.
    """
    before = tempfile.tempdir
    with scratch_folder(purpose) as folder:
        tempfile.tempdir = str(folder)
        try:
            yield
        finally:
            tempfile.tempdir = before


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep every other process out of a folder; the lock is released when its process ends, however that happens.

    Raises UserError if another process has it, or if the lock cannot be written beside the folder.
    """
    path = _lock_file(folder)
    handle = _opened_lock(path, folder)
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


def _opened_lock(path: Path, folder: Path) -> int:
    """The descriptor of a lock file, made if it is missing.

    Raises UserError if it cannot be, or if something else has its name: nothing of that is changed.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Neither through a link, nor waiting for the other end of a pipe.
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    except OSError as error:
        if path.is_symlink() or path.exists():
            raise _not_a_lock(path, folder) from error
        raise UserError(f"{folder} cannot be written: {reason(error)}", arguments=("out",)) from error
    status = os.fstat(handle)
    # A file with two names may be anything of the user's.
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1 or not re.fullmatch(rb"\d*", os.pread(handle, 20, 0)):
        os.close(handle)
        raise _not_a_lock(path, folder)
    return handle


def _not_a_lock(path: Path, folder: Path) -> UserError:
    return UserError(
        f"{folder} cannot be written: {path} would be its lock, but it is something else, or may not be written; move "
        "it away, or choose another folder with out",
        arguments=("out",),
    )


def refuse_locked(folder: Path) -> None:
    """Raise UserError if another process has locked the folder."""
    if os.path.lexists(_lock_file(folder)):
        with locked(folder):
            pass


def _lock_file(folder: Path) -> Path:
    folder = folder.resolve() if folder.is_symlink() else folder
    return folder.parent / f".{folder.name}.lock"


def is_beside(name: str, folder: Path) -> bool:
    """Whether a file or folder beside `folder` has a name that is written there for it and no other folder."""
    return name == _lock_file(folder).name or _leftover(folder).fullmatch(name) is not None


def written_beside(folder: Path) -> list[Path]:
    """The folders that running processes write at this moment to take the place of `folder`."""
    if not folder.parent.is_dir():
        return []
    matches = [(path, _leftover(folder).fullmatch(path.name)) for path in folder.parent.iterdir()]
    return [path for path, match in matches if match and not match[2] and may_be_written(path, match[1])]


def _leftover(folder: Path) -> re.Pattern[str]:
    """Matches what `staged_folder` writes beside `folder`, with the mark of its writer as the first group."""
    return re.compile(rf"\.{re.escape(folder.name)}\.partial-({_MARK.pattern})({re.escape(_REPLACED)})?")


def _clear_abandoned(folder: Path) -> None:
    """Remove what ended processes left beside `folder`; put back an older folder that they moved aside."""
    names = _leftover(folder)
    for abandoned in sorted(folder.parent.iterdir(), reverse=True):
        match = names.fullmatch(abandoned.name)
        if match is None or abandoned.is_symlink() or not abandoned.is_dir() or may_be_written(abandoned, match[1]):
            continue
        if match[2] and not folder.exists():
            abandoned.rename(folder)
        else:
            shutil.rmtree(abandoned)


def writer_mark() -> str:
    """Says in a file's name which process writes it: its number, and eight digits for its machine.

    Machines that share a disk give their processes the same numbers.
    """
    return f"{os.getpid()}-{_machine()}"


def _machine() -> str:
    return short_digest(socket.gethostname(), 8)


def may_be_written(path: Path, mark: str) -> bool:
    """Whether the process with this mark may still write a file or folder.

    Of a process of another machine nobody here knows whether it runs; it may unless it has written nothing for a day.
    """
    if not _MARK.fullmatch(mark):
        return False
    pid, _, machine = mark.partition("-")  # older versions named no machine
    if machine in ("", _machine()):
        return is_alive(int(pid))
    with contextlib.suppress(FileNotFoundError):
        entries = [path, *path.iterdir()] if path.is_dir() else [path]
        return max(entry.lstat().st_mtime for entry in entries) > time.time() - ABANDONED_SECONDS
    return True


def is_alive(pid: int) -> bool:
    """Whether there is a process of this number."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
