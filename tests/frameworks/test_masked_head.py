"""A masked language model's head is computed where a token is predicted, with the loss and gradients of the whole."""

import numpy as np
import pytest

from tests.helpers.classifiers import framework_module
from tests.helpers.framework_drivers import TensorFlow, Torch
from tests.helpers.tiny_models import BATCH, SOURCE, VOCABULARY, inputs

SMOOTHING = 0.1


def targets(share):
    """Labels, and weights that are 0 but for a share of the positions, never of padding."""
    rng = np.random.default_rng(2)
    counted = (rng.uniform(size=(BATCH, SOURCE)) < share) & (inputs("bert")["attention_mask"] == 1)
    weights = (rng.uniform(0.5, 2, counted.shape) * counted).astype(np.float32)
    return rng.integers(0, VOCABULARY, counted.shape).astype(np.int64), weights


def torch_sides(share):
    """[(loss, gradients)]: ours, and the library's of all logits."""
    import torch

    labels, weights = map(torch.tensor, targets(share))
    batch = Torch.tensors(inputs("bert"))
    for_targets, weighted_loss = functions("torch")
    sides = []
    for ours in (True, False):
        model = Torch.build("bert", "ForMaskedLM").train()
        if ours:
            loss = weighted_loss(*for_targets(model, batch, labels, weights), SMOOTHING)
        else:
            rows = torch.nn.functional.cross_entropy(
                model(**batch).logits.flatten(0, 1), labels.flatten(), reduction="none", label_smoothing=SMOOTHING
            )
            loss = rows @ weights.flatten()
        loss.backward()
        sides.append((loss.item(), {name: weight.grad.numpy() for name, weight in model.named_parameters()}))
    return sides


def tensorflow_sides(share):
    """[(loss, gradients)]: ours, and the library's of all logits."""
    import tensorflow as tf

    labels, weights = map(tf.constant, targets(share))
    batch, model = TensorFlow.tensors(inputs("bert")), TensorFlow.build("bert", "ForMaskedLM")
    for_targets, weighted_loss = functions("tensorflow")
    smoothed = tf.one_hot(labels, VOCABULARY) * (1 - SMOOTHING) + SMOOTHING / VOCABULARY
    sides = []
    for ours in (True, False):
        with tf.GradientTape() as tape:
            if ours:
                target, *others = for_targets(model, batch, labels, weights, training=True)
                loss, slope = weighted_loss(target, *others, SMOOTHING)
            else:
                logits = model(batch, training=True).logits
                target = loss = tf.reduce_sum(tf.nn.softmax_cross_entropy_with_logits(smoothed, logits) * weights)
                slope = None
        gradients = tape.gradient(target, model.trainable_variables, slope, unconnected_gradients="zero")
        pairs = zip(model.trainable_variables, gradients, strict=True)
        sides.append((float(loss), {variable.name: tf.convert_to_tensor(g).numpy() for variable, g in pairs}))
    return sides


def functions(framework):
    modules = framework_module(framework, "fast_modules")

    def logits_and_targets(model, inputs, labels, weights, **training):
        counted = modules.counted_tokens(model, weights)
        return modules.logits_and_targets(model, inputs, labels, weights, counted, **training)

    return logits_and_targets, framework_module(framework, "loss").weighted_loss


@pytest.mark.parametrize("share", [0.0, 0.15, 1.0])
def test_loss_and_gradients_are_those_of_all_logits(framework, share):
    ours, whole = torch_sides(share) if framework == "torch" else tensorflow_sides(share)
    assert ours[0] == pytest.approx(whole[0], rel=1e-5) and (share == 0) == (whole[0] == 0)
    assert ours[1].keys() == whole[1].keys()
    scale = max(np.abs(gradient).max() for gradient in whole[1].values())
    for name, gradient in whole[1].items():
        assert np.abs(ours[1][name] - gradient).max() <= 2e-6 * scale, name


def test_only_positions_of_the_loss_have_logits_and_some_that_make_their_number_a_multiple_of_eight(framework):
    driver = Torch if framework == "torch" else TensorFlow
    model, batch = driver.build("bert", "ForMaskedLM"), driver.tensors(inputs("bert"))
    labels, weights = targets(0.15)
    training = {} if framework == "torch" else {"training": True}
    arrays = (driver.tensor(labels), driver.tensor(weights))
    logits, kept_labels, kept_weights = functions(framework)[0](model, batch, *arrays, **training)
    counted = np.count_nonzero(weights)
    assert 0 < counted < 8 and logits.shape == (8, VOCABULARY)
    assert np.array_equal(driver.numpy(kept_labels)[:counted], labels[weights > 0])
    assert np.array_equal(driver.numpy(kept_weights), [*weights[weights > 0], *[0.0] * (8 - counted)])
    assert driver.output(model, inputs("bert")).shape == (BATCH, SOURCE, VOCABULARY)  # the model itself is as it was


def test_a_graph_of_tensorflow_does_not_compute_the_other_logits():
    import tensorflow as tf

    model, batch = TensorFlow.build("bert", "ForMaskedLM"), TensorFlow.tensors(inputs("bert"))
    arrays = [tf.constant(each) for each in targets(0.15)]

    def step():
        with tf.GradientTape() as tape:
            for_targets, weighted_loss = functions("tensorflow")
            logits, *others = for_targets(model, batch, *arrays, training=True)
        _, slope = weighted_loss(logits, *others, 0.0)
        return [tf.convert_to_tensor(g) for g in tape.gradient(logits, model.trainable_variables, slope)]

    graph = tf.function(step, autograph=False).get_concrete_function().graph
    used = tf.compat.v1.graph_util.extract_sub_graph(graph.as_graph_def(), [tensor.op.name for tensor in graph.outputs])
    shapes = [output.shape for node in used.node for output in graph.get_operation_by_name(node.name).outputs]
    assert not [s for s in shapes if s.rank and s[-1] == VOCABULARY and s.num_elements() == BATCH * SOURCE * VOCABULARY]
