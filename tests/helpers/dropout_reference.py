"""Dropout masks by the description in `pipeline/models/dropout.py`, one Python integer at a time."""

import numpy as np

MOST = 2**32 - 1


def mix(x):
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & MOST
    x = ((x ^ (x >> 15)) * 0x846CA68B) & MOST
    return x ^ (x >> 16)


def token_key(seed, step, example, position):
    """From 0 to 2^32 - 1."""
    return mix((mix((mix(seed) + step) & MOST) + 65536 * example + position) & MOST)


def site_key(key, site):
    return mix((key + (1 + site) * 0x85EBCA6B) & MOST)


def scale(word, is_upper, rate):
    """What an element is multiplied by, from the half of a word that is its number."""
    number = word >> 16 if is_upper else word & 0xFFFF
    dropped = round(rate * 65536)
    signed = number - 65536 if number >= 32768 else number
    return 0.0 if signed + 32768 < dropped else 65536 / (65536 - dropped)


def hidden_scales(keys_RL, site, width, rate):
    """[R, L, D]."""
    scales = np.zeros((*keys_RL.shape, width), np.float32)
    for row, token in np.ndindex(keys_RL.shape):
        key = site_key(int(keys_RL[row, token]) % 2**32, site)
        for d in range(width):
            word = mix((key + d // 2 * 0x9E3779B9) & MOST)
            scales[row, token, d] = scale(word, d % 2, rate)
    return scales


def attention_scales(queries_RT, keys_RS, site, num_heads, rate):
    """[R, H, T, S]."""
    scales = np.zeros((len(queries_RT), num_heads, queries_RT.shape[1], keys_RS.shape[1]), np.float32)
    for row, head, t, s in np.ndindex(scales.shape):
        query = site_key(int(queries_RT[row, t]) % 2**32, site)
        query = mix((query + head // 2 * 0xC2B2AE35) & MOST)
        word = mix((query + int(keys_RS[row, s]) % 2**32) & MOST)
        scales[row, head, t, s] = scale(word, head % 2, rate)
    return scales
