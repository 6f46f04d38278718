"""Deterministic kernels are asked for on a GPU, and only if the recipe wants them; no GPU is needed here."""

import contextlib

import pytest
import tensorflow as tf
import torch

from pipeline import finetune
from pipeline.backend import load_backend
from tests.helpers.families import recipe_of


@pytest.fixture
def is_asked(framework, monkeypatch):
    """Whether the framework has been asked for deterministic kernels; it believes to see a GPU."""
    if framework == "torch":
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
        return torch.are_deterministic_algorithms_enabled
    asked = []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["one"])
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: asked.append(True))
    return lambda: bool(asked)


@pytest.mark.parametrize("wanted", [True, False])
def test_a_gpu_is_asked_for_deterministic_kernels_if_they_are_wanted(framework, wanted, is_asked):
    assert not is_asked()
    with load_backend(framework).deterministic(wanted):
        assert is_asked() == wanted
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_processor_needs_no_such_kernels(framework, is_asked, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    with load_backend(framework).deterministic(True):
        assert not is_asked()


def test_a_recipe_says_whether_they_are_wanted(tmp_path, monkeypatch):
    asked = []

    def deterministic(wanted):
        asked.append(wanted)
        return contextlib.nullcontext()

    monkeypatch.setattr("pipeline.pytorch.deterministic", deterministic)
    recipe = recipe_of("single-label", tmp_path)
    finetune(recipe, out=tmp_path / "usual")
    finetune(recipe.override({"train.deterministic": True}), out=tmp_path / "deterministic")
    assert asked == [False, True]
