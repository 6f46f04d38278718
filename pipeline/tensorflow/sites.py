"""The swap of an attention as far as it is the same for every family: the new layer, and the models that it refuses.

`pipeline/pytorch/sites.py` has the same definitions in the same order.
"""

# B batch · T query tokens · S key tokens · H heads · K head width · D model width

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import tensorflow as tf
import tf_keras
from tensorflow import Tensor
from tf_keras import layers
from transformers import TFPreTrainedModel

from pipeline.models.attention import new_attention
from pipeline.tensorflow.attention import MultiHeadAttention
from pipeline.tensorflow.model import layer_defaults
from pipeline.utils.errors import UserError

# Keys and values [B, H, S, K] of earlier tokens.
Past = tuple[Tensor, Tensor]
# The projections of `MultiHeadAttention`.
PROJECTIONS = ("query", "key", "value", "out")
# The library's methods that know only the stock layers.
_STOCK_ONLY = ("save_pretrained",)


class Slot(NamedTuple):
    """Where a model holds an attention: a layer's attribute, and the site that can replace what it holds."""

    parent: Any
    name: str
    site: type[Site]
    is_cross: bool

    @property
    def attention(self) -> Any:
        """The attention that is there now, stock or swapped."""
        return getattr(self.parent, self.name)

    @property
    def has_merged_heads(self) -> bool:
        """Whether the attention is a stock one that drops weights [B * H, T, S]."""
        return self.site.merges_heads and type(self.attention) in self.site.stock_types

    def __str__(self) -> str:
        return f"{type(self.parent).__name__}.{self.name}"

    def put(self, attention: layers.Layer) -> None:
        """Replace the attention that is there."""
        put(self.parent, self.name, attention)


class Site(layers.Layer):
    """One place where a stock model attends, with `attention` doing the work."""

    # The class of the library that a site can replace.
    stock_types: tuple[type, ...] = ()
    # What the stock layer calls the four PROJECTIONS, unless the site has its own way to move weights.
    projections: tuple[str, ...] = ()
    # Whether it has the attention weights of all rows and heads in one dimension.
    merges_heads = False

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

    def take_weights(self, parent: Any) -> None:
        """Move the weights of the stock attention in `parent` to the new one."""
        for name, stock_name in zip(PROJECTIONS, self.projections, strict=True):
            put(self.attention, name, getattr(self.stock, stock_name))

    def give_weights_back(self, parent: Any) -> None:
        """Move the weights back to the stock attention, as they are now."""
        for name, stock_name in zip(PROJECTIONS, self.projections, strict=True):
            put(self.stock, stock_name, getattr(self.attention, name))

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


def causal_bias(mask: Tensor | None, hidden_BTD: Tensor, num_keys: Tensor) -> Tensor:
    """The additive bias [B or 1, 1, T, S] of causality and, if given, of the padding mask [B, 1, 1, S]."""
    num_queries = tf.shape(hidden_BTD)[1]
    ones_TS = tf.ones([num_queries, num_keys])
    # -1e4 is what the model hides padding with.
    bias_11TS = (tf.linalg.band_part(ones_TS, -1, num_keys - num_queries) - 1.0)[None, None] * 1e4
    return bias_11TS if mask is None else bias_11TS + tf.cast(mask, tf.float32)


class CountedAttention(MultiHeadAttention):
    """The hand-written attention in a hand-written layer, where the layer around it takes the place of a stock one."""

    calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None, tuple[Tensor, Tensor]]:
        """Call the attention, and count the call."""
        self.calls += 1
        return super().__call__(*args, **kwargs)


def swapped_sites(model: TFPreTrainedModel) -> list[Site | CountedAttention]:
    """Every place of the model that attends through a swapped attention, in the order of its layers."""
    return [layer for layer in model._flatten_layers() if isinstance(layer, Site | CountedAttention)]


@dataclass(frozen=True)
class FamilyModules:
    """How the layers of one family are called.

    `slots` lists the class around each attention, the attribute that holds it, the site that replaces it, and whether
    it is a cross-attention. `parts_of_tokens_read` lists what computes only the tokens that the head reads, besides
    the model itself.
    """

    slots: tuple[tuple[type, str, type[Site], bool], ...]
    packed_hidden_states: Callable[[tf_keras.Model, dict[str, Tensor], bool, Tensor | None], Tensor]
    head: Callable[[tf_keras.Model, Tensor, bool], Tensor]
    parts_of_tokens_read: Callable[[tf_keras.Model], list[layers.Layer]] = lambda model: []


def stacked_layers(layer: layers.Layer) -> Iterator[layers.Layer]:
    """The layers of each stack of layers in a model."""
    for name, child in vars(layer).items():
        if name.startswith("_"):
            continue
        if isinstance(child, list) and child and all(isinstance(each, layers.Layer) for each in child):
            yield from child
        elif isinstance(child, layers.Layer):
            yield from stacked_layers(child)


def refuse_shared(model: TFPreTrainedModel, slots: list[Slot]) -> None:
    """Raise UserError if an attention shares weights with another layer."""
    uses = _uses(model)
    for slot in slots:
        if any(uses[id(layer)] > 1 for layer in slot.attention._flatten_layers()):
            raise UserError(
                f"{slot} shares weights with another layer; only an attention with its own weights can be swapped"
            )


def refuse_own_classes(model: TFPreTrainedModel, slots: list[Slot], stock_types: tuple[type, ...]) -> None:
    """Raise UserError for an attention that the swap would pass over, or whose own code it would drop."""
    sites = {id(slot.attention): slot.site for slot in slots}
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


def guard_stock_only() -> None:
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
        if swapped_sites(model):
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


def put(parent: Any, name: str, layer: layers.Layer) -> None:
    """Set a sublayer in the place of the old one, also in the order in which Keras lists the weights."""
    old = getattr(parent, name)
    order = [layer if tracked is old else tracked for tracked in parent._self_tracked_trackables]
    setattr(parent, name, layer)
    parent._self_tracked_trackables[:] = order
