"""Weights, dropout, precision and random state when an attention is swapped, trained and restored."""

import copy
import re

import numpy as np
import pytest

from pipeline.backend import load_backend
from tests.helpers.framework_drivers import FRAMEWORKS, TensorFlow, Torch
from tests.helpers.tiny_models import FAMILIES, RELATIVES, SITES, inputs, is_real, relative

both = pytest.mark.parametrize("framework", FRAMEWORKS, ids=lambda framework: framework.name)
families = pytest.mark.parametrize(
    "family", [*FAMILIES, *(pytest.param(family, marks=pytest.mark.heavy) for family in RELATIVES)]
)


def without_key_biases(state):
    """A bias on the keys moves all scores of a query alike, so it has no gradient but rounding, and AdamW
    makes steps of that: stock sdpa and stock eager part there by 3e-4 (BERT) and 5e-4 (GPT-2) as well."""
    kept = {}
    for name, value in state.items():
        if "c_attn" in name and "bias" in name:
            query, _, value_bias = np.split(value.ravel(), 3)
            value = np.concatenate([query, value_bias])
        if not re.search(r"(key|k_proj|k_lin)(\.bias|/bias:0)$", name):
            kept[name] = value
    return kept


@pytest.mark.slow
@both
@families
def test_training_swapped_and_restoring_is_training_stock(framework, family):
    batch = inputs(family)
    stock, swapped = framework.build(family), framework.build(family)
    steps = 20 if framework is Torch else 5
    framework.train(stock, batch, steps)
    framework.swap().swap_attention(swapped)
    framework.train(swapped, batch, steps)
    framework.swap().restore_attention(swapped)
    before = without_key_biases(framework.state(framework.build(family)))
    after, expected = (without_key_biases(framework.state(model)) for model in (swapped, stock))
    assert relative(expected, before) > 1e-3
    assert relative(after, expected) <= 1e-5
    real = is_real(family, batch, framework.output(stock, batch))
    assert relative(framework.output(swapped, batch)[real], framework.output(stock, batch)[real]) <= 1e-5


@both
@families
def test_swap_then_restore_leaves_every_weight_and_name_as_it_was(framework, family):
    model = framework.build(family)
    before = framework.state(model)
    for _ in range(2):
        framework.swap().swap_attention(model)
        swapped = framework.state(model)
        assert sum(value.size for value in swapped.values()) == sum(value.size for value in before.values())
        framework.swap().restore_attention(model)
    after = framework.state(model)
    assert list(after) == list(before)
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)


ATTENTION_WEIGHTS = {"gpt2": "*.attn.*", "t5": "*Attention.*", "marian": "*_attn.*"}


@both
@families
def test_weights_that_are_frozen_are_not_trained_in_a_swapped_attention(framework, family):
    model, backend = framework.build(family), load_backend(framework.name)
    frozen = backend.freeze(model, [ATTENTION_WEIGHTS.get(family, "*.attention.*")])
    assert len(frozen) >= 4 * SITES[family]
    before = num_trained(model)
    framework.swap().swap_attention(model)
    assert num_trained(model) == before
    framework.swap().restore_attention(model)
    assert num_trained(model) == before


def num_trained(model):
    """How many numbers of a model are trained, in either framework."""
    if hasattr(model, "trainable_variables"):
        return sum(np.prod(variable.shape) for variable in model.trainable_variables)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


@families
def test_restored_torch_model_is_saved_as_a_stock_checkpoint(family, tmp_path):
    model, batch = Torch.build(family), inputs(family)
    keys, parameters = list(model.state_dict()), {id(parameter) for parameter in model.parameters()}
    stock = Torch.output(model, batch)
    Torch.swap().swap_attention(model)
    Torch.swap().restore_attention(model)
    assert list(model.state_dict()) == keys
    assert {id(parameter) for parameter in model.parameters()} == parameters
    model.save_pretrained(tmp_path)
    implementation = model.config._attn_implementation
    loaded, report = type(model).from_pretrained(tmp_path, output_loading_info=True, attn_implementation=implementation)
    assert not any(report.values()), report
    np.testing.assert_array_equal(Torch.output(loaded, batch), stock)


@families
def test_restored_tensorflow_model_is_saved_as_a_stock_checkpoint(family, tmp_path):
    model, batch = TensorFlow.build(family), inputs(family)
    stock = TensorFlow.output(model, batch)
    TensorFlow.swap().swap_attention(model)
    TensorFlow.swap().restore_attention(model)
    model.save_pretrained(tmp_path, safe_serialization=False)
    loaded, report = type(model).from_pretrained(tmp_path, output_loading_info=True)
    # The library lists a dropout layer, by whatever number Keras gave it.
    assert not [name for names in report.values() for name in names if not str(name).startswith("dropout_")], report
    np.testing.assert_array_equal(TensorFlow.output(loaded, batch), stock)


