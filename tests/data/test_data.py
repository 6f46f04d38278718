"""Reading local files: every format, the quirks of real ones, and what is refused with its place named."""

import json

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from pipeline.data.batches import Batch, padded_batch
from pipeline.data.hub import explain_hub_error
from pipeline.data.splits import content_digest, fingerprint, read_splits
from pipeline.models.checkpoint import load_config, load_tokenizer
from pipeline.recipe.loading import load_recipe
from pipeline.tasks.base import load_task
from pipeline.utils.errors import UserError

TEXTS = ["a good film", 'he said "no" to it', "NA", "null", "plain, with comma"]
LABELS = ["good", "bad", "good", "bad", "good"]
REQUIRED, OPTIONAL = ("text", "label"), ("text_pair",)


def csv_text(separator, quote, header="text{}label"):
    rows = [header.format(separator)] if header else []
    for text, label in zip(TEXTS, LABELS, strict=True):
        rows.append((f'"{text.replace(chr(34), chr(34) * 2)}"' if quote else text) + separator + label)
    return "\n".join(rows) + "\n"


def recipe_on(train, validation=None, **changes):
    path = {"data.path": "json" if str(train).endswith("jsonl") else str(train).rpartition(".")[2]}
    files = {"data.files.train": str(train), "data.files.validation": str(validation or train)}
    return load_recipe("sentiment_bert", path | files | changes)


def read(recipe):
    return read_splits(recipe, REQUIRED, OPTIONAL)["train"]


def write(path, text, mark):
    path.write_bytes((b"\xef\xbb\xbf" if mark else b"") + text.encode())
    return path


@pytest.mark.parametrize("mark", [False, True], ids=["plain", "byte-order mark"])
@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_every_format_gives_the_same_rows(tmp_path, kind, mark):
    path, table = tmp_path / f"rows.{kind}", {"text": TEXTS, "label": LABELS}
    rows = [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.table(table), path)
    elif kind == "jsonl":
        write(path, "".join(json.dumps(row) + "\n" for row in rows), mark)
    elif kind == "json":
        write(path, json.dumps(rows), mark)
    else:
        write(path, csv_text("\t" if kind == "tsv" else ",", quote=kind == "csv"), mark)
    found = read(recipe_on(path))
    assert found["text"][:] == TEXTS
    assert found["label"][:] == LABELS


def test_a_text_file_has_no_labels_and_says_so(tmp_path):
    path = write(tmp_path / "rows.txt", "one\ntwo\n", False)
    with pytest.raises(UserError, match='data.columns.label is "label", but train has: text'):
        read(recipe_on(path, **{"data.path": "text"}))


def test_columns_by_position_in_a_file_without_header(tmp_path):
    path = write(tmp_path / "rows.tsv", "x\tgood\t\tfine day\ny\tbad\t*\twet day\n", True)
    found = read(recipe_on(path, **{"data.columns": {"text": 3, "label": 1}}))
    assert found["text"][:] == ["fine day", "wet day"]
    assert found["label"][:] == ["good", "bad"]


def test_slices_and_limits(tmp_path):
    path = write(tmp_path / "rows.csv", csv_text(",", quote=True), False)
    assert len(read(recipe_on(path, **{"data.train": "train[:40%]"}))) == 2
    assert len(read(recipe_on(path, **{"data.limit.train": 3}))) == 3
    assert len(read(recipe_on(path, **{"data.limit.train": 99}))) == 5


def test_a_delimiter_and_quoting_of_ones_own(tmp_path):
    path = write(tmp_path / "rows.csv", csv_text(";", quote=False), False)
    found = read(recipe_on(path, **{"data.delimiter": ";", "data.quoting": False}))
    assert found["text"][:] == TEXTS


