"""Labels are judged whole: vectors of 0 and 1, names for numbers, labels that look alike, weights by label."""

import pytest
import yaml

from pipeline import UserError, load_recipe
from pipeline.data.splits import read_splits
from pipeline.models.checkpoint import load_config, load_tokenizer
from pipeline.tasks.base import load_task
from pipeline.tasks.tokenized_cache import cache_key
from tests.helpers.families import recipe_of

MANY = {"options.problem_type": "multi_label_classification", "metrics": ["f1_micro"]}


@pytest.fixture
def task_on(rows_to_file):
    """Makes the task of a recipe on these labels, validated, with its training rows encoded."""

    def make(labels, validation=None, **changes):
        files = {}
        for split, values in {"train": labels, "validation": validation or labels}.items():
            path = rows_to_file(f"{split}.jsonl", [{"text": f"a film {i}", "label": v} for i, v in enumerate(values)])
            files[f"data.files.{split}"] = str(path)
        recipe = load_recipe("sentiment_bert", {"data.path": "json"} | files | changes)
        task = load_task(recipe)
        splits = read_splits(recipe, task.required, task.optional)
        task.validate(splits, {})
        task.setup(load_config(recipe), load_tokenizer(recipe))
        return task, task.encode(splits["train"]).labels.tolist()

    return make


VECTORS = [
    [[0, 1], [1, 0], [0, 1], [1, 0]],
    [[0, 1], [1, 1], [0, 0], [1, 0]],
    [[0.0, 1.0], [1.0, 0.0]],
    [[False, True], [True, False]],
    [["0", "1"], ["1", "0"]],
    [[0, 1, 0], [1, 0, 0]],
]


@pytest.mark.parametrize("vectors", VECTORS)
def test_vectors_of_zeros_and_ones_are_refused_without_names_and_read_with_them(task_on, vectors):
    width = len(vectors[0])
    with pytest.raises(UserError, match=f"each label is a list of {width} zeros and ones; data.labels must list"):
        task_on(vectors, **MANY)
    with pytest.raises(UserError, match="but it has 4 entries"):
        task_on(vectors, **MANY, **{"data.labels": ["a", "b", "c", "d"]})
    names = ["zebra", "ant", "bee"][:width]
    task, labels = task_on(vectors, **MANY, **{"data.labels": names})
    assert task.labels == tuple(names)
    assert labels == [[float(item) for item in vector] for vector in vectors]


def test_lists_of_the_labels_0_and_1_are_lists_of_labels(task_on):
    task, labels = task_on([[0], [1], [0, 1], []], **MANY)
    assert (task.labels, labels) == (("0", "1"), [[1, 0], [0, 1], [1, 1], [0, 0]])


def test_vectors_are_judged_over_all_splits_together(task_on):
    task, labels = task_on([[0], [1], [0, 1]], [[0, 1]], **MANY)
    assert labels == [[1, 0], [0, 1], [1, 1]]


@pytest.mark.parametrize("written", [[1, 2, 3, 4], ["1", "2", "3", "4"], [10, 20, 30, 40], [0, 1, 2, 3]])
def test_numbers_get_names_in_their_order(task_on, written):
    names = ["bad", "poor", "fair", "good"]
    task, labels = task_on(written, **{"data.labels": names})
    assert (task.labels, labels) == (tuple(names), [0, 1, 2, 3])
    assert task.config_changes()["id2label"] == dict(enumerate(names))


def test_numbers_from_0_may_lack_classes(task_on):
    task, labels = task_on([0, 3, 0], **{"data.labels": ["a", "b", "c", "d"]})
    assert (task.labels, labels) == (("a", "b", "c", "d"), [0, 3, 0])


def test_numbers_that_could_mean_two_things_are_refused(task_on):
    with pytest.raises(
        UserError, match=r"data.labels names 4 classes \(a, b, c, d\), but the data have the 3 labels 1, 2, 3"
    ):
        task_on([1, 2, 3], **{"data.labels": ["a", "b", "c", "d"]})


def test_names_that_are_there_get_an_order(task_on):
    task, labels = task_on(["no", "yes"], **{"data.labels": ["yes", "no", "perhaps"]})
    assert (task.labels, labels) == (("yes", "no", "perhaps"), [1, 0])


def test_a_mapping_names_each_label_whatever_its_order(task_on):
    for mapping in ({1: "neg", 2: "neg", 10: "pos"}, {"10": "pos", "2": "neg", "1": "neg"}):
        task, labels = task_on([1, 2, 10], **{"data.labels": mapping})
        assert (task.labels, labels) == (("neg", "pos"), [0, 0, 1])


def test_a_label_that_the_mapping_lacks_is_named(task_on):
    with pytest.raises(UserError, match='validation row 1: label is "3", which data.labels does not have'):
        task_on([1, 2], [3], **{"data.labels": {1: "neg", 2: "pos"}})


