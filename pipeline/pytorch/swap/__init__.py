"""The modules of each model family in transformers: another attention put in and taken out, packed rows computed.

What is the same for all families is here. For each family a file of this folder says how its models call their
modules, and its `MODULES` lists them; no other file of `pipeline/pytorch` knows. A *site* is one place where a model
attends: a module with the stock call signature that holds an attention with the contract of `MultiHeadAttention`.
Weights move, they are not copied: while swapped they belong to the new attention, afterwards to the stock module again.
`pipeline/tensorflow/swap` has the same files with the same definitions in the same order.
"""

# B batch · T query tokens · D model width
# R rows of a packed batch · L their positions · N tokens that the head reads, of all rows

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipeline.models.attention import HANDWRITTEN_MODEL, SUPPORTED, attention_class, refuse_unsupported
from pipeline.pytorch.attention import MultiHeadAttention
from pipeline.pytorch.body import TransformerBody
from pipeline.pytorch.library import install_recorders
from pipeline.pytorch.sites import (
    FamilyModules,
    Site,
    Slot,
    guard_stock_only,
    put,
    refuse_own_classes,
    refuse_shared,
    swapped_sites,
)
from pipeline.pytorch.swap import bert, distilbert, gpt2, marian, roberta, t5
from pipeline.pytorch.swap.marian import copy_to_marian, put_body, transformer_of
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


def swap_attention(model: PreTrainedModel, attention: str | type = "handwritten") -> int:
    """Replace every attention of a stock model of a known family, whatever its head; returns how many.

    `attention` is "handwritten", "package.module:ClassName", or a class with the constructor, the projections
    and the call of `MultiHeadAttention`. With "handwritten-model" all that is around the attention in a Marian model
    is replaced too: its body becomes the hand-written Transformer. Weights, their dtype, device, frozenness and the
    train or eval mode are carried over, and so are hooks on the stock attention. Build the optimizer afterwards:
    GPT-2's merged weights become new parameters. Draw weights anew before: the library's `_init_weights` knows only
    the stock modules. Until `restore_attention`, `save_pretrained` and `prune_heads` raise UserError, also those of a
    model around this one.
    Raises UserError, before anything is changed, if the model or the class does not fit.
    """
    refuse_unsupported(model, attention)
    is_whole = attention == HANDWRITTEN_MODEL
    attention_type = MultiHeadAttention if is_whole else attention_class(attention, MultiHeadAttention)
    if attention_sites(model):
        raise UserError(f"{type(model).__name__} is swapped already; call restore_attention first")
    slots = _slots(model)
    if not slots:
        raise UserError(f"{type(model).__name__} has none of these inside: {SUPPORTED}")
    refuse_shared(model, slots)
    stock_types = tuple(stock_type for _, _, site, _ in _SLOTS for stock_type in site.stock_types)
    refuse_own_classes(model, slots, stock_types)
    if not is_whole:  # else nothing is left to record, and hooks on layers would be lost
        install_recorders(model)
    # A new attention draws initial weights that are never used: the random state stays as it was.
    with torch.random.fork_rng(devices=[]):
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
        slot.put(site)


def restore_attention(model: PreTrainedModel) -> int:
    """Undo `swap_attention`: put the stock modules back, with the trained weights; returns how many."""
    body, sites = getattr(model, "model", None), attention_sites(model)
    if isinstance(body, TransformerBody):
        body.give_weights_back()
        put(model, "model", body.stock)
        return sites
    slots = [slot for slot in _slots(model) if isinstance(slot.attention, Site)]
    for slot in slots:
        site = slot.attention
        site.give_weights_back(slot.parent)
        site.stock.train(site.training)
        site.stock._is_full_backward_hook = site._is_full_backward_hook
        slot.put(site.stock)
    return len(slots)


def attention_sites(model: PreTrainedModel) -> int:
    """How many places of the model attend through a swapped attention; 0 for a stock model."""
    return len(attention_calls(model))


def attention_calls(model: PreTrainedModel) -> list[int]:
    """How often each swapped site was called since the swap, in the order of the model's modules.

    Calls of a compiled model (torch.compile) are not counted.
    """
    return [site.calls for site in swapped_sites(model)]


def attentions(model: PreTrainedModel) -> list[Slot]:
    """Every place where the model attends, by a stock or a swapped module, in the model's order."""
    return _slots(model)


def decoder_parts(model: Any) -> list[nn.Module]:
    """The modules of a model that compute the target of an encoder-decoder; none if it is something else."""
    if not model.config.is_encoder_decoder:
        return []
    body: Any = getattr(model, "model", model)
    if isinstance(body, TransformerBody):
        return [body.transformer.target_dropout, *body.transformer.decoder]
    return [model.get_decoder()]


def packed_hidden_states(model: Any, inputs: dict[str, Tensor], read_N: Tensor | None = None) -> Tensor:
    """The last hidden states of a packed batch, [R, L, D], those of the decoder if there is one.

    With `read_N` only those of the tokens that `tokens_read` returned, [1, N, D].
    """
    return _FAMILIES[model.config.model_type].packed_hidden_states(model, inputs, read_N)


def parts_of_tokens_read(model: Any) -> list[Any]:
    """The modules that compute only the tokens of `tokens_read`: the model with its head, and the end of its body."""
    return [model, *_FAMILIES[model.config.model_type].parts_of_tokens_read(model)]


def head(model: Any, hidden_BTD: Tensor) -> Tensor:
    """The logits in fp32 that the model's head computes from hidden states, each for itself: [B, T, classes].

    Raises UserError for a head that is not known here.
    """
    return _FAMILIES[model.config.model_type].head(model, hidden_BTD).float()


def _slots(model: PreTrainedModel) -> list[Slot]:
    """Every place where a supported model attends, in the model's order."""
    return [
        Slot(module, name, site, is_cross)
        for module in model.modules()
        for parent_type, name, site, is_cross in _SLOTS
        if isinstance(module, parent_type)
    ]
