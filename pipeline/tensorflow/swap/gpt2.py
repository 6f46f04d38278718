"""GPT-2's layers in transformers 4.57: another attention put in and taken out, packed rows computed.

`pipeline/pytorch/swap/gpt2.py` has the same definitions in the same order.
"""

# B batch · T query tokens · S key tokens · H heads · D model width
# R rows of a packed batch · L their positions · N tokens that the head reads, of all rows

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tf_keras
from tensorflow import Tensor
from tf_keras import initializers
from transformers.models.gpt2.modeling_tf_gpt2 import TFAttention, TFBlock

from pipeline.models.attention import refuse_arguments
from pipeline.tensorflow.lora import base_of, cut_adapter, join_adapter
from pipeline.tensorflow.model import freeze_weights
from pipeline.tensorflow.packed import bias_of, chosen, decoder_head, same_example
from pipeline.tensorflow.sites import PROJECTIONS, FamilyModules, Site, causal_bias


class GPT2Site(Site):
    """Replaces TFAttention, whose one merged weight has query, key and value side by side."""

    stock_types = (TFAttention,)

    def __init__(self, stock: Any, attention_type: type):
        arguments = dict(width=stock.embed_dim, num_heads=stock.n_head, dropout=stock.attn_dropout.rate)
        super().__init__(stock, attention_type, **arguments)

    def take_weights(self, parent: Any) -> None:
        merged, projected = base_of(self.stock.c_attn), base_of(self.stock.c_proj)
        self.resid_dropout = self.stock.resid_dropout
        attention = self.attention
        # GPT-2 stores its bias [1, out]; Dense wants [out].
        weights = [*tf.split(merged.weight, 3, axis=1), projected.weight]
        biases = [*tf.split(merged.bias[0], 3), projected.bias[0]]
        denses = (attention.query, attention.key, attention.value, attention.out)
        for dense, weight, bias in zip(denses, weights, biases, strict=True):
            # As initializers they leave the random state alone.
            dense.kernel_initializer = initializers.Constant(weight)
            dense.bias_initializer = initializers.Constant(bias)
            with tf.name_scope(f"{self.scope}/{dense.name}/"):
                dense.build([None, None, self.stock.embed_dim])
            source = projected if dense is attention.out else merged
            dense.trainable = source.trainable
            frozen = [id(variable) for variable in source._non_trainable_weights]
            pairs = ((dense.kernel, source.weight), (dense.bias, source.bias))
            freeze_weights(dense, [ours for ours, stock in pairs if id(stock) in frozen])
        cut_adapter(self.stock.c_attn, attention, PROJECTIONS[:3])
        cut_adapter(self.stock.c_proj, attention, PROJECTIONS[3:])

    def give_weights_back(self, parent: Any) -> None:
        merged, projected = base_of(self.stock.c_attn), base_of(self.stock.c_proj)
        attention = self.attention
        join_adapter(self.stock.c_attn, attention, PROJECTIONS[:3])
        join_adapter(self.stock.c_proj, attention, PROJECTIONS[3:])
        denses = (attention.query, attention.key, attention.value)
        merged.weight.assign(tf.concat([dense.kernel for dense in denses], axis=1))
        merged.bias.assign(tf.concat([dense.bias for dense in denses], axis=0)[None])
        projected.weight.assign(attention.out.kernel)
        projected.bias.assign(attention.out.bias[None])
        merged.trainable = any(dense.trainable for dense in denses)
        projected.trainable = attention.out.trainable
        self.stock.resid_dropout = self.resid_dropout

    def call(
        self,
        x: Tensor,
        layer_past: Any,
        attention_mask: Tensor | None,
        head_mask: Tensor | None,
        encoder_hidden_states: Tensor | None,
        encoder_attention_mask: Tensor | None,
        use_cache: bool | None,
        output_attentions: bool | None,
        training: bool | None = False,
    ) -> list[Any]:
        """The library's outputs: hidden states [B, T, D], the cache, and attention weights [B, H, T, S] on request."""
        refuse_arguments("GPT-2", head_mask=head_mask, encoder_hidden_states=encoder_hidden_states)
        past = None if layer_past is None else (layer_past[0], layer_past[1])
        num_keys = tf.shape(x)[1] + (0 if past is None else tf.shape(past[0])[2])
        bias_BHTS = causal_bias(attention_mask, x, num_keys)
        output_BTD, weights_BHTS, present = self.attend(x, None, bias_BHTS, past, output_attentions, training)
        # The model expects one tensor for both, and something other than None if there is no cache.
        present = tf.stack(present) if use_cache else (None,)
        output_BTD = self.resid_dropout(output_BTD, training=training)
        return [output_BTD, present, weights_BHTS] if output_attentions else [output_BTD, present]


def gpt2_hidden_states(
    model: tf_keras.Model, inputs: dict[str, Tensor], training: bool, read_N: Tensor | None
) -> Tensor:
    """What GPT-2's embeddings and blocks compute, [R, L, D] or [1, N, D]; its attention adds causality itself."""
    body, segment_ids = model.transformer, inputs["segment_ids"]
    hidden_RLD = body.wte(inputs["input_ids"]) + body.wpe(inputs["position_ids"])
    hidden_RLD = body.drop(hidden_RLD, training=training)
    bias_R1LL = bias_of(same_example(segment_ids, segment_ids), hidden_RLD.dtype)
    for block in body.h:
        hidden_RLD, _ = block(
            hidden_RLD,
            layer_past=None,
            attention_mask=bias_R1LL,
            head_mask=None,
            encoder_hidden_states=None,
            encoder_attention_mask=None,
            use_cache=False,
            output_attentions=False,
            training=training,
        )
    return chosen(body.ln_f(hidden_RLD), read_N)


MODULES = FamilyModules(((TFBlock, "attn", GPT2Site, False),), gpt2_hidden_states, decoder_head)
