"""The swap of an attention as far as it is the same for every family: the new module, and the models that it refuses.

`pipeline/tensorflow/sites.py` has the same definitions in the same order.
"""

# B batch · T query tokens · S key tokens · H heads · K head width · D model width

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import Cache, EncoderDecoderCache, PreTrainedModel

from pipeline.models.attention import new_attention
from pipeline.pytorch.attention import MultiHeadAttention
from pipeline.pytorch.library import additive, num_keys_after
from pipeline.utils.errors import UserError

# Keys and values [B, H, S, K] of earlier tokens, or a cache's function that adds the new ones and returns all.
Past = tuple[Tensor, Tensor] | Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
# What PyTorch keeps of the hooks on a module.
HOOKS = (
    "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs", "_backward_hooks", "_backward_pre_hooks",
)  # fmt: skip
# The projections of `MultiHeadAttention`.
PROJECTIONS = ("query", "key", "value", "out")
# The library's methods that know only the stock modules.
_STOCK_ONLY = ("save_pretrained", "prune_heads")


class Slot(NamedTuple):
    """Where a model holds an attention: a module's attribute, and the site that can replace what it holds."""

    parent: Any
    name: str
    site: type[Site]
    is_cross: bool

    @property
    def attention(self) -> Any:
        """The attention that is there now, stock or swapped."""
        return getattr(self.parent, self.name)

    def __str__(self) -> str:
        return f"{type(self.parent).__name__}.{self.name}"

    def put(self, attention: nn.Module) -> None:
        """Replace the attention that is there."""
        put(self.parent, self.name, attention)


class Site(nn.Module):
    """One place where a stock model attends, with `attention` doing the work."""

    # The classes of the library that a site can replace, and those of their submodules that live on in it.
    stock_types: tuple[type, ...] = ()
    kept: tuple[str, ...] = ()
    # What the stock module calls the four PROJECTIONS, unless the site has its own way to move weights.
    projections: tuple[str, ...] = ()

    def __init__(self, stock: Any, attention_type: type, **arguments: Any):
        super().__init__()
        self.attention = new_attention(attention_type, **arguments).to(next(stock.parameters())).train(stock.training)
        self.training = stock.training
        # In a plain namespace, so that neither parameters() nor state_dict() finds the stock module.
        self.aside = SimpleNamespace(stock=stock)
        self.layer_idx: Any = getattr(stock, "layer_idx", None)
        self.calls = 0
        # The same dictionaries: handles given out before the swap still work, as do those from before restoring.
        for name in (*HOOKS, "_is_full_backward_hook"):
            setattr(self, name, getattr(stock, name))
        # The library's init_weights draws new weights for every module that lacks this mark.
        for module in self.modules():
            vars(module)["_is_hf_initialized"] = getattr(stock, "_is_hf_initialized", False)

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

    @classmethod
    def unfit(cls, stock: Any) -> str | None:
        """What of a stock attention the site cannot replace, None if nothing."""
        return None

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

    def half_of_cache(self, cache: Cache | None, is_cross: bool) -> tuple[Cache | None, Past | None]:
        """Of an encoder-decoder's cache the half for this attention, and keys and values of the source that are in it.

        Marks those of the source as there, since the call that asks puts them in.
        """
        if not isinstance(cache, EncoderDecoderCache):
            return cache, None
        if not is_cross:
            return cache.self_attention_cache, None
        is_filled = cache.is_updated.get(self.layer_idx)
        cache.is_updated[self.layer_idx] = True
        half: Any = cache.cross_attention_cache
        return half, (half.layers[self.layer_idx].keys, half.layers[self.layer_idx].values) if is_filled else None

    def num_keys(self, cache: Cache | None, new_BTD: Tensor) -> int:
        """How many keys S the queries will meet once the keys of `new_BTD` are in the cache."""
        if cache is None:
            return new_BTD.shape[1]
        return num_keys_after(cache, new_BTD[0, :, 0], self.layer_idx)

    def num_earlier(self, cache: Cache | None) -> Any:
        """How many tokens are in the cache before those of this call."""
        return 0 if cache is None else cache.get_seq_length(self.layer_idx)


