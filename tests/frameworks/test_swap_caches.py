"""A swapped GPT-2, T5 or Marian uses every cache of the library as the stock model does (PyTorch)."""

import contextlib
import copy

import numpy as np
import pytest
import torch
from transformers import DynamicCache, EncoderDecoderCache, StaticCache
from transformers.cache_utils import Cache, CacheLayerMixin, QuantizedLayer
from transformers.integrations.executorch import TorchExportableModuleWithStaticCache

from pipeline.pytorch.library import CACHE
from tests.helpers.framework_drivers import Torch
from tests.helpers.one_framework import IS_VERSION_5
from tests.helpers.tiny_models import BATCH, TARGET, VOCABULARY, inputs, relative

CACHED = pytest.mark.parametrize("family", ["gpt2", "t5", "marian"])
STATIC_LENGTH = 19


class RoundedLayer(QuantizedLayer):
    """A quantized layer without a package for it: what is put aside is rounded to eighths."""

    def _quantize(self, tensor, axis):
        return (tensor * 8).round().to(torch.int8)

    def _dequantize(self, q_tensor):
        return q_tensor.float() / 8


def own_layers(model):
    """How many layers of the model attend to what was written before."""
    return model.config.decoder_layers if model.config.model_type == "marian" else 2


def new_cache(kind, model):
    """An empty cache of a kind, in the form that the model's family wants."""
    own = {
        "dynamic": lambda: DynamicCache(config=model.config),
        "static": lambda: StaticCache(model.config, max_cache_len=STATIC_LENGTH),
        "offloaded": lambda: DynamicCache(config=model.config, offloading=True),
        "offloaded static": lambda: StaticCache(model.config, max_cache_len=STATIC_LENGTH, offloading=True),
        "quantized": lambda: Cache(layers=[RoundedLayer(residual_length=4) for _ in range(own_layers(model))]),
    }[kind]()
    if not model.config.is_encoder_decoder:
        return own
    return EncoderDecoderCache(own, DynamicCache(config=model.config))


def tokens(positions):
    """Fixed tokens at the given positions, for each row others."""
    return torch.tensor(np.random.default_rng(3).integers(2, VOCABULARY, (BATCH, STATIC_LENGTH)))[:, positions]


def decode(model, cache, positions, encoded):
    """The model's outputs for fixed tokens at the given positions, with attentions."""
    ids = tokens(positions)
    arguments = dict(**{CACHE: cache}, cache_position=torch.tensor(positions), output_attentions=True)
    with torch.no_grad():
        if model.config.is_encoder_decoder:
            return model(decoder_input_ids=ids, encoder_outputs=(encoded,), **arguments)
        return model(ids, **arguments)


def outputs_of_calls(model, kind, calls, between=lambda cache: None):
    """Logits and self-attentions of several calls with one cache, each call given by its positions."""
    cache, results = new_cache(kind, model), []
    encoded = torch.tensor(np.random.default_rng(5).normal(size=(BATCH, TARGET, model.config.hidden_size)).astype("f4"))
    for positions in calls:
        outputs = decode(model, cache, positions, encoded)
        attentions = outputs.get("decoder_attentions") or outputs.attentions
        results += [outputs.logits.numpy(), *(weights.numpy() for weights in attentions)]
        between(cache)
    return results


def assert_same(swapped, stock):
    assert [output.shape for output in swapped] == [output.shape for output in stock]
    assert max(relative(ours, theirs) for ours, theirs in zip(swapped, stock, strict=True)) <= 1e-5


class NoStream(contextlib.nullcontext):
    """In place of a stream of a GPU, without which the library's offloaded caches cannot be made."""

    def wait_stream(self, other):
        pass


@pytest.fixture
def offloading_without_a_gpu(monkeypatch):
    """The library's offloaded caches work without a GPU; nobody can read what is offloaded before it is fetched."""

    def offload(layer):
        layer.elsewhere = layer.keys, layer.values
        layer.keys, layer.values = (torch.full_like(values, torch.nan) for values in layer.elsewhere)

    def prefetch(layer):
        if hasattr(layer, "elsewhere"):
            layer.keys, layer.values = vars(layer).pop("elsewhere")

    monkeypatch.setattr(torch, "Stream", NoStream)
    monkeypatch.setattr(torch.cuda, "default_stream", lambda device: NoStream())
    monkeypatch.setattr(CacheLayerMixin, "offload", offload)
    monkeypatch.setattr(CacheLayerMixin, "prefetch", prefetch)


