"""Recipes and interrupted runs that several files of this folder use."""

import shutil

import pytest

from tests.helpers.families import recipe_of
from tests.helpers.interruption import kill_at


@pytest.fixture
def tiny(tmp_path):
    """Three steps of a tiny BERT, saved after each."""
    return recipe_of("single-label", tmp_path, changes={"train.save_every": 1})


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """The folder of a PyTorch run killed after its checkpoints of steps 1 and 2, and its recipe."""
    folder = tmp_path_factory.mktemp("interrupted")
    recipe = recipe_of("single-label", folder, changes={"train.save_every": 1})
    kill_at(("step", 3), recipe, out=folder / "run")
    return folder, recipe


@pytest.fixture
def interrupted_copy(interrupted, tmp_path):
    """The path of the interrupted run, copied for one test alone, and its recipe."""
    folder, recipe = interrupted
    shutil.copytree(folder / "run.checkpoints", tmp_path / "run.checkpoints")
    return tmp_path / "run", recipe
