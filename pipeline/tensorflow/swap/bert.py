"""BERT's layers in transformers 4.57: another attention put in and taken out, packed rows computed.

`pipeline/pytorch/swap/bert.py` has the same definitions in the same order.
"""

# B batch · T query tokens · S key tokens · H heads · D model width
# R rows of a packed batch · L their positions · N tokens that the head reads, of all rows

from __future__ import annotations

from typing import Any

import tf_keras
from tensorflow import Tensor
from tf_keras import layers
from transformers.models.bert.modeling_tf_bert import TFBertAttention, TFBertSelfAttention

from pipeline.models.attention import refuse_arguments
from pipeline.tensorflow.packed import bias_of, chosen, plain_head, same_example
from pipeline.tensorflow.sites import FamilyModules, Site, put


class BertSite(Site):
    """Replaces TFBertSelfAttention and the dense layer behind it, which is the output projection."""

    stock_types = (TFBertSelfAttention,)
    title = "BERT"

    def __init__(self, stock: Any, attention_type: type):
        arguments = dict(width=stock.config.hidden_size, num_heads=stock.num_attention_heads)
        super().__init__(stock, attention_type, **arguments, dropout=stock.dropout.rate)

    def take_weights(self, parent: Any) -> None:
        for name in ("query", "key", "value"):
            put(self.attention, name, getattr(self.stock, name))
        put(self.attention, "out", parent.dense_output.dense)
        put(parent.dense_output, "dense", layers.Activation("linear", dtype=self._dtype_policy))

    def give_weights_back(self, parent: Any) -> None:
        for name in ("query", "key", "value"):
            put(self.stock, name, getattr(self.attention, name))
        put(parent.dense_output, "dense", self.attention.out)

    def call(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None,
        head_mask: Tensor | None,
        encoder_hidden_states: Tensor | None,
        encoder_attention_mask: Tensor | None,
        past_key_value: Any,
        output_attentions: bool | None,
        training: bool | None = False,
    ) -> tuple[Tensor | None, ...]:
        """The library's outputs: hidden states [B, T, D], and attention weights [B, H, T, S] on request."""
        refuse_arguments(
            self.title,
            head_mask=head_mask,
            encoder_hidden_states=encoder_hidden_states,
            past_key_values=past_key_value,
        )
        output_BTD, weights_BHTS, _ = self.attend(
            hidden_states, None, attention_mask, None, output_attentions, training
        )
        return (output_BTD, weights_BHTS) if output_attentions else (output_BTD,)


def bert_hidden_states(
    model: tf_keras.Model, inputs: dict[str, Tensor], training: bool, read_N: Tensor | None
) -> Tensor:
    """What BERT's embeddings and layers compute, [R, L, D] or [1, N, D]."""
    segment_ids = inputs["segment_ids"]
    hidden_RLD = model.bert.embeddings(
        input_ids=inputs["input_ids"],
        position_ids=inputs["position_ids"],
        token_type_ids=inputs.get("token_type_ids"),
        training=training,
    )
    return encoder_states(model.bert.encoder, hidden_RLD, segment_ids, training, read_N)


def encoder_states(
    encoder: Any, hidden_RLD: Tensor, segment_ids_RL: Tensor, training: bool, read_N: Tensor | None
) -> Tensor:
    """What the layers of an encoder compute from embeddings, [R, L, D] or [1, N, D]."""
    arguments = dict(
        attention_mask=bias_of(same_example(segment_ids_RL, segment_ids_RL), hidden_RLD.dtype),
        head_mask=None,
        encoder_hidden_states=None,
        encoder_attention_mask=None,
        past_key_value=None,
        output_attentions=False,
        training=training,
    )
    *layers, last = encoder.layer
    for layer in layers:
        hidden_RLD = layer(hidden_RLD, **arguments)[0]
    # After its attention, a layer computes each token for itself.
    mixed_RLD = last.attention.self_attention(hidden_RLD, **arguments)[0]
    attended = last.attention.dense_output(
        chosen(mixed_RLD, read_N), input_tensor=chosen(hidden_RLD, read_N), training=training
    )
    # It takes no `training`, but hands it to the layers in it.
    widened = last.intermediate(attended, training=training)
    return last.bert_output(widened, input_tensor=attended, training=training)


def bert_parts_of_tokens_read(model: tf_keras.Model) -> list[layers.Layer]:
    """The layers of BERT's last layer behind its attention."""
    return encoder_parts_of_tokens_read(model.bert.encoder)


def encoder_parts_of_tokens_read(encoder: Any) -> list[layers.Layer]:
    """The layers of an encoder's last layer behind its attention."""
    last = encoder.layer[-1]
    return [last.attention.dense_output, last.intermediate, last.bert_output]


def bert_head(model: tf_keras.Model, hidden_BTD: Tensor, training: bool) -> Tensor:
    """The logits of a head on BERT, [B, T, classes]."""
    pooler = model.bert.pooler
    if pooler is not None:  # heads for whole examples have one, those for tokens have none
        hidden_BTD = pooler.dense(hidden_BTD)
    for name in ("mlm", "nsp"):
        if hasattr(model, name):
            return getattr(model, name)(hidden_BTD)
    return plain_head(model, hidden_BTD, training)


MODULES = FamilyModules(
    ((TFBertAttention, "self_attention", BertSite, False),),
    bert_hidden_states,
    bert_head,
    bert_parts_of_tokens_read,
)
