"""Dropout whose masks PyTorch computes too, with the same bits; `pipeline/models/dropout.py` says how.

`pipeline/pytorch/dropout.py` has the same definitions in the same order.
"""

# R rows · L tokens of a row · T query tokens · S key tokens · H heads · D model width · P pairs of heads

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import tensorflow as tf
from tensorflow import Tensor
from tf_keras import layers
from transformers import TFPreTrainedModel

from pipeline.models.dropout import (
    DROPOUT_KEYS,
    FIRST_FACTOR,
    HEAD,
    LOWEST_NUMBER,
    SECOND_FACTOR,
    SITE,
    WORD,
    Place,
    num_dropped,
    other_draws,
    scale_of_kept,
    unknown_shape,
)
from pipeline.models.lora import place_of_update
from pipeline.tensorflow.lora import LoraLinear
from pipeline.tensorflow.swap import attentions, decoder_parts, parts_of_tokens_read
from pipeline.utils.errors import UserError


def mix(x: Tensor) -> Tensor:
    """A bijection of 32-bit numbers that looks random; its type is uint32."""
    shift, xor = tf.bitwise.right_shift, tf.bitwise.bitwise_xor
    x = xor(x, shift(x, np.uint32(16))) * np.uint32(FIRST_FACTOR)
    x = xor(x, shift(x, np.uint32(15))) * np.uint32(SECOND_FACTOR)
    return xor(x, shift(x, np.uint32(16)))


