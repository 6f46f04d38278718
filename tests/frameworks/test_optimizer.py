"""Gradient clipping and AdamW in both frameworks, against the formulas."""

import time

import numpy as np
import pytest

from pipeline.models.optimization import decays
from pipeline.recipe.schema import Train
from tests.helpers.classifiers import framework_module, tensor


@pytest.mark.parametrize("max_grad_norm", [None, 0.5, 100.0])
def test_gradients_are_clipped_by_their_global_norm(framework, max_grad_norm):
    values = [np.array([3.0, 0.0], np.float32), np.array([[4.0]], np.float32)]
    if framework == "torch":
        import torch

        weights = [torch.nn.Parameter(torch.zeros_like(torch.tensor(value))) for value in values]
        for weight, value in zip(weights, values, strict=True):
            weight.grad = torch.tensor(value)
        norm = framework_module(framework, "optimizer").clip_gradients(weights, max_grad_norm)
        clipped = [weight.grad.numpy() for weight in weights]
    else:
        clipped, norm = framework_module(framework, "optimizer").clip_gradients(
            [tensor(framework, v) for v in values], max_grad_norm
        )
    scale = min(1.0, (max_grad_norm or np.inf) / (5 + 1e-6))
    assert float(norm) == pytest.approx(5.0)
    for actual, value in zip(clipped, values, strict=True):
        assert np.asarray(actual) == pytest.approx(value * scale, rel=1e-5)


def adamw_by_hand(value, gradients, rates, settings, decay):
    """Algorithm 2 of Loshchilov and Hutter 2019 in float64."""
    value, m, v = value.astype(np.float64), 0.0, 0.0
    for t, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        m = settings.beta1 * m + (1 - settings.beta1) * gradient
        v = settings.beta2 * v + (1 - settings.beta2) * gradient**2
        m_hat, v_hat = m / (1 - settings.beta1**t), v / (1 - settings.beta2**t)
        value = value - rate * decay * value - rate * m_hat / (np.sqrt(v_hat) + settings.epsilon)
    return value


@pytest.mark.parametrize("scale", [1.0, 1e-8], ids=["plain gradients", "gradients as small as epsilon"])
def test_adamw_moves_as_the_paper_says(framework, scale):
    rng, settings = np.random.default_rng(5), Train(weight_decay=0.1, epsilon=1e-8)
    starts = {"dense.weight": rng.normal(size=(3, 5)), "dense.bias": rng.normal(size=5)}
    gradients = {name: rng.normal(size=(7, *value.shape)) * scale for name, value in starts.items()}
    rates = np.linspace(1e-3, 1e-2, 7)
    if framework == "torch":
        import torch

        module = torch.nn.Module()
        module.dense = torch.nn.Linear(5, 3)
        module.dense.weight.data = torch.tensor(starts["dense.weight"], dtype=torch.float32)
        module.dense.bias = torch.nn.Parameter(torch.tensor(starts["dense.bias"], dtype=torch.float32))
        optimizer = framework_module(framework, "optimizer").AdamW(module, settings)
        for step, rate in enumerate(rates):
            for name, weight in module.named_parameters():
                weight.grad = torch.tensor(gradients[name][step], dtype=torch.float32)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
        actual = {name: weight.detach().numpy() for name, weight in module.named_parameters()}
    else:
        import tensorflow as tf

        variables = {name: tf.Variable(value.astype(np.float32), name=name) for name, value in starts.items()}
        optimizer = framework_module(framework, "optimizer").AdamW(settings, rates)
        for step in range(len(rates)):
            pairs = [(tf.constant(gradients[n][step], tf.float32), v) for n, v in variables.items()]
            optimizer.apply_gradients(pairs)
        actual = {name: variable.numpy() for name, variable in variables.items()}
    for name, value in starts.items():
        decay = 0.1 if name == "dense.weight" else 0.0
        expected = adamw_by_hand(value, gradients[name], rates, settings, decay)
        assert actual[name] - value == pytest.approx(expected - value, rel=2e-4, abs=3e-7), name


def test_decay_spares_biases_and_layer_norms():
    assert decays("encoder.dense.weight", 2) and decays("tf_bert/dense/kernel", 2)
    spared = [("dense.bias", 1), ("LayerNorm.weight", 1), ("h/attn/c_attn/bias", 2)]
    assert not any(decays(name, rank) for name, rank in spared)


def test_xla_compiles_a_step_of_the_optimizer_once():
    """Else each step would compile anew, for which it takes a hundred times as long as to compute."""
    import tensorflow as tf

    weights, gradient = tf.Variable(tf.ones([7, 11])), tf.ones([7, 11])
    optimizer = framework_module("tensorflow", "optimizer").AdamW(Train(learning_rate=1e-3), np.full(100, 1e-3))
    optimizer.build([weights])
    step, seconds = tf.function(lambda: optimizer.apply_gradients([(gradient, weights)]), jit_compile=True), []
    for _ in range(8):
        started = time.process_time()
        step()
        seconds.append(time.process_time() - started)
    assert optimizer.iterations.numpy() == 8
    assert sum(seconds[3:]) < max(seconds[:3])  # traced and compiled in one of the first
