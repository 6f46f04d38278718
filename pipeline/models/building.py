"""Builds a model with its weights: the one way to the model of step 0, and to that of a finished run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from pipeline.backend import Backend, Model
from pipeline.data.batches import Features
from pipeline.models.attention import STOCK
from pipeline.models.attention_check import Proof, swap_with_proof
from pipeline.models.checkpoint import load_config, read_weights
from pipeline.models.families import family_of
from pipeline.models.initialization import (
    complete_weights,
    off_by_one_rounding,
    random_weights,
    with_prefix,
    without_head,
)
from pipeline.models.lora import adapters_of, moved, weights_to_freeze
from pipeline.recipe.schema import Recipe

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class WeightSources:
    """Where the weights of step 0 are from: how many the checkpoint has, which are drawn, which of its own are left."""

    kept: int
    new: tuple[str, ...]
    dropped: tuple[str, ...]

    @property
    def is_plain(self) -> bool:
        """Whether there is nothing to say: all weights are the checkpoint's and all of its own are used, or none is."""
        return not self.kept or not (self.new or self.dropped)

    def __str__(self) -> str:
        lists = {"new": self.new, "not used": self.dropped}
        parts = [f"{word}: {_shortened(names)}" for word, names in lists.items() if names]
        return "; ".join([f"weights: {self.kept} from the checkpoint", *parts])


class Start(NamedTuple):
    """The model of step 0, the proof that its attention is in place, where its weights are from, and its sizes.

    `parameters` is how many numbers its weights have, `trainable` how many of them are trained.
    """

    model: Model
    proof: Proof
    sources: WeightSources
    parameters: int
    trainable: int


def build_model(
    backend: Backend,
    recipe: Recipe,
    head: str,
    config: PretrainedConfig,
    seed: int,
    precision: str = "fp32",
    allow_pickle: bool = False,
    new_head: bool = False,
) -> Model:
    """A stock model with every weight set: from the recipe's checkpoint, or drawn from the seed.

    `head` is a transformers Auto class such as "AutoModelForCausalLM". With `new_head` the checkpoint's own head is not
    used. Raises UserError if the checkpoint's weights do not fit its configuration, or cannot be read.
    """
    return _build(backend, recipe, head, config, seed, precision, allow_pickle, new_head)[0]


def _build(
    backend: Backend,
    recipe: Recipe,
    head: str,
    config: PretrainedConfig,
    seed: int,
    precision: str,
    allow_pickle: bool,
    new_head: bool,
) -> tuple[Model, WeightSources]:
    """The model of `build_model`, and where its weights are from."""
    model = backend.build_model(head, config, precision, seed, recipe.train.attention_implementation)
    shapes = backend.weight_shapes(model)
    if recipe.weights == "random":
        backend.set_weights(model, random_weights(shapes, config, seed))
        return model, WeightSources(0, tuple(shapes), ())
    checkpoint = read_weights(recipe, backend.read_pickle if allow_pickle else None)
    usable = without_head(checkpoint, config) if new_head else checkpoint
    backend.set_weights(model, complete_weights(recipe, usable, shapes, config, seed))
    found = with_prefix(checkpoint, shapes, config)
    kept = {name for name, value in with_prefix(usable, shapes, config).items() if shapes.get(name) == value.shape}
    new, dropped = (tuple(name for name in names if name not in kept) for names in (shapes, found))
    return model, WeightSources(len(kept), new, dropped)


def build_for_training(
    backend: Backend,
    recipe: Recipe,
    head: str,
    config: PretrainedConfig,
    seed: int,
    attention: str,
    probe: Features,
    allow_pickle: bool = False,
) -> Start:
    """The model of step 0, with the start, frozen weights and attention that are asked for.

    `probe` is the batch on which a swapped attention is compared with the stock one. Raises UserError, ProofError.
    """
    precision, new_head, lora = recipe.train.precision, draws_head(recipe, config), recipe.train.lora
    proof, is_proven = Proof(), attention == STOCK
    if attention != STOCK and (precision != "fp32" or lora is not None):
        # The proof compares logits in fp32, which a model with bf16 layers cannot compute, and an update that is zero
        # would not be missed.
        exact = build_model(backend, recipe, head, config, seed, "fp32", allow_pickle, new_head)
        if lora is not None:
            backend.add_adapters(exact, moved(adapters_of(lora, backend.weight_shapes(exact), config, seed)))
        proof, is_proven = swap_with_proof(backend, exact, attention, probe), True
        del exact
    model, sources = _build(backend, recipe, head, config, seed, precision, allow_pickle, new_head)
    if recipe.perturb_weights:
        backend.set_weights(model, off_by_one_rounding(backend.get_weights(model), config, seed))
    parameters, trainable = _freeze(backend, model, recipe, config, seed, sources)
    if not is_proven:
        proof = swap_with_proof(backend, model, attention, probe)
    elif attention != STOCK:
        backend.swap_attention(model, attention)
    return Start(model, proof, sources, parameters, trainable)


def _freeze(
    backend: Backend, model: Model, recipe: Recipe, config: PretrainedConfig, seed: int, sources: WeightSources
) -> tuple[int, int]:
    """Freeze what the recipe does not train, and add the updates of LoRA; returns the number of parameters and of
    those that are trained.
    """
    constants, patterns, lora = tuple(family_of(config).constant_weights), recipe.train.freeze, recipe.train.lora
    shapes = backend.weight_shapes(model)
    if lora is not None:
        backend.add_adapters(model, adapters_of(lora, shapes, config, seed))
        shapes = backend.weight_shapes(model)
        patterns = tuple(weights_to_freeze(family_of(config).without_constants(shapes), sources.new, patterns))
    frozen = set(backend.freeze(model, (*constants, *patterns)))
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    return sum(sizes.values()), sum(size for name, size in sizes.items() if name not in frozen)


def draws_head(recipe: Recipe, config: PretrainedConfig) -> bool:
    """Whether the checkpoint's head is for classes of other names than `config`, the model's, and so is drawn anew.

    Numbered classes have no names but their numbers.
    """
    if recipe.keep_head or recipe.weights == "random":
        return False
    return _class_names(load_config(recipe)) != _class_names(config)


def _class_names(config: PretrainedConfig) -> list[str]:
    names = config.id2label or {}
    return [str(names[number]).removeprefix("LABEL_") for number in sorted(names)]


def _shortened(names: tuple[str, ...], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
