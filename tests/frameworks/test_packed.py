"""A step on packed rows is the step on the padded batch of the same examples: same loss, same gradients."""

import numpy as np
import pytest

from pipeline.backend import load_backend
from pipeline.recipe.schema import Train
from tests.helpers.packed_batches import HEADS
from tests.helpers.tiny_models import config, random_state, relative


def learner_of(framework, head, attention="stock", precision="fp32", **changes):
    """A learner for a head with random weights."""
    family, auto_class, settings, loss, _ = HEADS[head]
    backend = load_backend(framework)
    model = backend.build_model(auto_class, config(family, **settings, **changes), precision, 0)
    backend.set_weights(model, random_state(backend.weight_shapes(model)))
    if attention == "handwritten":
        backend.swap_attention(model)
    return backend.Learner(model, Train(precision=precision), np.full(1, 1e-3), loss)


def loss_and_gradients(framework, learner, batch):
    """The loss of a batch, and the gradients by the names of the model's weights."""
    if framework == "torch":
        learner.model.train()
        loss = learner.gradients(batch)
        gradients = {
            name: weight.grad.numpy().copy()
            for name, weight in learner.model.named_parameters()
            if weight.grad is not None
        }
        learner.model.zero_grad()
        return float(loss), gradients
    variables = learner.model.trainable_variables
    loss, gradients = learner.gradients(learner.tensors(batch), variables)
    named = zip(variables, gradients, strict=True)
    return float(loss), {variable.name: each.numpy() for variable, each in named if each is not None}


@pytest.mark.parametrize("attention", ["stock", "handwritten"])
@pytest.mark.parametrize("head", HEADS)
def test_loss_and_gradients_of_packed_rows_are_those_of_the_padded_batch(framework, head, attention):
    learner = learner_of(framework, head, attention)
    (padded_loss, padded), (packed_loss, packed) = (
        loss_and_gradients(framework, learner, batch) for batch in HEADS[head][4]()
    )
    assert packed_loss == pytest.approx(padded_loss, rel=1e-6)
    assert relative(packed, padded) <= 1e-5
    total = np.sqrt(sum(np.square(gradient).sum() for gradient in padded.values()))
    for name, gradient in padded.items():
        # Of weights that the loss does not depend on, such as BERT's key bias, the gradient is rounding alone.
        if np.linalg.norm(gradient) > 1e-5 * total:
            assert relative(packed[name], gradient) <= 1e-5, name
