"""The weights of step 0: from a checkpoint, or drawn in NumPy from the seed, the same numbers in both frameworks."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from transformers import PretrainedConfig

from pipeline.models.families import FAMILIES, Family, family_of
from pipeline.recipe.schema import Recipe
from pipeline.utils.errors import UserError

Weights = dict[str, NDArray]
Shapes = Mapping[str, tuple[int, ...]]

# The random key of the directions in which weights are perturbed, beside the seed and the weight's name.
_PERTURBATION = 1
# Output matrices that are the embeddings where a config ties them, with those embeddings.
_TIED = {"lm_head.weight": ("shared.weight", "model.shared.weight", "transformer.wte.weight")} | {
    family.masked_output: (f"{family.body_prefix}embeddings.word_embeddings.weight",)
    for family in FAMILIES.values()
    if family.masked_output
}
# What a model has that reads no output matrix: the heads of the library for classes and spans.
_OTHER_HEADS = ("score.", "classifier.", "qa_outputs.")

# How many faults of a checkpoint are named; the others are counted.
_MOST_FAULTS = 5


def complete_weights(
    recipe: Recipe, checkpoint: Weights, expected: Shapes, config: PretrainedConfig, seed: int
) -> Weights:
    """A value for every expected weight: from the checkpoint, or drawn from the seed for a new head.

    `expected` has the model's names and shapes in the PyTorch layout. Raises UserError naming weights of the model's
    body that are missing, unexpected or of another shape.
    """
    family, checkpoint = family_of(config), with_prefix(checkpoint, expected, config)
    faults = [
        *_missing(family, checkpoint, expected),
        *_unexpected(family, checkpoint, expected, config),
        *_untied(checkpoint, expected),
    ]
    if faults:
        more = len(faults) - _MOST_FAULTS
        raise UserError(
            f"recipe {recipe.name}: the weights of checkpoint {recipe.checkpoint} do not fit its config.json: "
            + "; ".join(faults[:_MOST_FAULTS])
            + (f"; and {more} more" if more > 0 else "")
        )
    return {
        name: checkpoint[name]
        if name in checkpoint and checkpoint[name].shape == shape
        else draw(name, shape, config, seed)
        for name, shape in expected.items()
    }


def with_prefix(checkpoint: Weights, expected: Shapes, config: PretrainedConfig) -> Weights:
    """The weights under the names that they have in a model with a head, also if they were saved without one."""
    prefix = family_of(config).body_prefix
    if any(name.startswith(prefix) for name in checkpoint):
        return checkpoint
    return {prefix + k if prefix + k in expected else k: value for k, value in checkpoint.items()}


def without_head(checkpoint: Weights, config: PretrainedConfig) -> Weights:
    """The weights of the body alone, so that the head is drawn anew."""
    prefix = family_of(config).body_prefix
    body = {name: value for name, value in checkpoint.items() if name.startswith(prefix)}
    return body or checkpoint  # saved from a model without a head, whose names have no prefix


def random_weights(expected: Shapes, config: PretrainedConfig, seed: int) -> Weights:
    """Every weight drawn from the seed: the same architecture from scratch."""
    return {name: draw(name, shape, config, seed) for name, shape in expected.items()}


def draw(name: str, shape: tuple[int, ...], config: PretrainedConfig, seed: int) -> NDArray[np.float32]:
    """A fresh weight by its family's rule, a function of (name, seed) alone, whatever else is drawn.

    Biases are 0, LayerNorm scales 1, matrices normal with the family's standard deviation; weights that are never
    trained have the family's values.
    """
    family = family_of(config)
    if (constant := family.constant_weight(name, shape)) is not None:
        return constant
    if (computed := family.computed_start(name, shape, config)) is not None:
        return computed
    if name.endswith("bias"):
        return np.zeros(shape, np.float32)
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    weight = rng.normal(0.0, family.initial_deviation(name, config), shape).astype(np.float32)
    is_padded = family.padded_embedding is not None and name.endswith(family.padded_embedding)
    if is_padded and config.pad_token_id is not None:
        weight[config.pad_token_id] = 0
    return weight


def off_by_one_rounding(weights: Mapping[str, NDArray], config: PretrainedConfig, seed: int) -> Weights:
    """Every weight moved to the next fp32 number, up or down at random: a start that differs by rounding alone.

    The directions are a function of (name, seed), so both frameworks get the same numbers. A weight of 0 stays: its
    neighbors, 1e-45, are not roundings of it, and a step relative to the other weights would change it infinitely much.
    So do weights of the family that are never trained, such as tables of positions.
    """
    moved = set(family_of(config).without_constants(weights))
    return {
        name: _off_by_one_rounding(name, weight, seed) if name in moved else weight for name, weight in weights.items()
    }


def _off_by_one_rounding(name: str, weight: NDArray, seed: int) -> NDArray[np.float32]:
    rng = np.random.default_rng([seed, zlib.crc32(name.encode()), _PERTURBATION])
    upwards = rng.integers(0, 2, weight.shape, dtype=np.uint8).astype(bool)
    value = weight.astype(np.float32)
    neighbor = np.nextafter(value, np.where(upwards, np.float32(np.inf), np.float32(-np.inf)))
    return np.where(value == 0, value, neighbor)


def _missing(family: Family, checkpoint: Weights, expected: Shapes) -> list[str]:
    """Weights of the body that the checkpoint lacks or has in another shape."""
    faults = []
    for name, shape in expected.items():
        if not family.is_required(name):
            continue
        if name not in checkpoint:
            faults.append(f"{name} is missing")
        elif checkpoint[name].shape != shape:
            faults.append(f"{name} is {list(checkpoint[name].shape)}, expected {list(shape)}")
    return faults


def _unexpected(family: Family, checkpoint: Weights, expected: Shapes, config: PretrainedConfig) -> list[str]:
    """Weights of the body that the checkpoint has and the model does not."""
    return [
        f"{name} is not part of the model"
        for name in checkpoint
        if name not in expected and family.is_required(name) and not family.is_unread(name, config)
    ]


def _untied(checkpoint: Weights, expected: Shapes) -> list[str]:
    """Output matrices that the model would ignore although they differ from the embeddings."""
    return [
        f"{output} is not {embedding}, but tie_word_embeddings says so"
        f"{' (transformers 5 writes it of each T5)' if embedding == 'shared.weight' else ''}; "
        "set it to false in config.json"
        for output, embeddings in _TIED.items()
        for embedding in embeddings
        if output in checkpoint
        and embedding in checkpoint
        and output not in expected
        and not any(name.startswith(_OTHER_HEADS) for name in expected)
        if not np.array_equal(checkpoint[output], checkpoint[embedding])
    ]
