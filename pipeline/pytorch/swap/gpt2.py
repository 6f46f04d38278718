"""GPT-2's modules in transformers: another attention put in and taken out, packed rows computed.

`pipeline/tensorflow/swap/gpt2.py` has the same definitions in the same order.
"""

# B batch · T query tokens · S key tokens · H heads · D model width
# R rows of a packed batch · L their positions · N tokens that the head reads, of all rows

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache
from transformers.models.gpt2.modeling_gpt2 import GPT2Attention, GPT2Block
from transformers.pytorch_utils import Conv1D

from pipeline.models.attention import refuse_arguments
from pipeline.pytorch.library import asks_for_attention, fit_causal_mask
from pipeline.pytorch.lora import base_of, cut_adapter, join_adapter
from pipeline.pytorch.packed import bias_of, chosen, decoder_head, same_example
from pipeline.pytorch.sites import PROJECTIONS, FamilyModules, Site, causal_bias


class GPT2Site(Site):
    """Replaces GPT2Attention, whose one merged weight has query, key and value side by side."""

    stock_types = (GPT2Attention,)
    kept = ("resid_dropout",)

    def __init__(self, stock: Any, attention_type: type):
        arguments = dict(width=stock.embed_dim, num_heads=stock.num_heads, dropout=stock.attn_dropout.p)
        super().__init__(stock, attention_type, **arguments)

    @classmethod
    def unfit(cls, stock: Any) -> str | None:
        """Its merged projection is cut, so it has to be the library's, whatever wraps the projections of others."""
        merged = type(base_of(stock.c_attn))
        return None if merged is Conv1D else f"c_attn is {merged.__name__}, but has to be Conv1D"

    def take_weights(self, parent: Any) -> None:
        merged, projected = base_of(self.stock.c_attn), base_of(self.stock.c_proj)
        self.resid_dropout = self.stock.resid_dropout
        attention = self.attention
        # GPT-2 stores Conv1D weights [in, out]; Linear wants [out, in].
        weights = merged.weight.detach().chunk(3, dim=1)
        biases = merged.bias.detach().chunk(3)
        for linear, weight, bias in zip(
            (attention.query, attention.key, attention.value), weights, biases, strict=True
        ):
            linear.weight = nn.Parameter(weight.t().contiguous(), merged.weight.requires_grad)
            linear.bias = nn.Parameter(bias.clone(), merged.bias.requires_grad)
        weight = projected.weight.detach().t().contiguous()
        attention.out.weight = nn.Parameter(weight, projected.weight.requires_grad)
        attention.out.bias = projected.bias
        # The stock parameters stay as objects, so that restoring gives back the same ones, but hold nothing.
        for parameter in (merged.weight, merged.bias, projected.weight):
            parameter.grad = None
            parameter.data = parameter.data.new_empty(0)
        cut_adapter(self.stock.c_attn, attention, PROJECTIONS[:3])
        cut_adapter(self.stock.c_proj, attention, PROJECTIONS[3:])

    def give_weights_back(self, parent: Any) -> None:
        merged, projected = base_of(self.stock.c_attn), base_of(self.stock.c_proj)
        attention = self.attention
        join_adapter(self.stock.c_attn, attention, PROJECTIONS[:3])
        join_adapter(self.stock.c_proj, attention, PROJECTIONS[3:])
        linears = (attention.query, attention.key, attention.value)
        merged.weight.data = torch.cat([linear.weight.detach() for linear in linears]).t().contiguous()
        merged.bias.data = torch.cat([linear.bias.detach() for linear in linears])
        projected.weight.data = attention.out.weight.detach().t().contiguous()
        projected.bias = base_of(attention.out).bias
        merged.weight.requires_grad = any(linear.weight.requires_grad for linear in linears)
        merged.bias.requires_grad = any(linear.bias.requires_grad for linear in linears)
        projected.weight.requires_grad = attention.out.weight.requires_grad
        self.stock.resid_dropout = self.resid_dropout
        # Its buffers stayed behind if the model was moved meanwhile.
        self.stock.to(merged.weight.device)

    def forward(
        self,
        hidden_states: Tensor,
        past_key_values: Cache | None = None,
        cache_position: Tensor | None = None,
        attention_mask: Tensor | None = None,
        head_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        output_attentions: bool | None = False,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """The library's outputs: hidden states [B, T, D], and attention weights [B, H, T, S] on request."""
        refuse_arguments("GPT-2", head_mask=head_mask, encoder_hidden_states=encoder_hidden_states)
        cache, _ = self.half_of_cache(past_key_values if cache is None else cache, is_cross=False)
        bias_BHTS = causal_bias(self, attention_mask, hidden_states, cache)
        past = self.past_of(cache, cache_position)
        with_weights = output_attentions or asks_for_attention()
        output_BTD, weights_BHTS = self.attend(hidden_states, None, bias_BHTS, past, with_weights)
        return self.resid_dropout(output_BTD), weights_BHTS


def gpt2_hidden_states(model: Any, inputs: dict[str, Tensor], read_N: Tensor | None) -> Tensor:
    """What GPT-2's embeddings and blocks compute, [R, L, D] or [1, N, D]."""
    segment_ids = inputs["segment_ids"]
    for block in model.transformer.h:
        fit_causal_mask(block.attn, segment_ids.shape[1])
    outputs = model.transformer(
        input_ids=inputs["input_ids"],
        position_ids=inputs["position_ids"],
        # Hides later tokens too, since a mask of pairs replaces the causal one.
        attention_mask=bias_of(same_example(segment_ids, segment_ids).tril()),
        use_cache=False,
    )
    return chosen(outputs.last_hidden_state, read_N)


MODULES = FamilyModules(((GPT2Block, "attn", GPT2Site, False),), gpt2_hidden_states, decoder_head)
