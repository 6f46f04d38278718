"""BERT's modules in transformers: another attention put in and taken out, packed rows computed.

`pipeline/tensorflow/swap/bert.py` has the same definitions in the same order.
"""

# B batch · T query tokens · S key tokens · H heads · D model width
# R rows of a packed batch · L their positions · N tokens that the head reads, of all rows

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache
from transformers.models.bert import modeling_bert
from transformers.models.bert.modeling_bert import BertAttention, BertSelfAttention

from pipeline.models.attention import refuse_arguments
from pipeline.pytorch.library import additive, hidden_states_of
from pipeline.pytorch.packed import bias_of, chosen, plain_head, same_example
from pipeline.pytorch.sites import FamilyModules, Site, put


class BertSite(Site):
    """Replaces BertSelfAttention and the dense layer behind it, which is the output projection."""

    # Version 4 of transformers has a class of its own for PyTorch's fused attention.
    stock_types = (BertSelfAttention, getattr(modeling_bert, "BertSdpaSelfAttention", BertSelfAttention))
    kept = ("query", "key", "value")
    title = "BERT"

    def __init__(self, stock: Any, attention_type: type):
        arguments = dict(width=stock.query.in_features, num_heads=stock.num_attention_heads)
        super().__init__(stock, attention_type, **arguments, dropout=stock.dropout.p)

    def take_weights(self, parent: Any) -> None:
        for name in ("query", "key", "value"):
            put(self.attention, name, getattr(self.stock, name))
        put(self.attention, "out", parent.output.dense)
        put(parent.output, "dense", nn.Identity())

    def give_weights_back(self, parent: Any) -> None:
        for name in ("query", "key", "value"):
            put(self.stock, name, getattr(self.attention, name))
        put(parent.output, "dense", self.attention.out)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        head_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        past_key_values: Cache | None = None,
        output_attentions: bool | None = False,
        cache_position: Tensor | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """The library's outputs: hidden states [B, T, D], and attention weights [B, H, T, S] on request."""
        refuse_arguments(
            self.title,
            head_mask=head_mask,
            encoder_hidden_states=encoder_hidden_states,
            past_key_values=past_key_values if cache is None else cache,
        )
        bias_BHTS = additive(attention_mask, hidden_states.shape[1])
        return self.attend(hidden_states, None, bias_BHTS, None, output_attentions)


def bert_hidden_states(model: Any, inputs: dict[str, Tensor], read_N: Tensor | None) -> Tensor:
    """What BERT's embeddings and layers compute, [R, L, D] or [1, N, D]."""
    segment_ids = inputs["segment_ids"]
    hidden_RLD = model.bert.embeddings(
        input_ids=inputs["input_ids"],
        position_ids=inputs["position_ids"],
        # The library's own zeros are as long as the longest text that the model takes; a packed row may be wider.
        token_type_ids=inputs.get("token_type_ids", torch.zeros_like(segment_ids)),
    )
    return encoder_states(model.bert.encoder, hidden_RLD, segment_ids, read_N)


def encoder_states(encoder: Any, hidden_RLD: Tensor, segment_ids_RL: Tensor, read_N: Tensor | None) -> Tensor:
    """What the layers of an encoder compute from embeddings, [R, L, D] or [1, N, D]."""
    bias_R1LL = bias_of(same_example(segment_ids_RL, segment_ids_RL))
    *layers, last = encoder.layer
    for layer in layers:
        hidden_RLD = hidden_states_of(layer(hidden_RLD, bias_R1LL))
    # After its attention, a layer computes each token for itself.
    mixed_RLD = last.attention.self(hidden_RLD, bias_R1LL)[0]
    return last.feed_forward_chunk(last.attention.output(chosen(mixed_RLD, read_N), chosen(hidden_RLD, read_N)))


def bert_parts_of_tokens_read(model: Any) -> list[Any]:
    """The modules of BERT's last layer behind its attention."""
    return encoder_parts_of_tokens_read(model.bert.encoder)


def encoder_parts_of_tokens_read(encoder: Any) -> list[Any]:
    """The modules of an encoder's last layer behind its attention."""
    last = encoder.layer[-1]
    return [last.attention.output, last.intermediate, last.output]


def bert_head(model: Any, hidden_BTD: Tensor) -> Tensor:
    """The logits of a head on BERT, [B, T, classes]."""
    pooler = model.bert.pooler
    if pooler is not None:  # heads for whole examples have one, those for tokens have none
        hidden_BTD = pooler.activation(pooler.dense(hidden_BTD))
    return model.cls(hidden_BTD) if hasattr(model, "cls") else plain_head(model, hidden_BTD)


MODULES = FamilyModules(
    ((BertAttention, "self", BertSite, False),), bert_hidden_states, bert_head, bert_parts_of_tokens_read
)