def causal_bias(site: Site, mask: Tensor | None, hidden_BTD: Tensor, cache: Cache | None) -> Tensor:
    """The additive bias [B or 1, 1, T, S] of the mask that a decoder passes: boolean, additive, or None."""
    num_keys = site.num_keys(cache, hidden_BTD)
    if mask is None:
        # The model leaves out a mask that a fused kernel would make by itself.
        positions_T = torch.arange(hidden_BTD.shape[1], device=hidden_BTD.device) + site.num_earlier(cache)
        mask = (torch.arange(num_keys, device=hidden_BTD.device) <= positions_T[:, None])[None, None]
    return additive(mask, num_keys)


class CountedAttention(MultiHeadAttention):
    """The hand-written attention in a hand-written layer, where the layer around it takes the place of a stock one."""

    calls = 0

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None, tuple[Tensor, Tensor]]:
        """Call the attention, and count the call."""
        if not torch.compiler.is_compiling():
            self.calls += 1
        return super().forward(*args, **kwargs)


def swapped_sites(model: PreTrainedModel) -> list[Site | CountedAttention]:
    """Every place of the model that attends through a swapped attention, in the order of its modules."""
    return [module for module in model.modules() if isinstance(module, Site | CountedAttention)]


@dataclass(frozen=True)
class FamilyModules:
    """How the modules of one family are called.

    `slots` lists the class around each attention, the attribute that holds it, the site that replaces it, and whether
    it is a cross-attention. `parts_of_tokens_read` lists what computes only the tokens that the head reads, besides
    the model itself.
    """

    slots: tuple[tuple[type, str, type[Site], bool], ...]
    packed_hidden_states: Callable[[Any, dict[str, Tensor], Tensor | None], Tensor]
    head: Callable[[Any, Tensor], Tensor]
    parts_of_tokens_read: Callable[[Any], list[Any]] = lambda model: []


def stacked_layers(module: nn.Module) -> Iterator[nn.Module]:
    """The layers of each stack of layers in a model."""
    for child in module.children():
        yield from child if isinstance(child, nn.ModuleList) else stacked_layers(child)


def refuse_shared(model: PreTrainedModel, slots: list[Slot]) -> None:
    """Raise UserError if an attention shares weights with another module, or has parts that its site cannot replace."""
    uses = _uses(model)
    for slot in slots:
        if any(uses[id(parameter)] > 1 for parameter in slot.attention.parameters()):
            raise UserError(
                f"{slot} shares weights with another module; only an attention with its own weights can be swapped"
            )
        if problem := slot.site.unfit(slot.attention):
            raise UserError(f"{slot}.{problem}")


def refuse_own_classes(model: PreTrainedModel, slots: list[Slot], stock_types: tuple[type, ...]) -> None:
    """Raise UserError for an attention that the swap would pass over, or whose own code it would drop."""
    sites = {id(slot.attention): slot.site for slot in slots}
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
            if "forward" in vars(child) or (part and any(getattr(child, hooks) for hooks in HOOKS)):
                where = ".".join(filter(None, (path, part)))
                raise UserError(
                    f"{where} has hooks or a forward of its own, which the swap would lose; remove them, swap, and set "
                    "them again on the modules of the swapped attention"
                )


def guard_stock_only() -> None:
    """Have the library's methods that know only the stock modules refuse a model with a swapped attention in it.

    They are wrapped in the library's class: a model around the one that was swapped has them, too. All other models
    are left to the library.
    """
    for name in _STOCK_ONLY:
        method = getattr(PreTrainedModel, name, None)  # version 5 of transformers has no prune_heads
        if method is not None and not hasattr(method, "stock_only"):
            setattr(PreTrainedModel, name, _stock_only(method))


def _stock_only(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def unless_swapped(model: PreTrainedModel, *args: Any, **kwargs: Any) -> Any:
        if swapped_sites(model):
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


def put(parent: nn.Module, name: str, module: nn.Module) -> None:
    """Set a submodule in the place of the old one."""
    setattr(parent, name, module)
