"""The layers of each model family in transformers 4.57: another attention put in and taken out, packed rows computed.

The only file of this folder that knows how those models call their layers; `_FAMILIES` at its end lists what it knows.
A *site* is one place where a model attends: a layer with the stock call signature that holds an attention with the
contract of `MultiHeadAttention`. Weights move, they are not copied: while swapped they belong to the new attention,
afterwards to the stock layer again. `pipeline/pytorch/swap.py` has the same definitions in the same order.
"""

# B batch · T query tokens · S key tokens · H heads · K head width · D model width
# R rows of a packed batch · L their positions · S source positions · T target positions
# N tokens that the head reads, of all rows

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
import tf_keras
from tensorflow import Tensor
from tf_keras import initializers, layers
from transformers import TFPreTrainedModel
from transformers.models.bert.modeling_tf_bert import TFBertAttention, TFBertSelfAttention
from transformers.models.gpt2.modeling_tf_gpt2 import TFAttention, TFBlock
from transformers.models.marian.modeling_tf_marian import (
    TFMarianAttention,
    TFMarianDecoderLayer,
    TFMarianEncoderLayer,
    TFMarianMainLayer,
)
from transformers.models.t5.modeling_tf_t5 import TFT5Attention, TFT5LayerCrossAttention, TFT5LayerSelfAttention

from pipeline.models.attention import HANDWRITTEN_MODEL, attention_class, refuse_arguments, refuse_unsupported
from pipeline.models.families import family_of
from pipeline.models.transformer import marian_weights, settings_of, transformer_weights
from pipeline.tensorflow.attention import MultiHeadAttention
from pipeline.tensorflow.body import TransformerBody
from pipeline.tensorflow.lora import base_of, cut_adapter, join_adapter
from pipeline.tensorflow.model import freeze_weights, get_weights, preserved_generators, set_weights, weight_shapes
from pipeline.tensorflow.packed import bias_of, chosen, language_model_logits, plain_head, same_example
from pipeline.tensorflow.sites import (
    PROJECTIONS,
    Past,
    Site,
    Slot,
    guard_stock_only,
    put,
    refuse_own_classes,
    refuse_shared,
    swapped_sites,
)
from pipeline.tensorflow.transformer import DecoderLayer, EncoderLayer, Transformer
from pipeline.utils.errors import UserError


def swap_attention(model: TFPreTrainedModel, attention: str | type = "handwritten") -> int:
    """Replace every attention of a stock BERT, GPT-2, T5 or Marian model, whatever its head; returns how many.

    `attention` is "handwritten", "package.module:ClassName", or a class with the constructor, the projections
    and the call of `MultiHeadAttention`. With "handwritten-model" all that is around the attention in a Marian model
    is replaced too: its body becomes the hand-written Transformer. Weights, their dtype policy and trainability are
    carried over. Build the optimizer and trace `tf.function`s afterwards: GPT-2's merged weights become new
    variables. Until `restore_attention`, `save_pretrained` raises UserError, also that of a model around this one.
    Raises UserError, before anything is changed, if the model or the class does not fit.
    """
    refuse_unsupported(model, attention)
    is_whole = attention == HANDWRITTEN_MODEL
    attention_type = MultiHeadAttention if is_whole else attention_class(attention, MultiHeadAttention)
    if attention_sites(model):
        raise UserError(f"{type(model).__name__} is swapped already; call restore_attention first")
    if not model.built:
        model.build_in_name_scope()
    slots = _slots(model)
    if not slots:
        raise UserError(f"{type(model).__name__} has no attention of BERT, GPT-2, T5 or Marian inside")
    refuse_shared(model, slots)
    stock_types = tuple(stock_type for _, _, site, _ in _SLOTS for stock_type in site.stock_types)
    refuse_own_classes(model, slots, stock_types)
    # New layers take seeds from the process's generators: the random state stays as it was.
    with preserved_generators():
        if is_whole:
            put_body(model)
        else:
            put_sites(slots, attention_type)
    guard_stock_only()
    return len(slots)


