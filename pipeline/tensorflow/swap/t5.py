"""T5's layers in transformers 4.57: another attention put in and taken out, packed rows computed.

`pipeline/pytorch/swap/t5.py` has the same definitions in the same order.
"""

# B batch · T query tokens · S key tokens · H heads · D model width
# R rows of a packed batch · S source positions · T target positions · N tokens that the head reads, of all rows

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tf_keras
from tensorflow import Tensor
from transformers.models.t5.modeling_tf_t5 import TFT5Attention, TFT5LayerCrossAttention, TFT5LayerSelfAttention

from pipeline.models.attention import refuse_arguments
from pipeline.tensorflow.model import freeze_weights
from pipeline.tensorflow.packed import chosen, decoder_head, same_example
from pipeline.tensorflow.sites import FamilyModules, Past, Site


class T5Site(Site):
    """Replaces TFT5Attention, self or cross, with its relative position bias."""

    stock_types = (TFT5Attention,)
    projections = ("q", "k", "v", "o")

    def __init__(self, stock: Any, attention_type: type):
        arguments = dict(width=stock.d_model, num_heads=stock.n_heads, head_width=stock.key_value_proj_dim)
        # T5 scales its first weights instead of its scores.
        super().__init__(stock, attention_type, **arguments, use_bias=False, dropout=stock.dropout.rate, scale=1.0)
        self.is_decoder = stock.is_decoder
        self.has_relative_attention_bias = stock.has_relative_attention_bias

    def take_weights(self, parent: Any) -> None:
        super().take_weights(parent)
        if self.has_relative_attention_bias:
            self.relative_attention_bias = self.stock.relative_attention_bias
            # Keras lists a variable as trained wherever it is assigned.
            if any(variable is self.relative_attention_bias for variable in self.stock._non_trainable_weights):
                freeze_weights(self, [self.relative_attention_bias])

    def call(
        self,
        hidden_states: Tensor,
        mask: Tensor | None = None,
        key_value_states: Tensor | None = None,
        position_bias: Tensor | None = None,
        past_key_value: Past | None = None,
        layer_head_mask: Tensor | None = None,
        query_length: int | None = None,
        use_cache: bool | None = False,
        training: bool | None = False,
        output_attentions: bool | None = False,
    ) -> tuple[Any, ...]:
        """The library's outputs: hidden states [B, T, D], the cache, the position bias, and weights on request."""
        refuse_arguments("T5", layer_head_mask=layer_head_mask)
        is_cross = key_value_states is not None
        past = past_key_value
        if position_bias is None:  # The first layer makes it and hands it to the others.
            num_new = tf.shape(key_value_states if is_cross else hidden_states)[1]
            num_keys = num_new if is_cross or past is None else tf.shape(past[0])[2] + num_new
            position_bias = self.position_bias(mask, hidden_states, num_keys, past)
        output_BTD, weights_BHTS, present = self.attend(
            hidden_states, key_value_states, position_bias, past, output_attentions, training
        )
        outputs = (output_BTD, present if self.is_decoder and use_cache else None, position_bias)
        return (*outputs, weights_BHTS) if output_attentions else outputs

    def position_bias(
        self, mask: Tensor | None, hidden_BTD: Tensor, num_keys: Tensor, past: Past | None
    ) -> Tensor | None:
        """What is added to the scores [B, H, T, S]: relative positions (in a first layer) and the mask."""
        if not self.has_relative_attention_bias:
            return mask
        bias_1HTS = self.stock.compute_bias(num_keys, num_keys)
        if past is not None:
            # `generate` under XLA pads the past with zeros: the new queries follow the last real key.
            filled = tf.reduce_max(tf.where(past[0][0, 0, :, 0] != 0)) + 1
            size = [1, bias_1HTS.shape[1], tf.shape(hidden_BTD)[1], num_keys]
            bias_1HTS = tf.slice(bias_1HTS, [0, 0, tf.cast(filled, tf.int32), 0], size)
        return bias_1HTS if mask is None else tf.cast(bias_1HTS, mask.dtype) + mask


def t5_hidden_states(model: tf_keras.Model, inputs: dict[str, Tensor], training: bool, read_N: Tensor | None) -> Tensor:
    """What T5's decoder computes, [R, T, D] or [1, N, D]; each target sees the source of its own example."""
    sources_RS, targets_RT = inputs["segment_ids"], inputs["decoder_segment_ids"]
    encoded = model.encoder(
        inputs["input_ids"], attention_mask=same_example(sources_RS, sources_RS), training=training
    ).last_hidden_state
    decoded = model.decoder(
        inputs["decoder_input_ids"],
        # Hides later tokens too, since a mask of pairs replaces the causal one.
        attention_mask=tf.linalg.band_part(same_example(targets_RT, targets_RT), -1, 0),
        encoder_hidden_states=encoded,
        encoder_attention_mask=same_example(targets_RT, sources_RS),
        use_cache=False,
        training=training,
    )
    return chosen(decoded.last_hidden_state, read_N)


MODULES = FamilyModules(
    (
        (TFT5LayerSelfAttention, "SelfAttention", T5Site, False),
        (TFT5LayerCrossAttention, "EncDecAttention", T5Site, True),
    ),
    t5_hidden_states,
    decoder_head,
)
