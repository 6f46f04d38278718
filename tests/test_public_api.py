"""What `from pipeline import ...` offers: every name is there, documented, and found by tab completion."""

import doctest
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import pipeline

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
        if module.name not in ("pipeline.__main__", "pipeline.pytorch.kernels"):  # which needs Triton, and so a GPU
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


def modules_with_examples():
    root = Path(pipeline.__file__).parent
    files = (path for path in sorted(root.rglob("*.py")) if ">>>" in path.read_text(encoding="utf-8"))
    return [".".join(path.relative_to(root.parent).with_suffix("").parts).removesuffix(".__init__") for path in files]


@pytest.mark.parametrize("module", modules_with_examples())
def test_the_examples_in_docstrings_print_what_they_say(module):
    results = doctest.testmod(importlib.import_module(module))
    assert results.failed == 0
