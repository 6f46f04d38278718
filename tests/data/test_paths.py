"""A path is a path, and what lies there now is what is read: no patterns, no cache in front of the bytes."""

import json
import os

import pyarrow
import pyarrow.parquet
import pytest

from pipeline import UserError, load_recipe
from pipeline.data.splits import read_splits

NAMES = ("rows[1]", "rows*", "row?", "{rows,x}", "~rows", "rows 1", "rows#1", "rows%20", "label=7", "hf:x", "rows::zip")
KINDS = {"csv": "csv", "tsv": "tsv", "json": "json", "jsonl": "json", "parquet": "parquet", "txt": "text",
         "conll": "conll"}  # fmt: skip


def write_words(path, words):
    rows = [{"text": word, "label": str(i % 2)} for i, word in enumerate(words)]
    kind = path.suffix.lstrip(".")
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif kind in ("csv", "tsv"):
        separator = {"csv": ",", "tsv": "\t"}[kind]
        lines = [f"text{separator}label", *(f"{row['text']}{separator}{row['label']}" for row in rows)]
        path.write_text("\n".join(lines) + "\n")
    elif kind == "json":
        path.write_text(json.dumps(rows))
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text("\n".join(words) + "\n")


def read_words(path):
    kind = path.suffix.lstrip(".")
    changes = {"data.path": KINDS[kind], "data.files.train": str(path), "data.files.validation": str(path)}
    changes["data.columns"] = {"text": 0} if kind == "conll" else {}
    words = read_splits(load_recipe("sentiment_bert", changes), ("text",), ())["train"]["text"][:]
    return words[0] if kind == "conll" else [word.rstrip("\n") for word in words]


@pytest.mark.parametrize("kind", KINDS)
def test_names_that_look_like_patterns_are_names(tmp_path, kind):
    for number, name in enumerate(NAMES):
        for place in (tmp_path / f"{name}.{kind}", tmp_path / name / f"a.{kind}"):
            place.parent.mkdir(exist_ok=True)
            write_words(place, ["right", str(number)])
    for decoy in ("rows1", "rowsx", "rows", "x", "row1"):
        write_words(tmp_path / f"{decoy}.{kind}", ["wrong"])
    for number, name in enumerate(NAMES):
        assert read_words(tmp_path / f"{name}.{kind}") == ["right", str(number)]
        assert read_words(tmp_path / name / f"a.{kind}") == ["right", str(number)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_pattern_that_names_no_file_is_refused(tmp_path, kind):
    write_words(tmp_path / f"rows1.{kind}", ["wrong"])
    with pytest.raises(UserError, match="but there is no such file"):
        read_words(tmp_path / f"rows[1].{kind}")


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_replaced_under_the_same_name_and_time_is_read_anew(tmp_path, kind):
    path = tmp_path / f"rows.{kind}"
    for words in (["old", "days"], ["new", "data"]):
        write_words(path, words)
        os.utime(path, (1_000_000_000, 1_000_000_000))
        assert read_words(path) == words


def test_a_local_folder_in_place_of_a_hub_id_is_read_anew(tmp_path):
    for words in (["old", "days"], ["new", "data"]):
        for split in ("train", "validation"):
            write_words(tmp_path / f"{split}.parquet", words)
            os.utime(tmp_path / f"{split}.parquet", (1_000_000_000, 1_000_000_000))
        recipe = load_recipe("sentiment_bert", {"data.path": str(tmp_path), "data.columns": {}})
        assert read_splits(recipe, ("text",), ())["train"]["text"][:] == words
