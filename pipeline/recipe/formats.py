"""The formats of local data files, and the names of splits."""

from __future__ import annotations

# What a recipe may write as `data.path`, and the format that it stands for.
FORMATS = {
    "csv": "csv", "tsv": "csv", "json": "json", "jsonl": "json", "parquet": "parquet", "text": "text", "txt": "text",
    "squad": "squad", "conll": "conll",
}  # fmt: skip
SPLITS = ("train", "validation", "test")
