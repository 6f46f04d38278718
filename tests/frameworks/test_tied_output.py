"""Language models' logits in TensorFlow, computed as one product: the library's, with the library's gradients."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from pipeline.tensorflow.fast_modules import forward, prepare_modules
from pipeline.tensorflow.model import TFUntiedGPT2LMHeadModel, head_logits, layer_defaults, random_generators
from pipeline.tensorflow.swap import swap_attention
from tests.helpers.framework_drivers import TensorFlow
from tests.helpers.tiny_models import BATCH, VOCABULARY, config, inputs


def logits_and_gradients(logits_of, model, batch):
    rng = np.random.default_rng(8)
    with tf.GradientTape() as tape:
        logits = logits_of(model, batch)
        loss = tf.reduce_sum(logits * rng.normal(size=logits.shape).astype(np.float32))
    gradients = tape.gradient(loss, model.trainable_variables)
    return logits.numpy(), {
        variable.name: tf.convert_to_tensor(gradient).numpy()
        for variable, gradient in zip(model.trainable_variables, gradients, strict=True)
    }


def ours(model, batch):
    return forward(model, batch, training=False)


def the_librarys(model, batch):
    return head_logits(model(batch, training=False))


@pytest.mark.parametrize("attention", ["stock", "handwritten"])
@pytest.mark.parametrize("family", ["gpt2", "t5", "marian"])
def test_logits_and_gradients_are_the_librarys(family, attention):
    model, batch = TensorFlow.build(family), TensorFlow.tensors(inputs(family))
    if attention == "handwritten":
        swap_attention(model)
    actual, expected = (logits_and_gradients(each, model, batch) for each in (ours, the_librarys))
    assert actual[0] == pytest.approx(expected[0], rel=1e-5, abs=1e-5)
    assert actual[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        scale = np.abs(gradient).max()
        assert np.abs(actual[1][name] - gradient).max() <= 1e-5 * scale + 1e-6, name


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_in_bf16_they_are_the_librarys_too(family):
    policy = tf_keras.mixed_precision.global_policy()
    tf_keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        model, batch = TensorFlow.build(family), TensorFlow.tensors(inputs(family))
        (actual, gradients), (expected, expected_gradients) = (
            logits_and_gradients(each, model, batch) for each in (ours, the_librarys)
        )
    finally:
        tf_keras.mixed_precision.set_global_policy(policy)
    assert actual.dtype == np.float32
    assert np.array_equal(tf.cast(tf.cast(actual, tf.bfloat16), tf.float32), actual)  # computed in bf16
    assert np.linalg.norm(actual - expected) < 1e-2 * np.linalg.norm(expected)
    norm = np.linalg.norm([np.linalg.norm(gradient) for gradient in expected_gradients.values()])
    for name, gradient in expected_gradients.items():
        assert np.linalg.norm(gradients[name] - gradient) < 5e-2 * np.linalg.norm(gradient) + 5e-3 * norm, name


@pytest.mark.parametrize("family", ["gpt2", "t5", "marian"])
def test_in_training_dropout_is_drawn(family):
    with layer_defaults("float32"):
        model, batch = TensorFlow.build(family, dropout=0.3), TensorFlow.tensors(inputs(family))
    prepare_modules(model)
    generators = list(random_generators(model).values())
    states = [generator.state.numpy() for generator in generators]
    actual = []
    for logits_of in (forward, lambda *which, training: head_logits(model(batch, training=training))):
        actual.append(logits_of(model, batch, training=True).numpy())
        for generator, state in zip(generators, states, strict=True):
            generator.state.assign(state)
    assert actual[0] != pytest.approx(ours(model, batch).numpy(), abs=1e-2)
    assert actual[0] == pytest.approx(actual[1], rel=1e-5, abs=1e-5)


def test_models_with_a_head_of_their_own_keep_it():
    untied = TFUntiedGPT2LMHeadModel(config("gpt2", tie_word_embeddings=False))
    untied_t5 = TensorFlow.build("t5", tie_word_embeddings=False)
    for model, family in ((untied, "gpt2"), (untied_t5, "t5"), (TensorFlow.build("bert"), "bert")):
        batch = TensorFlow.tensors(inputs(family))
        assert np.array_equal(ours(model, batch), the_librarys(model, batch))


@pytest.mark.parametrize("family", ["gpt2", "t5", "marian"])
def test_no_gradient_is_as_large_as_the_matrix_for_each_row(family):
    model, batch = TensorFlow.build(family), TensorFlow.tensors(inputs(family))

    def large_arrays(logits_of):
        def step():
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(logits_of(model, batch) ** 2)
            return [tf.convert_to_tensor(g) for g in tape.gradient(loss, model.trainable_variables)]

        graph = tf.function(step, autograph=False).get_concrete_function().graph
        used = tf.compat.v1.graph_util.extract_sub_graph(
            graph.as_graph_def(), [tensor.op.name for tensor in graph.outputs]
        )
        shapes = [(o.shape, node.name) for node in used.node for o in graph.get_operation_by_name(node.name).outputs]
        width = model.config.hidden_size
        return [
            name
            for shape, name in shapes
            if shape.rank == 3 and shape[0] == BATCH and {VOCABULARY, width} <= set(shape[1:])
        ]

    assert large_arrays(the_librarys)
    assert not large_arrays(ours)
