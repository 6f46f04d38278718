"""What `from pipeline import ...` offers: every name is there, documented, and found by tab completion."""

import doctest
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pipeline
from pipeline import UserError
from tests.helpers.pages import ROOT

FUNCTIONS = [name for name in pipeline.__all__ if inspect.isfunction(getattr(pipeline, name))]


def test_the_verbs_are_functions():
    verbs = {"finetune", "check", "compare", "report", "lockstep", "predict", "attention_maps", "load_run"}
    assert verbs | {"export_run"} <= set(FUNCTIONS)


@pytest.mark.parametrize("name", pipeline.__all__)
def test_a_public_name_has_a_docstring(name):
    assert inspect.getdoc(getattr(pipeline, name))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_public_function_shows_an_example_and_has_types(name):
    function = getattr(pipeline, name)
    assert ">>>" in inspect.getdoc(function)
    signature = inspect.signature(function)
    untyped = [p.name for p in signature.parameters.values() if p.annotation is inspect.Parameter.empty]
    assert untyped == [] and signature.return_annotation is not inspect.Signature.empty


def test_tab_completion_finds_the_names_that_are_imported_late():
    assert set(pipeline.__all__) <= set(dir(pipeline))


def test_no_folder_hides_a_public_function():
    for module in pkgutil.walk_packages(pipeline.__path__, "pipeline."):
        if module.name not in ("pipeline.__main__", "pipeline.pytorch.gpu.kernels"):  # which needs Triton, and so a GPU
            importlib.import_module(module.name)
    assert all(callable(getattr(pipeline, name)) for name in FUNCTIONS)


def test_the_types_are_published():
    assert (Path(pipeline.__file__).parent / "py.typed").exists()


def test_describing_a_recipe_imports_no_heavy_library():
    code = (
        "import sys, pipeline; from pipeline import Recipe, load_recipe; load_recipe('sentiment_bert');"
        "heavy = {'torch', 'tensorflow', 'transformers', 'datasets', 'evaluate', 'pandas', 'scipy'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


class Nowhere:
    """A class that is no attention, and an object of it no name."""


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: pipeline.finetune(3), "recipe is 3, but must be a Recipe, a name in recipes/, or the path"),
        (lambda: pipeline.compare({"name": "x"}), "recipe is {'name': 'x'}, but must be a Recipe"),
        (lambda: pipeline.finetune("sentiment"), 'Did you mean "sentiment_bert"?'),
        (lambda: pipeline.finetune("sentiment_bert", framework=None), "framework is None, but must be one of torch"),
        (lambda: pipeline.check("sentiment_bert", framework="pytorch"), 'Did you mean "torch"?'),
        (lambda: pipeline.finetune("sentiment_bert", attention=None), "attention is None, but must be stock"),
        (lambda: pipeline.lockstep("sentiment_bert", attention=Nowhere()), "but must be stock, handwritten"),
        (lambda: pipeline.finetune("sentiment_bert", seed="1"), "seed is '1', but must be a whole number"),
        (lambda: pipeline.lockstep("sentiment_bert", steps=0), "steps is 0, but must be a whole number from 1"),
        (lambda: pipeline.compare("sentiment_bert", seeds="0 1"), "seed is '0 1', but must be a whole number"),
        (lambda: pipeline.load_recipe("sentiment_bert", 3), "changes of a recipe are 3, but must be a mapping"),
        (lambda: pipeline.load_recipe("sentiment_bert").override("a=1"), "'a=1', but must be a mapping"),
        (lambda: pipeline.load_recipe("sentiment_bert").override({1: 2}), "{1: 2}, but must be a mapping from keys"),
        (lambda: pipeline.sweep("sentiment_bert", 3), "the space is 3, but must be a text or a mapping"),
    ],
)  # fmt: skip
def test_a_wrong_call_is_answered_in_the_words_of_python(call, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        call()
    assert words in str(error.value) and list(tmp_path.iterdir()) == []
    assert not re.search(
        r"--[a-z]|\bmake |(SET|OUT|SEED|STEPS|FRAMEWORKS?|ATTENTIONS?|RESUME|OVERWRITE|PROCESSES|SPACE|TRIALS)=",
        str(error.value),
    )


def test_a_recipe_a_name_and_a_path_are_taken_alike():
    name, path = "sentiment_bert", ROOT / "recipes" / "sentiment_bert.py"
    recipe = pipeline.load_recipe(name)
    assert pipeline.load_recipe(path) == pipeline.load_recipe(str(path)) == pipeline.load_recipe(recipe) == recipe
    nested = recipe.override({"train": {"epochs": 1}, "data.limit": {"train": 8}})
    assert nested == recipe.override({"train.epochs": 1, "data": {"limit": {"train": 8}}})
    assert (nested.train.epochs, nested.train.batch_size, nested.data.limit.train) == (1, recipe.train.batch_size, 8)


def modules_with_examples():
    root = Path(pipeline.__file__).parent
    files = (path for path in sorted(root.rglob("*.py")) if ">>>" in path.read_text(encoding="utf-8"))
    return [".".join(path.relative_to(root.parent).with_suffix("").parts).removesuffix(".__init__") for path in files]


@pytest.mark.parametrize("module", modules_with_examples())
def test_the_examples_in_docstrings_print_what_they_say(module):
    results = doctest.testmod(importlib.import_module(module))
    assert results.failed == 0
