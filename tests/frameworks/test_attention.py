"""The attention itself, in both frameworks, against `attention_reference.py` and against each other."""

import doctest

import numpy as np
import pytest

from tests.helpers.attention_reference import multi_head_attention
from tests.helpers.framework_drivers import FRAMEWORKS, TensorFlow, Torch
from tests.helpers.tiny_models import relative

B, T, S, H, K, D = 2, 3, 5, 7, 11, 13

both = pytest.mark.parametrize("framework", FRAMEWORKS, ids=lambda framework: framework.name)


def weights(rng, use_bias=True):
    """Random projections [in, out] and their offsets; the inner width H * K is not the model's."""
    shapes = {"query": (D, H * K), "key": (D, H * K), "value": (D, H * K), "out": (H * K, D)}
    return {
        name: (
            rng.normal(0, 0.4, shape).astype("f4"),
            rng.normal(size=shape[1]).astype("f4") if use_bias else None,
        )
        for name, shape in shapes.items()
    }


def hand_written(framework, projections, **arguments):
    attention = framework.attention().MultiHeadAttention(
        D, H, head_width=K, use_bias=projections["out"][1] is not None, **arguments
    )
    framework.set_weights(attention, projections)
    return attention


def both_results(framework, crossing=False, bias=True, **arguments):
    """(output, weights) of the code under test and of the reference, on the same random numbers."""
    rng = np.random.default_rng(0)
    projections = weights(rng)
    queries = rng.normal(size=(B, T, D)).astype("f4")
    source = rng.normal(size=(B, S, D)).astype("f4") if crossing else queries
    bias_BHTS = rng.normal(0, 3, (B, H, T, source.shape[1])).astype("f4") if bias else None
    attention = hand_written(framework, projections, **arguments)
    output, weights_BHTS, _ = framework.call_evaluating(
        attention,
        framework.tensor(queries),
        framework.tensor(source) if crossing else None,
        framework.tensor(bias_BHTS) if bias else None,
        return_weights=True,
    )
    expected = multi_head_attention(queries, source, projections, H, bias_BHTS, arguments.get("scale"))
    return (framework.numpy(output), framework.numpy(weights_BHTS)), expected


def largest_difference(framework, **case):
    ours, expected = both_results(framework, **case)
    return max(relative(mine, theirs) for mine, theirs in zip(ours, expected, strict=True))


@both
@pytest.mark.parametrize("crossing", [False, True], ids=["self", "cross"])
@pytest.mark.parametrize("bias", [False, True], ids=["unbiased", "biased"])
@pytest.mark.parametrize("scale", [None, 1.0, 0.37])
def test_output_and_weights_are_those_of_the_reference(framework, crossing, bias, scale):
    assert largest_difference(framework, crossing=crossing, bias=bias, scale=scale) <= 1e-6


@both
def test_64_bit_numbers_keep_their_precision(framework):
    rng = np.random.default_rng(1)
    q_BHTK, k_BHSK, v_BHSK = (rng.normal(size=(B, H, length, K)) for length in (T, S, S))
    bias_BHTS = rng.normal(0, 3, (B, H, T, S))
    tensors = [framework.tensor(array) for array in (q_BHTK, k_BHSK, v_BHSK, bias_BHTS)]
    mixed, weights_BHTS = framework.attention().attend(*tensors)
    powers = np.exp(np.einsum("bhtk,bhsk->bhts", q_BHTK, k_BHSK) / np.sqrt(K) + bias_BHTS)
    expected = powers / powers.sum(axis=3, keepdims=True)
    np.testing.assert_allclose(framework.numpy(weights_BHTS), expected, rtol=1e-12)
    np.testing.assert_allclose(framework.numpy(mixed), expected @ v_BHSK, rtol=1e-11)


def test_gradients_in_64_bits_are_those_of_finite_differences():
    import torch

    rng = np.random.default_rng(2)
    inputs = [torch.tensor(rng.normal(size=(1, 2, length, 3)), requires_grad=True) for length in (T, S, S)]
    assert torch.autograd.gradcheck(lambda q, k, v: Torch.attention().attend(q, k, v)[0], inputs)


def test_the_two_frameworks_give_the_same_output():
    (torch_output, _), _ = both_results(Torch, crossing=True)
    (tensorflow_output, _), _ = both_results(TensorFlow, crossing=True)
    assert relative(tensorflow_output, torch_output) <= 1e-6


@both
def test_the_docstring_example_runs(framework):
    assert doctest.testmod(framework.attention()) == (0, 7)


@both
def test_splitting_keeps_a_heads_columns_together_and_merging_undoes_it(framework):
    module = framework.attention()
    x_BTN = np.arange(B * T * H * K, dtype="f4").reshape(B, T, H * K)
    x_BHTK = framework.numpy(module.split_heads(framework.tensor(x_BTN), H))
    assert x_BHTK.shape == (B, H, T, K)
    for head in range(H):
        np.testing.assert_array_equal(x_BHTK[:, head], x_BTN[:, :, head * K : (head + 1) * K])
    np.testing.assert_array_equal(framework.numpy(module.merge_heads(framework.tensor(x_BHTK))), x_BTN)