@CACHED
@pytest.mark.usefixtures("offloading_without_a_gpu")
@pytest.mark.parametrize("kind", ["dynamic", "static", "quantized", "offloaded", "offloaded static"])
def test_each_kind_of_cache_gives_the_stock_logits_and_attentions(family, kind):
    model = Torch.build(family, implementation="eager")
    calls = [[0, 1, 2], [3], [4, 5], [6], [7]]
    stock = outputs_of_calls(model, kind, calls)
    Torch.swap().swap_attention(model)
    assert_same(outputs_of_calls(model, kind, calls), stock)


@CACHED
def test_a_static_cache_can_be_stepped_back(family):
    model = Torch.build(family, implementation="eager")
    calls = [[0, 1, 2, 3, 4, 5, 6], [3], [4]]
    stock = outputs_of_calls(model, "static", calls)
    Torch.swap().swap_attention(model)
    assert_same(outputs_of_calls(model, "static", calls), stock)


@CACHED
def test_a_static_cache_can_be_used_again_without_a_reset(family):
    model = Torch.build(family, implementation="eager")
    calls = [[0, 1, 2, 3, 4], [0, 1, 2], [3]]
    stock = outputs_of_calls(model, "static", calls)
    Torch.swap().swap_attention(model)
    assert_same(outputs_of_calls(model, "static", calls), stock)


@CACHED
@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_a_first_head_whose_keys_are_zero_counts_as_filled(family, kind):
    def forget_first_head(cache):
        own = cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache
        for layer in own.layers:
            layer.keys[:, 0] = 0

    model = Torch.build(family, implementation="eager")
    calls = [[0, 1, 2], [3], [4]]
    stock = outputs_of_calls(model, kind, calls, forget_first_head)
    Torch.swap().swap_attention(model)
    assert_same(outputs_of_calls(model, kind, calls, forget_first_head), stock)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_a_filled_cache_takes_several_tokens_at_once(implementation):
    model = Torch.build("gpt2", implementation=implementation)
    prompt, rest = torch.tensor(inputs("gpt2", "none")["input_ids"]).split([4, 7], dim=1)
    with torch.no_grad():
        full = model(torch.cat([prompt, rest], dim=1)).logits[:, 4:]
        Torch.swap().swap_attention(model)
        cache = DynamicCache(config=model.config)
        model(prompt, **{CACHE: cache})
        after = model(rest, **{CACHE: cache}).logits
    assert relative(after.numpy(), full.numpy()) <= 1e-5


@pytest.mark.slow
@CACHED
def test_a_static_cache_compiles_without_a_graph_break(family):
    model = Torch.build(family, implementation="eager")
    calls = [[0, 1, 2], [3], [4]]
    stock = outputs_of_calls(model, "static", calls)
    Torch.swap().swap_attention(model)
    compiled = copy.copy(model)
    compiled.forward = torch.compile(model.forward, fullgraph=True, backend="eager")
    assert_same(outputs_of_calls(compiled, "static", calls), stock)


def logits_of_export(model, positions):
    """The logits of a program that `torch.export` made of a GPT-2 with a static cache, called for each position."""
    model.generation_config.cache_implementation = "static"
    module = TorchExportableModuleWithStaticCache(model, batch_size=BATCH, max_cache_len=STATIC_LENGTH)
    calls = [dict(input_ids=tokens([place]), cache_position=torch.tensor([place])) for place in positions]
    with torch.no_grad():
        program = torch.export.export(module, (), calls[0]).module()
        return [program(**call).numpy() for call in calls]


def test_a_program_exported_with_a_static_cache_gives_the_stock_logits_and_can_be_stepped_back():
    model = Torch.build("gpt2", implementation="eager")
    # From version 5 on a cache counts its tokens by itself, and cannot be stepped back.
    positions = [0, 1, 2, 3, 1, 2][: 4 if IS_VERSION_5 else 6]
    stock = outputs_of_calls(model, "static", [[place] for place in positions])[:: 1 + own_layers(model)]
    Torch.swap().swap_attention(model)
    assert_same(logits_of_export(model, positions), stock)


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_a_program_exported_without_a_cache_gives_the_stock_logits(family):
    model = Torch.build(family, implementation="eager")
    batch = inputs(family, "right")
    stock = Torch.output(model, batch)
    Torch.swap().swap_attention(model)
    arguments = Torch.tensors(batch) | ({"use_cache": False} if family == "t5" else {})
    with torch.no_grad():
        program = torch.export.export(model, (), arguments).module()
        assert relative(program(**arguments).logits.numpy(), stock) <= 1e-5
