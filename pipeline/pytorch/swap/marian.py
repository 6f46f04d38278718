"""Marian's modules in transformers: another attention or the hand-written model put in, packed rows computed.

`pipeline/tensorflow/swap/marian.py` has the same definitions in the same order.
"""

# B batch · T query tokens · S key tokens · H heads · D model width
# R rows of a packed batch · S source positions · T target positions · N tokens that the head reads, of all rows
# L positions of a source or a target

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional
from transformers import Cache, PreTrainedModel
from transformers.models.marian.modeling_marian import (
    MarianAttention,
    MarianDecoderLayer,
    MarianEncoderLayer,
    MarianModel,
)

from pipeline.models.attention import refuse_arguments
from pipeline.models.transformer import marian_weights, settings_of, transformer_weights
from pipeline.pytorch.body import TransformerBody
from pipeline.pytorch.library import accepted, additive, hidden_states_of
from pipeline.pytorch.model import get_weights, set_weights, weight_shapes
from pipeline.pytorch.packed import bias_of, chosen, decoder_head, same_example
from pipeline.pytorch.sites import FamilyModules, Site, causal_bias, put
from pipeline.pytorch.transformer import DecoderLayer, EncoderLayer, Transformer
from pipeline.utils.errors import UserError

# Which 4.57 must be given, and version 5 does not know.
_HEAD_MASK = accepted(MarianEncoderLayer.forward, layer_head_mask=None)


class MarianSite(Site):
    """Replaces MarianAttention: of the encoder, of the decoder, or from the decoder to the source."""

    stock_types = (MarianAttention,)
    projections = kept = ("q_proj", "k_proj", "v_proj", "out_proj")

    def __init__(self, stock: Any, attention_type: type):
        arguments = dict(width=stock.embed_dim, num_heads=stock.num_heads, use_bias=stock.q_proj.bias is not None)
        super().__init__(stock, attention_type, **arguments, dropout=stock.dropout)
        self.is_causal = stock.is_causal

    def forward(
        self,
        hidden_states: Tensor,
        key_value_states: Tensor | None = None,
        past_key_values: Cache | None = None,
        attention_mask: Tensor | None = None,
        layer_head_mask: Tensor | None = None,
        output_attentions: bool | None = False,
        cache_position: Tensor | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """The library's outputs: hidden states [B, T, D], and attention weights [B, H, T, S] on request."""
        refuse_arguments("Marian", layer_head_mask=layer_head_mask)
        is_cross = key_value_states is not None
        cache, filled = self.half_of_cache(past_key_values if cache is None else cache, is_cross)
        if self.is_causal:
            bias_BHTS = causal_bias(self, attention_mask, hidden_states, cache)
        else:
            bias_BHTS = additive(attention_mask, (key_value_states if is_cross else hidden_states).shape[1])
        past = filled or self.past_of(cache, None if is_cross else cache_position)
        return self.attend(hidden_states, key_value_states, bias_BHTS, past, output_attentions)


def put_body(model: Any) -> None:
    """Put the hand-written Transformer in the place of the model's body. Raises UserError if it is another body."""
    if type(getattr(model, "model", None)) is not MarianModel:
        raise UserError(f"{type(model).__name__} is not a translation model of the library, with encoder and decoder")
    put(model, "model", TransformerBody(model.model))


def marian_hidden_states(model: Any, inputs: dict[str, Tensor], read_N: Tensor | None) -> Tensor:
    """What Marian's decoder computes, [R, T, D] or [1, N, D]; each target sees the source of its own example."""
    sources_RS, targets_RT = inputs["segment_ids"], inputs["decoder_segment_ids"]
    bias_R1SS = bias_of(same_example(sources_RS, sources_RS))
    # Hides later tokens too, since a mask of pairs replaces the causal one.
    bias_R1TT = bias_of(same_example(targets_RT, targets_RT).tril())
    bias_R1TS = bias_of(same_example(targets_RT, sources_RS))
    if isinstance(model.model, TransformerBody):
        ours = model.model.transformer
        encoded = ours.encode(ours.embed(inputs["input_ids"], inputs["position_ids"]), bias_R1SS)
        target = ours.embed(inputs["decoder_input_ids"], inputs["decoder_position_ids"])
        return chosen(ours.decode(target, bias_R1TT, (encoded, bias_R1TS), None)[0], read_N)
    encoder, decoder = model.get_encoder(), model.get_decoder()
    encoded = marian_embeddings(encoder, inputs["input_ids"], inputs["position_ids"])
    for layer in encoder.layers:
        encoded = hidden_states_of(layer(encoded, bias_R1SS, **_HEAD_MASK))
    decoded = marian_embeddings(decoder, inputs["decoder_input_ids"], inputs["decoder_position_ids"])
    for layer in decoder.layers:
        decoded = hidden_states_of(layer(decoded, bias_R1TT, encoded, bias_R1TS, use_cache=False))
    return chosen(decoded, read_N)


def marian_embeddings(stack: Any, ids_RL: Tensor, positions_RL: Tensor) -> Tensor:
    """What the layers of an encoder or decoder read, [R, L, D]."""
    embedded_RLD = stack.embed_tokens(ids_RL) * stack.embed_scale + stack.embed_positions.weight[positions_RL]
    # The dropout function of the stack itself, which shared masks replace.
    dropout = getattr(stack, "dropout_function", functional.dropout)
    return dropout(embedded_RLD, stack.dropout, stack.training)


def transformer_of(model: PreTrainedModel) -> Transformer:
    """The hand-written Transformer with a copy of a stock Marian model's weights, on its device and in its mode.

    Raises UserError if the model is another architecture.
    """
    settings = settings_of(model.config)
    transformer = Transformer(settings).to(model.device).train(model.training)
    set_weights(transformer, transformer_weights(get_weights(model)))
    return transformer


def copy_to_marian(transformer: Transformer, model: PreTrainedModel) -> None:
    """Give a stock Marian model the weights of the hand-written Transformer, as to save it as a checkpoint."""
    set_weights(model, marian_weights(get_weights(transformer), weight_shapes(model)))


MODULES = FamilyModules(
    (
        (MarianEncoderLayer, "self_attn", MarianSite, False),
        (MarianDecoderLayer, "self_attn", MarianSite, False),
        (MarianDecoderLayer, "encoder_attn", MarianSite, True),
        # In a hand-written body, whose attention is there already.
        (EncoderLayer, "attention", MarianSite, False),
        (DecoderLayer, "attention", MarianSite, False),
        (DecoderLayer, "source_attention", MarianSite, True),
    ),
    marian_hidden_states,
    decoder_head,
)
