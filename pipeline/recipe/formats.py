"""The formats of local data files, and the names of splits."""

from __future__ import annotations

import os

# What a recipe may write as `data.path`, and the format that it stands for.
FORMATS = {
    "csv": "csv", "tsv": "csv", "json": "json", "jsonl": "json", "parquet": "parquet", "text": "text", "txt": "text",
    "squad": "squad", "conll": "conll",
}  # fmt: skip
SPLITS = ("train", "validation", "test")
# Suffixes of compressed files, which are read as the files inside them.
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")


def suffix_of(name: str) -> str:
    """The suffix that tells a file's format, without the one of its compression: "csv" for rows.csv.gz, or ""."""
    for compressed in COMPRESSED:
        name = name.removesuffix(compressed)
    return os.path.splitext(name)[1].removeprefix(".")