def modules_of(framework, model):
    return list(model.modules() if framework is Torch else model._flatten_layers())


@both
@families
def test_attention_keeps_the_dropout_rate_of_the_stock_module(framework, family):
    model, batch = framework.build(family, dropout=0.25), inputs(family)
    framework.swap().swap_attention(model)
    sites = [module for module in modules_of(framework, model) if hasattr(module, "aside")]
    rate = "p" if framework is Torch else "rate"
    assert {getattr(site.attention.dropout, rate) for site in sites} == {0.25}
    # Off in evaluation: twice the same.
    np.testing.assert_array_equal(framework.output(model, batch), framework.output(model, batch))


def test_frozen_weights_mode_and_dtype_are_carried_over_in_torch():
    import torch

    swap = Torch.swap()
    for family, part in (
        ("bert", "layer.0.attention"),
        ("gpt2", "h.0.attn"),
        ("t5", "block.0.layer.0"),
        ("marian", "encoder.layers.0.self_attn."),
    ):
        model = Torch.build(family).train().to(torch.bfloat16)
        for name, parameter in model.named_parameters():
            parameter.requires_grad = part not in name
        frozen = sum(not p.requires_grad for p in model.parameters())
        total = sum(p.numel() for p in model.parameters() if p.requires_grad)
        swap.swap_attention(model)
        assert total == sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
        assert all(module.training for module in model.modules())
        model.eval()
        swap.restore_attention(model)
        assert not any(module.training for module in model.modules())
        assert frozen == sum(not p.requires_grad for p in model.parameters())
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
        assert all((part not in name) == p.requires_grad for name, p in model.named_parameters())


# The library's layers around an attention, whose weights a swap moves.
ATTENTION_PARENTS = (
    "TFBertAttention", "TFBlock", "TFT5LayerSelfAttention", "TFT5LayerCrossAttention", "TFMarianAttention",
)  # fmt: skip


def test_frozen_layers_are_carried_over_in_tensorflow():
    swap = TensorFlow.swap()
    for family in FAMILIES:
        model = TensorFlow.build(family)
        parent = next(layer for layer in modules_of(TensorFlow, model) if type(layer).__name__ in ATTENTION_PARENTS)
        parent.trainable = False
        stock = [variable.name for variable in model.trainable_variables]
        total = sum(variable.shape.num_elements() for variable in model.trainable_variables)
        swap.swap_attention(model)
        assert total == sum(variable.shape.num_elements() for variable in model.trainable_variables)
        names = [variable.name for variable in model.variables]
        assert len(names) == len(set(names))
        swap.restore_attention(model)
        assert [variable.name for variable in model.trainable_variables] == stock


@families
def test_nothing_of_the_stock_module_stays_registered(family):
    model = Torch.build(family)
    Torch.swap().swap_attention(model)
    stock_classes = ("BertSelfAttention", "BertSdpaSelfAttention", "GPT2Attention", "T5Attention", "MarianAttention")
    assert not [module for module in model.modules() if type(module).__name__ in stock_classes]
    stock_names = ("c_attn", ".self.query", "SelfAttention.q.", "self_attn.q_proj.")
    assert not [key for key in model.state_dict() if any(name in key for name in stock_names)]
    stocks = [module.stock for module in model.modules() if hasattr(module, "aside")]
    own = {id(parameter) for parameter in model.parameters()}
    # What the stock modules hold besides is empty.
    assert not sum(p.numel() for stock in stocks for p in stock.parameters() if id(p) not in own)


@families
def test_a_copied_swapped_model_is_a_model_of_its_own(family):
    model, batch = Torch.build(family), inputs(family)
    Torch.swap().swap_attention(model)
    twin = copy.deepcopy(model)
    before = Torch.output(model, batch)
    Torch.train(twin, batch, steps=1)
    Torch.swap().restore_attention(twin)
    np.testing.assert_array_equal(Torch.output(model, batch), before)
    assert relative(Torch.output(twin, batch), before) > 1e-4


@families
def test_swapping_leaves_the_random_state_alone(family):
    import torch

    model = Torch.build(family)
    torch.manual_seed(17)
    Torch.swap().swap_attention(model)
    Torch.swap().restore_attention(model)
    drawn = torch.rand(3)
    torch.manual_seed(17)
    assert torch.equal(drawn, torch.rand(3))