def put_sites(slots: list[Slot], attention_type: type) -> None:
    """Put a site with an attention of this class into each slot."""
    sites = [slot.site(slot.attention, attention_type) for slot in slots]
    for slot, site in zip(slots, sites, strict=True):
        site.take_weights(slot.parent)
        site.make_other_weights()
        slot.put(site)


def put_body(model: Any) -> None:
    """Put the hand-written Transformer in the place of the model's body. Raises UserError if it is another body."""
    if type(getattr(model, "model", None)) is not TFMarianMainLayer:
        raise UserError(f"{type(model).__name__} is not a translation model of the library, with encoder and decoder")
    put(model, "model", TransformerBody(model.model))


def restore_attention(model: TFPreTrainedModel) -> int:
    """Undo `swap_attention`: put the stock layers back, with the trained weights; returns how many."""
    body, sites = getattr(model, "model", None), attention_sites(model)
    if isinstance(body, TransformerBody):
        body.give_weights_back()
        put(model, "model", body.stock)
        return sites
    slots = [slot for slot in _slots(model) if isinstance(slot.attention, Site)]
    for slot in slots:
        site = slot.attention
        site.give_weights_back(slot.parent)
        site.stock._trainable = site._trainable  # The public setter would overrule each projection's own.
        slot.put(site.stock)
    return len(slots)


def attention_sites(model: TFPreTrainedModel) -> int:
    """How many places of the model attend through a swapped attention; 0 for a stock model."""
    return len(attention_calls(model))


def attention_calls(model: TFPreTrainedModel) -> list[int]:
    """How often each swapped site was called since the swap, in the order of the model's layers.

    Inside a `tf.function` the one call that is counted is the tracing.
    """
    return [site.calls for site in swapped_sites(model)]


def attentions(model: TFPreTrainedModel) -> list[Slot]:
    """Every place where the model attends, by a stock or a swapped layer, in the model's order."""
    return _slots(model)


def decoder_parts(model: Any) -> list[layers.Layer]:
    """The layers of a model that compute the target of an encoder-decoder; none if it is something else."""
    if not model.config.is_encoder_decoder:
        return []
    body: Any = getattr(model, "model", model)
    if isinstance(body, TransformerBody):
        return [body.transformer.target_dropout, *body.transformer.decoder]
    return [body.decoder]


def packed_hidden_states(
    model: tf_keras.Model, inputs: dict[str, Tensor], training: bool, read_N: Tensor | None = None
) -> Tensor:
    """The last hidden states of a packed batch, [R, L, D], those of the decoder if there is one.

    With `read_N` only those of the tokens that `tokens_read` returned, [1, N, D].
    """
    return _FAMILIES[model.config.model_type].packed_hidden_states(model, inputs, training, read_N)


def parts_of_tokens_read(model: tf_keras.Model) -> list[layers.Layer]:
    """The layers that compute only the tokens of `tokens_read`: the model with its head, and the end of its body."""
    return [model, *_FAMILIES[model.config.model_type].body_parts_of_tokens_read(model)]


def head(model: tf_keras.Model, hidden_BTD: Tensor, training: bool) -> Tensor:
    """The logits in fp32 that the model's head computes from hidden states, each for itself: [B, T, classes].

    Raises UserError for a head that is not known here.
    """
    logits = _FAMILIES[model.config.model_type].head(model, hidden_BTD, training)
    return tf.cast(logits, tf.float32)


class BertSite(Site):
    """Replaces TFBertSelfAttention and the dense layer behind it, which is the output projection."""

    stock_types = (TFBertSelfAttention,)

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
            "BERT",
            head_mask=head_mask,
            encoder_hidden_states=encoder_hidden_states,
            past_key_values=past_key_value,
        )
        output_BTD, weights_BHTS, _ = self.attend(
            hidden_states, None, attention_mask, None, output_attentions, training
        )
        return (output_BTD, weights_BHTS) if output_attentions else (output_BTD,)


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
        bias_BHTS = _causal_bias(attention_mask, x, num_keys)
        output_BTD, weights_BHTS, present = self.attend(x, None, bias_BHTS, past, output_attentions, training)
        # The model expects one tensor for both, and something other than None if there is no cache.
        present = tf.stack(present) if use_cache else (None,)
        output_BTD = self.resid_dropout(output_BTD, training=training)
        return [output_BTD, present, weights_BHTS] if output_attentions else [output_BTD, present]


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


