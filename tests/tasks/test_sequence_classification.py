"""Sequence classification: the losses of numbers and label sets, and what its rows must have."""

import math

import numpy as np
import pytest
import torch

from pipeline import UserError
from pipeline.training.experiment import prepare
from tests.helpers.families import recipe_of


def test_the_losses_of_numbers_and_of_label_sets_are_the_usual_ones(framework, tmp_path):
    from pipeline.backend import load_backend

    module = load_backend(framework).Learner.__module__
    weighted_loss = __import__(module, fromlist=["weighted_loss"]).weighted_loss
    logits, weights = np.array([[0.3], [-1.2]], np.float32), np.array([0.5, 0.5], np.float32)
    found = float(
        weighted_loss(*map(as_tensor(framework), (logits, np.float32([1, -1]), weights)), 0.0, "squared_error")
    )
    assert found == pytest.approx((0.7**2 + 0.2**2) / 2, rel=1e-5)
    labels = np.array([[1.0, 0.0]], np.float32)
    found = float(
        weighted_loss(
            *map(as_tensor(framework), (np.float32([[2, -1]]), labels, np.float32([[0.5, 0.5]]))), 0.0,
            "binary_cross_entropy",
        )
    )  # fmt: skip
    assert found == pytest.approx((math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-1))) / 2, rel=1e-5)


def as_tensor(framework):
    if framework == "torch":
        return torch.from_numpy
    import tensorflow as tf

    return tf.constant


def test_a_pair_for_a_tokenizer_that_puts_nothing_between_is_refused(tmp_path):
    recipe = recipe_of("pairs", tmp_path, changes={"checkpoint": recipe_of("causal rows", tmp_path).checkpoint})
    (tmp_path / "pairs").mkdir()
    recipe = recipe_of("pairs", tmp_path / "pairs", changes={"checkpoint": recipe.checkpoint})
    with pytest.raises(UserError, match="puts nothing between the texts of a pair"):
        prepare(recipe)
