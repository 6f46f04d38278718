"""Recipe: strict, frozen, overridable, and itself again after a trip through YAML."""

import pytest
from pydantic import ValidationError

from pipeline import Data, Recipe, Train, UserError, load_recipe
from pipeline.recipe.loading import load_shipped, recipe_names
from pipeline.recipe.overrides import parse_overrides
from pipeline.recipe.yaml_reader import read_yaml


def hub_recipe(**changes):
    values = dict(
        name="mine",
        task="sequence-classification",
        checkpoint="google-bert/bert-base-uncased",
        data=Data(path="nyu-mll/glue", name="sst2", revision="v1", validation="validation[:50%]"),
        train=Train(),
    )
    return Recipe(**values | changes)


def test_a_recipe_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        hub_recipe().name = "other"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.lerning_rate": 1e-3}, 'train.lerning_rate: no such key. Did you mean "learning_rate"?'),
        ({"trian.epochs": 1}, 'trian: no such key. Did you mean "train"?'),
        ({"data.limit.trein": 1}, 'data.limit.trein: no such key. Did you mean "train"?'),
        ({"train.epochs": 1.5}, "train.epochs is 1.5"),
        ({"train.epochs": "three"}, 'train.epochs is "three"'),
        ({"train.learning_rate": True}, "train.learning_rate is true"),
        ({"train.learning_rate": -1.0}, "train.learning_rate is -1.0"),
        ({"train.precision": "fp16"}, 'train.precision is "fp16"'),
        ({"train.gradient_accumulation": 3}, "gradient_accumulation is 3, but must divide batch_size 32"),
        ({"train.keep_metric": "f1"}, "keep_metric would be ignored"),
        ({"name": "../escape"}, "name is"),
        ({"name.first": 1}, '"name" is a single value and has no keys'),
        ({"data.delimiter": ";"}, "delimiter would be ignored"),
        ({"data.path": "csv"}, "must name a file: files.train, files.validation"),
        ({"weights": "rendom"}, "weights is"),
    ],
)
def test_an_override_that_is_wrong_is_named_with_the_way_out(changes, message):
    with pytest.raises(UserError) as error:
        hub_recipe().override(changes)
    assert message in str(error.value)


def test_all_faults_are_told_at_once():
    with pytest.raises(UserError) as error:
        hub_recipe().override({"train.epochs": 0, "train.batch_size": "x", "weights": 3})
    assert len(str(error.value).splitlines()) == 3


def test_a_whole_number_is_fine_where_a_number_is_wanted():
    assert hub_recipe().override({"train.learning_rate": 1}).train.learning_rate == 1.0


def test_set_values_are_yaml_with_exponents_as_numbers():
    read = parse_overrides(["train.learning_rate=5e-4", "metrics=[accuracy, f1]", "train.dropout=null", "name=a=b"])
    assert read == {
        "train.learning_rate": 5e-4,
        "metrics": ["accuracy", "f1"],
        "train.dropout": None,
        "name": "a=b",
    }
    assert [read_yaml(text) for text in ("1e5", "-2.E3", ".5e-1", "1_000", "e5", "12")] == [
        1e5, -2000.0, 0.05, 1000, "e5", 12,
    ]  # fmt: skip
    with pytest.raises(UserError, match="KEY=VALUE"):
        parse_overrides(["train.epochs"])


def test_another_source_clears_what_belonged_to_the_old_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = {"data.files.train": "a.csv", "data.files.validation": "b.csv"}
    changed = hub_recipe().override({"data.path": "csv", **files})
    assert (changed.data.name, changed.data.revision, changed.data.validation) == (None, None, "validation")
    assert changed.data.files.train == str(tmp_path / "a.csv")
    assert hub_recipe().override(files).data.path == "csv"  # the files' suffix says it
    back = changed.override({"data.path": "nyu-mll/glue"})
    assert back.data.files.train is None


def test_a_test_file_is_used_without_further_words():
    files = {"data.files.train": "a.csv", "data.files.validation": "b.csv", "data.files.test": "c.csv"}
    assert hub_recipe().override(files).data.test == "test"


def test_a_resolved_recipe_is_itself_a_recipe(tmp_path):
    recipe = load_recipe("sentiment_bert", ["train.class_weights=[1.0, 2.0]", "train.freeze=[bert.embeddings.*]"])
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    assert load_shipped(tmp_path / "recipe.yaml") == recipe


def test_what_decides_no_outcome_is_no_part_of_the_experiment():
    recipe = hub_recipe()
    for same in ({"margin": 0.3}, {"train.save_every": 7}):
        assert recipe.override(same).digest() == recipe.digest()
    assert recipe.override({"train.epochs": 7}).digest() != recipe.digest()


def test_paths_are_relative_to_the_recipe_file_and_overrides_to_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "there" / "bert").mkdir(parents=True)
    (tmp_path / "here" / "other").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "there" / "mine.yaml").write_text(
        "name: mine\ntask: sequence-classification\ncheckpoint: bert\n"
        "data: {path: json, files: {train: t.json, validation: ../v.json}}\n"
    )
    recipe = load_recipe(tmp_path / "there" / "mine.yaml")
    assert recipe.checkpoint == str(tmp_path / "there" / "bert")
    assert recipe.data.files.validation == str(tmp_path / "v.json")
    assert recipe.override({"checkpoint": "other"}).checkpoint == str(tmp_path / "here" / "other")
    assert recipe.override({"checkpoint": "org/model"}).checkpoint == "org/model"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("broken.py", "1/0", "ZeroDivisionError"),
        ("empty.py", "x = 1", "must set RECIPE"),
        ("bad.yaml", "a: [", "cannot be read as YAML"),
        ("list.yaml", "- a", "must be a mapping"),
        ("evil.yaml", "!!python/object/apply:os.system [echo]", "cannot be read as YAML"),
        ("poor.yaml", "name: poor", "checkpoint is missing"),
    ],
)
def test_a_recipe_file_that_is_wrong_is_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        load_recipe(tmp_path / name)


def test_an_unknown_recipe_name_gets_the_nearest():
    with pytest.raises(UserError, match='Did you mean "sentiment_bert"'):
        load_recipe("sentiment_brt")


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_loads_under_its_own_name(name):
    assert load_shipped(name).name == name
