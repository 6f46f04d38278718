"""Dropout whose masks TensorFlow computes too, with the same bits; `pipeline/models/dropout.py` says how.

`pipeline/tensorflow/dropout.py` has the same definitions in the same order.
"""

# R rows · L tokens of a row · T query tokens · S key tokens · H heads · D model width · P pairs of heads

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._triton import has_triton
from transformers import PreTrainedModel

from pipeline.models.dropout import (
    DROPOUT_KEYS,
    FIRST_FACTOR,
    HEAD,
    LOWEST_NUMBER,
    NUMBERS,
    SECOND_FACTOR,
    SITE,
    WORD,
    Place,
    num_dropped,
    other_draws,
    scale_of_kept,
    signed,
    unknown_shape,
)
from pipeline.models.lora import place_of_update
from pipeline.pytorch.attention import attend
from pipeline.pytorch.library import DROPOUT, FUSED_ATTENTION
from pipeline.pytorch.lora import LoraLinear
from pipeline.pytorch.model import random_generators
from pipeline.pytorch.swap import attentions, decoder_parts, parts_of_tokens_read
from pipeline.utils.errors import UserError

# Words that are hashed at a time: on a CPU what stays in its cache, elsewhere what keeps a device busy.
CHUNK, DEVICE_CHUNK = 2**16, 2**26
# For so many elements masks are computed ahead of the site that needs them.
ELEMENTS_AHEAD = 2**19
# As tensors: of a number PyTorch makes one in each operation, which for small batches takes longer than to compute.
N15, N16, LAST_16, LAST_17, FACTOR_1, FACTOR_2 = (
    torch.tensor(number, dtype=torch.int32)
    for number in (15, 16, 0xFFFF, 0x1FFFF, signed(FIRST_FACTOR), signed(SECOND_FACTOR))
)


def mix(x: Tensor) -> Tensor:
    """A bijection of 32-bit numbers that looks random; overwrites its argument, whose type is int32."""
    if torch.compiler.is_compiling():  # which makes one pass of these operations by itself
        x = (x ^ (x >> 16 & 0xFFFF)) * signed(FIRST_FACTOR)
        x = (x ^ (x >> 15 & 0x1FFFF)) * signed(SECOND_FACTOR)
        return x ^ (x >> 16 & 0xFFFF)
    # int32 shifts bring in the sign, which is cut off.
    shifted = x >> N16
    x.bitwise_xor_(shifted.bitwise_and_(LAST_16)).mul_(FACTOR_1)
    torch.bitwise_right_shift(x, N15, out=shifted)
    x.bitwise_xor_(shifted.bitwise_and_(LAST_17)).mul_(FACTOR_2)
    torch.bitwise_right_shift(x, N16, out=shifted)
    return x.bitwise_xor_(shifted.bitwise_and_(LAST_16))


