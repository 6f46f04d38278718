"""T5's modules in transformers: another attention put in and taken out, packed rows computed.

`pipeline/tensorflow/swap/t5.py` has the same definitions in the same order.
"""

# B batch · T query tokens · S key tokens · H heads · D model width
# R rows of a packed batch · S source positions · T target positions · N tokens that the head reads, of all rows

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.models.t5.modeling_t5 import T5Attention, T5LayerCrossAttention, T5LayerSelfAttention

from pipeline.models.attention import refuse_arguments
from pipeline.pytorch.library import additive
from pipeline.pytorch.packed import bias_of, chosen, decoder_head, same_example
from pipeline.pytorch.sites import FamilyModules, Site, causal_bias


class T5Site(Site):
    """Replaces T5Attention, self or cross, with its relative position bias."""

    stock_types = (T5Attention,)
    projections = ("q", "k", "v", "o")
    kept = (*projections, "relative_attention_bias")

    def __init__(self, stock: Any, attention_type: type):
        arguments = dict(width=stock.d_model, num_heads=stock.n_heads, head_width=stock.key_value_proj_dim)
        # T5 scales its first weights instead of its scores.
        super().__init__(stock, attention_type, **arguments, use_bias=False, dropout=stock.dropout, scale=1.0)
        self.has_relative_attention_bias = stock.has_relative_attention_bias
        # Since it uses fused attention, the library returns weights always, and may leave out the mask of a decoder.
        self.is_fused, self.is_causal = hasattr(stock, "is_causal"), getattr(stock, "is_causal", False)
        self.takes_positions = "cache_position" in inspect.signature(stock.compute_bias).parameters
        # The model sets this on every module that has it.
        self.gradient_checkpointing = stock.gradient_checkpointing

    def take_weights(self, parent: Any) -> None:
        super().take_weights(parent)
        if self.has_relative_attention_bias:
            self.relative_attention_bias = self.stock.relative_attention_bias

    def give_weights_back(self, parent: Any) -> None:
        super().give_weights_back(parent)
        if self.has_relative_attention_bias:
            self.stock.relative_attention_bias = self.relative_attention_bias
        self.stock.gradient_checkpointing = self.gradient_checkpointing

    def forward(
        self,
        hidden_states: Tensor,
        mask: Tensor | None = None,
        key_value_states: Tensor | None = None,
        position_bias: Tensor | None = None,
        past_key_values: Cache | None = None,
        layer_head_mask: Tensor | None = None,
        query_length: int | None = None,
        use_cache: bool | None = False,
        output_attentions: bool | None = False,
        cache_position: Tensor | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor | None, ...]:
        """The library's outputs: hidden states [B, T, D], the position bias, and attention weights on request.

        The position bias that the first layer returns, for the others, has the mask in it.
        """
        refuse_arguments("T5", layer_head_mask=layer_head_mask)
        is_cross = key_value_states is not None
        cache, filled = self.half_of_cache(past_key_values if cache is None else cache, is_cross)
        if position_bias is None:
            num_keys = key_value_states.shape[1] if is_cross else self.num_keys(cache, hidden_states)
            bias_BHTS = additive(mask, num_keys)
            if self.is_causal:
                bias_BHTS = causal_bias(self, mask, hidden_states, cache)
            position_bias = self.position_bias(bias_BHTS, hidden_states, num_keys, cache, cache_position)
        past = filled or self.past_of(cache, None if is_cross else cache_position)
        output_BTD, weights_BHTS = self.attend(hidden_states, key_value_states, position_bias, past, output_attentions)
        with_weights = output_BTD, position_bias, weights_BHTS
        return with_weights if output_attentions or self.is_fused else with_weights[:2]

    def position_bias(
        self,
        bias_BHTS: Tensor | None,
        hidden_BTD: Tensor,
        num_keys: int,
        cache: Cache | None,
        cache_position: Tensor | None,
    ) -> Tensor | None:
        """What is added to the scores [B, H, T, S]: relative positions (in a first layer) and `bias_BHTS` of a mask."""
        if not self.has_relative_attention_bias:
            return bias_BHTS
        sizes = hidden_BTD.shape[1], num_keys
        if not self.takes_positions:
            bias_1HTS = self.stock.compute_bias(*sizes, past_seen_tokens=self.num_earlier(cache))
        else:
            if cache_position is None:
                cache_position = torch.arange(sizes[0], device=hidden_BTD.device) + self.num_earlier(cache)
            bias_1HTS = self.stock.compute_bias(*sizes, cache_position=cache_position)
        return bias_1HTS if bias_BHTS is None else bias_1HTS + bias_BHTS


def t5_hidden_states(model: Any, inputs: dict[str, Tensor], read_N: Tensor | None) -> Tensor:
    """What T5's decoder computes, [R, T, D] or [1, N, D]; each target sees the source of its own example."""
    sources_RS, targets_RT = inputs["segment_ids"], inputs["decoder_segment_ids"]
    encoder, decoder, bias_R1SS = model.encoder, model.decoder, bias_of(same_example(sources_RS, sources_RS))
    # Hides later tokens too, since a mask of pairs replaces the causal one.
    bias_R1TT = bias_of(same_example(targets_RT, targets_RT).tril())
    bias_R1TS = bias_of(same_example(targets_RT, sources_RS))
    encoded, position_bias = encoder.dropout(encoder.embed_tokens(inputs["input_ids"])), None
    positions_S, positions_T = (torch.arange(x.shape[1], device=x.device) for x in (sources_RS, targets_RT))
    for block in encoder.block:
        # The first block computes a bias from positions and mask, which the others use too.
        encoded, position_bias = block(encoded, bias_R1SS, position_bias, cache_position=positions_S)[:2]
    encoded = encoder.dropout(encoder.final_layer_norm(encoded))
    decoded, biases = decoder.dropout(decoder.embed_tokens(inputs["decoder_input_ids"])), (None, None)
    for block in decoder.block:
        biases_and_sources = biases[0], encoded, bias_R1TS, biases[1]
        decoded, *biases = block(decoded, bias_R1TT, *biases_and_sources, cache_position=positions_T)
    return chosen(decoder.dropout(decoder.final_layer_norm(decoded)), read_N)


MODULES = FamilyModules(
    (
        (T5LayerSelfAttention, "SelfAttention", T5Site, False),
        (T5LayerCrossAttention, "EncDecAttention", T5Site, True),
    ),
    t5_hidden_states,
    decoder_head,
)