@families
def test_swapping_in_tensorflow_leaves_the_seeds_of_layers_and_operations_alone(family):
    import tensorflow as tf
    import tf_keras

    model, drawn = TensorFlow.build(family), []
    for is_swapped in (False, True):
        tf_keras.utils.set_random_seed(17)
        if is_swapped:
            TensorFlow.swap().swap_attention(model)
            TensorFlow.swap().restore_attention(model)
        # A layer takes its seed from Keras' generator, an operation from TensorFlow's.
        drawn.append([tf_keras.initializers.GlorotUniform()((2, 3)).numpy(), tf.random.uniform([3]).numpy()])
    np.testing.assert_array_equal(drawn[0][0], drawn[1][0])
    np.testing.assert_array_equal(drawn[0][1], drawn[1][1])


@families
@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not reentrant"])
def test_gradient_checkpointing_gives_the_same_gradients(family, reentrant):
    swap, batch = Torch.swap(), inputs(family)
    model = Torch.build(family).train()
    stock = Torch.gradients(model, batch, swap)
    model = Torch.build(family).train()
    swap.swap_attention(model)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    if reentrant:
        model.enable_input_require_grads()
    assert relative(Torch.gradients(model, batch, swap), stock) <= 1e-5
    # Each site runs again in the backward pass, or its memory was not saved.
    assert swap.attention_calls(model) == [2] * SITES[family]


@families
def test_autocast_stays_as_near_to_fp32_as_the_stock_model(family):
    import torch

    # BERT's logits are too few to speak of a typical difference.
    head = "Model" if family == "bert" else None
    model, batch = Torch.build(family, head), inputs(family)
    exact = Torch.output(model, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        stock = Torch.output(model, batch)
        Torch.swap().swap_attention(model)
        swapped = Torch.output(model, batch)
        model.train()
        Torch.loss(model, batch).backward()
    real = is_real(family, batch, exact)
    assert relative(swapped[real], exact[real]) <= 1.5 * relative(stock[real], exact[real]) + 1e-3
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@families
def test_a_model_in_64_bits_gives_the_stock_logits_in_64_bits(family):
    import torch

    model = Torch.build(family, implementation="eager").double()
    batch = inputs(family)
    with torch.no_grad():
        stock = model(**Torch.tensors(batch)).logits
        Torch.swap().swap_attention(model)
        swapped = model(**Torch.tensors(batch)).logits
    real = is_real(family, batch, stock.numpy())
    # T5's own softmax is in 32 bits, whatever the model's precision.
    assert relative(swapped.numpy()[real], stock.numpy()[real]) <= (1e-6 if family == "t5" else 1e-14)


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])  # the library's own Marian computes in fp32 only
def test_mixed_bfloat16_stays_as_near_to_fp32_as_the_stock_model(family):
    import tf_keras

    head = "Model" if family == "bert" else None
    batch = inputs(family)
    exact = TensorFlow.output(TensorFlow.build(family, head), batch)
    tf_keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        model = TensorFlow.build(family, head)
    finally:
        tf_keras.mixed_precision.set_global_policy("float32")
    stock = TensorFlow.output(model, batch)
    TensorFlow.swap().swap_attention(model)
    sites = [layer for layer in modules_of(TensorFlow, model) if hasattr(layer, "aside")]
    assert {site.attention.query.compute_dtype for site in sites} == {"bfloat16"}
    assert {site.attention.compute_dtype for site in sites} == {"bfloat16"}
    assert {variable.dtype.name for variable in model.variables} == {"float32"}
    swapped = TensorFlow.output(model, batch)
    real = is_real(family, batch, exact)
    assert relative(swapped[real], exact[real]) <= 1.5 * relative(stock[real], exact[real]) + 1e-3
    TensorFlow.train(model, batch, steps=1)
    assert all(np.isfinite(value).all() for value in TensorFlow.state(model).values())


@pytest.mark.slow
@families
def test_keras_fit_trains_every_swapped_weight(family):
    import tf_keras

    model, batch = TensorFlow.build(family), inputs(family)
    TensorFlow.swap().swap_attention(model)
    is_whole = family in ("bert", *RELATIVES)
    batch["labels"] = np.arange(2) if is_whole else batch.get("decoder_input_ids", batch["input_ids"])
    before = TensorFlow.state(model)
    # With the model's own loss; tracing a graph takes seconds, so that of all kinds of attention is the only one.
    model.compile(tf_keras.optimizers.AdamW(1e-2), run_eagerly=family != "t5")
    model.fit(TensorFlow.tensors(batch), batch_size=2, epochs=2, verbose=0)
    after = TensorFlow.state(model)
    assert list(after) == list(before)
    assert not [name for name in before if (after[name] == before[name]).all()]
