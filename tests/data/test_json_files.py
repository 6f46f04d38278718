"""JSON: unused keys never matter, used values are judged by row, and lists inside objects are found."""

import json

import pytest

from pipeline import UserError, load_recipe
from pipeline.data.splits import read_splits
from pipeline.tasks.base import load_task


def recipe_on(path, **changes):
    files = {"data.path": "json", "data.files.train": str(path), "data.files.validation": str(path)}
    return load_recipe("sentiment_bert", files | changes)


def read(path, **changes):
    return read_splits(recipe_on(path, **changes), ("text", "label"), ())["train"]


def refusal(path, **changes):
    recipe = recipe_on(path, **changes)
    task = load_task(recipe)
    with pytest.raises(UserError) as error:
        task.validate(read_splits(recipe, task.required, task.optional), {})
    return str(error.value)


ROWS = [{"text": f"scene {i}", "label": ("no", "yes")[i % 2]} for i in range(12)]
ANYTHING = [1, 2**70, 1.5, "x", None, True, [], [1, "x"], {}, {"deep": {"er": [2**70]}}, "\ud800", float("nan")]


def as_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("shape", ["lines", "list", "field"])
def test_keys_nobody_asked_for_may_hold_anything(tmp_path, shape):
    rows = [row | {"id": value, f"only{i}": value} for i, (row, value) in enumerate(zip(ROWS, ANYTHING, strict=True))]
    path = as_lines(tmp_path / "a.json", rows)
    if shape != "lines":
        path.write_text(json.dumps(rows if shape == "list" else {"version": 1, "data": {"rows": rows}}))
    rows = read(path, **({"data.field": "data.rows"} if shape == "field" else {}))
    assert rows.to_list() == ROWS


def test_a_number_of_five_thousand_digits_matters_only_where_it_is_used(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row)[:-1] + ', "id": ' + "9" * 5000 + "}\n" for row in ROWS))
    assert read(path).to_list() == ROWS
    assert "label is inf" in refusal(path, **{"data.columns": {"label": "id"}})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("text", 12, "train row 8: text is 12, which is a whole number, but most rows have a text"),
        ("text", ["a"], r"train row 8: text is \['a'\], which is a list"),
        ("text", {"a": 1}, "train row 8: text is {'a': 1}, which is an object"),
        ("text", None, "train row 8: text is null"),
        ("text", "\ud800", "train row 8: text is '\\\\ud800', which holds half of a character"),
        ("label", True, "train row 8: label is True, which is true or false, but most rows have a text"),
        ("label", 2**70, "train row 8: label is 1180591620717411303424, which is too large"),
        ("label", 1.5, "train row 8: label is 1.5, which is a number"),
    ],
)
def test_a_used_value_of_the_wrong_type_is_named_by_row(tmp_path, key, value, message):
    rows = [dict(row) for row in ROWS]
    rows[7][key] = value
    with pytest.raises(UserError, match=message):
        recipe = recipe_on(as_lines(tmp_path / "a.jsonl", rows))
        task = load_task(recipe)
        task.validate(read_splits(recipe, task.required, task.optional), {})


def test_a_column_of_the_wrong_type_throughout_is_named_by_row(tmp_path):
    rows = [row | {"text": i} for i, row in enumerate(ROWS)]
    assert "train row 1: text is 0, but must be text" in refusal(as_lines(tmp_path / "a.jsonl", rows))


def test_a_key_that_stands_twice_is_refused_where_it_is_used(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "x": 1, "x": 2, "label": "yes"}\n{"text": "b", "label": "no"}\n')
    assert len(read(path)) == 2
    path.write_text('{"text": "a", "label": "no"}\n{"text": "b", "label": "yes", "label": "no"}\n')
    assert 'line 2 has the key "label" more than once' in refusal(path)


@pytest.mark.parametrize("indent", [None, 2])
def test_rows_under_a_key_are_named_in_the_refusal_and_read(tmp_path, indent):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"version": 1, "notes": ["x"], "data": ROWS}, indent=indent))
    assert "set data.field=data" in refusal(path)
    assert read(path, **{"data.field": "data"}).to_list() == ROWS
    assert 'data.field is "rows", but must lead to a list of rows, not to nothing' in refusal(
        path, **{"data.field": "rows"}
    )
    assert "must lead to a list of rows, not to 1" in refusal(path, **{"data.field": "version"})


def test_squad_read_as_json_is_recognized(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"data": [{"title": "A", "paragraphs": []}]}))
    assert "set data.path=squad" in refusal(path)


@pytest.mark.parametrize("indent", [None, 1])
def test_one_row_alone_is_a_row_not_a_wrapper(tmp_path, indent):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n")
    assert read(path).to_list() == ROWS[:1]


def test_nesting_without_end_is_refused_with_its_line(tmp_path):
    path = as_lines(tmp_path / "a.jsonl", ROWS[:2])
    path.write_text(path.read_text() + '{"x": ' + "[" * 100_000 + "]" * 100_000 + "}\n")
    assert "line 3: it is nested too deeply" in refusal(path)


def test_data_field_is_refused_for_other_formats(tmp_path):
    with pytest.raises(UserError, match="field would be ignored with path csv"):
        recipe_on(tmp_path / "a.csv", **{"data.path": "csv", "data.field": "data"})
