"""The proof, at run time, that a swapped attention is where it should be, works, and gives the stock logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.backend import Backend
from pipeline.data.batches import Features
from pipeline.models.attention import SUPPORTED, unsupported
from pipeline.recipe.schema import Recipe
from pipeline.utils.errors import ProofError, UserError, did_you_mean

# max|ours − stock| / max(1, max|stock|) of the probe's logits, fp32, evaluation mode.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Proof:
    """Swapped sites, and the largest difference of the probe's logits from the stock model's."""

    sites: int = 0
    max_difference: float = 0.0


def refuse_attention(recipe: Recipe, config: Any, attention: str) -> None:
    """Raise UserError where the name is none, or where the checkpoint's attention cannot be swapped."""
    if attention == "stock":
        return
    if attention != "handwritten" and ":" not in attention:
        known = ("stock", "handwritten")
        raise UserError(
            f'attention is "{attention}", want stock, handwritten or module:Class.{did_you_mean(attention, known)}'
        )
    reasons = unsupported(config)
    if reasons:
        raise UserError(
            f"recipe {recipe.name}: attention={attention} does not fit checkpoint {recipe.checkpoint}: "
            f"{'; '.join(reasons)}. Supported: {', '.join(SUPPORTED.values())}, without the options named here."
        )


def swap_with_proof(backend: Backend, model: Any, attention: str, probe: Features) -> Proof:
    """Swap the attention of a stock fp32 model and prove it on `probe`.

    Every site that the configuration implies must be replaced and called. Equal logits are required of
    "handwritten", and reported for any other attention. Raises ProofError.
    """
    stock = backend.logits(model, probe)
    sites = backend.swap_attention(model, attention)
    swapped = backend.logits(model, probe)
    calls = backend.attention_calls(model)
    expected = expected_sites(model.config)
    if sites != expected or len(calls) != expected:
        raise ProofError(f"attention {attention}: {sites} sites were replaced, but the model has {expected}")
    if 0 in calls:
        raise ProofError(f"attention {attention}: site {calls.index(0)} of {sites} was never called")
    difference = float(np.abs(swapped - stock).max() / max(1.0, np.abs(stock).max()))
    if attention == "handwritten" and not difference <= TOLERANCE:
        raise ProofError(
            f"attention handwritten: the probe's logits differ from the stock model's by {difference:.1e}, "
            f"over the tolerance {TOLERANCE:.0e}"
        )
    return Proof(sites, difference)


def expected_sites(config: Any) -> int:
    """How many places a model of this configuration attends."""
    if config.model_type == "t5":
        return config.num_layers + 2 * (config.num_decoder_layers if config.is_encoder_decoder else 0)
    return config.num_hidden_layers
