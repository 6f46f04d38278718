"""Dropout masks that both frameworks share: each is a pure function of a seed, a step, a token, a site and an element.

Every token of a step gets a key, here in NumPy. From the keys each framework computes the masks, by the same arithmetic
on 32-bit integers and so with the same bits. All additions and multiplications wrap, all shifts bring in zeros:

    mix(x)       x ^= x >> 16; x *= 0x7feb352d; x ^= x >> 15; x *= 0x846ca68b; x ^= x >> 16
    token key    mix(mix(mix(seed) + step) + 65536 * example + position): the example's index in the global batch, the
                 token's position inside the example
    site key     mix(token key + (1 + site) * SITE): the dropouts of a forward pass are its sites 0, 1, 2, ... in the
                 order in which they run; a rate of 0 is no site; those of LoRA have numbers of their own
    hidden states [R, L, D]
                 word j of a token is mix(site key + j * WORD); its lower 16 bits are the number of element 2j, its
                 upper 16 bits that of element 2j + 1
    attention weights [R, H, T, S]
                 word p of query t and key s is mix(mix(site key of t + p * HEAD) + token key of s); its lower 16 bits
                 are the number of head 2p, its upper 16 bits that of head 2p + 1
    mask         an element is dropped if its number, read as signed, is below rate * 65536 - 32768; the others are
                 scaled to keep the expectation

So a mask depends neither on how a step is split into micro-batches or its examples are laid out in rows, nor on how a
model attends, and there is no generator whose state a training checkpoint would have to keep.

Source of mix: Chris Wellons, "Prospecting for Hash Functions", 2018 (lowbias32).
"""

# R rows · L tokens of a row · T query tokens · S key tokens · H heads · D model width

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# The keys of a batch that hold the keys of its tokens; an encoder-decoder's target tokens have their own.
TOKEN_KEYS, DECODER_TOKEN_KEYS = "dropout_keys", "decoder_dropout_keys"
DROPOUT_KEYS = (TOKEN_KEYS, DECODER_TOKEN_KEYS)

FIRST_FACTOR, SECOND_FACTOR = 0x7FEB352D, 0x846CA68B
SITE, WORD, HEAD = 0x85EBCA6B, 0x9E3779B9, 0xC2B2AE35
NUMBERS = 2**16  # how many values an element's number can have
LOWEST_NUMBER = -(2**15)


def token_keys(seed: int, step: int, examples: NDArray, positions: NDArray) -> NDArray[np.int32]:
    """The key of each token of a step, [R, L]; two tokens of a step never have the same one.

    `step` counts the optimizer steps of the whole training from 0. `examples` and `positions` broadcast to [R, L]: the
    index of a token's example in the global batch, and the token's position inside it. Padding gets any key.
    """
    # Arrays of one number: NumPy warns if single numbers wrap.
    start = mix(mix(np.array([seed], np.uint32)) + np.array([step], np.uint32))
    tokens = examples.astype(np.uint32) * np.uint32(NUMBERS) + positions.astype(np.uint32)
    return mix(start + tokens).view(np.int32)


def mix(x: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """A bijection of 32-bit numbers that looks random."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(FIRST_FACTOR)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(SECOND_FACTOR)
    return x ^ (x >> np.uint32(16))


def num_dropped(rate: float) -> int:
    """How many of the 65,536 values of an element's number mean that it is dropped."""
    return round(rate * NUMBERS)


def scale_of_kept(rate: float) -> float:
    """What the elements that are not dropped are multiplied by; 0 if there are none."""
    kept = NUMBERS - num_dropped(rate)
    return NUMBERS / kept if kept else 0.0


def signed(number: int) -> int:
    """The 32-bit number with these bits that is below 2^31."""
    return number - 2**32 if number >= 2**31 else number


@dataclass(frozen=True)
class Place:
    """Where in a model a dropout is: which tokens it drops from, and to which an attention there attends.

    `tokens` and `attended` are TOKEN_KEYS or DECODER_TOKEN_KEYS. `is_read` marks places at the end of a model: in a
    packed batch only the tokens that the head reads are computed there. `name` is that of the module around it, for
    errors. `site` is its number if it is not counted.
    """

    name: str
    tokens: str
    attended: str
    is_read: bool
    site: int | None = None

    @classmethod
    def of(cls, name: str, is_decoder: bool, is_cross_attention: bool, is_read: bool) -> Place:
        """The place in the decoder of an encoder-decoder or elsewhere, in a cross-attention, or next to the head."""
        tokens = DECODER_TOKEN_KEYS if is_decoder else TOKEN_KEYS
        return cls(name, tokens, TOKEN_KEYS if is_cross_attention else tokens, is_read)


def unknown_shape(place: Place, shape: Iterable[int | None]) -> str:
    """The message for a dropout whose elements belong to no token."""
    return (
        f"the dropout in {place.name or 'the head'} is over {list(shape)}, but shared dropout masks are for "
        "hidden states [batch, tokens, width] and attention weights [batch, heads, tokens, tokens]; set "
        "train.dropout_masks to framework"
    )


def other_draws(who: str) -> str:
    """The message for a part of a model that draws random numbers by itself."""
    return (
        f"{who} draws random numbers of its own in training, which the other framework cannot have too: let it use the "
        "framework's dropout layer itself, without a subclass, or set train.dropout_masks to framework"
    )
