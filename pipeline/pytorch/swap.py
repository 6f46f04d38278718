"""Put another attention into a stock BERT, GPT-2 or T5 of transformers 4.57, and take it out again.

The only file that knows how those models call their attention. A *site* is one place where a model attends:
a module with the stock call signature that holds an attention with the contract of `MultiHeadAttention`.
Weights move, they are not copied: while swapped they belong to the new attention, afterwards to the stock
module again. `pipeline/tensorflow/swap.py` has the same definitions in the same order.
"""

# B batch · T query tokens · S key tokens · H heads · K head width · D model width

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, EncoderDecoderCache, PreTrainedModel
from transformers.models.bert.modeling_bert import BertAttention, BertSdpaSelfAttention, BertSelfAttention
from transformers.models.gpt2.modeling_gpt2 import GPT2Attention, GPT2Block
from transformers.models.t5.modeling_t5 import T5Attention, T5LayerCrossAttention, T5LayerSelfAttention
from transformers.pytorch_utils import Conv1D

from pipeline.models.attention import (
    attention_class,
    new_attention,
    refuse_arguments,
    refuse_unsupported,
)
from pipeline.pytorch.attention import MultiHeadAttention
from pipeline.utils.errors import UserError

# Keys and values [B, H, S, K] of earlier tokens, or a cache's function that adds the new ones and returns all.
Past = tuple[Tensor, Tensor] | Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
# A module around an attention, the attribute that holds the attention, and the site that replaces it.
Place = tuple[Any, str, Any]


def swap_attention(model: PreTrainedModel, attention: str | type = "handwritten") -> int:
    """Replace every attention of a stock BERT, GPT-2 or T5 model, whatever its head; returns how many.

    `attention` is "handwritten", "package.module:ClassName", or a class with the constructor, the projections
    and the call of `MultiHeadAttention`. Weights, their dtype, device, frozenness and the train or eval mode
    are carried over, and so are hooks on the stock attention. Build the optimizer afterwards: GPT-2's merged
    weights become new parameters. Draw weights anew before: the library's `_init_weights` knows only the stock
    modules. Until `restore_attention`, `save_pretrained` and `prune_heads` raise UserError, also those of a model
    around this one.
    Raises UserError, before anything is changed, if the model or the class does not fit.
    """
    refuse_unsupported(model)
    attention_type = attention_class(attention, MultiHeadAttention)
    if attention_sites(model):
        raise UserError(f"{type(model).__name__} is swapped already; call restore_attention first")
    places = _places(model)
    _refuse_shared(model, places)
    _refuse_own_classes(model, places)
    # A new attention draws initial weights that are never used: the random state stays as it was.
    with torch.random.fork_rng(devices=[]):
        sites = [site(getattr(parent, name), attention_type) for parent, name, site in places]
    for (parent, name, _), site in zip(places, sites, strict=True):
        site.take_weights(parent)
        _put(parent, name, site)
    _guard_stock_only()
    return len(sites)


def restore_attention(model: PreTrainedModel) -> int:
    """Undo `swap_attention`: put the stock modules back, with the trained weights; returns how many."""
    places = [place for place in _places(model) if isinstance(getattr(place[0], place[1]), Site)]
    for parent, name, _ in places:
        site = getattr(parent, name)
        site.give_weights_back(parent)
        site.stock.train(site.training)
        site.stock._is_full_backward_hook = site._is_full_backward_hook
        _put(parent, name, site.stock)
    return len(places)


def attention_sites(model: PreTrainedModel) -> int:
    """How many places of the model attend through a swapped attention; 0 for a stock model."""
    return len(attention_calls(model))


def attention_calls(model: PreTrainedModel) -> list[int]:
    """How often each swapped site was called since the swap, in the order of the model's modules.

    Calls of a compiled model (torch.compile) are not counted.
    """
    return [module.calls for module in model.modules() if isinstance(module, Site)]


