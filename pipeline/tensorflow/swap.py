"""Put another attention into a stock BERT, GPT-2 or T5 of transformers 4.57, and take it out again.

The only file that knows how those models call their attention. A *site* is one place where a model attends:
a layer with the stock call signature that holds an attention with the contract of `MultiHeadAttention`.
Weights move, they are not copied: while swapped they belong to the new attention, afterwards to the stock
layer again. `pipeline/pytorch/swap.py` has the same definitions in the same order.
"""

# B batch · T query tokens · S key tokens · H heads · K head width · D model width

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import tensorflow as tf
from tensorflow import Tensor
from tf_keras import initializers, layers
from transformers import TFPreTrainedModel
from transformers.models.bert.modeling_tf_bert import TFBertAttention, TFBertSelfAttention
from transformers.models.gpt2.modeling_tf_gpt2 import TFAttention, TFBlock
from transformers.models.t5.modeling_tf_t5 import TFT5Attention, TFT5LayerCrossAttention, TFT5LayerSelfAttention

from pipeline.models.attention import (
    attention_class,
    new_attention,
    refuse_arguments,
    refuse_unsupported,
)
from pipeline.tensorflow.attention import MultiHeadAttention
from pipeline.tensorflow.model import freeze_weights, layer_defaults, preserved_generators
from pipeline.utils.errors import UserError

# Keys and values [B, H, S, K] of earlier tokens.
Past = tuple[Tensor, Tensor]
# A layer around an attention, the attribute that holds the attention, and the site that replaces it.
Place = tuple[Any, str, Any]


def swap_attention(model: TFPreTrainedModel, attention: str | type = "handwritten") -> int:
    """Replace every attention of a stock BERT, GPT-2 or T5 model, whatever its head; returns how many.

    `attention` is "handwritten", "package.module:ClassName", or a class with the constructor, the projections
    and the call of `MultiHeadAttention`. Weights, their dtype policy and trainability are carried over. Build
    the optimizer and trace `tf.function`s afterwards: GPT-2's merged weights become new variables. Until
    `restore_attention`, `save_pretrained` raises UserError, also that of a model around this one.
    Raises UserError, before anything is changed, if the model or the class does not fit.
    """
    refuse_unsupported(model)
    attention_type = attention_class(attention, MultiHeadAttention)
    if attention_sites(model):
        raise UserError(f"{type(model).__name__} is swapped already; call restore_attention first")
    if not model.built:
        model.build_in_name_scope()
    places = _places(model)
    _refuse_shared(model, places)
    _refuse_own_classes(model, places)
    # New layers take seeds from the process's generators: the random state stays as it was.
    with preserved_generators():
        sites = [site(getattr(parent, name), attention_type) for parent, name, site in places]
        for (parent, name, _), site in zip(places, sites, strict=True):
            site.take_weights(parent)
            site.make_other_weights()
            _put(parent, name, site)
    _guard_stock_only()
    return len(sites)


def restore_attention(model: TFPreTrainedModel) -> int:
    """Undo `swap_attention`: put the stock layers back, with the trained weights; returns how many."""
    places = [place for place in _places(model) if isinstance(getattr(place[0], place[1]), Site)]
    for parent, name, _ in places:
        site = getattr(parent, name)
        site.give_weights_back(parent)
        site.stock._trainable = site._trainable  # The public setter would overrule each projection's own.
        _put(parent, name, site.stock)
    return len(places)


def attention_sites(model: TFPreTrainedModel) -> int:
    """How many places of the model attend through a swapped attention; 0 for a stock model."""
    return len(attention_calls(model))


def attention_calls(model: TFPreTrainedModel) -> list[int]:
    """How often each swapped site was called since the swap, in the order of the model's layers.

    Inside a `tf.function` the one call that is counted is the tracing.
    """
    return [layer.calls for layer in model._flatten_layers() if isinstance(layer, Site)]


def attentions(model: TFPreTrainedModel) -> list[tuple[layers.Layer, bool]]:
    """Every layer of the model that attends, stock or swapped, and whether it is a cross-attention."""
    return [(getattr(parent, name), isinstance(parent, TFT5LayerCrossAttention)) for parent, name, _ in _places(model)]


