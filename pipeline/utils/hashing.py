"""SHA-256 of files and bytes. Runs and caches on disk hold these digests, so what goes into one never changes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

_CHUNK_BYTES = 2**20


def sha256_of_file(*paths: str | Path) -> str:
    """The SHA-256 of a file, or of several as if they were one, as 64 hex digits. Raises OSError."""
    return sha256_of_bytes(chunk for path in paths for chunk in _chunks(path))


def sha256_of_bytes(pieces: bytes | Iterable[bytes | memoryview]) -> str:
    """The SHA-256 of bytes, or of pieces as if they were one, as 64 hex digits."""
    digest = hashlib.sha256()
    for piece in [pieces] if isinstance(pieces, bytes) else pieces:
        digest.update(piece)
    return digest.hexdigest()


def file_fault(path: str | Path, num_bytes: int, sha256: str | None) -> str | None:
    """How a file differs from what was written into it, as the end of a sentence that begins with it; None if not.

    `num_bytes` and `sha256` are what was written; without `sha256` only the size is compared. Raises OSError.
    """
    size = os.path.getsize(path)
    if size != num_bytes:
        fault = "is cut off" if size < num_bytes else "was altered"
        return f"{fault} ({size:,} bytes, but {num_bytes:,} were written)"
    if sha256 is not None and sha256_of_file(path) != sha256:
        return "was altered (its SHA-256 is not that of what was written)"
    return None


def short_digest(content: bytes | str, length: int = 16) -> str:
    """The first `length` hex digits of the SHA-256 of bytes, or of a text in UTF-8."""
    return sha256_of_bytes(content.encode() if isinstance(content, str) else content)[:length]


def _chunks(path: str | Path) -> Iterable[bytes]:
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