def hidden_scales(keys_RL: Tensor, width: int, rate: float) -> Tensor:
    """What each element of hidden states is multiplied by, [R, L, D], from the site keys of their tokens."""
    offsets = np.arange((width + 1) // 2, dtype=np.uint32) * np.uint32(WORD)
    words_RLW = mix(tf.expand_dims(keys_RL, -1) + offsets)
    halves_RLW2 = tf.bitcast(words_RLW, tf.int16)
    numbers = tf.reshape(halves_RLW2, [*tf.unstack(tf.shape(keys_RL)), 2 * len(offsets)])
    return scales_of_numbers(numbers, rate)[:, :, :width]


def attention_scales(queries_RT: Tensor, keys_RS: Tensor, num_heads: int, rate: float) -> Tensor:
    """What each attention weight is multiplied by, [R, H, T, S], from the queries' site keys and the keys' own keys."""
    offsets_P = np.arange((num_heads + 1) // 2, dtype=np.uint32) * np.uint32(HEAD)
    queries_RPT = mix(queries_RT[:, None, :] + offsets_P[:, None])
    words_RPTS = mix(tf.expand_dims(queries_RPT, -1) + keys_RS[:, None, None, :])
    halves_RPTS2 = tf.bitcast(words_RPTS, tf.int16)
    heads = tf.transpose(scales_of_numbers(halves_RPTS2, rate), [0, 1, 4, 2, 3])
    rows, pairs, _, queries, keys = tf.unstack(tf.shape(heads))
    return tf.reshape(heads, [rows, 2 * pairs, queries, keys])[:, :num_heads]


def scales_of_numbers(numbers: Tensor, rate: float) -> Tensor:
    """0 for numbers that mean that an element is dropped, else what keeps the expectation."""
    lowest_kept = np.int16(num_dropped(rate) + LOWEST_NUMBER)
    return tf.cast(numbers >= lowest_kept, tf.float32) * scale_of_kept(rate)


class DropoutMasks:
    """The masks of a model's dropouts: the keys of the current micro-batch, and the number of the next site."""

    def __init__(self):
        self.keys: dict[str, Tensor] = {}
        self.tokens_read: Tensor | None = None
        self.site = 0

    def start(self, batch: dict[str, Tensor], tokens_read: Tensor | None = None) -> None:
        """Begin the forward pass of a micro-batch, from which the keys of its tokens are taken out.

        `tokens_read` [N] are the tokens that the head reads, counted through all rows, if it is not all of them.
        """
        self.keys = {name: tf.bitcast(batch.pop(name), tf.uint32) for name in DROPOUT_KEYS if name in batch}
        self.tokens_read, self.site = tokens_read, 0

    def drop(self, x: Tensor, rate: float, place: Place) -> Tensor:
        """Dropout over hidden states [R, L, D], over one vector a row [R, D], or over attention weights [R, H, T, S].

        Raises UserError for any other shape.
        """
        if not num_dropped(rate):
            return x
        self.site += place.site is None
        site = self.site if place.site is None else place.site
        if not scale_of_kept(rate):
            return x * 0
        keys = self.keys_of_tokens(x, place)
        sites = mix(keys + np.uint32(site * SITE % 2**32))
        if x.shape.rank == 4:
            scales = attention_scales(sites, self.keys[place.attended], cast(int, x.shape[1]), rate)
        else:
            scales = hidden_scales(sites, cast(int, x.shape[-1]), rate)
        return x * tf.cast(tf.reshape(scales, tf.shape(x)), x.dtype)

    def keys_of_tokens(self, x: Tensor, place: Place) -> Tensor:
        """The keys of the tokens to which the first dimensions of `x` belong, [R, L]."""
        assert place.tokens in self.keys, f"a batch without {place.tokens} cannot be trained on with shared masks"
        keys = self.keys[place.tokens]
        if place.is_read and self.tokens_read is not None:
            keys = tf.gather(tf.reshape(keys, [-1]), self.tokens_read)[None]
        # A head that reads one vector a row without packing reads the first token.
        keys = keys[:, :1] if x.shape.rank == 2 else keys
        if x.shape.rank not in (2, 3, 4):
            raise UserError(unknown_shape(place, x.shape))
        return keys


class SharedDropout(layers.Layer):
    """Replaces a `Dropout` of Keras: its masks are those of PyTorch.

    With `num_heads` its inputs are attention weights whose rows and heads are one dimension, [R * H, T, S].
    """

    def __init__(self, rate: float, masks: DropoutMasks, place: Place, num_heads: int | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.rate, self.place, self.num_heads = rate, place, num_heads
        # In a closure, so that Keras does not track the masks.
        self.drop = lambda x: masks.drop(x, rate, place)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Each value times 0 or 1 / (1 - rate); in evaluation mode the values."""
        if not training:
            return inputs
        if self.num_heads is None:
            return self.drop(inputs)
        shape = tf.shape(inputs)
        weights_RHTS = tf.reshape(inputs, [-1, self.num_heads, shape[1], shape[2]])
        return tf.reshape(self.drop(weights_RHTS), shape)


def parts(layer: layers.Layer) -> set[int]:
    """The ids of a layer and of all layers inside it."""
    return {id(part) for part in (layer, *layer.submodules)}


def share_dropout(model: TFPreTrainedModel, masks: DropoutMasks) -> None:
    """Make every dropout of the model take its masks from `masks`, in place.

    Each `Dropout` of Keras is replaced. Subclasses are not; see `refuse_other_draws`.
    """
    decoder = {part for layer in decoder_parts(model) for part in parts(layer)}
    slots = attentions(model)
    crossing = {part for slot in slots if slot.is_cross for part in parts(slot.attention)}
    merged = {id(slot.attention): slot.attention.num_heads for slot in slots if slot.has_merged_heads}
    read = {id(part) for part in parts_of_tokens_read(model)}
    inside_read = {part for layer in parts_of_tokens_read(model)[1:] for part in parts(layer)}
    for parent in (model, *model.submodules):
        # A dropout of the decoder may be in a layer of both encoder and decoder.
        for name, child in list(vars(parent).items()):
            if type(child) is layers.Dropout:
                place = Place.of(parent.name, id(child) in decoder, id(child) in crossing, is_read=id(parent) in read)
                if isinstance(parent, LoraLinear):
                    place = place_of_update(
                        parent.adapter, parent.name, id(parent) in decoder, id(parent) in inside_read
                    )
                how = {"num_heads": merged.get(id(parent)), "name": child.name, "dtype": child._dtype_policy}
                setattr(parent, name, SharedDropout(child.rate, masks, place, **how))


@contextlib.contextmanager
def refuse_other_draws(model: TFPreTrainedModel) -> Iterator[None]:
    """Raise UserError, with the layer's name, if a layer draws random numbers in the graph that is traced inside."""
    yield
    graph = tf.compat.v1.get_default_graph()
    definition = graph.as_graph_def()
    nodes = [*definition.node, *(node for function in definition.library.function for node in function.node_def)]
    for node in nodes:
        if any(word in node.op for word in ("Random", "Rng", "StatefulUniform", "Multinomial")):
            raise UserError(other_draws(f"{node.name.rpartition('/')[0]} ({node.op})"))