@pytest.mark.parametrize(
    ("name", "content", "changes", "message"),
    [
        ("a.csv", "", {}, "is empty"),
        ("a.csv", "text,label\n", {}, "has no rows"),
        ("a.csv", 'text,label\n"open,good\n', {}, "cannot be read as csv"),
        ("a.csv", "text,label\na,b,c,d\ne,f\n", {}, "line 2 has 4 fields, but the header has 2"),
        ("a.jsonl", '{"text": "a", "label"\n', {}, "cannot be read as json"),
        ("a.parquet", "no parquet", {}, "cannot be read as parquet"),
        ("a.csv", "sentence,label\na,b\n", {}, 'data.columns.text is "text", but train has: sentence, label'),
        ("a.csv", "texd,label\na,b\n", {}, 'Did you mean "texd"'),
        ("a.csv", "text,label\na,b\n", {"data.columns.txt": "text"}, 'has "txt", but the task knows'),
        ("a.csv", "a,b\n", {"data.columns": {"text": 0, "label": 5}}, "position 5, but train has columns 0 to 1"),
        ("a.csv", "a,b\n", {"data.columns.text": 0}, "mixes positions and names"),
        ("a.jsonl", '{"text": "a"}\n', {"data.columns.text": 0}, "only csv, tsv and conll"),
        ("a.csv", "text,label\na,b\n", {"data.files.train": "none.csv"}, "there is no such file"),
        ("a.csv", "text,label\na,b\n", {"data.train": "train[:0]"}, "has no rows"),
        ("a.csv", "text,label\na,b\n", {"data.train": "train[:x]"}, "cannot be read"),
    ],
)
def test_a_file_that_is_wrong_is_named(tmp_path, name, content, changes, message):
    path = write(tmp_path / name, content, False)
    with pytest.raises(UserError, match=message) as error:
        read(recipe_on(path, **changes))
    assert str(error.value).startswith("recipe sentiment_bert: ")


def learned(train, validation=None, **changes):
    recipe = recipe_on(train, validation, **changes)
    task = load_task(recipe)
    splits = read_splits(recipe, task.required, task.optional)
    task.validate(splits, {})
    return task, splits


@pytest.mark.parametrize(
    ("labels", "names"),
    [(["b", "a", "b"], ("a", "b")), ([10, 2, 2], ("2", "10")), ([True, False, True], ("False", "True"))],
)
def test_label_names_come_from_training_in_order(rows_to_file, labels, names):
    path = rows_to_file("a.jsonl", [{"text": "x", "label": label} for label in labels])
    assert learned(path)[0].labels == names


def test_class_labels_keep_their_names():
    rows = datasets.Dataset.from_dict(
        {"text": ["x", "y"], "label": [1, 0]},
        features=datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["no", "yes"])),
    )
    task = load_task(load_recipe("sentiment_bert"))
    task.validate({"train": rows, "validation": rows}, {})
    assert task.labels == ("no", "yes")
    assert task.config_changes()["id2label"] == {0: "no", 1: "yes"}


def test_labels_follow_the_order_of_a_checkpoint_with_the_same_names(rows_to_file):
    path = rows_to_file("a.jsonl", [{"text": "x", "label": label} for label in ("a", "b")])
    recipe = recipe_on(path)
    task = load_task(recipe)
    task.validate(read_splits(recipe, task.required, task.optional), {"b": 0, "a": 1})
    assert task.labels == ("b", "a")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("fine", "a"), ("", "b")], "train row 2: text is empty"),
        ([("fine", "a"), ("  ", "b")], "train row 2: text is empty"),
        ([("fine", "a"), (None, "b")], "train row 2: text is null"),
        ([("fine", "a"), ("fine", None)], "train row 2: label is null"),
        ([("fine", "a"), ("fine", "")], "train row 2: label is empty"),
        ([("fine", 0.5), ("fine", 1.5)], "train row 1: label is 0.5, but must be a whole number or text"),
        ([("fine", "a"), ("fine", "a")], 'only the label "a"'),
    ],
)
def test_rows_that_are_wrong_are_named(rows_to_file, rows, message):
    path = rows_to_file("a.jsonl", [{"text": text, "label": label} for text, label in rows])
    with pytest.raises(UserError, match=message):
        learned(path)


def test_a_validation_label_that_training_never_has_is_refused(rows_to_file):
    train = rows_to_file("t.jsonl", [{"text": "x", "label": label} for label in ("good", "bad")])
    validation = rows_to_file("v.jsonl", [{"text": "x", "label": label} for label in ("good", "goood")])
    message = 'validation row 2: label is "goood", which the training split does not have.*Did you mean "good"'
    with pytest.raises(UserError, match=message):
        learned(train, validation)