def _causal_bias(mask: Tensor | None, hidden_BTD: Tensor, num_keys: Tensor) -> Tensor:
    """The additive bias [B or 1, 1, T, S] of causality and, if given, of the padding mask [B, 1, 1, S]."""
    num_queries = tf.shape(hidden_BTD)[1]
    ones_TS = tf.ones([num_queries, num_keys])
    # -1e4 is what the model hides padding with.
    bias_11TS = (tf.linalg.band_part(ones_TS, -1, num_keys - num_queries) - 1.0)[None, None] * 1e4
    return bias_11TS if mask is None else bias_11TS + tf.cast(mask, tf.float32)


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
    arguments = dict(
        attention_mask=bias_of(same_example(segment_ids, segment_ids), hidden_RLD.dtype),
        head_mask=None,
        encoder_hidden_states=None,
        encoder_attention_mask=None,
        past_key_value=None,
        output_attentions=False,
        training=training,
    )
    *layers, last = model.bert.encoder.layer
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
    last = model.bert.encoder.layer[-1]
    return [last.attention.dense_output, last.intermediate, last.bert_output]


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


def bert_head(model: tf_keras.Model, hidden_BTD: Tensor, training: bool) -> Tensor:
    """The logits of a head on BERT, [B, T, classes]."""
    pooler = model.bert.pooler
    if pooler is not None:  # heads for whole examples have one, those for tokens have none
        hidden_BTD = pooler.dense(hidden_BTD)
    for name in ("mlm", "nsp"):
        if hasattr(model, name):
            return getattr(model, name)(hidden_BTD)
    return plain_head(model, hidden_BTD, training)


def decoder_head(model: tf_keras.Model, hidden_BTD: Tensor, training: bool) -> Tensor:
    """The logits of a head on GPT-2, T5 or Marian, [B, T, classes]."""
    if hasattr(model, "lm_head") or type(model).__name__.removeprefix("TF") in family_of(model.config).tied_outputs:
        return language_model_logits(model, hidden_BTD)
    return plain_head(model, hidden_BTD, training)


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


@dataclass(frozen=True)
class FamilyModules:
    """How the layers of one family are called.

    `slots` lists the class around each attention, the attribute that holds it, the site that replaces it, and whether
    it is a cross-attention. `body_parts_of_tokens_read` lists what of the body computes only the tokens that the head
    reads.
    """

    slots: tuple[tuple[type, str, type[Site], bool], ...]
    packed_hidden_states: Callable[[tf_keras.Model, dict[str, Tensor], bool, Tensor | None], Tensor]
    head: Callable[[tf_keras.Model, Tensor, bool], Tensor]
    body_parts_of_tokens_read: Callable[[tf_keras.Model], list[layers.Layer]] = lambda model: []


# By the `model_type` of the configuration.
_FAMILIES = {
    "bert": FamilyModules(
        ((TFBertAttention, "self_attention", BertSite, False),),
        bert_hidden_states,
        bert_head,
        bert_parts_of_tokens_read,
    ),
    "gpt2": FamilyModules(((TFBlock, "attn", GPT2Site, False),), gpt2_hidden_states, decoder_head),
    "t5": FamilyModules(
        (
            (TFT5LayerSelfAttention, "SelfAttention", T5Site, False),
            (TFT5LayerCrossAttention, "EncDecAttention", T5Site, True),
        ),
        t5_hidden_states,
        decoder_head,
    ),
    "marian": FamilyModules(
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
    ),
}
_SLOTS = tuple(slot for family in _FAMILIES.values() for slot in family.slots)


def _slots(model: TFPreTrainedModel) -> list[Slot]:
    """Every place where a supported model attends, in the model's order."""
    return [
        Slot(layer, name, site, is_cross)
        for layer in model._flatten_layers()
        for parent_type, name, site, is_cross in _SLOTS
        if isinstance(layer, parent_type)
    ]