@pytest.mark.parametrize("key", ["data.labels", "train.class_weights"])
def test_yes_and_no_get_a_hint_about_quotation_marks(key):
    value = yaml.safe_load("{yes: 1, no: 2}" if key == "train.class_weights" else "{yes: good, no: bad}")
    with pytest.raises(UserError) as error:
        load_recipe("sentiment_bert", {key: value})
    assert "write it in quotation marks" in str(error.value) and len(str(error.value).splitlines()) == 1
    assert f"{key}" in str(error.value)
    if key == "data.labels":
        with pytest.raises(UserError, match="write it in quotation marks"):
            load_recipe("sentiment_bert", {key: yaml.safe_load("[no, yes]")})


def test_class_weights_may_have_whole_numbers_as_keys(task_on):
    task, _ = task_on([1, 2, 2], **{"train.class_weights": {1: 2.0, 2: 1}})
    assert task.recipe.train.class_weights == {"1": 2.0, "2": 1.0}


@pytest.mark.parametrize(
    ("one", "other", "shown"),
    [("no", "no ", '"no" and "no "'), ("no", "\tno", r'"\\tno" and "no"'), ("a b", "a  b", '"a  b" and "a b"'),
     ("no", "no\u00a0", r'"no" and "no\\u00a0"'), ("no", "n\u200bo", r'"no" and "n\\u200bo"'),
     ("caf\u00e9", "cafe\u0301", r'"cafe\\u0301" and "caf\\u00e9"')],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["single", "many", "validation only"])
def test_labels_that_look_alike_are_refused_and_shown_in_quotation_marks(task_on, one, other, shown, kind):
    train, validation, changes = [one, other, "yes"], [one], {}
    if kind == "many":
        train, validation, changes = [[label] for label in train], [[one]], MANY
    if kind == "validation only":
        train, validation = [one, "yes"], [other]
    with pytest.raises(UserError, match=f"the labels {shown} differ by white space or unseen"):
        task_on(train, validation, **changes)
    mapping = {one: "no", other: "no", "yes": "yes"}
    task, _ = task_on(train, validation, **changes, **{"data.labels": mapping})
    assert set(task.labels) == {"no", "yes"}


def test_labels_that_differ_by_case_are_different(task_on):
    assert task_on(["no", "No"])[0].labels == ("No", "no")


def test_tags_get_names_and_look_alikes_are_refused(tmp_path):
    rows = [{"tokens": ["Anna", "sings", "here"], "tags": [1, 0, 0]}, {"tokens": ["Oslo"], "tags": [2]}]
    names = ["O", "B-PER", "B-LOC", "B-ORG"]
    recipe = recipe_of("token-classification", tmp_path, rows, changes={"data.labels": names})
    task = load_task(recipe)
    splits = read_splits(recipe, task.required, task.optional)
    task.validate(splits, {})
    task.setup(load_config(recipe), load_tokenizer(recipe))
    assert task.labels == tuple(names)
    tags = task.encode(splits["train"]).tags
    assert [[task.labels[tag] for tag in tags[row]] for row in (0, 1)] == [["B-PER", "O", "O"], ["B-LOC"]]
    recipe = recipe_of("token-classification", tmp_path, rows)
    with pytest.raises(UserError, match="data.labels can name them"):
        load_task(recipe).validate(splits, {})
    rows[0]["tags"], rows[1]["tags"] = ["B-PER", "O", "O "], ["B-LOC"]
    recipe = recipe_of("token-classification", tmp_path, rows)
    with pytest.raises(UserError, match='the labels "O" and "O " differ by white space'):
        load_task(recipe).validate(read_splits(recipe, ("tokens", "tags"), ()), {})


@pytest.mark.parametrize("kind", ["regression", "sequence-to-sequence", "question-answering", "causal rows"])
def test_names_are_refused_where_there_are_no_classes(tmp_path, kind):
    recipe = recipe_of(kind, tmp_path, changes={"data.labels": ["a", "b"]})
    task = load_task(recipe)
    with pytest.raises(UserError, match="data.labels does not apply"):
        task.validate(read_splits(recipe, task.required, task.optional), {})


def test_tokenized_rows_are_kept_apart_by_the_names_of_their_labels(task_on):
    one, _ = task_on([1, 2], **{"data.labels": {1: "a", 2: "b", 3: "a"}})
    two, _ = task_on([1, 2], **{"data.labels": {1: "a", 2: "b", 4: "a"}})
    assert one.labels == two.labels and cache_key(one, "x") != cache_key(two, "x")


@pytest.mark.parametrize("labels", [[], ["a"], ["a", "a"], {1: "a"}, {1: "a", "1": "b"}, {1: ["a"], 2: "b"}, 3, "a"])
def test_a_setting_that_names_no_classes_is_refused(labels):
    with pytest.raises(UserError, match="data.labels"):
        load_recipe("sentiment_bert", {"data.labels": labels})