@pytest.mark.parametrize(
    ("weights", "message"),
    [([1.0, 2.0, 3.0], "has 3 numbers for 2 labels"), ({"a": 1.0, "c": 2.0}, "names a, c, but the labels are a, b")],
)
def test_class_weights_must_fit_the_labels(rows_to_file, weights, message):
    path = rows_to_file("a.jsonl", [{"text": "x", "label": label} for label in ("a", "b")])
    with pytest.raises(UserError, match=message):
        learned(path, **{"train.class_weights": weights})


@pytest.mark.parametrize(
    ("weights", "expected"),
    [(None, [1 / 4] * 4), ([3.0, 1.0], [3 / 10, 3 / 10, 3 / 10, 1 / 10]), ({"b": 1.0, "a": 3.0}, [0.3, 0.3, 0.3, 0.1]),
     ("balanced", [1 / 6, 1 / 6, 1 / 6, 1 / 2])],
)  # fmt: skip
def test_loss_weights_of_a_step_sum_to_one(rows_to_file, weights, expected):
    path = rows_to_file("a.jsonl", [{"text": "a film", "label": label} for label in "aaab"])
    task, splits = learned(path, **{"train.class_weights": weights})
    task.setup(load_config(task.recipe), load_tokenizer(task.recipe))
    examples = task.encode(splits["train"])
    targets = task.targets(examples, padded_batch(np.arange(4), examples.lengths))
    assert targets["labels"].tolist() == [0, 0, 0, 1]
    assert targets["loss_weights"] == pytest.approx(expected)


def test_pairs_are_encoded_together_and_truncated_rows_are_counted(rows_to_file):
    rows = [{"a": "the film was good " * n, "b": "a plot", "label": str(n % 2)} for n in (1, 2, 9)]
    columns = {"data.columns": {"text": "a", "text_pair": "b", "label": "label"}, "data.max_length": 16}
    task, splits = learned(rows_to_file("a.jsonl", rows), **columns)
    tokenizer = load_tokenizer(task.recipe)
    task.setup(load_config(task.recipe), tokenizer)
    examples = task.encode(splits["train"])
    assert examples.counts == {"rows": 3, "truncated": 1}
    assert examples.lengths.max() == 16
    batch = task.inputs(examples, Batch(np.array([0, 2]), (16,)))
    expected = tokenizer([rows[0]["a"], rows[2]["a"]], [rows[0]["b"], rows[2]["b"]],
                         truncation=True, max_length=16, padding="max_length", return_tensors="np")  # fmt: skip
    assert set(batch) == set(expected)
    for key, value in expected.items():
        assert (batch[key] == value).all(), key


def test_the_fingerprint_is_of_the_contents(tmp_path):
    one = write(tmp_path / "a.csv", csv_text(",", quote=True), False)
    two = write(tmp_path / "b.tsv", csv_text("\t", quote=False), True)
    digests = [content_digest(read(recipe_on(path))) for path in (one, two)]
    assert digests[0] == digests[1]
    shorter = content_digest(read(recipe_on(one, **{"data.limit.train": 4})))
    assert shorter != digests[0]
    assert fingerprint({"train": digests[0]}) != fingerprint({"train": shorter})
    assert fingerprint({"train": digests[0]}) != fingerprint({"validation": digests[0]})


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionError("Couldn't reach the Hub"), "try the recipe sentiment_bert"),
        (OSError("You are trying to access a gated repo."), "give a token"),
        (ValueError("anything else"), "cannot be read: anything else"),
    ],
)
def test_trouble_with_the_hub_is_one_sentence(error, message):
    text = explain_hub_error(error, "checkpoint", "org/model")
    assert message in text and text.startswith("checkpoint: org/model") and "\n" not in text


def test_the_real_quirks_of_glue(shared):
    if shared is None:
        return  # the same quirks, made by hand, are tested above
    glue = shared / "data" / "glue"
    mrpc = recipe_on(
        glue / "MRPC" / "train.tsv",
        glue / "MRPC" / "dev.tsv",
        **{"data.columns": {"text": "#1 String", "text_pair": "#2 String", "label": "Quality"}},
    )
    assert len(read(mrpc)) == 3667
    cola = recipe_on(
        glue / "CoLA" / "train.tsv", glue / "CoLA" / "dev.tsv", **{"data.columns": {"text": 3, "label": 1}}
    )
    assert len(read(cola)) == 8551
