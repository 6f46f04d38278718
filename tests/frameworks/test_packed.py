"""A step on packed rows is the step on the padded batch of the same examples: same loss, same gradients."""

import numpy as np
import pytest

from pipeline.backend import load_backend
from pipeline.recipe.schema import Train
from tests.helpers.packed_batches import HEADS
from tests.helpers.tiny_models import config, random_state, relative


def learner_of(framework, head, attention="stock", steps=1, **train):
    """A learner for a head with random weights."""
    family, auto_class, settings, loss, _ = HEADS[head]
    backend = load_backend(framework)
    train = Train(**train)
    model = backend.build_model(auto_class, config(family, **settings), train.precision, 0)
    backend.set_weights(model, random_state(backend.weight_shapes(model)))
    if attention == "handwritten":
        backend.swap_attention(model)
    return backend.Learner(model, train, np.full(steps, 1e-3), loss)


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


@pytest.mark.parametrize("head", HEADS)
def test_in_bf16_packed_rows_are_as_far_from_fp32_as_padded_ones(framework, head):
    padded, packed = HEADS[head][4]()
    exact_loss, exact = loss_and_gradients(framework, learner_of(framework, head), padded)
    learner = learner_of(framework, head, precision="bf16")
    (padded_loss, of_padded), (packed_loss, of_packed) = (
        loss_and_gradients(framework, learner, batch) for batch in (padded, packed)
    )
    assert padded_loss != exact_loss
    assert packed_loss == pytest.approx(padded_loss, rel=1e-2)
    assert relative(of_packed, exact) <= 2 * relative(of_padded, exact)


def steps_of(learner, batches):
    """What a learner reports of its steps on these batches."""
    reports = []
    learner.fit([batches], reports.append, lambda epoch: False)
    return reports


def with_more_padding(batch, positions, slots):
    """A packed batch in wider rows, with more empty slots for examples."""
    by_example = "pooled_positions" in batch and ("labels", "loss_weights", "pooled_positions")
    out = {}
    for key, values in batch.items():
        added = slots if by_example and key in by_example else positions
        out[key] = np.pad(values, [(0, 0), (0, added)] + [(0, 0)] * (values.ndim - 2))
    return out


@pytest.mark.slow
@pytest.mark.parametrize("head", ["bert regression", "bert spans", "bert masked", "gpt2 causal", "t5"])
def test_training_on_packed_rows_is_training_on_padded_batches(framework, head):
    padded, packed = HEADS[head][4]()
    wider, more_rows = with_more_padding(packed, 3, 2), {key: np.roll(rows, 1, axis=0) for key, rows in packed.items()}
    expected = steps_of(learner_of(framework, head, steps=3, gradient_accumulation=2), [padded] * 3)
    # The first of two micro-batches has one row here, or two, so it has fewer slots than the batch.
    learner = learner_of(framework, head, steps=3, gradient_accumulation=2)
    actual = steps_of(learner, [packed, wider, more_rows])
    assert [step.loss for step in actual] == pytest.approx([step.loss for step in expected], rel=1e-4)
    assert [step.grad_norm for step in actual] == pytest.approx([step.grad_norm for step in expected], rel=1e-3)
    if framework == "tensorflow":  # one graph for batches of any width, number of rows and of examples in a row
        assert learner.train_function.experimental_get_tracing_count() == 1


@pytest.mark.slow
def test_more_micro_batches_than_packed_rows_change_nothing(framework):
    _, packed = HEADS["bert spans"][4]()
    expected, actual = (
        steps_of(learner_of(framework, "bert spans", gradient_accumulation=count), [packed])[0] for count in (1, 8)
    )
    assert (actual.loss, actual.grad_norm) == pytest.approx((expected.loss, expected.grad_norm), rel=1e-5)
