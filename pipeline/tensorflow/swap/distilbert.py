"""DistilBERT's layers in transformers 4.57: another attention put in and taken out, packed rows computed.

`pipeline/pytorch/swap/distilbert.py` has the same definitions in the same order.
"""

# B batch · T query tokens · S key tokens · H heads · D model width
# R rows of a packed batch · L their positions · N tokens that the head reads, of all rows

from __future__ import annotations

import functools
from typing import Any

import tf_keras
from tensorflow import Tensor
from tf_keras import layers
from transformers.models.distilbert.modeling_tf_distilbert import TFMultiHeadSelfAttention, TFTransformerBlock

from pipeline.models.attention import refuse_arguments
from pipeline.tensorflow.attention import attend, merge_heads, split_heads
from pipeline.tensorflow.packed import bias_of, chosen, plain_head, same_example
from pipeline.tensorflow.sites import FamilyModules, Site


class DistilBertSite(Site):
    """Replaces the attention of a block, with its output projection."""

    stock_types = (TFMultiHeadSelfAttention,)
    projections = ("q_lin", "k_lin", "v_lin", "out_lin")

    def __init__(self, stock: Any, attention_type: type):
        arguments = dict(width=stock.dim, num_heads=stock.n_heads)
        super().__init__(stock, attention_type, **arguments, dropout=stock.dropout.rate)

    def call(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor,
        head_mask: Tensor | None,
        output_attentions: bool | None,
        training: bool | None = False,
    ) -> tuple[Tensor | None, ...]:
        """The library's outputs: hidden states [B, T, D], and attention weights [B, H, T, S] on request.

        `key` and `value` are `query`. A mask is of keys [B, S], or what is added for each pair [B, 1, T, S].
        """
        refuse_arguments("DistilBERT", head_mask=head_mask)
        bias_BHTS = bias_of(mask[:, None], query.dtype) if mask.shape.rank == 2 else mask
        output_BTD, weights_BHTS, _ = self.attend(query, None, bias_BHTS, None, output_attentions, training)
        return (output_BTD, weights_BHTS) if output_attentions else (output_BTD,)


def distilbert_hidden_states(
    model: tf_keras.Model, inputs: dict[str, Tensor], training: bool, read_N: Tensor | None
) -> Tensor:
    """What DistilBERT's embeddings and blocks compute, [R, L, D] or [1, N, D]."""
    segment_ids = inputs["segment_ids"]
    hidden_RLD = model.distilbert.embeddings(
        inputs["input_ids"], position_ids=inputs["position_ids"], training=training
    )
    bias_R1LL = bias_of(same_example(segment_ids, segment_ids), hidden_RLD.dtype)
    *blocks, last = model.distilbert.transformer.layer
    for block in (*blocks, last):
        take_pairs(block.attention)
    for block in blocks:
        hidden_RLD = block(hidden_RLD, bias_R1LL, None, False, training=training)[-1]
    # After its attention, a block computes each token for itself.
    mixed_RLD = last.attention(hidden_RLD, hidden_RLD, hidden_RLD, bias_R1LL, None, False, training=training)[0]
    mixed = last.sa_layer_norm(chosen(mixed_RLD, read_N) + chosen(hidden_RLD, read_N))
    return last.output_layer_norm(last.ffn(mixed, training=training) + mixed)


def take_pairs(attention: Any) -> None:
    """Have an attention of the library's that takes a mask of keys take a bias for each pair, too, in place."""
    if not isinstance(attention, Site) and not hasattr(attention, "of_keys"):
        attention.of_keys, attention.call = attention.call, functools.partial(attended, attention)


def attended(
    attention: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    head_mask: Tensor | None,
    output_attentions: bool,
    training: bool = False,
) -> tuple[Tensor, ...]:
    """The library's outputs; with a bias for each pair [R, 1, L, L] its parts are called one by one."""
    if mask.shape.rank == 2:
        return attention.of_keys(query, key, value, mask, head_mask, output_attentions, training=training)
    q_RHLK, k_RHLK, v_RHLK = (
        split_heads(part(query), attention.n_heads) for part in (attention.q_lin, attention.k_lin, attention.v_lin)
    )

    def dropout(weights_RHLL: Tensor) -> Tensor:
        return attention.dropout(weights_RHLL, training=training)

    mixed_RHLK, _ = attend(q_RHLK, k_RHLK, v_RHLK, mask, dropout=dropout)
    return (attention.out_lin(merge_heads(mixed_RHLK)),)


def distilbert_parts_of_tokens_read(model: tf_keras.Model) -> list[layers.Layer]:
    """The layers of DistilBERT's last block behind its attention."""
    last = model.distilbert.transformer.layer[-1]
    return [last.sa_layer_norm, last.ffn, last.output_layer_norm]


def distilbert_head(model: tf_keras.Model, hidden_BTD: Tensor, training: bool) -> Tensor:
    """The logits of a head on DistilBERT, [B, T, classes]."""
    if hasattr(model, "vocab_projector"):
        hidden_BTD = model.act(model.vocab_transform(hidden_BTD))
        return model.vocab_projector(model.vocab_layer_norm(hidden_BTD))
    if hasattr(model, "qa_outputs"):
        return model.qa_outputs(model.dropout(hidden_BTD, training=training))
    if hasattr(model, "pre_classifier"):  # that of whole examples; its ReLU is in the layer
        hidden_BTD = model.pre_classifier(hidden_BTD)
    return plain_head(model, hidden_BTD, training)


MODULES = FamilyModules(
    ((TFTransformerBlock, "attention", DistilBertSite, False),),
    distilbert_hidden_states,
    distilbert_head,
    distilbert_parts_of_tokens_read,
)
