"""Marian's layers in transformers 4.57: another attention or the hand-written model put in, packed rows computed.

`pipeline/pytorch/swap/marian.py` has the same definitions in the same order.
"""

# B batch · T query tokens · S key tokens · H heads · D model width
# R rows of a packed batch · S source positions · T target positions · N tokens that the head reads, of all rows
# L positions of a source or a target

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tf_keras
from tensorflow import Tensor
from transformers import TFPreTrainedModel
from transformers.models.marian.modeling_tf_marian import (
    TFMarianAttention,
    TFMarianDecoderLayer,
    TFMarianEncoderLayer,
    TFMarianMainLayer,
)

from pipeline.models.attention import refuse_arguments
from pipeline.models.transformer import marian_weights, settings_of, transformer_weights
from pipeline.tensorflow.body import TransformerBody
from pipeline.tensorflow.model import get_weights, set_weights, weight_shapes
from pipeline.tensorflow.packed import bias_of, chosen, decoder_head, same_example
from pipeline.tensorflow.sites import FamilyModules, Past, Site, put
from pipeline.tensorflow.transformer import DecoderLayer, EncoderLayer, Transformer
from pipeline.utils.errors import UserError


class MarianSite(Site):
    """Replaces TFMarianAttention: of the encoder, of the decoder, or from the decoder to the source."""

    stock_types = (TFMarianAttention,)
    merges_heads = True
    projections = ("q_proj", "k_proj", "v_proj", "out_proj")

    def __init__(self, stock: Any, attention_type: type):
        arguments = dict(width=stock.embed_dim, num_heads=stock.num_heads, use_bias=stock.q_proj.use_bias)
        super().__init__(stock, attention_type, **arguments, dropout=stock.dropout.rate)
        self.is_decoder = stock.is_decoder

    def call(
        self,
        hidden_states: Tensor,
        key_value_states: Tensor | None = None,
        past_key_value: Past | None = None,
        attention_mask: Tensor | None = None,
        layer_head_mask: Tensor | None = None,
        training: bool | None = False,
    ) -> tuple[Tensor, Tensor | None, Past | None]:
        """The library's outputs: hidden states [B, T, D], attention weights [B, H, T, S], and a decoder's cache."""
        refuse_arguments("Marian", layer_head_mask=layer_head_mask)
        output_BTD, weights_BHTS, present = self.attend(
            hidden_states, key_value_states, attention_mask, past_key_value, output_attentions=True, training=training
        )
        return output_BTD, weights_BHTS, present if self.is_decoder else None


def put_body(model: Any) -> None:
    """Put the hand-written Transformer in the place of the model's body. Raises UserError if it is another body."""
    if type(getattr(model, "model", None)) is not TFMarianMainLayer:
        raise UserError(f"{type(model).__name__} is not a translation model of the library, with encoder and decoder")
    put(model, "model", TransformerBody(model.model))


def marian_hidden_states(
    model: tf_keras.Model, inputs: dict[str, Tensor], training: bool, read_N: Tensor | None
) -> Tensor:
    """What Marian's decoder computes, [R, T, D] or [1, N, D]; each target sees the source of its own example.

    A padded batch has one example in each row: its sources are real or padding, and its targets end with padding.
    """
    source_ids, target_ids = inputs["input_ids"], inputs["decoder_input_ids"]
    sources_RS = inputs["segment_ids"] if "segment_ids" in inputs else inputs["attention_mask"]
    targets_RT = inputs.get("decoder_segment_ids", tf.ones_like(target_ids))
    positions_RS = inputs["position_ids"] if "position_ids" in inputs else tf.range(tf.shape(source_ids)[1])[None]
    is_packed = "decoder_position_ids" in inputs
    positions_RT = inputs["decoder_position_ids"] if is_packed else tf.range(tf.shape(target_ids)[1])[None]
    dtype = tf.as_dtype(model.model.compute_dtype)
    bias_R1SS = bias_of(same_example(sources_RS, sources_RS), dtype)
    # Hides later tokens too, since a mask of pairs replaces the causal one.
    bias_R1TT = bias_of(tf.linalg.band_part(same_example(targets_RT, targets_RT), -1, 0), dtype)
    bias_R1TS = bias_of(same_example(targets_RT, sources_RS), dtype)
    if isinstance(model.model, TransformerBody):
        ours = model.model.transformer
        encoded = ours.encode(ours.embed(source_ids, positions_RS), bias_R1SS, training)
        target = ours.embed(target_ids, positions_RT)
        return chosen(ours.decode(target, bias_R1TT, (encoded, bias_R1TS), None, training)[0], read_N)
    encoder, decoder = model.get_encoder(), model.get_decoder()
    encoded = marian_embeddings(encoder, source_ids, positions_RS, training)
    for layer in encoder.layers:
        encoded = layer(encoded, bias_R1SS, layer_head_mask=None, training=training)[0]
    decoded = marian_embeddings(decoder, target_ids, positions_RT, training)
    for layer in decoder.layers:
        decoded = layer(decoded, bias_R1TT, encoded, bias_R1TS, training=training)[0]
    return chosen(decoded, read_N)


def marian_embeddings(stack: Any, ids_RL: Tensor, positions_RL: Tensor, training: bool) -> Tensor:
    """What the layers of an encoder or decoder read, [R, L, D]."""
    embedded_RLD = stack.embed_tokens(ids_RL) * stack.embed_scale
    positions_RLD = tf.gather(stack.embed_positions.weight, positions_RL)
    return stack.dropout(embedded_RLD + tf.cast(positions_RLD, embedded_RLD.dtype), training=training)


def transformer_of(model: TFPreTrainedModel) -> Transformer:
    """The hand-written Transformer with a copy of a stock Marian model's weights.

    Raises UserError if the model is another architecture.
    """
    settings = settings_of(model.config)
    transformer = Transformer(settings)
    set_weights(transformer, transformer_weights(get_weights(model)))
    return transformer


def copy_to_marian(transformer: Transformer, model: TFPreTrainedModel) -> None:
    """Give a stock Marian model the weights of the hand-written Transformer, as to save it as a checkpoint."""
    set_weights(model, marian_weights(get_weights(transformer), weight_shapes(model)))


MODULES = FamilyModules(
    (
        (TFMarianEncoderLayer, "self_attn", MarianSite, False),
        (TFMarianDecoderLayer, "self_attn", MarianSite, False),
        (TFMarianDecoderLayer, "encoder_attn", MarianSite, True),
        # In a hand-written body, whose attention is there already.
        (EncoderLayer, "attention", MarianSite, False),
        (DecoderLayer, "attention", MarianSite, False),
        (DecoderLayer, "source_attention", MarianSite, True),
    ),
    marian_hidden_states,
    decoder_head,
)
