"""DistilBERT's modules in transformers: another attention put in and taken out, packed rows computed.

`pipeline/tensorflow/swap/distilbert.py` has the same definitions in the same order.
"""

# B batch · T query tokens · S key tokens · H heads · D model width
# R rows of a packed batch · L their positions · N tokens that the head reads, of all rows

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor
from torch.nn import functional
from transformers.models.distilbert import modeling_distilbert
from transformers.models.distilbert.modeling_distilbert import TransformerBlock

from pipeline.models.attention import refuse_arguments
from pipeline.pytorch.attention import attend, merge_heads, split_heads
from pipeline.pytorch.library import additive, hidden_states_of
from pipeline.pytorch.packed import bias_of, chosen, plain_head, same_example
from pipeline.pytorch.sites import FamilyModules, Site

# Version 4 of transformers has a class for each way to attend, of which the eager one takes a mask of keys only.
_EAGER, _FUSED, _ANY = (
    getattr(modeling_distilbert, name, None)
    for name in ("MultiHeadSelfAttention", "DistilBertSdpaAttention", "DistilBertSelfAttention")
)


class DistilBertSite(Site):
    """Replaces the attention of a block, with its output projection."""

    stock_types = tuple(stock for stock in (_EAGER, _FUSED, _ANY) if stock is not None)
    projections = kept = ("q_lin", "k_lin", "v_lin", "out_lin")

    def __init__(self, stock: Any, attention_type: type):
        arguments = dict(width=stock.q_lin.in_features, num_heads=stock.n_heads)
        super().__init__(stock, attention_type, **arguments, dropout=stock.dropout.p)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        mask: Tensor | None = None,
        head_mask: Tensor | None = None,
        output_attentions: bool = False,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """The library's outputs: hidden states [B, T, D], and attention weights [B, H, T, S] on request.

        `key` and `value` are `query`, which version 5 passes alone. A mask is of keys [B, S], or of pairs.
        """
        refuse_arguments("DistilBERT", head_mask=head_mask)
        mask = attention_mask if mask is None else mask
        if mask is not None and mask.ndim == 2:
            mask = mask[:, None, None] != 0
        return self.attend(query, None, additive(mask, query.shape[1]), None, output_attentions)


def distilbert_hidden_states(model: Any, inputs: dict[str, Tensor], read_N: Tensor | None) -> Tensor:
    """What DistilBERT's embeddings and blocks compute, [R, L, D] or [1, N, D]."""
    embeddings, segment_ids = model.distilbert.embeddings, inputs["segment_ids"]
    # Version 4 has no argument for positions, and counts them through the whole row.
    hidden_RLD = embeddings.word_embeddings(inputs["input_ids"])
    hidden_RLD = hidden_RLD + embeddings.position_embeddings(inputs["position_ids"])
    hidden_RLD = embeddings.dropout(embeddings.LayerNorm(hidden_RLD))
    bias_R1LL = bias_of(same_example(segment_ids, segment_ids))
    *blocks, last = model.distilbert.transformer.layer
    for block in (*blocks, last):
        take_pairs(block.attention)
    for block in blocks:
        hidden_RLD = hidden_states_of(block(hidden_RLD, bias_R1LL))
    # Version 5 passes hidden states once, and calls the mask by another name.
    if type(last.attention) in (_EAGER, _FUSED):
        mixed_RLD = last.attention(hidden_RLD, hidden_RLD, hidden_RLD, bias_R1LL)[0]
    else:
        mixed_RLD = last.attention(hidden_RLD, attention_mask=bias_R1LL)[0]
    # After its attention, a block computes each token for itself.
    mixed = last.sa_layer_norm(chosen(mixed_RLD, read_N) + chosen(hidden_RLD, read_N))
    return last.output_layer_norm(last.ffn(mixed) + mixed)


def take_pairs(attention: Any) -> None:
    """Have an attention of the library's that takes a mask of keys take a bias for each pair, too, in place."""
    if type(attention) is _EAGER and "forward" not in vars(attention):
        attention.forward = functools.partial(attended, attention)


def attended(
    attention: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    head_mask: Tensor | None = None,
    output_attentions: bool = False,
) -> tuple[Tensor, ...]:
    """The library's outputs; with a bias for each pair [R, 1, L, L] its parts are called one by one."""
    if mask.ndim == 2:
        return type(attention).forward(attention, query, key, value, mask, head_mask, output_attentions)
    q_RHLK, k_RHLK, v_RHLK = (
        split_heads(part(query), attention.n_heads) for part in (attention.q_lin, attention.k_lin, attention.v_lin)
    )
    mixed_RHLK, _ = attend(q_RHLK, k_RHLK, v_RHLK, mask, dropout=attention.dropout)
    return (attention.out_lin(merge_heads(mixed_RHLK)),)


def distilbert_parts_of_tokens_read(model: Any) -> list[Any]:
    """The modules of DistilBERT's last block behind its attention."""
    last = model.distilbert.transformer.layer[-1]
    return [last.sa_layer_norm, last.ffn, last.output_layer_norm]


def distilbert_head(model: Any, hidden_BTD: Tensor) -> Tensor:
    """The logits of a head on DistilBERT, [B, T, classes]."""
    if hasattr(model, "vocab_projector"):
        hidden_BTD = model.activation(model.vocab_transform(hidden_BTD))
        return model.vocab_projector(model.vocab_layer_norm(hidden_BTD))
    if hasattr(model, "qa_outputs"):
        return model.qa_outputs(model.dropout(hidden_BTD))
    if hasattr(model, "pre_classifier"):  # that of whole examples
        hidden_BTD = functional.relu(model.pre_classifier(hidden_BTD))
    return plain_head(model, hidden_BTD)


MODULES = FamilyModules(
    ((TransformerBlock, "attention", DistilBertSite, False),),
    distilbert_hidden_states,
    distilbert_head,
    distilbert_parts_of_tokens_read,
)
