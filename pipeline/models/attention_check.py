"""Proves at run time that a swapped attention is in every place, is called, and gives the stock model's logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.backend import Backend, Model
from pipeline.data.batches import Features
from pipeline.models.attention import STOCK, is_ours, name_problem, supported, unsupported
from pipeline.models.families import family_of
from pipeline.recipe.schema import Recipe
from pipeline.utils.errors import ProofError, UserError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# max|ours − stock| / max(1, max|stock|) of the probe's logits, fp32, evaluation mode.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Proof:
    """Swapped sites, and the largest difference of the probe's logits from the stock model's."""

    sites: int = 0
    max_difference: float = 0.0


def refuse_attention(recipe: Recipe, config: PretrainedConfig, attention: str) -> None:
    """Raise UserError if there is no attention of this name, or a model of the checkpoint cannot have it."""
    if problem := name_problem(attention):
        raise UserError(problem)
    if attention != STOCK and (implementation := recipe.train.attention_implementation) is not None:
        raise UserError(
            f'recipe {recipe.name}: train.attention_implementation is "{implementation}", which says how the stock '
            f"attention is computed, but attention is {attention}; leave one of them out"
        )
    reasons = unsupported(config, attention) if attention != STOCK else []
    if reasons:
        raise UserError(
            f"recipe {recipe.name}: attention={attention} does not fit checkpoint {recipe.checkpoint}: "
            f"{'; '.join(reasons)}. Supported: {supported(attention)}, without the options named here."
        )


def swap_with_proof(backend: Backend, model: Model, attention: str, probe: Features) -> Proof:
    """Swap the attention of a stock fp32 model and prove it on the batch `probe`.

    Every site that the configuration implies must be replaced and called. The hand-written attention, and the model
    that is written by hand, must give equal logits; for any other attention the difference is only reported. Raises
    ProofError.
    """
    predictor = backend.Predictor(model, optimize=False)
    stock = predictor.logits(probe)
    sites = backend.swap_attention(model, attention)
    swapped = predictor.logits(probe)
    calls = backend.attention_calls(model)
    expected = family_of(model.config).num_attentions(model.config)
    if sites != expected or len(calls) != expected:
        raise ProofError(f"attention {attention}: {sites} sites were replaced, but the model has {expected}")
    if 0 in calls:
        raise ProofError(f"attention {attention}: site {calls.index(0)} of {sites} was never called")
    difference = float(np.abs(swapped - stock).max() / max(1.0, np.abs(stock).max()))
    if is_ours(attention) and not difference <= TOLERANCE:
        raise ProofError(
            f"attention {attention}: the probe's logits differ from the stock model's by {difference:.1e}, "
            f"over the tolerance {TOLERANCE:.0e}"
        )
    return Proof(sites, difference)
