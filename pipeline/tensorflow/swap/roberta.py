"""RoBERTa's layers in transformers 4.57: BERT's with other positions and heads.

`pipeline/pytorch/swap/roberta.py` has the same definitions in the same order.
"""

# B batch · T tokens · D model width
# R rows of a packed batch · L their positions · N tokens that the head reads, of all rows

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tf_keras
from tensorflow import Tensor
from tf_keras import layers
from transformers.models.roberta.modeling_tf_roberta import TFRobertaAttention, TFRobertaSelfAttention

from pipeline.tensorflow.packed import plain_head
from pipeline.tensorflow.sites import FamilyModules
from pipeline.tensorflow.swap.bert import BertSite, encoder_parts_of_tokens_read, encoder_states


class RobertaSite(BertSite):
    """Replaces TFRobertaSelfAttention and the dense layer behind it, which is the output projection."""

    title = "RoBERTa"
    stock_types = (TFRobertaSelfAttention,)


def roberta_hidden_states(
    model: tf_keras.Model, inputs: dict[str, Tensor], training: bool, read_N: Tensor | None
) -> Tensor:
    """What RoBERTa's embeddings and layers compute, [R, L, D] or [1, N, D]."""
    ids_RL, segment_ids = inputs["input_ids"], inputs["segment_ids"]
    hidden_RLD = model.roberta.embeddings(
        input_ids=ids_RL,
        position_ids=roberta_positions(ids_RL, inputs["position_ids"], model.config.pad_token_id),
        token_type_ids=inputs.get("token_type_ids"),
        training=training,
    )
    return encoder_states(model.roberta.encoder, hidden_RLD, segment_ids, training, read_N)


def roberta_positions(ids_RL: Tensor, positions_RL: Tensor, padding: int) -> Tensor:
    """The rows of the position embeddings, [R, L]: the tokens of an example count from `padding` + 1.

    The token for padding does not count, and has the row `padding`, even if a text has it. `positions_RL` counts all.
    """
    counts_RL = tf.cast(ids_RL != padding, positions_RL.dtype)
    ends_RL = tf.cumsum(counts_RL, axis=1)
    begins_RL = tf.range(tf.shape(ids_RL)[1]) - positions_RL
    before_RL = tf.gather(ends_RL - counts_RL, begins_RL, axis=1, batch_dims=1)
    return (ends_RL - before_RL) * counts_RL + padding


def roberta_parts_of_tokens_read(model: tf_keras.Model) -> list[layers.Layer]:
    """The layers of RoBERTa's last layer behind its attention, and those of a head for whole examples."""
    head: Any = getattr(model, "classifier", None)
    heads = [head] if hasattr(head, "out_proj") else []
    return [*encoder_parts_of_tokens_read(model.roberta.encoder), *heads]


def roberta_head(model: tf_keras.Model, hidden_BTD: Tensor, training: bool) -> Tensor:
    """The logits of a head on RoBERTa, [B, T, classes]."""
    if hasattr(model, "lm_head"):
        return model.lm_head(hidden_BTD)
    head: Any = getattr(model, "classifier", None)
    if not hasattr(head, "out_proj"):
        return plain_head(model, hidden_BTD, training)
    hidden_BTD = head.dense(head.dropout(hidden_BTD, training=training))  # with its hyperbolic tangent
    return head.out_proj(head.dropout(hidden_BTD, training=training))


MODULES = FamilyModules(
    ((TFRobertaAttention, "self_attention", RobertaSite, False),),
    roberta_hidden_states,
    roberta_head,
    roberta_parts_of_tokens_read,
)
