"""Tests where one framework alone is installed: cases of the other are left out, what needs both is skipped."""

import inspect
import json
import os
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import transformers

from pipeline.deploy.manifest import is_export, read_manifest

# Whether the library is of version 5, where some things that a test asks for are gone.
IS_VERSION_5 = int(transformers.__version__.split(".")[0]) >= 5
# What a test imports that needs a framework.
PACKAGES = {
    "tensorflow": ("tensorflow", "tf_keras", "transformers.modeling_tf_pytorch_utils"),
    "torch": ("torch", "accelerate"),
}


class SkipOnImport(MetaPathFinder, Loader):
    """Skips a test, or a file of tests, that imports a framework's package."""

    def __init__(self, frameworks):
        self.packages = {package for name in frameworks for package in PACKAGES[name]}

    def find_spec(self, fullname, path=None, target=None):
        return ModuleSpec(fullname, self) if fullname in self.packages else None

    def create_module(self, spec):
        pytest.skip(f"{spec.name} is not for this environment", allow_module_level=True)

    def exec_module(self, module):
        raise AssertionError("it is skipped before")


def needs(*frameworks):
    """Skips a test where one of these is not tested, which the test itself would not import under its name."""
    for finder in sys.meta_path:
        if isinstance(finder, SkipOnImport) and not finder.packages.isdisjoint(frameworks):
            pytest.skip(f"it needs {' and '.join(frameworks)}")


def skip_other_pythons(only):
    """Skips a test whose command goes on in the Python of the other framework: it would take the place of pytest.

    The test fails if the command is for the framework that is here.
    """

    def leave(python, *_):
        stack = inspect.stack(context=0)
        words = next(each.frame.f_locals["arguments"] for each in stack if each.function == "execute")
        if framework_of(words) == only:
            pytest.fail(f"{words} is for {only}, which is here, but it goes on in {python}")
        pytest.skip(f"the command goes on in {python}")

    os.execve = leave


def framework_of(words):
    """The framework that a command is for: the one that it names, else that of its run or export, else PyTorch."""
    folder = Path(words[1])
    if "--framework" in words:
        return words[words.index("--framework") + 1]
    if (folder / "metrics.json").is_file():
        return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["framework"]
    return read_manifest(folder).facts.framework if is_export(folder) else "torch"


def is_case_of(item, frameworks):
    """Whether a test has one of these frameworks as a parameter, by its name or as an object that has its name."""
    values = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return any((value if isinstance(value, str) else getattr(value, "name", None)) in frameworks for value in values)
