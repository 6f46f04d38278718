"""The JSON Schema of recipes: it accepts what recipes are, refuses what they are not, and describes every key."""

import json
import re

import jsonschema
import pytest
import yaml

from pipeline.cli.main import execute
from pipeline.recipe.json_schema import recipe_schema
from pipeline.recipe.loading import load_recipe, recipe_names
from pipeline.recipe.schema import Data, Files, Limit, Lora, Recipe, Train
from pipeline.recipe.task_table import TASKS
from tests.helpers.pages import names, table

SMALL = """
name: mine
task: sequence-classification
checkpoint: google-bert/bert-base-uncased
data: {path: csv, files: {train: [a.csv, "part-*.csv"], validation: b.csv}, columns: {text: [0, 2], label: 1}}
"""


def check(values):
    jsonschema.Draft202012Validator(recipe_schema()).validate(values)


@pytest.mark.parametrize("name", recipe_names())
def test_the_recipes_are_what_the_schema_says(name):
    check(yaml.safe_load(load_recipe(name).to_yaml()))


@pytest.mark.parametrize(
    "line",
    [
        "",
        "options: {problem_type: regression}",
        "train: {class_weights: [1, 2.5]}",
        "train: {class_weights: balanced, max_grad_norm: null}",
        "metrics: [accuracy]",
    ],
)
def test_what_a_recipe_may_say_the_schema_accepts(line):
    check(yaml.safe_load(SMALL + line))


def test_labels_may_be_numbers():
    check(yaml.safe_load(SMALL.replace("path: csv,", "path: csv, labels: [1, 2, 3],")))


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("train: {lr: 1.0e-3}", "lr"),
        ("train: {epochs: 0}", "0"),
        ("train: {epochs: many}", "many"),
        ("train: {schedule: stepwise}", "stepwise"),
        ("options: {num_beams: 4}", "num_beams"),
        ("task: sentiment", "sentiment"),
    ],
)
def test_what_a_recipe_may_not_say_the_schema_refuses(line, key):
    with pytest.raises(jsonschema.ValidationError, match=key):
        check(yaml.safe_load(SMALL) | yaml.safe_load(line))


def test_a_missing_key_is_refused():
    with pytest.raises(jsonschema.ValidationError, match="checkpoint"):
        check(yaml.safe_load(SMALL.replace("checkpoint: google-bert/bert-base-uncased", "")))


def described():
    """The key and description of every key of a recipe, and of every option by its task."""
    for model, prefix in (
        (Recipe, ""),
        (Data, "data."),
        (Train, "train."),
        (Lora, "train.lora."),
        (Files, "data.files."),
        (Limit, "data.limit."),
    ):
        for name, field in model.model_fields.items():
            yield prefix + name, field.description
    for task, entry in TASKS.items():
        for name, field in entry.options.model_fields.items():
            yield f"{task} {name}", field.description


def test_every_key_has_a_description():
    assert [key for key, description in described() if not description] == []


def words(text):
    """A description without its links, as one line, and whatever its first letter and its full stop."""
    text = " ".join(re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text).split()).removesuffix(".")
    return text[:1].lower() + text[1:]


def test_the_page_on_recipes_describes_each_key_in_the_same_words():
    expected = {key: words(description) for key, description in described()}
    rows = {names(key)[0]: meaning for key, _, meaning in table("recipes/README.md", "key")}
    for task, option, _, meaning in table("recipes/README.md", "task"):
        if meaning != "as above":
            rows[f"{names(task)[0]} {names(option)[0]}"] = meaning
    assert len(rows) > 60
    assert {key: words(meaning) for key, meaning in rows.items()} == {key: expected[key] for key in rows}


def test_the_command_prints_the_schema_or_writes_it_to_a_file(tmp_path, capsys):
    assert execute(["schema"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(json.dumps(recipe_schema()))
    file = tmp_path / "recipe.schema.json"
    assert execute(["schema", "--out", str(file)]) == 0
    assert json.loads(file.read_text()) == printed
    assert execute(["schema", "--out", str(file)]) == 2
    assert "already exists" in capsys.readouterr().err