class Site(layers.Layer):
    """One place where a stock model attends, with `attention` doing the work."""

    # The class of the library that a site can replace.
    stock_types: tuple[type, ...] = ()

    def __init__(self, stock: Any, attention_type: type, **arguments: Any):
        super().__init__(name=stock.name, dtype=stock._dtype_policy)
        with layer_defaults(stock._dtype_policy):
            self.attention = new_attention(attention_type, **arguments)
        self._trainable = stock._trainable
        # In a plain namespace, so that Keras does not track the stock layer.
        self.aside = SimpleNamespace(stock=stock)
        self.scope = stock.weights[0].name.rsplit("/", 2)[0]
        self.calls = 0

    @property
    def stock(self) -> Any:
        """The library's module that this one replaces."""
        return self.aside.stock

    def make_other_weights(self) -> None:
        """Have an attention with weights beyond its four projections make them before an optimizer is built."""
        width = self.attention.query.kernel.shape[0]
        with tf.name_scope(f"{self.scope}/"):
            self.attention(tf.zeros([1, 1, width], cast(str, self.compute_dtype)), training=False)

    def attend(
        self,
        hidden_BTD: Tensor,
        source_BSD: Tensor | None,
        bias_BHTS: Tensor | None,
        past: Past | None,
        output_attentions: bool | None,
        training: bool | None,
    ) -> tuple[Tensor, Tensor | None, Past]:
        """Call the attention, and count the call."""
        self.calls += 1
        return self.attention(
            hidden_BTD, source_BSD, bias_BHTS, past, return_weights=bool(output_attentions), training=training
        )


class BertSite(Site):
    """Replaces TFBertSelfAttention and the dense layer behind it, which is the output projection."""

    stock_types = (TFBertSelfAttention,)

    def __init__(self, stock: Any, attention_type: type):
        arguments = dict(width=stock.config.hidden_size, num_heads=stock.num_attention_heads)
        super().__init__(stock, attention_type, **arguments, dropout=stock.dropout.rate)

    def take_weights(self, parent: Any) -> None:
        for name in ("query", "key", "value"):
            _put(self.attention, name, getattr(self.stock, name))
        _put(self.attention, "out", parent.dense_output.dense)
        _put(parent.dense_output, "dense", layers.Activation("linear", dtype=self._dtype_policy))

    def give_weights_back(self, parent: Any) -> None:
        for name in ("query", "key", "value"):
            _put(self.stock, name, getattr(self.attention, name))
        _put(parent.dense_output, "dense", self.attention.out)

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
        merged, projected = self.stock.c_attn, self.stock.c_proj
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

    def give_weights_back(self, parent: Any) -> None:
        merged, projected = self.stock.c_attn, self.stock.c_proj
        attention = self.attention
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

    def __init__(self, stock: Any, attention_type: type):
        arguments = dict(width=stock.d_model, num_heads=stock.n_heads, head_width=stock.key_value_proj_dim)
        # T5 scales its first weights instead of its scores.
        super().__init__(stock, attention_type, **arguments, use_bias=False, dropout=stock.dropout.rate, scale=1.0)
        self.is_decoder = stock.is_decoder
        self.has_relative_attention_bias = stock.has_relative_attention_bias

    def take_weights(self, parent: Any) -> None:
        for name, stock_name in zip(("query", "key", "value", "out"), "qkvo", strict=True):
            _put(self.attention, name, getattr(self.stock, stock_name))
        if self.has_relative_attention_bias:
            self.relative_attention_bias = self.stock.relative_attention_bias

    def give_weights_back(self, parent: Any) -> None:
        for name, stock_name in zip(("query", "key", "value", "out"), "qkvo", strict=True):
            _put(self.stock, stock_name, getattr(self.attention, name))

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


# The class around each attention -> the attribute that holds it, and the site that replaces it.
_SITES = {
    TFBertAttention: ("self_attention", BertSite),
    TFBlock: ("attn", GPT2Site),
    TFT5LayerSelfAttention: ("SelfAttention", T5Site),
    TFT5LayerCrossAttention: ("EncDecAttention", T5Site),
}
# The library's methods that know only the stock layers.
_STOCK_ONLY = ("save_pretrained",)


