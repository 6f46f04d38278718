"""Several files for a split, splits drawn from one file, joined columns, and columns of a split of its own."""

import json
from collections import Counter

import pyarrow
import pyarrow.parquet
import pytest

from pipeline import UserError, load_recipe
from pipeline.data.splits import read_splits
from pipeline.recipe.loading import load_shipped
from pipeline.tasks.base import load_task


def csv(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def splits_of(recipe):
    task = load_task(recipe)
    return read_splits(recipe, task.required, task.optional)


def recipe_of_files(train, validation, **changes):
    files = {"data.path": "csv", "data.files.train": train, "data.files.validation": validation}
    return load_recipe("sentiment_bert", files | changes)


@pytest.fixture
def shards(tmp_path):
    folder = tmp_path / "shards[1]"
    for name, text in (("a.csv", "one"), ("part-2.csv", "three"), ("part-1.csv", "two"), ("part-[1].csv", "odd")):
        csv(folder / name, "label,text", f"yes,{text}")
    return folder


def test_files_and_patterns_of_a_list_are_read_in_order(shards):
    recipe = recipe_of_files([str(shards / "a.csv"), str(shards / "part-?.csv")], str(shards / "part-[1].csv"))
    splits = splits_of(recipe)
    assert splits["train"]["text"][:] == ["one", "two", "three"]
    assert splits["validation"]["text"][:] == ["odd"]


def test_relative_patterns_count_from_the_recipes_folder_and_survive_yaml(shards, monkeypatch, tmp_path):
    (shards / "mine.yaml").write_text(
        "name: mine\ntask: sequence-classification\ncheckpoint: google-bert/bert-base-uncased\n"
        'data: {path: csv, files: {train: [a.csv, "part-?.csv"], validation: "part-[1].csv"}}\n'
    )
    recipe = load_recipe(shards / "mine.yaml")
    (tmp_path / "again.yaml").write_text(recipe.to_yaml())
    assert load_shipped(tmp_path / "again.yaml") == recipe
    assert splits_of(load_shipped(tmp_path / "again.yaml"))["train"]["text"][:] == ["one", "two", "three"]


@pytest.mark.parametrize("kind", ["json", "parquet"])
def test_several_files_of_other_formats(tmp_path, kind):
    for number in (1, 2):
        rows = [{"text": f"{number}", "label": "yes", f"other{number}": number}]
        path = tmp_path / f"{number}.{kind}"
        if kind == "json":
            path.write_text(json.dumps(rows))
        else:
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    recipe = recipe_of_files([str(tmp_path / f"*.{kind}")], [str(tmp_path / f"1.{kind}")], **{"data.path": kind})
    assert splits_of(recipe)["train"]["text"][:] == ["1", "2"]


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("part-*.csv", "there is no such file; a pattern must be in a list"),
        (["none-*.csv"], "no file has that name or matches it"),
        (["a.csv", "none.csv"], "none.csv, but there is no such file"),
        (["a.csv", "a*.csv"], "more than once"),
        (["a.csv", "other.csv"], "other.csv has the columns x, y, but"),
        (["a.csv", "broken.csv"], "broken.csv cannot be read as csv: line 2"),
        ([], "must be a path or a list of paths"),
        ([1], "must be a path or a list of paths"),
        (5, "data.files.train is 5, but must be a path or a list of paths"),
    ],
)
def test_lists_that_are_wrong_are_named(shards, monkeypatch, train, message):
    monkeypatch.chdir(shards)
    csv(shards / "other.csv", "x,y", "1,2")
    csv(shards / "broken.csv", "label,text", "a,b,c")
    with pytest.raises(UserError, match=message):
        splits_of(recipe_of_files(train, "a.csv"))


@pytest.fixture
def one_file(tmp_path):
    return csv(
        tmp_path / "all.csv", "text,label", *(f"scene {i},{'rare' if i % 10 == 0 else 'usual'}" for i in range(200))
    )


def drawn_from(one_file, **changes):
    split = {"data.split": {"validation": 0.1, "test": 0.2}}
    return recipe_of_files(one_file, None, **split | changes)


def test_splits_are_drawn_once_for_each_row_shuffled_and_stratified(one_file):
    splits = splits_of(drawn_from(one_file))
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 140, "validation": 20, "test": 40}
    texts = [text for rows in splits.values() for text in rows["text"][:]]
    assert sorted(texts) == sorted(f"scene {i}" for i in range(200))
    assert {name: Counter(rows["label"][:])["rare"] for name, rows in splits.items()} == {
        "train": 14, "validation": 2, "test": 4,
    }  # fmt: skip
    numbers = [int(text.split()[1]) for text in splits["validation"]["text"][:]]
    assert numbers == sorted(numbers) and len({b - a for a, b in zip(numbers, numbers[1:], strict=False)}) > 3


def test_the_seed_alone_chooses_the_rows(one_file):
    texts = [splits_of(drawn_from(one_file, **{"data.split.seed": s}))["test"]["text"][:] for s in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]


