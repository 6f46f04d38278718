"""Delimited files: text stays text, every line is checked, and what is wrong is named with its line and a way out."""

import re

import pytest

from pipeline import UserError, load_recipe
from pipeline.cli.main import execute
from pipeline.data.splits import read_splits
from pipeline.tasks.base import load_task


def recipe_on(train, validation=None, **changes):
    files = {"data.files.train": str(train), "data.files.validation": str(validation or train)}
    return load_recipe("sentiment_bert", {"data.path": train.suffix.lstrip(".")} | files | changes)


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def read(recipe, fields=("text", "label"), split="train"):
    return read_splits(recipe, fields, ())[split]


def refusal(recipe, fields=("text", "label")):
    with pytest.raises(UserError) as error:
        read_splits(recipe, fields, ())
    return str(error.value)


ROWS = [f"a fine scene {i},yes" if i % 2 else f"a dull scene {i},no" for i in range(8)]


@pytest.mark.parametrize(
    "labels",
    [["007", "0010"], ["TRUE", "FALSE"], ["1.0", "2.50"], ["NA", "null"], ["1e5", "0x1F"], ["2020-01-01", "12:30"],
     ["yes", "Yes"], ["∅", "nan"]],
)  # fmt: skip
def test_labels_are_what_is_written(tmp_path, labels):
    path = write(tmp_path / "a.csv", "text,label", *(f"a scene {i},{labels[i % 2]}" for i in range(6)))
    assert read(recipe_on(path))["label"][:] == labels * 3
    task = load_task(recipe_on(path))
    task.validate(read_splits(recipe_on(path), task.required, task.optional), {})
    assert set(task.labels) == set(labels)


def test_numbers_as_labels_are_ordered_by_size(tmp_path):
    path = write(tmp_path / "a.csv", "text,label", *(f"scene,{label}" for label in ("10", "9", "-1", "2")))
    task = load_task(recipe_on(path))
    task.validate(read_splits(recipe_on(path), task.required, task.optional), {})
    assert task.labels == ("-1", "2", "9", "10")


def test_splits_of_different_looks_agree(tmp_path):
    train = write(tmp_path / "t.csv", "text,label", "one,01", "two,A2")
    validation = write(tmp_path / "v.csv", "text,label", "one,01", "two,01")
    task = load_task(recipe_on(train, validation))
    splits = read_splits(recipe_on(train, validation), task.required, task.optional)
    task.validate(splits, {})
    assert splits["validation"]["label"][:] == ["01", "01"]


def test_targets_that_are_years_are_text(tmp_path):
    path = write(tmp_path / "a.csv", "source,target", *(f"scene {year},{year}" for year in range(1900, 1910)))
    recipe = load_recipe("dates_t5", {"data.path": "csv", "data.files.train": str(path),
                                      "data.files.validation": str(path)})  # fmt: skip
    task = load_task(recipe)
    splits = read_splits(recipe, task.required, task.optional)
    task.validate(splits, {})
    assert splits["train"]["target"][:] == [str(year) for year in range(1900, 1910)]


def test_an_unused_column_may_change_after_many_rows(tmp_path):
    rows = [f"scene {i},{i % 2},{i if i < 11000 else 'x' * 9}" for i in range(12000)]
    path = write(tmp_path / "a.csv", "text,label,extra", *rows)
    assert len(read(recipe_on(path))) == 12000


def test_numbers_are_parsed_for_regression_alone(tmp_path):
    path = write(tmp_path / "a.csv", "text,label", "one,007", "two, 2.5 ", "three,-1e-1")
    recipe = recipe_on(path, **{"options.problem_type": "regression", "metrics": ["mse"]})
    task = load_task(recipe)
    splits = read_splits(recipe, task.required, task.optional)
    task.validate(splits, {})
    from pipeline.models.checkpoint import load_config, load_tokenizer

    task.setup(load_config(recipe), load_tokenizer(recipe))
    assert task.encode(splits["train"]).labels.tolist() == pytest.approx([7.0, 2.5, -0.1])


@pytest.mark.parametrize("value", ["", "abc", "1_000", "nan", "inf", '"2,5"', "٣"])
def test_a_regression_label_that_is_no_number_is_named(tmp_path, value):
    path = write(tmp_path / "a.csv", "text,label", "one,1", f"two,{value}")
    recipe = recipe_on(path, **{"options.problem_type": "regression", "metrics": ["mse"]})
    task = load_task(recipe)
    with pytest.raises(UserError, match="train row 2: label is .*, but must be a number"):
        task.validate(read_splits(recipe, task.required, task.optional), {})


