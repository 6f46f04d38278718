"""Other attentions in a stock model, and what a swap refuses by name before it changes anything."""

import numpy as np
import pytest
import transformers

from pipeline.models.attention import unsupported
from pipeline.utils.errors import UserError
from tests.helpers.framework_drivers import FRAMEWORKS, TensorFlow, Torch
from tests.helpers.one_framework import IS_VERSION_5
from tests.helpers.tiny_models import FAMILIES, RELATIVES, SITES, config, inputs, relative

both = pytest.mark.parametrize("framework", FRAMEWORKS, ids=lambda framework: framework.name)
families = pytest.mark.parametrize("family", FAMILIES)


def own_attention(framework):
    class Windowed(framework.attention().MultiHeadAttention):
        """Sees no further than two tokens away."""

        def _near(self, queries, bias):
            length = queries.shape[1]
            distance = np.abs(np.arange(length)[:, None] - np.arange(length)[None])
            window = framework.tensor(np.where(distance <= 2, 0, -1e9).astype("f4")[None, None])
            return window if bias is None else bias + window

        def forward(self, queries, source=None, bias=None, past=None, return_weights=False, **training):
            bias = self._near(queries, bias) if source is None else bias
            parent = super()
            call = parent.forward if framework is Torch else parent.call
            return call(queries, source, bias, past, return_weights, **training)

        if framework is TensorFlow:
            call = forward

    return Windowed


@both
@families
def test_an_attention_of_ones_own_runs_in_every_site(framework, family):
    model, batch = framework.build(family), inputs(family)
    stock = framework.output(model, batch)
    swap = framework.swap()
    assert swap.swap_attention(model, own_attention(framework)) == SITES[family]
    assert relative(framework.output(model, batch), stock) > 1e-3
    assert swap.attention_calls(model) == [1] * SITES[family]
    swap.restore_attention(model)
    np.testing.assert_array_equal(framework.output(model, batch), stock)


@both
def test_an_attention_is_found_by_its_dotted_name(framework):
    model, batch = framework.build("bert"), inputs("bert")
    stock = framework.output(model, batch)
    name = framework.attention().__name__
    assert framework.swap().swap_attention(model, f"{name}:MultiHeadAttention") == 2
    assert relative(framework.output(model, batch), stock) <= 1e-6


@both
@pytest.mark.parametrize(
    ("attention", "message"),
    [
        (
            "handwriten",
            'but must be "handwritten", "handwritten-model" or "package.module:ClassName". Did you mean "handwritten"',
        ),
        ("no_such_module:Attention", "no_such_module cannot be imported"),
        ("fractions:Fractoin", 'has no class Fractoin. Did you mean "Fraction"'),
        ("fractions:Fraction", "cannot be made with width, num_heads"),
        (dict, "has no query, key, value, out"),
    ],
)
def test_an_attention_that_does_not_fit_is_refused_before_anything_changes(framework, attention, message):
    model = framework.build("bert")
    before = framework.state(model)
    with pytest.raises(UserError) as refusal:
        framework.swap().swap_attention(model, attention)
    assert message in str(refusal.value)
    assert list(framework.state(model)) == list(before)
    assert framework.swap().attention_sites(model) == 0


@both
@pytest.mark.parametrize(
    ("family", "overrides", "message"),
    [
        ("gpt2", {"reorder_and_upcast_attn": True}, "reorder_and_upcast_attn is True, but must be False"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
        ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights is False, but must be True"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention is True"),
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ("bert", {"position_embedding_type": "relative_key_query"}, "but must be 'absolute'"),
        ("bert", {"is_decoder": True}, "is_decoder is True, but must be False"),
        ("roberta", {"is_decoder": True}, "is_decoder is True, but must be False"),
        ("t5", {"pruned_heads": {0: [1]}}, "pruned_heads is {0: [1]}"),
    ],
)
def test_what_the_module_does_not_implement_is_refused_by_name(framework, family, overrides, message):
    settings = config(family)
    # Set afterwards: building such a model is the library's business, refusing it is ours.
    model = framework.build(family, head="EncoderModel" if family == "t5" else None)
    before = list(framework.state(model))
    for name, value in overrides.items():
        setattr(settings, name, value)
        setattr(model.config, name, value)
    assert message in "; ".join(unsupported(settings))
    with pytest.raises(UserError) as refusal:
        framework.swap().swap_attention(model)
    assert message in str(refusal.value)
    supported = "BERT encoders, DistilBERT encoders, RoBERTa encoders, GPT-2 decoders, T5 encoders and decoders, Marian"
    assert f"Supported: {supported}" in str(refusal.value)
    assert list(framework.state(model)) == before


def test_a_supported_config_has_no_reason_against_it():
    known = (*FAMILIES, *RELATIVES)
    assert [unsupported(config(family)) for family in known] == [[]] * len(known)
    reasons = unsupported(transformers.ElectraConfig())
    assert reasons == ['model_type is "electra", not one of: bert, distilbert, roberta, gpt2, t5, marian']


@both
@families
def test_swapping_twice_is_refused_and_restoring_a_stock_model_restores_nothing(framework, family):
    model, swap = framework.build(family), framework.swap()
    assert swap.restore_attention(model) == 0
    swap.swap_attention(model)
    with pytest.raises(UserError, match="swapped already"):
        swap.swap_attention(model)
    assert swap.attention_sites(model) == SITES[family]


@both
def test_an_attention_shared_by_two_layers_is_refused(framework):
    model = framework.build("bert")
    model.bert.encoder.layer[1].attention = model.bert.encoder.layer[0].attention
    with pytest.raises(UserError, match="shares weights"):
        framework.swap().swap_attention(model)


@pytest.mark.skipif(IS_VERSION_5, reason="the library's models no longer read masks of heads")
def test_a_head_mask_is_refused_at_the_call():
    import torch

    for family in (*FAMILIES, *RELATIVES):
        model, batch = Torch.build(family), inputs(family)
        Torch.swap().swap_attention(model)
        names = ("head_mask", "decoder_head_mask") if family == "t5" else ("head_mask",)
        heads = model.config.num_attention_heads
        masks = {name: torch.ones(2, heads) for name in names}
        with pytest.raises(UserError, match="head_mask"):
            model(**Torch.tensors(batch), **masks)
