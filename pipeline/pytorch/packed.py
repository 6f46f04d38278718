"""Packed batches in PyTorch: a row holds several examples, and each token sees those of its own example only.

This is what all families share; `pipeline/pytorch/swap.py` calls the layers of each.
`pipeline/tensorflow/packed.py` has the same definitions in the same order.
"""

# R rows · L positions of a row · P examples that a row may have · S source positions · T target positions · D width
# N tokens that the head reads, of all rows

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pipeline.models.families import family_of, unknown_head
from pipeline.models.optimization import COUNTED_MULTIPLE, HIDDEN_LOGIT
from pipeline.pytorch.model import architecture
from pipeline.utils.errors import UserError


def tokens_read(model: Any, batch: dict[str, Tensor]) -> Tensor | None:
    """Which tokens the head of the model reads, [N], counted through all rows; None if all, or if nothing is packed.

    A head for whole examples reads a token of each, and that of a masked language model only those with a loss, if
    `loss_weights` are in the batch.
    """
    if "segment_ids" not in batch:
        return None
    if architecture(model).endswith("ForMaskedLM") and "loss_weights" in batch:
        return tokens_with_loss(batch["loss_weights"])
    if "pooled_positions" not in batch or hasattr(model, "qa_outputs"):
        return None
    rows, length = batch["segment_ids"].shape
    starts_R1 = torch.arange(0, rows * length, length, device=batch["segment_ids"].device)[:, None]
    return (starts_R1 + batch["pooled_positions"]).flatten()


def tokens_with_loss(loss_weights: Tensor) -> Tensor:
    """The tokens whose weight is not 0, [N], counted through all rows, and behind them up to seven others.

    So N is a multiple of eight if there are enough tokens: on a CPU, operations are prepared and kept for each N.
    """
    has_loss_N = loss_weights.flatten() != 0
    counted = has_loss_N.nonzero()[:, 0]
    return torch.cat((counted, (~has_loss_N).nonzero()[: -len(counted) % COUNTED_MULTIPLE, 0]))


def chosen(x_RLD: Tensor, tokens_N: Tensor | None) -> Tensor:
    """What `x_RLD` has at these tokens, [1, N, D]; all of it if they are None."""
    return x_RLD if tokens_N is None else x_RLD.flatten(0, 1).index_select(0, tokens_N)[None]


def same_example(queries_RT: Tensor, keys_RS: Tensor) -> Tensor:
    """1 where query and key belong to the same example, else 0, [R, T, S].

    Padding attends to everything: a query that attends to nothing could become NaN.
    """
    queries_RT1 = queries_RT[:, :, None]
    return ((queries_RT1 == keys_RS[:, None, :]) | (queries_RT1 == 0)).int()


def bias_of(pairs_RTS: Tensor) -> Tensor:
    """What is added to attention scores: 0 where a pair is 1, a large negative number where it is 0, [R, 1, T, S]."""
    return (1 - pairs_RTS[:, None]) * HIDDEN_LOGIT


def plain_head(model: Any, hidden_BTD: Tensor) -> Tensor:
    """The logits of a head that reads hidden states each for itself, by the names that the library gives its heads.

    [..., D] -> [..., classes]. Raises UserError for a head that is not known here.
    """
    if hasattr(model, "qa_outputs"):
        return model.qa_outputs(hidden_BTD)
    if hasattr(model, "score"):
        return model.score(hidden_BTD)
    if hasattr(model, "classifier"):
        return model.classifier(model.dropout(hidden_BTD))
    raise UserError(unknown_head(model))


def decoder_head(model: Any, hidden_BTD: Tensor) -> Tensor:
    """The logits of a head on a decoder, [B, T, classes]."""
    return language_model_logits(model, hidden_BTD) if hasattr(model, "lm_head") else plain_head(model, hidden_BTD)


def language_model_logits(model: Any, hidden_BTD: Tensor) -> Tensor:
    """The logits [B, T, V] of a causal language model or a sequence-to-sequence model."""
    scale = family_of(model.config).tied_output_scale(model.config)
    if model.config.tie_word_embeddings and scale != 1:
        hidden_BTD = hidden_BTD * scale
    logits_BTV = model.lm_head(hidden_BTD)
    return logits_BTV.add_(model.final_logits_bias) if hasattr(model, "final_logits_bias") else logits_BTV


def span_logits(logits_RL2: Tensor, segment_ids_RL: Tensor, most_examples: int) -> Tensor:
    """For each of at most P examples of a row the logits that its span starts or ends at each position, [R, P, 2, L].

    A span cannot leave its example.
    """
    example_P1 = torch.arange(1, most_examples + 1, device=segment_ids_RL.device)[:, None]
    outside_RPL = (segment_ids_RL[:, None, :] != example_P1).float()
    return logits_RL2.transpose(1, 2)[:, None] + outside_RPL[:, :, None, :] * HIDDEN_LOGIT