@both
def test_token_by_token_with_the_past_is_the_whole_sequence_at_once(framework):
    rng = np.random.default_rng(1)
    attention = hand_written(framework, weights(rng))
    tokens = rng.normal(size=(B, S, D)).astype("f4")
    causal = np.triu(np.full((S, S), -1e9, "f4"), 1)[None, None]
    whole, _, _ = framework.call_evaluating(attention, framework.tensor(tokens), None, framework.tensor(causal))
    past, steps = None, []
    for t in range(S):
        step, _, past = framework.call_evaluating(attention, framework.tensor(tokens[:, t : t + 1]), past=past)
        steps.append(framework.numpy(step))
    assert past[0].shape == (B, H, S, K) and past[1].shape == (B, H, S, K)
    assert relative(np.concatenate(steps, axis=1), framework.numpy(whole)) <= 1e-6


@both
def test_a_crossing_past_is_used_as_it_is(framework):
    rng = np.random.default_rng(2)
    attention = hand_written(framework, weights(rng))
    queries, source = (framework.random_tensor(rng, B, length, D) for length in (T, S))
    first, _, past = framework.call_evaluating(attention, queries, source)
    other_source = framework.random_tensor(rng, B, S, D)
    again, _, kept = framework.call_evaluating(attention, queries, other_source, past=past)
    np.testing.assert_array_equal(framework.numpy(again), framework.numpy(first))
    assert kept[0].shape == (B, H, S, K)


@both
def test_a_query_that_may_see_nothing_gets_a_finite_mean_of_all(framework):
    rng = np.random.default_rng(3)
    projections = weights(rng)
    attention = hand_written(framework, projections)
    for hidden in (-1e4, -1e9, np.finfo(np.float32).min):
        bias = np.zeros((B, 1, T, T), "f4")
        bias[:, :, 1] = hidden
        _, weights_BHTS, _ = framework.call_evaluating(
            attention,
            framework.random_tensor(rng, B, T, D),
            None,
            framework.tensor(bias),
            return_weights=True,
        )
        row = framework.numpy(weights_BHTS)[:, :, 1]
        assert np.isfinite(row).all()
        np.testing.assert_allclose(row.sum(-1), 1, rtol=1e-5)


def assert_dropout_drops_at_its_rate(framework, rate=0.3):
    """Kept weights grow by 1 / (1 - rate): a row's mass has mean 1 and variance rate / (1 - rate) Σ w²."""
    rng = np.random.default_rng(4)
    attention = hand_written(framework, weights(rng), dropout=rate)
    tokens = framework.random_tensor(rng, 31, 29, D)
    _, whole, _ = framework.call_evaluating(attention, tokens, return_weights=True)
    output, dropped, _ = framework.call_training(attention, tokens, return_weights=True)
    whole, dropped = framework.numpy(whole).astype("f8"), framework.numpy(dropped).astype("f8")
    np.testing.assert_allclose(whole.sum(-1), 1, rtol=1e-5)
    kept = dropped != 0
    np.testing.assert_allclose(dropped[kept], whole[kept] / (1 - rate), rtol=1e-5)
    # Six standard deviations of each estimate: false alarms are one in 10⁸.
    count = whole.size
    assert abs(kept.mean() - (1 - rate)) < 6 * np.sqrt(rate * (1 - rate) / count)
    variance = rate / (1 - rate) * (whole**2).sum(-1)
    deviation = (dropped.sum(-1) - 1) / np.sqrt(variance)
    assert abs(deviation.mean()) < 6 / np.sqrt(deviation.size)
    assert abs(deviation.var() - 1) < 0.1
    # The output is mixed by what is left of the weights.
    assert relative(framework.numpy(output), framework.numpy(framework.call_evaluating(attention, tokens)[0])) > 0.01


@both
def test_dropout_drops_weights_at_its_rate_and_only_in_training(framework):
    assert_dropout_drops_at_its_rate(framework)


@both
def test_width_that_heads_do_not_divide_is_refused(framework):
    with pytest.raises(ValueError, match="width 13 is not a multiple of num_heads 7"):
        framework.attention().MultiHeadAttention(D, H)


@both
def test_keys_without_their_values_are_refused(framework):
    rng = np.random.default_rng(5)
    q, k, v = (framework.random_tensor(rng, B, H, length, K) for length in (T, S, T))
    with pytest.raises(ValueError, match="5 keys, but 3 values"):
        framework.attention().attend(q, k, v)


@both
@pytest.mark.parametrize("mutation", ["scale", "bias", "head order", "dropout"])
def test_each_part_left_out_is_noticed(framework, mutation, monkeypatch):
    module = framework.attention()
    attend, split_heads = module.attend, module.split_heads

    def swapped_axes(x_BTN, num_heads):
        """[B, T, K, H] instead of [B, T, H, K]: every shape is right, every head is wrong."""
        x = framework.numpy(split_heads(x_BTN, K))  # [B, K, T, H]
        return framework.tensor(np.ascontiguousarray(x.transpose(0, 3, 2, 1)))

    mutants = {
        "scale": ("attend", lambda q, k, v, bias, scale, dropout: attend(q, k, v, bias, 1.0, dropout)),
        "bias": ("attend", lambda q, k, v, bias, scale, dropout: attend(q, k, v, None, scale, dropout)),
        "dropout": ("attend", lambda q, k, v, bias, scale, dropout: attend(q, k, v, bias, scale, None)),
        "head order": ("split_heads", swapped_axes),
    }
    monkeypatch.setattr(module, *mutants[mutation])
    if mutation == "dropout":
        with pytest.raises(AssertionError):
            assert_dropout_drops_at_its_rate(framework)
    else:
        assert largest_difference(framework) > 1e-3
