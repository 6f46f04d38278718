"""PyTorch modules that are exchanged for faster ones compute the same."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers.activations import NewGELUActivation
from transformers.pytorch_utils import Conv1D

from pipeline.pytorch import fast_modules
from pipeline.pytorch.fast_modules import Bf16Linear, prepare_modules
from pipeline.pytorch.swap import restore_attention, swap_attention
from tests.helpers.framework_drivers import Torch
from tests.helpers.packed_batches import learner_of, loss_and_gradients, with_dropout_keys
from tests.helpers.tiny_models import FAMILIES, RELATIVES, inputs

CPU = torch.device("cpu")


@pytest.mark.parametrize("attention", ["stock", "handwritten"])
@pytest.mark.parametrize("family", [*FAMILIES, *RELATIVES])
def test_a_prepared_model_computes_the_same(family, attention):
    model = Torch.build(family, dropout=0.2).eval()
    if attention == "handwritten":
        swap_attention(model)
    batch = {key: torch.tensor(value) for key, value in inputs(family).items()}
    before = model(**batch).logits
    prepare_modules(model, "fp32", CPU)
    assert torch.allclose(model(**batch).logits, before, atol=1e-6)
    activations = {type(module).__name__ for module in model.modules()}
    assert ("GELU" in activations, "NewGELUActivation" in activations) == (family == "gpt2", False)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("head", "attention"),
    [
        ("t5", "stock"),
        ("t5", "handwritten"),
        ("gpt2 causal", "stock"),
        ("marian", "handwritten"),
        ("bert masked", "stock"),
    ],
)
def test_gradients_of_the_rows_that_a_tied_embedding_read_add_up_to_those_of_the_whole(head, attention, packed):
    """Rows that several tokens read, of an encoder, a decoder and the output."""
    batch, sides = with_dropout_keys(head)[packed], []
    for is_sparse in (True, False):
        learner = learner_of("torch", head, attention, dropout=0.1)
        embeddings = [each for each in learner.model.modules() if isinstance(each, nn.Embedding) and each.sparse]
        assert embeddings and {id(each.weight) for each in embeddings} == {
            id(learner.model.get_output_embeddings().weight)
        }
        for each in embeddings:
            each.sparse = is_sparse
        sides.append(loss_and_gradients("torch", learner, batch))
        assert all(weight.grad is None or not weight.grad.is_sparse for weight in learner.model.parameters())
    assert sides[0][0] == sides[1][0]
    for name, expected in sides[1][1].items():
        assert np.abs(sides[0][1][name] - expected).max() <= 1e-6 * np.abs(expected).max(), name


@pytest.mark.parametrize(
    ("head", "settings"),
    [("bert tokens", {}), ("gpt2 classes", {}), ("t5", {"compile": True}), ("t5", {"sharding": "fsdp"})],
)
def test_other_embeddings_give_gradients_of_the_whole(head, settings):
    learner = learner_of("torch", head, "stock", **settings)
    assert not any(each.sparse for each in learner.model.modules() if isinstance(each, nn.Embedding))


@pytest.fixture
def without_bf16(monkeypatch):
    """A processor without bf16 instructions, on which no product is too small."""
    monkeypatch.setattr(Bf16Linear, "has_instructions", lambda: False)
    monkeypatch.setattr(fast_modules, "FEW_ROWS", 1)


def linear(kind, bias):
    torch.manual_seed(7)
    layer = Conv1D(19, 23) if kind == "Conv1D" else nn.Linear(23, 19, bias=bias)
    if bias:
        nn.init.normal_(layer.bias)
    return nn.Sequential(layer)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kind", "bias"), [("Linear", True), ("Linear", False), ("Conv1D", True)])
def test_bf16_by_products_in_fp32_is_the_librarys(kind, bias, dtype, without_bf16):
    torch.manual_seed(8)
    values, of_output = torch.randn(5, 7, 23, dtype=dtype), torch.randn(5, 7, 19, dtype=torch.bfloat16)
    actual = []
    for quick in (False, True):
        layer, x = linear(kind, bias), values.clone().requires_grad_()
        if quick:
            prepare_modules(layer, "bf16", CPU)
            assert type(layer[0]) is Bf16Linear
        with torch.autocast("cpu", torch.bfloat16):
            output = layer(x)
        output.backward(of_output)
        actual.append(
            {name: weight.grad for name, weight in layer.named_parameters()} | {"output": output, "x": x.grad}
        )
    assert actual[0].keys() == actual[1].keys()
    for name, expected in actual[0].items():
        # At most one step of bfloat16, 2^-7 of the value, where the two sums fall to different sides of a rounding.
        assert actual[1][name].dtype == expected.dtype, name
        difference = (actual[1][name].float() - expected.float()).abs()
        assert (difference <= 2**-7 * expected.float().abs() + 1e-6).all(), name
        assert (difference == 0).float().mean() > 0.9 or name not in ("output", "x"), name
    weight = actual[1]["0.weight"]
    assert (weight != weight.bfloat16()).float().mean() > 0.9  # it kept what fp32 has


def test_products_do_round_to_bf16(without_bf16):
    layer = linear("Linear", True)
    values = torch.randn(5, 23)
    exact = layer(values)
    prepare_modules(layer, "bf16", CPU)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = layer(values)
    by_hand = functional.linear(
        values.bfloat16().double(), layer[0].weight.bfloat16().double(), layer[0].bias.bfloat16().double()
    )
    assert (rounded.float() - exact).abs().max() > 1e-3
    assert torch.equal(rounded, by_hand.bfloat16())
    assert torch.equal(layer(values), exact)  # outside autocast nothing is rounded


@pytest.mark.parametrize("frozen", ["x", "weight", "bias"])
def test_what_needs_no_gradient_gets_none(frozen, without_bf16):
    layer, x = linear("Linear", True), torch.randn(5, 23, requires_grad=True)
    prepare_modules(layer, "bf16", CPU)
    actual = []
    for names in ((), (frozen,)):
        tensors = {"x": x, "weight": layer[0].weight, "bias": layer[0].bias}
        for name, tensor in tensors.items():
            tensor.grad = None
            tensor.requires_grad_(name not in names)
        with torch.autocast("cpu", torch.bfloat16):
            layer(x).float().square().sum().backward()
        actual.append({name: tensor.grad for name, tensor in tensors.items()})
    assert actual[1].pop(frozen) is None
    assert all(torch.equal(gradient, actual[0][name]) for name, gradient in actual[1].items())


def test_few_rows_go_through_the_librarys_product(without_bf16, monkeypatch):
    layer = linear("Linear", True)
    values = torch.randn(2, 3, 23)
    with torch.autocast("cpu", torch.bfloat16):
        expected = layer(values)
        prepare_modules(layer, "bf16", CPU)
        monkeypatch.setattr(fast_modules, "FEW_ROWS", 7)
        monkeypatch.setattr(fast_modules.Bf16Product, "apply", None)
        assert torch.equal(layer(values), expected)
        with pytest.raises(TypeError):
            layer(torch.randn(7, 23))


def bf16_gradients(model, batch):
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(**batch).logits.float()
    logits.square().sum().backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}
    model.zero_grad()
    return logits.detach(), gradients


@pytest.mark.parametrize("attention", ["stock", "handwritten"])
@pytest.mark.parametrize("family", [*FAMILIES, *RELATIVES])
def test_a_model_in_bf16_trains_alike(family, attention, without_bf16):
    model, batch = Torch.build(family).eval(), {key: torch.tensor(value) for key, value in inputs(family).items()}
    names = list(model.state_dict())
    if attention == "handwritten":
        swap_attention(model)
    expected, expected_gradients = bf16_gradients(model, batch)
    prepare_modules(model, "bf16", CPU)
    assert not [module for module in model.modules() if type(module) in (nn.Linear, Conv1D)]
    actual, gradients = bf16_gradients(model, batch)
    assert torch.linalg.norm(actual - expected) < 2e-2 * torch.linalg.norm(expected)
    assert gradients.keys() == expected_gradients.keys()
    # A key's bias has no gradient by the mathematics, only noise.
    norm = torch.stack([gradient.norm() for gradient in expected_gradients.values()]).norm()
    for name, gradient in expected_gradients.items():
        assert (gradients[name] - gradient).norm() < 0.1 * gradient.norm() + 5e-3 * norm, name
    if attention == "handwritten":
        restore_attention(model)
    assert list(model.state_dict()) == names


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_a_prepared_model_generates_from_its_cache(family, without_bf16):
    model = Torch.build(family).eval()
    batch = {key: torch.tensor(value) for key, value in inputs(family, padding="none").items()}
    batch.pop("decoder_input_ids", None)
    prepare_modules(model, "bf16", CPU)
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        written = [
            model.generate(**batch, max_new_tokens=4, do_sample=False, use_cache=use_cache)
            for use_cache in (False, True)
        ]
    assert written[0].shape[1] > 1 and torch.equal(*written)


@pytest.mark.parametrize(
    ("precision", "device", "has_instructions", "is_exchanged"),
    [("bf16", "cpu", False, True), ("bf16", "cpu", True, False), ("bf16", "cuda", False, False)]
    + [("fp32", "cpu", False, False)],
)
def test_linear_layers_are_exchanged_only_where_that_is_quicker(
    precision, device, has_instructions, is_exchanged, monkeypatch
):
    monkeypatch.setattr(Bf16Linear, "has_instructions", lambda: has_instructions)
    model = Torch.build("gpt2")
    weight, names = model.transformer.wte.weight, list(model.state_dict())
    prepare_modules(model, precision, torch.device(device))
    kinds = {type(module).__name__ for module in model.modules()}
    assert ("Bf16Linear" in kinds, "Linear" in kinds or "Conv1D" in kinds) == (is_exchanged, not is_exchanged)
    assert list(model.state_dict()) == names and model.lm_head.weight is weight
    assert (model.lm_head.in_features, model.lm_head.out_features) == (21, 97)


@pytest.mark.parametrize(
    ("architecture", "extension", "answer"),
    [("x86_64", None, False), ("x86_64", "avx512_bf16", True), ("x86_64", "amx_bf16", True), ("aarch64", None, True)],
)
def test_the_processor_is_asked_for_bf16(architecture, extension, answer, monkeypatch):
    actual = {"architecture": architecture, "avx512_bf16": False, "amx_bf16": False} | {extension: True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: actual)
    assert Bf16Linear.has_instructions() is answer
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert Bf16Linear.has_instructions()


def test_what_was_shared_stays_shared():
    shared = NewGELUActivation()
    model = nn.ModuleDict({"first": nn.Sequential(shared, shared), "second": nn.Sequential(shared)})
    prepare_modules(model, "fp32", CPU)
    actual = {model["first"][0], model["first"][1], model["second"][0]}
    assert len(actual) == 1 and type(actual.pop()) is nn.GELU
