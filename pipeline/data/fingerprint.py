"""Digests of data: the same rows have the same one on any machine."""

from __future__ import annotations

import json
from collections.abc import Iterator

import datasets

from pipeline.data.table import chunks_of
from pipeline.utils.hashing import sha256_of_bytes, short_digest


def content_digest(rows: datasets.Dataset) -> str:
    """The SHA-256 of the contents of a split, which is the same for the same rows on any machine."""

    def pieces() -> Iterator[bytes]:
        for column in sorted(rows.column_names):
            kind = repr(rows.features[column])  # holds the names of labels that are stored as numbers
            yield f"{column}:{len(rows)}:{kind if 'ClassLabel' in kind else ''}\n".encode()
            yield from _json_of_list(rows, column)

    return sha256_of_bytes(pieces())


def _json_of_list(rows: datasets.Dataset, column: str) -> Iterator[bytes]:
    """The JSON of the list of a column's values, without having them all in memory."""
    start = b"["
    for values in chunks_of(rows, column):
        yield start + json.dumps(values, ensure_ascii=False, default=str)[1:-1].encode()
        start = b", "
    yield b"]" if len(rows) else b"[]"


def fingerprint(digests: dict[str, str]) -> str:
    """Sixteen hex digits for the contents of all splits, from the digest of each."""
    return short_digest(json.dumps(digests, sort_keys=True))
