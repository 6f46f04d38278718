"""The layers of each model family in transformers 4.57: another attention put in and taken out, packed rows computed.

What is the same for all families is here. For each family a file of this folder says how its models call their
layers, and its `MODULES` lists them; no other file of `pipeline/tensorflow` knows. A *site* is one place where a model
attends: a layer with the stock call signature that holds an attention with the contract of `MultiHeadAttention`.
Weights move, they are not copied: while swapped they belong to the new attention, afterwards to the stock layer again.
`pipeline/pytorch/swap` has the same files with the same definitions in the same order.
"""

# B batch · T query tokens · D model width
# R rows of a packed batch · L their positions · N tokens that the head reads, of all rows

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tf_keras
from tensorflow import Tensor
from tf_keras import layers
from transformers import TFPreTrainedModel

from pipeline.models.attention import HANDWRITTEN_MODEL, SUPPORTED, attention_class, refuse_unsupported
from pipeline.tensorflow.attention import MultiHeadAttention
from pipeline.tensorflow.body import TransformerBody
from pipeline.tensorflow.model import preserved_generators
from pipeline.tensorflow.sites import (
    FamilyModules,
    Site,
    Slot,
    guard_stock_only,
    put,
    refuse_own_classes,
    refuse_shared,
    swapped_sites,
)
from pipeline.tensorflow.swap import bert, distilbert, gpt2, marian, roberta, t5
from pipeline.tensorflow.swap.marian import copy_to_marian, put_body, transformer_of
from pipeline.utils.errors import UserError

__all__ = [
    "attention_calls",
    "attention_sites",
    "attentions",
    "copy_to_marian",
    "decoder_parts",
    "head",
    "packed_hidden_states",
    "parts_of_tokens_read",
    "put_sites",
    "restore_attention",
    "swap_attention",
    "transformer_of",
]

# By the `model_type` of the configuration.
_FAMILIES: dict[str, FamilyModules] = {
    "bert": bert.MODULES,
    "distilbert": distilbert.MODULES,
    "roberta": roberta.MODULES,
    "gpt2": gpt2.MODULES,
    "t5": t5.MODULES,
    "marian": marian.MODULES,
}
_SLOTS = tuple(slot for family in _FAMILIES.values() for slot in family.slots)


def swap_attention(model: TFPreTrainedModel, attention: str | type = "handwritten") -> int:
    """Replace every attention of a stock model of a known family, whatever its head; returns how many.

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
        raise UserError(f"{type(model).__name__} has none of these inside: {SUPPORTED}")
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
    return [model, *_FAMILIES[model.config.model_type].parts_of_tokens_read(model)]


def head(model: tf_keras.Model, hidden_BTD: Tensor, training: bool) -> Tensor:
    """The logits in fp32 that the model's head computes from hidden states, each for itself: [B, T, classes].

    Raises UserError for a head that is not known here.
    """
    logits = _FAMILIES[model.config.model_type].head(model, hidden_BTD, training)
    return tf.cast(logits, tf.float32)


def _slots(model: TFPreTrainedModel) -> list[Slot]:
    """Every place where a supported model attends, in the model's order."""
    return [
        Slot(layer, name, site, is_cross)
        for layer in model._flatten_layers()
        for parent_type, name, site, is_cross in _SLOTS
        if isinstance(layer, parent_type)
    ]