def hidden_scales(keys_RL: Tensor, width: int, rate: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """What each element of hidden states is multiplied by, [R, L, D], from the site keys of their tokens."""
    num_words = (width + 1) // 2
    offsets_W = torch.arange(num_words, dtype=torch.int32, device=keys_RL.device).mul_(signed(WORD))
    if torch.compiler.is_compiling():
        words_RLW = mix(keys_RL[..., None] + offsets_W)
        halves_RLW2 = torch.stack((words_RLW << 16, words_RLW), dim=-1)
        lowest_kept = (num_dropped(rate) + LOWEST_NUMBER) * NUMBERS
        return (halves_RLW2.flatten(-2) >= lowest_kept).to(dtype)[..., :width] * scale_of_kept(rate)
    keys_N1 = keys_RL.reshape(-1, 1)
    scales_ND = torch.empty(len(keys_N1), 2 * num_words, dtype=dtype, device=keys_RL.device)
    size = max(1, (CHUNK if keys_RL.device.type == "cpu" else DEVICE_CHUNK) // num_words)
    for keys, scales in zip(keys_N1.split(size), scales_ND.split(size), strict=True):
        scales_of_numbers(mix(keys + offsets_W).view(torch.int16), rate, num_dropped(rate) + LOWEST_NUMBER, scales)
    return scales_ND.view(*keys_RL.shape, -1)[..., :width]


def attention_scales(
    queries_RT: Tensor, keys_RS: Tensor, num_heads: int, rate: float, dtype: torch.dtype = torch.float32
) -> Tensor:
    """What each attention weight is multiplied by, [R, H, T, S], from the queries' site keys and the keys' own keys."""
    num_pairs, (rows, queries), keys = (num_heads + 1) // 2, queries_RT.shape, keys_RS.shape[1]
    offsets_P1 = torch.arange(num_pairs, dtype=torch.int32, device=keys_RS.device).mul_(signed(HEAD))[:, None]
    queries_RPT1 = mix(queries_RT[:, None, :] + offsets_P1)[..., None]
    # As 32-bit numbers: those whose upper half is at least this one.
    lowest_kept = (num_dropped(rate) + LOWEST_NUMBER) * NUMBERS
    if torch.compiler.is_compiling():
        words_RPTS = mix(queries_RPT1 + keys_RS[:, None, None])
        halves_RP2TS = torch.stack((words_RPTS << 16, words_RPTS), dim=2)
        return (halves_RP2TS.flatten(1, 2) >= lowest_kept).to(dtype)[:, :num_heads] * scale_of_kept(rate)
    scales_RP2TS = torch.empty(rows, num_pairs, 2, queries, keys, dtype=dtype, device=keys_RS.device)
    size = max(1, (CHUNK if keys_RS.device.type == "cpu" else DEVICE_CHUNK) // (num_pairs * queries * keys))
    for of_queries, of_keys, scales in zip(
        queries_RPT1.split(size), keys_RS[:, None, None].split(size), scales_RP2TS.split(size), strict=True
    ):
        words = mix(of_queries + of_keys)
        scales_of_numbers(words, rate, lowest_kept, scales[:, :, 1])
        scales_of_numbers(words.bitwise_left_shift_(N16), rate, lowest_kept, scales[:, :, 0])
    return scales_RP2TS.view(rows, 2 * num_pairs, queries, keys)[:, :num_heads]


def scales_of_numbers(numbers: Tensor, rate: float, lowest_kept: int, out: Tensor) -> None:
    """Write 0 for numbers that mean that an element is dropped, else what keeps the expectation."""
    # A comparison that writes floats is one pass; one that writes booleans, and their conversion, are three.
    torch.ge(numbers, lowest_kept, out=out).mul_(scale_of_kept(rate))


class DropoutMasks:
    """The masks of a model's dropouts: the keys of the current micro-batch, and the number of the next site.

    In a small batch an operation takes longer to begin than to compute. So the masks of a site are computed together
    with those of the next sites that differ from it in their number only, as they were in the last forward pass.
    `unfused` counts the fused attentions that were written out for a mask.
    """

    def __init__(self):
        self.keys: dict[str, Tensor] = {}
        self.tokens_read: Tensor | None = None
        self.site = self.unfused = 0
        # By all in which sites can differ but their number: the sites of this forward pass, and of the last.
        self.sites: dict[Hashable, list[int]] = {}
        self.expected: dict[Hashable, list[int]] = {}
        self.ahead: dict[tuple[Hashable, int], Tensor] = {}

    def start(self, batch: dict[str, Tensor], tokens_read: Tensor | None = None) -> None:
        """Begin the forward pass of a micro-batch, from which the keys of its tokens are taken out.

        `tokens_read` [N] are the tokens that the head reads, counted through all rows, if it is not all of them.
        """
        self.keys = {name: batch.pop(name).to(torch.int32) for name in DROPOUT_KEYS if name in batch}
        self.tokens_read, self.site, self.unfused = tokens_read, 0, 0
        self.expected, self.sites, self.ahead = self.sites, {}, {}

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
        keys, attended = self.keys_of_tokens(x, place), self.keys[place.attended] if x.ndim == 4 else None
        if attended is not None and attended.shape != (x.shape[0], x.shape[3]):
            raise UserError(unknown_shape(place, x.shape))
        if x.is_cuda and not torch.compiler.is_compiling() and self.has_kernels():
            from pipeline.pytorch.gpu.kernels import drop  # imported here: only a PyTorch for GPUs brings Triton

            return drop(x, keys, attended, signed(site * SITE % 2**32), rate)
        if torch.compiler.is_compiling():  # which puts small operations together by itself
            return x * self.scales_of_sites(x, keys, attended, [site], rate)[0].view(x.shape)
        kind = (place.tokens, place.attended, place.is_read, x.ndim, x.shape[1 if x.ndim == 4 else -1], rate, x.dtype)
        before = self.sites.setdefault(kind, [])
        if (kind, site) not in self.ahead:
            expected = self.expected.get(kind, [])[len(before) :][: ELEMENTS_AHEAD // max(1, x.numel())]
            sites = expected if expected[:1] == [site] else [site]
            scales = self.scales_of_sites(x, keys, attended, sites, rate)
            self.ahead |= {(kind, each): of_site for each, of_site in zip(sites, scales, strict=True)}
        before.append(site)
        return x * self.ahead.pop((kind, site)).view(x.shape)

    def scales_of_sites(
        self, x: Tensor, keys_RL: Tensor, attended: Tensor | None, sites: list[int], rate: float
    ) -> Sequence[Tensor]:
        """What each element of values like `x` is multiplied by at each of these sites."""
        if len(sites) == 1:
            keys_NL = mix(keys_RL + signed(sites[0] * SITE % 2**32))
        else:
            keys_NL = mix(keys_RL + self.offsets(tuple(sites), x.device)).flatten(0, 1)
        if attended is None:
            scales = hidden_scales(keys_NL, x.shape[-1], rate, x.dtype)
        else:
            scales = attention_scales(keys_NL, attended.repeat(len(sites), 1), x.shape[1], rate, x.dtype)
        return scales.split(len(keys_RL))

    @staticmethod
    @cache
    def offsets(sites: tuple[int, ...], device: torch.device) -> Tensor:
        """What is added to a token key for the key of each of these sites, [sites, 1, 1]."""
        offsets = [signed(site * SITE % 2**32) for site in sites]
        return torch.tensor(offsets, dtype=torch.int32, device=device)[:, None, None]

    @staticmethod
    @cache
    def has_kernels() -> bool:
        """Whether this machine can compile `pipeline/pytorch/gpu/kernels.py`, which takes Triton and a C compiler."""
        return has_triton() and any(map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang")))

    def keys_of_tokens(self, x: Tensor, place: Place) -> Tensor:
        """The keys of the tokens to which the first dimensions of `x` belong, [R, L]."""
        assert place.tokens in self.keys, f"a batch without {place.tokens} cannot be trained on with shared masks"
        keys = self.keys[place.tokens]
        if place.is_read and self.tokens_read is not None:
            keys = keys.flatten()[self.tokens_read][None]
        # A head that reads one vector a row without packing reads the first token.
        keys = keys[:, :1] if x.ndim == 2 else keys
        if x.ndim not in (2, 3, 4) or x.shape[0] != keys.shape[0] or (x.ndim > 2 and x.shape[-2] != keys.shape[1]):
            raise UserError(unknown_shape(place, x.shape))
        return keys


class SharedDropout(nn.Module):
    """Replaces an `nn.Dropout`: its masks are those of TensorFlow."""

    def __init__(self, rate: float, masks: DropoutMasks, place: Place):
        super().__init__()
        self.p, self.place = rate, place
        # In a closure, so that a copy of the module uses the same masks.
        self.drop: Callable[[Tensor], Tensor] = lambda x: masks.drop(x, rate, place)

    def forward(self, input: Tensor) -> Tensor:
        """Each value times 0 or 1 / (1 - rate); in evaluation mode the values."""
        return self.drop(input) if self.training else input

    def extra_repr(self) -> str:
        """What PyTorch prints of the module."""
        return f"p={self.p}"


class FunctionDropout(TorchFunctionMode):
    """Gives shared masks to the dropout that a module applies by a function of PyTorch, within its forward pass.

    The two functions that apply dropout are exchanged for its own while the module computes. As a mode it also finds
    those that a module imported by name, and works in compiled code, which cannot exchange functions. But a mode sees
    every operation, which takes a few percent of a small model's step, and the library's modules do without.
    """

    def __init__(self, masks: DropoutMasks, place: Place):
        super().__init__()
        self.masks, self.place = masks, place
        self.exchanged: list[tuple[Any, Any]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace the two functions; call all others as they are."""
        if func is DROPOUT:
            return self.dropout(*args, **kwargs or {})
        if func is FUSED_ATTENTION:
            return self.attention(*args, **kwargs or {})
        return func(*args, **kwargs or {})

    def exchange(self) -> None:
        """Put its own functions in place of PyTorch's, until `put_back`."""
        self.exchanged.append((functional.dropout, functional.scaled_dot_product_attention))
        functional.dropout, functional.scaled_dot_product_attention = self.dropout, self.attention

    def put_back(self) -> None:
        """Undo the last `exchange`."""
        functional.dropout, functional.scaled_dot_product_attention = self.exchanged.pop()

    def dropout(self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        """`torch.nn.functional.dropout`."""
        return self.masks.drop(input, p, self.place) if training else input

    def attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        **others: Any,
    ) -> Tensor:
        """`torch.nn.functional.scaled_dot_product_attention`, written out if it drops attention weights."""
        if not dropout_p or others.get("enable_gqa"):
            return FUSED_ATTENTION(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **others)
        self.masks.unfused += 1
        if is_causal:
            attn_mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            hidden = torch.finfo(torch.float32).min
            attn_mask = torch.zeros(attn_mask.shape, device=query.device).masked_fill_(~attn_mask, hidden)
        mixed, _ = attend(
            query, key, value, attn_mask, scale, lambda weights: self.masks.drop(weights, dropout_p, self.place)
        )
        return mixed

    def wrap(self, module: nn.Module) -> None:
        """Replace the functions during the module's forward passes in training mode."""

        is_of_library = type(module).__module__.startswith("transformers.")

        def enter(module: nn.Module, _: Any) -> None:
            if not module.training:
                return
            if not torch.compiler.is_compiling():
                self.exchange()
            if torch.compiler.is_compiling() or not is_of_library:
                self.__enter__()

        def leave(module: nn.Module, *_: Any) -> None:
            if not module.training:
                return
            if torch.compiler.is_compiling() or not is_of_library:
                self.__exit__(None, None, None)
            if not torch.compiler.is_compiling():
                self.put_back()

        # For who computes the module's parts one by one. A lambda, so that a copy of the module uses the same masks.
        vars(module)["dropout_function"] = lambda *args, **kwargs: self.dropout(*args, **kwargs)
        module.register_forward_pre_hook(enter)
        module.register_forward_hook(leave, always_call=True)


def parts(module: nn.Module) -> set[int]:
    """The ids of a module and of all modules inside it."""
    return {id(part) for part in module.modules()}


def share_dropout(model: PreTrainedModel, masks: DropoutMasks) -> None:
    """Make every dropout of the model take its masks from `masks`, in place.

    Each `nn.Dropout` is replaced. Within an attention the functions of PyTorch that apply dropout are, too, and within
    other modules whose `dropout` is a rate. Subclasses of `nn.Dropout` are not replaced; see `refuse_other_draws`.
    """
    decoder = {part for module in decoder_parts(model) for part in parts(module)}
    slots = attentions(model)
    crossing = {part for slot in slots if slot.is_cross for part in parts(slot.attention)}
    read = {id(part) for part in parts_of_tokens_read(model)}
    inside_read = {part for module in parts_of_tokens_read(model)[1:] for part in parts(module)}
    attending = {slot.attention for slot in slots}
    for name, parent in list(model.named_modules()):
        # A dropout of the decoder may be in a module of both encoder and decoder.
        for child_name, child in parent._modules.items():
            if type(child) is nn.Dropout:
                place = Place.of(name, id(child) in decoder, id(child) in crossing, is_read=id(parent) in read)
                if isinstance(parent, LoraLinear):
                    place = place_of_update(parent.adapter, name, id(parent) in decoder, id(parent) in inside_read)
                parent._modules[child_name] = SharedDropout(child.p, masks, place).train(child.training)
        if parent in attending or isinstance(getattr(parent, "dropout", None), int | float):
            place = Place.of(name, id(parent) in decoder, id(parent) in crossing, is_read=id(parent) in read)
            FunctionDropout(masks, place).wrap(parent)


@contextlib.contextmanager
def refuse_other_draws(model: PreTrainedModel) -> Iterator[None]:
    """Inside, raise UserError, with the module's name, if a module draws random numbers in its forward pass."""
    generators, states = random_generators(model).values(), []

    def enter(module: nn.Module, _: Any) -> None:
        states.append([generator.get_state() for generator in generators])

    def leave(module: nn.Module, *_: Any) -> None:
        before = states.pop()
        if getattr(module, "layerdrop", None) == 0:
            # The library draws a number for each layer, and leaves out none. It is as if nothing had been drawn.
            for generator, old in zip(generators, before, strict=True):
                generator.set_state(old)
        elif any(
            not torch.equal(generator.get_state(), old) for generator, old in zip(generators, before, strict=True)
        ):
            raise UserError(other_draws(f"{names[module]} ({type(module).__name__})"))

    names = {module: name for name, module in model.named_modules()}
    hooks = [module.register_forward_pre_hook(enter) for module in names]
    hooks += [module.register_forward_hook(leave) for module in names]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
