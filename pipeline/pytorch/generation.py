"""Text generation in PyTorch. `pipeline/tensorflow/generation.py` has the same definitions in the same order."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.backend import GenerationSettings, OnToken
from pipeline.models.checkpoint import generation_config
from pipeline.models.decoding import beam_search, greedy
from pipeline.pytorch.library import settings_of_caller_only
from pipeline.pytorch.transformer import HIDDEN, Cache, Transformer, padding_bias


def generate(
    model: Any, inputs: dict[str, Tensor], settings: GenerationSettings, on_token: OnToken | None = None
) -> Tensor:
    """Token ids [B, T] that the model writes, greedily or by beam search, as the library does it.

    `on_token` is as in `pipeline.backend.Predictor.generate`.
    """
    options: dict[str, Any] = {"generation_config": generation_config(model.config, settings)}
    options["synced_gpus"] = False  # each of several ranks has all weights, and texts of its own
    if on_token is not None:

        def put(tokens: Tensor) -> None:
            if tokens.ndim == 1:  # the prompt, which the library puts first, has two dimensions
                on_token(tokens.numpy())

        options["streamer"] = SimpleNamespace(put=put, end=lambda: None)
    with settings_of_caller_only(model, options):
        return model.generate(**inputs, **options)


@torch.no_grad()
def write_texts(
    model: Transformer,
    source_BS: Tensor,
    mask_BS: Tensor,
    max_new_tokens: int,
    num_beams: int = 1,
    length_penalty: float = 1.0,
) -> NDArray[np.int32]:
    """Token ids [B, T] that the Transformer writes; `pipeline/models/decoding.py` says how."""
    bias_B11S, num_written = padding_bias(mask_BS), 0
    cache: Cache | None = None
    encoded_BSD = model.encode(model.embed(source_BS), bias_B11S)
    encoded_NSD, bias_N11S = (x.repeat_interleave(num_beams, dim=0) for x in (encoded_BSD, bias_B11S))

    def next_tokens(tokens_N: NDArray, rows_N: NDArray) -> tuple[NDArray, NDArray]:
        nonlocal cache, num_written
        tokens_N1, rows = (torch.from_numpy(x).to(source_BS) for x in (tokens_N[:, None], rows_N))
        if cache is not None:  # the beams of a text have the same source, so only their own keys and values move
            cache = [((past[0][rows], past[1][rows]), source_past) for past, source_past in cache if past is not None]
        token_N1D = model.embed(tokens_N1, torch.full_like(tokens_N1, num_written))
        decoded_N1D, cache = model.decode(token_N1D, None, (encoded_NSD, bias_N11S), cache)
        num_written += 1
        log_probs_NV = model.logits(decoded_N1D)[:, 0].log_softmax(dim=1)
        log_probs_NV[:, model.settings.padding_id] = HIDDEN
        log_probs_NC, ids_NC = log_probs_NV.topk(2 * num_beams)
        return log_probs_NC.cpu().numpy(), ids_NC.cpu().numpy()

    if num_beams == 1:
        return greedy(next_tokens, len(source_BS), model.settings, max_new_tokens)
    return beam_search(next_tokens, len(source_BS), model.settings, max_new_tokens, num_beams, length_penalty)
