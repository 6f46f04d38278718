"""Tests where one framework alone is installed: cases of the other are left out, what needs both is skipped."""

import os
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec

import pytest
import transformers

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


def skip_other_pythons():
    """Skips a test whose command goes on in the Python of the other framework: it would take the place of pytest."""

    def skip(python, *_):
        pytest.skip(f"the command goes on in {python}")

    os.execve = skip


def is_case_of(item, frameworks):
    """Whether a test has one of these frameworks as a parameter, by its name or as an object that has its name."""
    values = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return any((value if isinstance(value, str) else getattr(value, "name", None)) in frameworks for value in values)
