"""Dropout with shared masks as one kernel of a GPU, in Triton's language.

Written with PyTorch's operations, `pipeline/pytorch/dropout.py`, a mask is some twenty small kernels, each of which
takes a GPU as long to start as to compute. Here the masks have the same bits. They are nowhere in memory: the backward
pass computes them again. `python -m tests.benchmarks.gpu_check --parts masks` compares the two.
"""

# Triton comes with a PyTorch for GPUs, and its functions are no Python that a type checker could follow.
# pyright: reportMissingImports=false, reportMissingParameterType=false, reportIndexIssue=false

# N tokens · D model width · R rows · H heads · T query tokens · S key tokens

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from pipeline.models.dropout import FIRST_FACTOR, HEAD, SECOND_FACTOR, WORD, num_dropped, scale_of_kept

# The elements that one program of a kernel computes.
WIDTH_BLOCK, QUERY_BLOCK, KEY_BLOCK = 1024, 16, 64
FIRST, SECOND = tl.constexpr(FIRST_FACTOR), tl.constexpr(SECOND_FACTOR)
NEXT_WORD, NEXT_PAIR = tl.constexpr(WORD), tl.constexpr(HEAD)


@triton.jit
def mix(x):
    """As in `pipeline/models/dropout.py`; `x` is unsigned."""
    x = (x ^ (x >> 16)) * FIRST
    x = (x ^ (x >> 15)) * SECOND
    return x ^ (x >> 16)


@triton.jit
def scaled(values, words, is_upper, dropped, scale):
    """`values` times 0 or `scale`, by the upper or the lower 16 bits of their words, read as a signed number."""
    numbers = (words >> (is_upper * 16).to(tl.uint32)) & 0xFFFF
    return values * tl.where((numbers ^ 0x8000) >= dropped, scale, 0.0)


@triton.jit(do_not_specialize=["site", "dropped", "width"])
def hidden_kernel(x, keys, out, width, site, dropped, scale, BLOCK: tl.constexpr):
    """A block of one token's hidden state."""
    token = tl.program_id(0)
    element = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    at, inside = token.to(tl.int64) * width + element, element < width
    key = mix(tl.load(keys + token).to(tl.uint32) + site.to(tl.uint32))
    words = mix(key + (element // 2).to(tl.uint32) * NEXT_WORD)
    values = tl.load(x + at, mask=inside).to(tl.float32)
    tl.store(out + at, scaled(values, words, element % 2, dropped, scale).to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["site", "dropped", "heads", "num_queries", "num_keys"])
def attention_kernel(
    x, query_keys, key_keys, out, heads, num_queries, num_keys, site, dropped, scale,
    QUERIES: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """A block of queries and keys of one head of a row."""
    row, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    query = (tl.program_id(1) * QUERIES + tl.arange(0, QUERIES))[:, None]
    key = (tl.program_id(2) * KEYS + tl.arange(0, KEYS))[None, :]
    of_queries = tl.load(query_keys + row * num_queries + query, mask=query < num_queries, other=0).to(tl.uint32)
    of_keys = tl.load(key_keys + row * num_keys + key, mask=key < num_keys, other=0).to(tl.uint32)
    words = mix(mix(mix(of_queries + site.to(tl.uint32)) + (head // 2).to(tl.uint32) * NEXT_PAIR) + of_keys)
    inside = (query < num_queries) & (key < num_keys)
    at = (tl.program_id(0).to(tl.int64) * num_queries + query) * num_keys + key
    values = tl.load(x + at, mask=inside).to(tl.float32)
    tl.store(out + at, scaled(values, words, head % 2, dropped, scale).to(out.dtype.element_ty), mask=inside)


@cache
def rounded_scale(rate: float, dtype: torch.dtype) -> float:
    """What kept elements are multiplied by, as a number of this type: so it is where a mask is a tensor."""
    return torch.tensor(scale_of_kept(rate), dtype=dtype).item()


def apply(x: Tensor, queries: Tensor, keys: Tensor | None, site: int, rate: float) -> Tensor:
    """`x` times its mask, in a new tensor; see `drop`."""
    x, queries = x.contiguous(), queries.contiguous()
    out = torch.empty_like(x)
    scale = rounded_scale(rate, x.dtype)
    if keys is None:
        width = x.shape[-1]
        grid = (x.numel() // width, triton.cdiv(width, WIDTH_BLOCK))
        hidden_kernel[grid](x, queries, out, width, site, num_dropped(rate), scale, BLOCK=WIDTH_BLOCK)
        return out
    rows, heads, num_queries, num_keys = x.shape
    grid = (rows * heads, triton.cdiv(num_queries, QUERY_BLOCK), triton.cdiv(num_keys, KEY_BLOCK))
    attention_kernel[grid](
        x, queries, keys.contiguous(), out, heads, num_queries, num_keys, site, num_dropped(rate), scale,
        QUERIES=QUERY_BLOCK, KEYS=KEY_BLOCK,
    )  # fmt: skip
    return out


class Drop(torch.autograd.Function):
    """Multiplies by a mask forward and backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, queries: Tensor, keys: Tensor | None, site: int, rate: float) -> Tensor:
        """`x` times its mask."""
        ctx.mask = queries, keys, site, rate
        return apply(x, *ctx.mask)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        """The gradient times the same mask."""
        return apply(gradient, *ctx.mask), None, None, None, None


def drop(x: Tensor, queries: Tensor, keys: Tensor | None, site: int, rate: float) -> Tensor:
    """Dropout over hidden states [..., D] or, with `keys`, over attention weights [R, H, T, S].

    `queries` [...] or [R, T] and `keys` [R, S] are int32 keys of tokens, to which `site`, a signed 32-bit number, is
    added where the mask's definition says so.
    """
    return Drop.apply(x, queries, keys, site, rate)
