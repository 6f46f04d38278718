"""Builds a model with its weights: the one way to the model of step 0, and to that of a finished run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.backend import Backend, Model
from pipeline.data.batches import Features
from pipeline.models.attention import STOCK
from pipeline.models.attention_check import Proof, swap_with_proof
from pipeline.models.checkpoint import read_weights
from pipeline.models.initialization import complete_weights, off_by_one_rounding, random_weights
from pipeline.recipe.schema import Recipe

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def build_model(
    backend: Backend,
    recipe: Recipe,
    head: str,
    config: PretrainedConfig,
    seed: int,
    precision: str = "fp32",
    allow_pickle: bool = False,
) -> Model:
    """A stock model with every weight set: from the recipe's checkpoint, or drawn from the seed.

    `head` is a transformers Auto class such as "AutoModelForCausalLM". Raises UserError if the checkpoint's weights
    do not fit its configuration, or cannot be read.
    """
    model = backend.build_model(head, config, precision, seed)
    shapes = backend.weight_shapes(model)
    if recipe.weights == "random":
        weights = random_weights(shapes, config, seed)
    else:
        checkpoint = read_weights(recipe, backend.read_pickle if allow_pickle else None)
        weights = complete_weights(recipe, checkpoint, shapes, config, seed)
    backend.set_weights(model, weights)
    return model


def build_for_training(
    backend: Backend,
    recipe: Recipe,
    head: str,
    config: PretrainedConfig,
    seed: int,
    attention: str,
    probe: Features,
    allow_pickle: bool = False,
) -> tuple[Model, Proof]:
    """The model of step 0, with the start, frozen weights and attention that are asked for, and the proof of the last.

    `probe` is the batch on which a swapped attention is compared with the stock one. Raises UserError, ProofError.
    """
    precision = recipe.train.precision
    proof = Proof()
    if attention != STOCK and precision != "fp32":
        # The proof compares logits in fp32, which a model with bf16 layers cannot compute.
        exact = build_model(backend, recipe, head, config, seed, "fp32", allow_pickle)
        proof = swap_with_proof(backend, exact, attention, probe)
        del exact
    model = build_model(backend, recipe, head, config, seed, precision, allow_pickle)
    if recipe.perturb_weights:
        backend.set_weights(model, off_by_one_rounding(backend.get_weights(model), seed))
    backend.freeze(model, recipe.train.freeze)
    if attention != STOCK and precision == "fp32":
        proof = swap_with_proof(backend, model, attention, probe)
    elif attention != STOCK:
        backend.swap_attention(model, attention)
    return model, proof
