"""RoBERTa's modules in transformers: BERT's with other positions and heads.

`pipeline/tensorflow/swap/roberta.py` has the same definitions in the same order.
"""

# B batch · T tokens · D model width
# R rows of a packed batch · L their positions · N tokens that the head reads, of all rows

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.models.roberta import modeling_roberta
from transformers.models.roberta.modeling_roberta import RobertaAttention, RobertaSelfAttention

from pipeline.pytorch.packed import plain_head
from pipeline.pytorch.sites import FamilyModules
from pipeline.pytorch.swap.bert import BertSite, encoder_parts_of_tokens_read, encoder_states


class RobertaSite(BertSite):
    """Replaces RobertaSelfAttention and the dense layer behind it, which is the output projection."""

    title = "RoBERTa"
    stock_types = (
        RobertaSelfAttention,
        getattr(modeling_roberta, "RobertaSdpaSelfAttention", RobertaSelfAttention),
    )


def roberta_hidden_states(model: Any, inputs: dict[str, Tensor], read_N: Tensor | None) -> Tensor:
    """What RoBERTa's embeddings and layers compute, [R, L, D] or [1, N, D]."""
    ids_RL, segment_ids = inputs["input_ids"], inputs["segment_ids"]
    hidden_RLD = model.roberta.embeddings(
        input_ids=ids_RL,
        position_ids=roberta_positions(ids_RL, inputs["position_ids"], model.config.pad_token_id),
        token_type_ids=inputs.get("token_type_ids", torch.zeros_like(segment_ids)),
    )
    return encoder_states(model.roberta.encoder, hidden_RLD, segment_ids, read_N)


def roberta_positions(ids_RL: Tensor, positions_RL: Tensor, padding: int) -> Tensor:
    """The rows of the position embeddings, [R, L]: the tokens of an example count from `padding` + 1.

    The token for padding does not count, and has the row `padding`, even if a text has it. `positions_RL` counts all.
    """
    counts_RL = (ids_RL != padding).long()
    ends_RL = counts_RL.cumsum(dim=1)
    begins_RL = torch.arange(ids_RL.shape[1], device=ids_RL.device) - positions_RL
    before_RL = (ends_RL - counts_RL).gather(1, begins_RL)
    return (ends_RL - before_RL) * counts_RL + padding


def roberta_parts_of_tokens_read(model: Any) -> list[Any]:
    """The modules of RoBERTa's last layer behind its attention, and those of a head for whole examples."""
    head: Any = getattr(model, "classifier", None)
    heads = [head] if hasattr(head, "out_proj") else []
    return [*encoder_parts_of_tokens_read(model.roberta.encoder), *heads]


def roberta_head(model: Any, hidden_BTD: Tensor) -> Tensor:
    """The logits of a head on RoBERTa, [B, T, classes]."""
    if hasattr(model, "lm_head"):
        return model.lm_head(hidden_BTD)
    head: Any = getattr(model, "classifier", None)
    if not hasattr(head, "out_proj"):
        return plain_head(model, hidden_BTD)
    hidden_BTD = torch.tanh(head.dense(head.dropout(hidden_BTD)))
    return head.out_proj(head.dropout(hidden_BTD))


MODULES = FamilyModules(
    ((RobertaAttention, "self", RobertaSite, False),),
    roberta_hidden_states,
    roberta_head,
    roberta_parts_of_tokens_read,
)