FAULTS = {
    "never closed": (
        '"they never closed it,yes',
        "line 4 opens a quotation mark that is never closed .*data.quoting=false",
    ),
    "text behind": ('"closed" it,yes', "line 4 has text behind a closing quotation mark"),
    "surplus": ("one, two,yes", r"line 4 has 3 fields, but the header has 2 \(text, label\)"),
    "missing": ("no label", "line 4 has 1 field, but the header has 2"),
    "blank": ("", "line 4 is blank, but rows follow"),
    "NUL": ("a\0b,yes", "line 4 holds a NUL character"),
    "closed by chance": (
        '"they never closed it,yes\na,no\nb,yes\nc,no\n6\'2",no',
        "line 4 opens a quotation mark that is closed 4 lines later",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_broken_line_is_named_with_the_way_out(tmp_path, fault, split):
    line, message = FAULTS[fault]
    broken = write(tmp_path / "broken.csv", "text,label", *ROWS[:2], line, *ROWS[2:])
    fine = write(tmp_path / "fine.csv", "text,label", *ROWS)
    files = (broken, fine) if split == "train" else (fine, broken)
    text = refusal(recipe_on(*files))
    assert re.search(message, text) and f"data.files.{split}" in text and len(text.splitlines()) == 1


@pytest.mark.parametrize("fault", ["never closed", "text behind"])
def test_data_quoting_is_the_way_out(tmp_path, fault):
    line = FAULTS[fault][0]
    path = write(tmp_path / "a.csv", "text,label", *ROWS[:2], line, *ROWS[2:])
    rows = read(recipe_on(path, **{"data.quoting": False}))
    assert len(rows) == 9
    assert rows[2] == dict(zip(("text", "label"), line.rsplit(",", 1), strict=True))


def test_a_long_quoted_text_that_looks_like_rows_is_read_when_the_recipe_says_so(tmp_path):
    poem = "roses, red\nviolets, blue\nsugar, sweet\nso, you"
    path = write(tmp_path / "a.csv", "text,label", f'"{poem}",yes', "b,no")
    assert "set data.quoting=true" in refusal(recipe_on(path))
    assert read(recipe_on(path, **{"data.quoting": True}))["text"][:] == [poem, "b"]


def test_quoted_texts_of_several_lines_are_whole(tmp_path):
    text = 'He said "no".\nThen, he left.\r\n\nThe end'
    path = tmp_path / "a.csv"
    quoted = text.replace('"', '""')
    path.write_bytes(f'text,label\r\n"{quoted}",yes\r\nb,no\r\n\r\n'.encode())
    assert read(recipe_on(path))["text"][:] == [text, "b"]


def test_a_tab_separated_file_is_checked_too(tmp_path):
    path = write(tmp_path / "a.tsv", "text\tlabel", 'a "quoted\tyes', "b\tno\tmore")
    assert "line 3 has 3 fields" in refusal(recipe_on(path)) and "data.quoting=true" in refusal(recipe_on(path))
    fine = write(tmp_path / "b.tsv", "text\tlabel", 'a "quoted\tyes', '"b"\tno')
    assert read(recipe_on(fine))["text"][:] == ['a "quoted', '"b"']


def test_a_file_without_header_is_checked_too(tmp_path):
    path = write(tmp_path / "a.csv", "a,yes", "b,no,more")
    changes = {"data.columns": {"text": 0, "label": 1}}
    assert "line 2 has 3 fields, but the first line has 2" in refusal(recipe_on(path, **changes))


def test_a_column_name_that_stands_twice_is_refused_where_it_is_used(tmp_path):
    path = write(tmp_path / "a.csv", "text,label,label,x,x", "a,yes,no,1,2")
    assert 'line 1 has 2 columns named "label"' in refusal(recipe_on(path))
    assert read(recipe_on(path, **{"data.columns": {}}), ("text",))["text"][:] == ["a"]


@pytest.mark.parametrize("delimiter", [";", "|", "\t"])
@pytest.mark.parametrize("quote", ["", '"'])
def test_another_delimiter_is_recognized_and_its_setting_named(tmp_path, delimiter, quote):
    lines = [f"{quote}{one}{quote}{delimiter}{two}" for one, two in (("text", "label"), ("a, b", "yes"), ("c", "no"))]
    path = write(tmp_path / "a.csv", *lines)
    text = refusal(recipe_on(path))
    setting = re.search(r"set (data.delimiter='.*?')", text)
    assert setting, text
    named = setting.group(1).replace("'", "")
    changed = load_recipe("sentiment_bert", [
        "data.path=csv", f"data.files.train={path}", f"data.files.validation={path}", named,
    ])  # fmt: skip
    assert read(changed)["text"][:] == ["a, b", "c"]


def test_a_column_alone_may_have_blank_lines(tmp_path):
    path = write(tmp_path / "a.csv", "text", "one", "", "two", "")
    assert read(recipe_on(path, **{"data.columns": {}}), ("text",))["text"][:] == ["one", "", "two", ""]


def test_check_ends_with_code_2_and_the_line(tmp_path, capsys):
    path = write(tmp_path / "a.csv", "text,label", *ROWS[:3], '"open,yes', *ROWS[3:])
    files = ["data.path=csv", f"data.files.train={path}", f"data.files.validation={path}"]
    for verb in ("check", "finetune"):
        assert execute([verb, "sentiment_bert", *(part for file in files for part in ("--set", file))]) == 2
        assert "line 5 opens a quotation mark" in capsys.readouterr().err
