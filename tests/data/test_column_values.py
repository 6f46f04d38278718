"""Columns of many rows: kept in Arrow where all values have one plain type, and the same rows either way."""

import hashlib
import json

import pyarrow
import pytest

from pipeline import UserError, load_recipe
from pipeline.data.splits import content_digest, read_splits
from pipeline.data.table import CHUNK_ROWS, ColumnValues, values_of

MANY = 2 * CHUNK_ROWS + 3


def numbered(make):
    return [make(i) for i in range(MANY)]


PLAIN = {
    "texts": numbered(lambda i: f"row {i} é"),
    "texts and null": numbered(lambda i: None if i % 7 == 0 else str(i)),
    "whole numbers": numbered(lambda i: 2**40 + i),
    "numbers": numbered(lambda i: i / 7),
    "booleans": numbered(lambda i: i % 3 == 0),
    "lists": numbered(lambda i: ["a", None, str(i)][: i % 4]),
    "objects": numbered(lambda i: {"a": i, "b": [{"c": 1 / (i + 1)}]}),
}
MIXED = {
    "a number among texts": [*numbered(str), 7],
    "true among numbers": [*numbered(int), True],
    "half of a character": [*numbered(str), "\ud800"],
    "a number of 65 bits": [*numbered(int), 2**64],
    "lists of numbers of two types": numbered(lambda i: [i, 1.0]),
    "objects that lack a key": [*numbered(lambda i: {"a": i}), {}],
    "objects with keys in another order": [*numbered(lambda i: {"a": i, "b": i}), {"b": 1, "a": 2}],
}


@pytest.mark.parametrize("name", [*PLAIN, *MIXED])
def test_values_come_back_as_they_were_and_one_plain_type_is_kept_in_arrow(name):
    expected = (PLAIN | MIXED)[name]
    values = ColumnValues(expected)
    assert len(values) == len(expected)
    assert [*map(repr, values)] == [*map(repr, expected)]
    arrow = values.as_arrow()
    assert (arrow is None) == (name in MIXED)
    assert arrow is None or arrow.to_pylist() == expected


def test_columns_are_joined_in_order_and_of_two_types_not_in_arrow():
    values = ColumnValues(["a"])
    values.extend(ColumnValues(map(str, range(MANY))))
    values.append("b")
    assert [*values] == ["a", *map(str, range(MANY)), "b"] == values.as_arrow().to_pylist()
    values.extend(ColumnValues([5]))
    assert values.as_arrow() is None and [*values][-1] == 5
    assert "b" in values and "c" not in values


def test_an_arrow_column_is_not_copied():
    column = pyarrow.chunked_array([pyarrow.array(PLAIN["texts"]), pyarrow.array(["end"])])
    values = ColumnValues.of_arrow(column)
    assert [*values] == [*PLAIN["texts"], "end"]
    address = column.chunk(0).buffers()[2].address
    assert values.as_arrow().chunk(0).buffers()[2].address == address


def write(folder, rows):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = load_recipe("sentiment_bert", {"data.files.train": str(path), "data.files.validation": str(path)})
    return lambda: read_splits(recipe, ("text", "label"), ())["train"]


def test_rows_of_many_chunks_are_read_and_digested_as_one_list(tmp_path):
    texts = PLAIN["texts"]
    rows = write(tmp_path, [{"text": text, "label": i} for i, text in enumerate(texts)])()
    assert rows["text"][:] == texts == [*values_of(rows, "text")]
    assert rows["label"][:] == [*range(MANY)]
    pieces = [f"{column}:{MANY}:\n" + json.dumps(rows[column][:], ensure_ascii=False) for column in ("label", "text")]
    assert content_digest(rows) == hashlib.sha256("".join(pieces).encode()).hexdigest()


def test_a_wrong_value_behind_many_right_ones_is_named_with_its_row(tmp_path):
    rows = [{"text": str(i), "label": i % 2} for i in range(MANY)]
    rows[-2]["text"] = 5
    with pytest.raises(UserError, match=f"row {MANY - 1}: text is 5, which is a whole number, but most rows have a"):
        write(tmp_path, rows)()