def _places(model: TFPreTrainedModel) -> list[Place]:
    """Every place where a supported model attends: (parent, attribute, site class), in the model's order."""
    return [
        (layer, name, site)
        for layer in model._flatten_layers()
        for parent_type, (name, site) in _SITES.items()
        if isinstance(layer, parent_type)
    ]


def _refuse_shared(model: TFPreTrainedModel, places: list[Place]) -> None:
    """Raise UserError if there is nothing to swap, or if two places share one attention."""
    if not places:
        raise UserError(f"{type(model).__name__} has no attention of BERT, GPT-2 or T5 inside")
    uses = _uses(model)
    for parent, name, _ in places:
        if any(uses[id(layer)] > 1 for layer in getattr(parent, name)._flatten_layers()):
            raise UserError(
                f"{type(parent).__name__}.{name} shares weights with another layer; "
                "only an attention with its own weights can be swapped"
            )


def _refuse_own_classes(model: TFPreTrainedModel, places: list[Place]) -> None:
    """Raise UserError for an attention that the swap would pass over, or whose own code it would drop."""
    sites = {id(getattr(parent, name)): site for parent, name, site in places}
    stock_types = tuple(stock_type for _, site in _SITES.values() for stock_type in site.stock_types)
    for layer in model._flatten_layers():
        site = sites.get(id(layer))
        if site is None:
            if isinstance(layer, stock_types):
                raise UserError(
                    f"{layer.name} is outside of the library's layers, where the swap does not look for attention"
                )
        elif type(layer) not in site.stock_types:
            names = " or ".join(stock_type.__name__ for stock_type in site.stock_types)
            raise UserError(
                f"{layer.name} is {type(layer).__name__}, but has to be {names}: its own code would be lost"
            )


def _guard_stock_only() -> None:
    """Have the library's methods that know only the stock layers refuse a model with a swapped attention in it.

    They are wrapped in the library's class: a model around the one that was swapped has them, too. All other models
    are left to the library.
    """
    for name in _STOCK_ONLY:
        method = getattr(TFPreTrainedModel, name)
        if not hasattr(method, "stock_only"):
            setattr(TFPreTrainedModel, name, _stock_only(method))


def _stock_only(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def unless_swapped(model: TFPreTrainedModel, *args: Any, **kwargs: Any) -> Any:
        if attention_sites(model):
            raise UserError(
                f"{method.__name__} needs the stock attention: call restore_attention(model) first, and "
                "swap_attention(model) again afterwards"
            )
        return method(model, *args, **kwargs)

    vars(unless_swapped)["stock_only"] = True
    return unless_swapped


def _uses(model: TFPreTrainedModel) -> Counter[int]:
    """How many layers use each layer, by its id."""

    def used_layers(layer: layers.Layer) -> Iterator[layers.Layer]:
        for child in layer._flatten_layers(recursive=False, include_self=False):
            yield child
            yield from used_layers(child)

    return Counter(id(layer) for layer in used_layers(model))


def _put(parent: Any, name: str, layer: layers.Layer) -> None:
    """Set a sublayer in the place of the old one, also in the order in which Keras lists the weights."""
    old = getattr(parent, name)
    order = [layer if tracked is old else tracked for tracked in parent._self_tracked_trackables]
    setattr(parent, name, layer)
    parent._self_tracked_trackables[:] = order


def _causal_bias(mask: Tensor | None, hidden_BTD: Tensor, num_keys: Tensor) -> Tensor:
    """The additive bias [B or 1, 1, T, S] of causality and, if given, of the padding mask [B, 1, 1, S]."""
    num_queries = tf.shape(hidden_BTD)[1]
    ones_TS = tf.ones([num_queries, num_keys])
    # -1e4 is what the model hides padding with.
    bias_11TS = (tf.linalg.band_part(ones_TS, -1, num_keys - num_queries) - 1.0)[None, None] * 1e4
    return bias_11TS if mask is None else bias_11TS + tf.cast(mask, tf.float32)