def test_limits_count_after_the_drawing(one_file):
    whole, cut = (splits_of(drawn_from(one_file, **{"data.limit.train": n})) for n in (None, 5))
    assert cut["train"]["text"][:] == whole["train"]["text"][:5]
    assert cut["validation"]["text"][:] == whole["validation"]["text"][:]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.split": {"validation": 1.0}}, "data.split.validation is 1.0"),
        ({"data.split": {"validation": 0.5, "test": 0.5}}, "leaves no rows for training"),
        ({"data.split": {}}, "must give a share"),
        ({"data.files.validation": "x.csv"}, "files.validation and split.validation are both given"),
        ({"data.split": {"test": 0.1}}, "must name a file: files.validation"),
    ],
)
def test_splits_that_cannot_be_drawn_are_refused(one_file, changes, message):
    with pytest.raises(UserError, match=message):
        drawn_from(one_file, **changes)


def test_a_drawn_split_survives_yaml_and_the_digest_tells_it(one_file, tmp_path):
    recipe = drawn_from(one_file)
    (tmp_path / "again.yaml").write_text(recipe.to_yaml())
    assert load_shipped(tmp_path / "again.yaml") == recipe
    assert recipe.digest() != drawn_from(one_file, **{"data.split.seed": 1}).digest()


@pytest.mark.parametrize(("separator", "expected"), [(None, "A title body"), (" | ", "A title | body")])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_joined_columns(tmp_path, kind, separator, expected):
    rows = [{"title": "A title", "body": "body", "label": "yes"}, {"title": "", "body": "alone", "label": "no"}]
    path = tmp_path / f"a.{kind}"
    if kind == "csv":
        csv(path, "title,body,label", "A title,body,yes", ",alone,no")
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    columns = {"data.columns": {"text": ["title", "body"]}, "data.separator": separator, "data.path": kind}
    recipe = recipe_of_files(str(path), str(path), **columns)
    assert splits_of(recipe)["train"]["text"][:] == [expected, "alone"]
    assert load_task(recipe).prediction_row(rows[0], "row 1")["text"] == expected


def test_a_joined_column_that_is_missing_or_no_text_is_named(tmp_path):
    path = csv(tmp_path / "a.csv", "title,body,label", "a,b,c")
    with pytest.raises(UserError, match='data.columns.text is "boddy", but train has.*Did you mean "body"'):
        splits_of(recipe_of_files(path, path, **{"data.columns": {"text": ["title", "boddy"]}}))
    (tmp_path / "a.jsonl").write_text('{"t": "a", "b": "x", "label": "c"}\n{"t": "a", "b": 3, "label": "c"}\n')
    joined = {"data.columns": {"text": ["t", "b"]}, "data.path": "json"}
    with pytest.raises(UserError, match="train row 2: text is 3, which is a whole number"):
        splits_of(recipe_of_files(*[str(tmp_path / "a.jsonl")] * 2, **joined))
    with pytest.raises(UserError, match="separator would be ignored"):
        recipe_of_files(path, path, **{"data.separator": " "})


def test_a_split_may_have_columns_of_its_own(tmp_path):
    train = csv(tmp_path / "t.csv", "text,label", "one,yes", "two,no")
    test = csv(tmp_path / "v.csv", "sentence,gold,label", "one,yes,?", "two,no,?")
    own = {"validation": {"text": "sentence", "label": "gold"}}
    splits = splits_of(recipe_of_files(train, test, **{"data.split_columns": own}))
    assert splits["validation"].to_list() == [{"text": "one", "label": "yes"}, {"text": "two", "label": "no"}]
    assert splits["train"]["label"][:] == ["yes", "no"]
    with pytest.raises(UserError, match='data.split_columns.validation has "lable", but the task knows'):
        splits_of(recipe_of_files(train, test, **{"data.split_columns": {"validation": {"lable": "gold"}}}))
    with pytest.raises(UserError, match="split_columns.test would be ignored"):
        recipe_of_files(train, test, **{"data.split_columns": {"test": {"label": "gold"}}})


@pytest.mark.parametrize(
    ("path", "advice"),
    [
        ("nosuch.csv", ". For local files set data.path=csv, data.files.train=nosuch.csv and data.files.validation"),
        ("rows.tsv.gz", ". For local files set data.path=tsv, data.files.train=rows.tsv.gz and data.files.validation"),
        ("JSON", '. Did you mean "json"?'),
        ("org/rows", ""),
    ],
)
def test_a_data_path_that_looks_like_a_file_or_a_format_gets_the_right_keys(path, advice):
    recipe = load_shipped("sst2_bert").override({"data.path": path})
    with pytest.raises(UserError) as error:
        splits_of(recipe)
    assert str(error.value).startswith(f"recipe sst2_bert: data.path: {path} is not in the local cache")
    assert str(error.value).endswith(advice or "which needs no network")
