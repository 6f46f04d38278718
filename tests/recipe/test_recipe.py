"""Recipes: strict and frozen, and the same again when they are written as YAML and read."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from pipeline import Data, Recipe, Train, UserError, load_recipe
from pipeline.recipe.loading import load_shipped, recipe_names
from pipeline.recipe.overrides import RECIPES, parse_overrides
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
        ({"train.class_weights": 3}, 'train.class_weights is 3, but must be "balanced", a list with a weight for each'),
        ({"train.class_weights": "balance"}, "class_weights is 'balance', but must be \"balanced\", a list"),
        ({"data.labels": 3}, "data.labels is 3, but must be a list of names, or a mapping"),
        ({"data.columns.text": {}}, "data.columns.text is {}, but must be a valid string or a valid integer or a list"),
        ({"metrics": 3}, "metrics is 3, but must be a list"),
        ({"data.columns": 3}, "data.columns is 3, but must be a mapping"),
    ],
)
def test_an_override_that_is_wrong_is_named_with_the_way_out(changes, message):
    with pytest.raises(UserError) as error:
        hub_recipe().override(changes)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([-1, 2], "recipe mine: train.class_weights.0 is -1, but must be greater than 0"),
        ({"bad": "x"}, 'recipe mine: train.class_weights.bad is "x", but must be a valid number'),
    ],
)
def test_a_fault_inside_a_value_is_the_only_one_that_is_named(weights, message):
    with pytest.raises(UserError) as error:
        hub_recipe().override({"train.class_weights": weights})
    assert str(error.value) == message


def test_all_faults_are_named_at_once():
    with pytest.raises(UserError) as error:
        hub_recipe().override({"train.epochs": 0, "train.batch_size": "x", "weights": 3})
    assert len(str(error.value).splitlines()) == 3


def test_a_whole_number_is_accepted_as_a_number():
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


@pytest.mark.parametrize(
    ("changes", "ours"),
    [
        ({"lr": 1e-3}, "train.learning_rate"),
        ({"train.lr": 1e-3}, "train.learning_rate"),
        ({"train": {"num_train_epochs": 1}}, "train.epochs"),
        ({"train.per_device_train_batch_size": 8}, "train.batch_size"),
        ({"model_name_or_path": "gpt2"}, "checkpoint"),
        ({"data.max_seq_length": 64}, "data.max_length"),
    ],
)
def test_a_key_of_hugging_faces_examples_gets_our_name_for_it(changes, ours):
    with pytest.raises(UserError, match=f'no such key. Did you mean "{ours}"'):
        hub_recipe().override(changes)


def test_a_nested_override_changes_its_keys_and_leaves_their_neighbors():
    recipe = hub_recipe(train=Train(batch_size=16, learning_rate=3e-4)).override({"data.limit": {"validation": 50}})
    changed = recipe.override({"train": {"epochs": 1}, "data": {"limit": {"train": 9}, "max_length": 64}})
    assert (changed.train.epochs, changed.train.batch_size, changed.train.learning_rate) == (1, 16, 3e-4)
    assert (changed.data.limit.train, changed.data.limit.validation, changed.data.max_length) == (9, 50, 64)
    assert changed == recipe.override({"train.epochs": 1, "data.limit.train": 9, "data.max_length": 64})


def test_a_mapping_that_is_a_value_replaces_the_old_one():
    recipe = hub_recipe().override({"data": {"columns": {"text": "sentence", "label": "label"}}})
    assert recipe.override({"data": {"columns": {"text": "review"}}}).data.columns == {"text": "review"}


def test_options_of_a_task_are_merged_and_those_of_another_task_dropped():
    answers = hub_recipe(task="question-answering", options={"stride": 8, "n_best": 3})
    assert answers.override({"options": {"n_best": 5}}).options.model_dump() | {"n_best": 5, "stride": 8} == (
        answers.override({"options.n_best": 5}).options.model_dump()
    )
    words = answers.override({"task": "masked-language-modeling", "options": {"top_k": 2}})
    assert words.options.top_k == 2 and not hasattr(words.options, "stride")


def test_paths_may_be_path_objects(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = {"train": Path("a.csv"), "validation": tmp_path / "b.csv"}
    built = Recipe(
        name="mine", task="sequence-classification", checkpoint=Path("./bert"), data=Data(path="csv", files=files)
    )
    assert (built.checkpoint, built.data.files.train) == ("bert", "a.csv")
    changed = hub_recipe().override({"checkpoint": Path("./bert"), "data.path": "csv", "data.files": files})
    assert changed.data.files.model_dump() == {
        "train": str(tmp_path / "a.csv"), "validation": str(tmp_path / "b.csv"), "test": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("text-classification", "sequence-classification"),
        ("translation", "sequence-to-sequence"),
        ("summarization", "sequence-to-sequence"),
        ("text2text-generation", "sequence-to-sequence"),
        ("text-generation", "causal-language-modeling"),
        ("fill-mask", "masked-language-modeling"),
        ("ner", "token-classification"),
    ],
)
def test_a_task_under_hugging_faces_name_gets_ours(theirs, ours):
    with pytest.raises(UserError, match=f'task is "{theirs}", which is called "{ours}" here; set task={ours}'):
        hub_recipe().override({"task": theirs})


@pytest.mark.parametrize("kind", ["masked", "causal"])
def test_the_former_spelling_of_a_task_is_accepted_and_means_the_same_experiment(kind):
    today = hub_recipe(task=f"{kind}-language-modeling")
    former = hub_recipe(task=f"{kind}-language-modelling")
    assert former.task == today.task and former.digest() == today.digest()


def test_a_recipe_saved_before_the_bundled_data_were_renamed_is_the_same_experiment(tmp_path):
    recipe = load_recipe("stories_gpt2")
    text = recipe.to_yaml().replace("recipes/bundled/", "recipes/embedded/")
    text = text.replace("causal-language-modeling", "causal-language-modelling")
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    assert "recipes/embedded/stories/train.jsonl" in text
    assert load_shipped(tmp_path / "recipe.yaml") == recipe
    # One of a clone that is gone finds the data of this one.
    elsewhere = text.replace(str(RECIPES.parent), str(tmp_path / "gone"))
    (tmp_path / "recipe.yaml").write_text(elsewhere, encoding="utf-8")
    assert load_shipped(tmp_path / "recipe.yaml") == recipe


def test_another_source_clears_what_belonged_to_the_old_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = {"data.files.train": "a.csv", "data.files.validation": "b.csv"}
    changed = hub_recipe().override({"data.path": "csv", **files})
    assert (changed.data.name, changed.data.revision, changed.data.validation) == (None, None, "validation")
    assert changed.data.files.train == str(tmp_path / "a.csv")
    assert hub_recipe().override(files).data.path == "csv"  # the files' suffix says it
    back = changed.override({"data.path": "nyu-mll/glue"})
    assert back.data.files.train is None


def test_a_test_file_alone_makes_a_test_split():
    files = {"data.files.train": "a.csv", "data.files.validation": "b.csv", "data.files.test": "c.csv"}
    assert hub_recipe().override(files).data.test == "test"


def test_a_resolved_recipe_is_itself_a_recipe(tmp_path):
    recipe = load_recipe("sentiment_bert", ["train.class_weights=[1.0, 2.0]", "train.freeze=[bert.embeddings.*]"])
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    assert load_shipped(tmp_path / "recipe.yaml") == recipe


def test_margin_and_saving_are_not_part_of_the_experiment():
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


def test_a_single_override_may_be_given_as_a_text():
    assert load_recipe("sentiment_bert", "train.epochs=1") == load_recipe("sentiment_bert", {"train.epochs": 1})