def attentions(model: PreTrainedModel) -> list[tuple[nn.Module, bool]]:
    """Every module of the model that attends, stock or swapped, and whether it is a cross-attention."""
    return [(getattr(parent, name), isinstance(parent, T5LayerCrossAttention)) for parent, name, _ in _places(model)]


class Site(nn.Module):
    """One place where a stock model attends, with `attention` doing the work."""

    # The classes of the library that a site can replace, and those of their submodules that live on in it.
    stock_types: tuple[type, ...] = ()
    kept: tuple[str, ...] = ()

    def __init__(self, stock: Any, attention_type: type, **arguments: Any):
        super().__init__()
        self.attention = new_attention(attention_type, **arguments).to(next(stock.parameters())).train(stock.training)
        self.training = stock.training
        # In a plain namespace, so that neither parameters() nor state_dict() finds the stock module.
        self.aside = SimpleNamespace(stock=stock)
        self.layer_idx: Any = getattr(stock, "layer_idx", None)
        self.calls = 0
        # The same dictionaries: handles given out before the swap still work, as do those from before restoring.
        for name in (*_HOOKS, "_is_full_backward_hook"):
            setattr(self, name, getattr(stock, name))
        # The library's init_weights draws new weights for every module that lacks this mark.
        for module in self.modules():
            vars(module)["_is_hf_initialized"] = getattr(stock, "_is_hf_initialized", False)

    @property
    def stock(self) -> Any:
        """The library's module that this one replaces."""
        return self.aside.stock

    def attend(
        self,
        hidden_BTD: Tensor,
        source_BSD: Tensor | None,
        bias_BHTS: Tensor | None,
        past: Past | None,
        output_attentions: bool | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Call the attention, and count the call; returns the output [B, T, D] and the weights on request."""
        if not torch.compiler.is_compiling():
            self.calls += 1
        return self.attention(hidden_BTD, source_BSD, bias_BHTS, past, return_weights=bool(output_attentions))[:2]

    def past_of(self, cache: Cache | None, cache_position: Tensor | None) -> Past | None:
        """The function that adds new keys and values to this layer of a transformers cache and returns all of them.

        Only the cache knows which of its keys are filled, and whether it holds them quantized or on another device.
        """
        if cache is None:
            return None
        return lambda k_BHTK, v_BHTK: cache.update(k_BHTK, v_BHTK, self.layer_idx, {"cache_position": cache_position})

    def num_keys(self, cache: Cache | None, new_BTD: Tensor) -> int:
        """How many keys S the queries will meet once the keys of `new_BTD` are in the cache."""
        if cache is None:
            return new_BTD.shape[1]
        # The cache reads no more than the length of these positions.
        positions_T = new_BTD.new_empty(new_BTD.shape[1])
        return cache.get_mask_sizes(positions_T, self.layer_idx)[0]


class BertSite(Site):
    """Replaces BertSelfAttention and the dense layer behind it, which is the output projection."""

    stock_types = (BertSelfAttention, BertSdpaSelfAttention)
    kept = ("query", "key", "value")

    def __init__(self, stock: Any, attention_type: type):
        arguments = dict(width=stock.query.in_features, num_heads=stock.num_attention_heads)
        super().__init__(stock, attention_type, **arguments, dropout=stock.dropout.p)

    def take_weights(self, parent: Any) -> None:
        for name in ("query", "key", "value"):
            _put(self.attention, name, getattr(self.stock, name))
        _put(self.attention, "out", parent.output.dense)
        _put(parent.output, "dense", nn.Identity())

    def give_weights_back(self, parent: Any) -> None:
        for name in ("query", "key", "value"):
            _put(self.stock, name, getattr(self.attention, name))
        _put(parent.output, "dense", self.attention.out)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        head_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        past_key_values: Cache | None = None,
        output_attentions: bool | None = False,
        cache_position: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """The library's outputs: hidden states [B, T, D], and attention weights [B, H, T, S] on request."""
        refuse_arguments(
            "BERT",
            head_mask=head_mask,
            encoder_hidden_states=encoder_hidden_states,
            past_key_values=past_key_values,
        )
        return self.attend(hidden_states, None, attention_mask, None, output_attentions)


class GPT2Site(Site):
    """Replaces GPT2Attention, whose one merged weight has query, key and value side by side."""

    stock_types = (GPT2Attention,)
    kept = ("resid_dropout",)

    def __init__(self, stock: Any, attention_type: type):
        arguments = dict(width=stock.embed_dim, num_heads=stock.num_heads, dropout=stock.attn_dropout.p)
        super().__init__(stock, attention_type, **arguments)

    def take_weights(self, parent: Any) -> None:
        merged, projected = self.stock.c_attn, self.stock.c_proj
        self.resid_dropout = self.stock.resid_dropout
        attention = self.attention
        # GPT-2 stores Conv1D weights [in, out]; Linear wants [out, in].
        weights = merged.weight.detach().chunk(3, dim=1)
        biases = merged.bias.detach().chunk(3)
        for linear, weight, bias in zip(
            (attention.query, attention.key, attention.value), weights, biases, strict=True
        ):
            linear.weight = nn.Parameter(weight.t().contiguous(), merged.weight.requires_grad)
            linear.bias = nn.Parameter(bias.clone(), merged.bias.requires_grad)
        weight = projected.weight.detach().t().contiguous()
        attention.out.weight = nn.Parameter(weight, projected.weight.requires_grad)
        attention.out.bias = projected.bias
        # The stock parameters stay as objects, so that restoring gives back the same ones, but hold nothing.
        for parameter in (merged.weight, merged.bias, projected.weight):
            parameter.grad = None
            parameter.data = parameter.data.new_empty(0)

    def give_weights_back(self, parent: Any) -> None:
        merged, projected = self.stock.c_attn, self.stock.c_proj
        attention = self.attention
        linears = (attention.query, attention.key, attention.value)
        merged.weight.data = torch.cat([linear.weight.detach() for linear in linears]).t().contiguous()
        merged.bias.data = torch.cat([linear.bias.detach() for linear in linears])
        projected.weight.data = attention.out.weight.detach().t().contiguous()
        projected.bias = attention.out.bias
        merged.weight.requires_grad = any(linear.weight.requires_grad for linear in linears)
        merged.bias.requires_grad = any(linear.bias.requires_grad for linear in linears)
        projected.weight.requires_grad = attention.out.weight.requires_grad
        self.stock.resid_dropout = self.resid_dropout
        # Its buffers stayed behind if the model was moved meanwhile.
        self.stock.to(merged.weight.device)

    def forward(
        self,
        hidden_states: Tensor,
        past_key_values: Cache | None = None,
        cache_position: Tensor | None = None,
        attention_mask: Tensor | None = None,
        head_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        output_attentions: bool | None = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """The library's outputs: hidden states [B, T, D], and attention weights [B, H, T, S] on request."""
        refuse_arguments("GPT-2", head_mask=head_mask, encoder_hidden_states=encoder_hidden_states)
        cache = past_key_values
        if isinstance(cache, EncoderDecoderCache):
            cache = cache.self_attention_cache
        bias_BHTS = _causal_bias(attention_mask, hidden_states, self.num_keys(cache, hidden_states))
        past = self.past_of(cache, cache_position)
        output_BTD, weights_BHTS = self.attend(hidden_states, None, bias_BHTS, past, output_attentions)
        return self.resid_dropout(output_BTD), weights_BHTS


class T5Site(Site):
    """Replaces T5Attention, self or cross, with its relative position bias."""

    stock_types = (T5Attention,)
    kept = ("q", "k", "v", "o", "relative_attention_bias")

    def __init__(self, stock: Any, attention_type: type):
        arguments = dict(width=stock.d_model, num_heads=stock.n_heads, head_width=stock.key_value_proj_dim)
        # T5 scales its first weights instead of its scores.
        super().__init__(stock, attention_type, **arguments, use_bias=False, dropout=stock.dropout, scale=1.0)
        self.has_relative_attention_bias = stock.has_relative_attention_bias
        # The model sets this on every module that has it.
        self.gradient_checkpointing = stock.gradient_checkpointing

    def take_weights(self, parent: Any) -> None:
        for name, stock_name in zip(("query", "key", "value", "out"), "qkvo", strict=True):
            _put(self.attention, name, getattr(self.stock, stock_name))
        if self.has_relative_attention_bias:
            self.relative_attention_bias = self.stock.relative_attention_bias

    def give_weights_back(self, parent: Any) -> None:
        for name, stock_name in zip(("query", "key", "value", "out"), "qkvo", strict=True):
            _put(self.stock, stock_name, getattr(self.attention, name))
        if self.has_relative_attention_bias:
            self.stock.relative_attention_bias = self.relative_attention_bias
        self.stock.gradient_checkpointing = self.gradient_checkpointing

    def forward(
        self,
        hidden_states: Tensor,
        mask: Tensor | None = None,
        key_value_states: Tensor | None = None,
        position_bias: Tensor | None = None,
        past_key_values: Cache | None = None,
        layer_head_mask: Tensor | None = None,
        query_length: int | None = None,
        use_cache: bool | None = False,
        output_attentions: bool | None = False,
        cache_position: Tensor | None = None,
    ) -> tuple[Tensor | None, ...]:
        """The library's outputs: hidden states [B, T, D], the position bias, and attention weights on request."""
        refuse_arguments("T5", layer_head_mask=layer_head_mask)
        is_cross = key_value_states is not None
        cache, is_filled = past_key_values, False
        if isinstance(past_key_values, EncoderDecoderCache):
            own, other = past_key_values.self_attention_cache, past_key_values.cross_attention_cache
            cache = other if is_cross else own
            is_filled = is_cross and past_key_values.is_updated.get(self.layer_idx)
            if is_cross:
                past_key_values.is_updated[self.layer_idx] = True
        if position_bias is None:  # The first layer makes it and hands it to the others.
            num_keys = key_value_states.shape[1] if is_cross else self.num_keys(cache, hidden_states)
            position_bias = self.position_bias(mask, hidden_states.shape[1], num_keys, cache_position)
        if is_filled and cache is not None:
            past = (cache.layers[self.layer_idx].keys, cache.layers[self.layer_idx].values)
        else:
            past = self.past_of(cache, None if is_cross else cache_position)
        output_BTD, weights_BHTS = self.attend(hidden_states, key_value_states, position_bias, past, output_attentions)
        return (output_BTD, position_bias, weights_BHTS) if output_attentions else (output_BTD, position_bias)

    def position_bias(
        self, mask: Tensor | None, num_queries: int, num_keys: int, cache_position: Tensor | None
    ) -> Tensor | None:
        """What is added to the scores [B, H, T, S]: relative positions (in a first layer) and the mask."""
        if mask is not None:
            mask = mask[..., :num_keys]
        if not self.has_relative_attention_bias:
            return mask
        bias_1HTS = self.stock.compute_bias(num_keys, num_keys, cache_position=cache_position)
        bias_1HTS = bias_1HTS[:, :, -num_queries:]
        return bias_1HTS if mask is None else bias_1HTS + mask


# What PyTorch keeps of the hooks on a module.
_HOOKS = (
    "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs", "_backward_hooks", "_backward_pre_hooks",
)  # fmt: skip
# The class around each attention -> the attribute that holds it, and the site that replaces it.
_SITES = {
    BertAttention: ("self", BertSite),
    GPT2Block: ("attn", GPT2Site),
    T5LayerSelfAttention: ("SelfAttention", T5Site),
    T5LayerCrossAttention: ("EncDecAttention", T5Site),
}
# The library's methods that know only the stock modules.
_STOCK_ONLY = ("save_pretrained", "prune_heads")


def _places(model: PreTrainedModel) -> list[Place]:
    """Every place where a supported model attends: (parent, attribute, site class), in the model's order."""
    return [
        (module, name, site)
        for module in model.modules()
        for parent_type, (name, site) in _SITES.items()
        if isinstance(module, parent_type)
    ]


def _refuse_shared(model: PreTrainedModel, places: list[Place]) -> None:
    """Raise UserError if there is nothing to swap, or if two places share one attention."""
    if not places:
        raise UserError(f"{type(model).__name__} has no attention of BERT, GPT-2 or T5 inside")
    uses = _uses(model)
    for parent, name, site in places:
        if any(uses[id(parameter)] > 1 for parameter in getattr(parent, name).parameters()):
            raise UserError(
                f"{type(parent).__name__}.{name} shares weights with another module; "
                "only an attention with its own weights can be swapped"
            )
        # BERT's and T5's projections move whole, whatever wraps them; GPT-2's merged one is cut.
        merged = getattr(getattr(parent, name), "c_attn", None)
        if site is GPT2Site and type(merged) is not Conv1D:
            raise UserError(f"{type(parent).__name__}.{name}.c_attn is {type(merged).__name__}, but has to be Conv1D")


def _refuse_own_classes(model: PreTrainedModel, places: list[Place]) -> None:
    """Raise UserError for an attention that the swap would pass over, or whose own code it would drop."""
    sites = {id(getattr(parent, name)): site for parent, name, site in places}
    stock_types = tuple(stock_type for _, site in _SITES.values() for stock_type in site.stock_types)
    for path, module in model.named_modules():
        site = sites.get(id(module))
        if site is None:
            if isinstance(module, stock_types):
                raise UserError(
                    f"{path} is outside of the library's layers, where the swap does not look for attention"
                )
            continue
        if type(module) not in site.stock_types:
            names = " or ".join(stock_type.__name__ for stock_type in site.stock_types)
            raise UserError(f"{path} is {type(module).__name__}, but has to be {names}: its own code would be lost")
        dropped = {part: child for part, child in module.named_modules() if part.split(".")[0] not in site.kept}
        for part, child in dropped.items():
            if "forward" in vars(child) or (part and any(getattr(child, hooks) for hooks in _HOOKS)):
                where = ".".join(filter(None, (path, part)))
                raise UserError(
                    f"{where} has hooks or a forward of its own, which the swap would lose; remove them, swap, and set "
                    "them again on the modules of the swapped attention"
                )


def _guard_stock_only() -> None:
    """Have the library's methods that know only the stock modules refuse a model with a swapped attention in it.

    They are wrapped in the library's class: a model around the one that was swapped has them, too. All other models
    are left to the library.
    """
    for name in _STOCK_ONLY:
        method = getattr(PreTrainedModel, name)
        if not hasattr(method, "stock_only"):
            setattr(PreTrainedModel, name, _stock_only(method))


def _stock_only(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def unless_swapped(model: PreTrainedModel, *args: Any, **kwargs: Any) -> Any:
        if attention_sites(model):
            raise UserError(
                f"{method.__name__} needs the stock attention: call restore_attention(model) first, and "
                "swap_attention(model) again afterwards"
            )
        return method(model, *args, **kwargs)

    vars(unless_swapped)["stock_only"] = True
    return unless_swapped


def _uses(model: PreTrainedModel) -> Counter[int]:
    """How many modules use each parameter, by its id."""
    return Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))


def _put(parent: nn.Module, name: str, module: nn.Module) -> None:
    """Set a submodule in the place of the old one."""
    setattr(parent, name, module)


def _causal_bias(mask: Tensor | None, hidden_BTD: Tensor, num_keys: int) -> Tensor:
    """The additive bias [B or 1, 1, T, S] of the mask that GPT-2 passes: boolean, additive, or None."""
    num_queries = hidden_BTD.shape[1]
    if mask is None:
        # The model leaves out a mask that a fused kernel would make by itself.
        ones_TS = torch.ones(num_queries, num_keys, dtype=torch.bool, device=hidden_BTD.device)
        mask = ones_TS.tril(num_keys - num_queries)[None, None]
    mask = mask[..., :num_keys]
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=torch.float32).masked_fill(~mask, torch.finfo(torch.float32).min)
