"""YAML recipes that would run code, fill the memory or leave their folder are refused."""

import pytest
import yaml

from pipeline import UserError
from pipeline.cli.main import execute
from pipeline.recipe.loading import load_recipe
from pipeline.recipe.yaml_reader import read_yaml


def laughs(depth):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, depth)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [laughs(9), "a: &a [*a]", "[" * 5000, "day: 2001-99-99", "1" * 5000, "x" * 1_000_001,
     "!!python/object/apply:os.system [ls]"],
    ids=["a billion laughs", "a snake that bites its tail", "too deep", "a day that is none", "a number of a mile",
         "a book", "a command"],
)  # fmt: skip
def test_a_yaml_recipe_can_neither_run_code_nor_eat_the_memory(text, tmp_path, capsys):
    with pytest.raises(yaml.YAMLError):
        read_yaml(text)
    (tmp_path / "hostile.yaml").write_text(text)
    assert execute(["check", str(tmp_path / "hostile.yaml")]) == 2
    assert "the file cannot be read as YAML" in capsys.readouterr().err


def test_aliases_of_a_sane_recipe_still_work():
    assert read_yaml("a: &x {b: 1}\nc: {<<: *x, d: 5e-4}") == {"a": {"b": 1}, "c": {"b": 1, "d": 5e-4}}
    assert read_yaml(laughs(3))["a2"][8][8][8] == "x"


@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".hidden", "a\nb", "a\x1b[31m", "x" * 81, "ünïcode"])
def test_a_recipes_name_is_a_slug(name):
    with pytest.raises(UserError, match="name"):
        load_recipe("sentiment_bert", {"name": name})
