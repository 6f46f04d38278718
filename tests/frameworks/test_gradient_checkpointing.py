"""Gradient checkpointing in both frameworks: the same loss and gradients, with fewer activations kept."""

import numpy as np
import pytest

from pipeline import UserError, load_recipe
from tests.helpers.packed_batches import learner_of, loss_and_gradients, with_dropout_keys

# Every family, and every kind of layer: the library's, with a hand-written attention, and hand-written.
LAYERS = [
    ("bert tokens", "stock"), ("bert masked", "handwritten"), ("gpt2 causal", "handwritten"), ("gpt2 classes", "stock"),
    ("t5", "stock"), ("t5", "handwritten"), ("marian", "handwritten-model"), ("marian", "handwritten"),
    ("marian", "stock"),
]  # fmt: skip


def both(framework, head, attention, packed, **train):
    """(loss, gradients) without and with gradient checkpointing, of the same batch with dropout."""
    batch = with_dropout_keys(head)[packed]
    sides = []
    for value in (False, True):
        learner = learner_of(framework, head, attention, dropout=0.1, gradient_checkpointing=value, **train)
        sides.append(loss_and_gradients(framework, learner, batch))
    return sides


def assert_same(plain, checkpointed, **tolerance):
    assert checkpointed[0] == pytest.approx(plain[0], rel=1e-6)
    assert checkpointed[1].keys() == plain[1].keys()
    scale = max(np.abs(gradient).max() for gradient in plain[1].values())
    for name, gradient in plain[1].items():
        np.testing.assert_allclose(checkpointed[1][name], gradient, err_msg=name, rtol=0, atol=tolerance["to"] * scale)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("head", "attention"), LAYERS)
def test_in_pytorch_loss_and_gradients_have_the_same_bits(head, attention, packed):
    assert_same(*both("torch", head, attention, packed), to=0)


@pytest.mark.parametrize(
    ("head", "attention"),
    [pytest.param(*each, marks=() if each in LAYERS[:8:2] else pytest.mark.heavy) for each in LAYERS],
)
def test_in_tensorflow_loss_and_gradients_are_the_same(head, attention):
    assert_same(*both("tensorflow", head, attention, True), to=1e-6)


SETTINGS = {
    "bf16": {"precision": "bf16"},
    "masks of the framework": {"dropout_masks": "framework"},
    "micro-batches": {"gradient_accumulation": 3},
    "micro-batches of the framework's masks": {"gradient_accumulation": 3, "dropout_masks": "framework"},
}


def steps(framework, head, **train):
    """The losses and gradient norms of two steps, as a training takes them."""
    learner, reports = learner_of(framework, head, steps=2, dropout=0.1, batch_size=6, **train), []
    learner.fit([[with_dropout_keys(head)[1]] * 2], reports.append, lambda epoch: True)
    return [(report.loss, report.grad_norm) for report in reports]


@pytest.mark.parametrize("settings", SETTINGS)
def test_in_pytorch_steps_are_the_same_with_other_settings(settings):
    plain, checkpointed = (
        steps("torch", "gpt2 causal", gradient_checkpointing=value, **SETTINGS[settings]) for value in (False, True)
    )
    assert checkpointed == plain and plain[0] != plain[1]


def test_compiled_steps_are_not_checkpointed():
    with pytest.raises(UserError, match="gradient_checkpointing computes layers again, and compile would"):
        load_recipe("sentiment_bert", {"train.gradient_checkpointing": True, "train.compile": True})
