"""Builds a model with its weights: the one way to the model of step 0, and to that of a finished run."""

from __future__ import annotations

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
    """The model of step 0, the proof that its attention is in place, and where its weights are from."""

    model: Model
    proof: Proof
    sources: WeightSources


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
    model = backend.build_model(head, config, precision, seed)
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
    precision, new_head = recipe.train.precision, draws_head(recipe, config)
    proof = Proof()
    if attention != STOCK and precision != "fp32":
        # The proof compares logits in fp32, which a model with bf16 layers cannot compute.
        exact = build_model(backend, recipe, head, config, seed, "fp32", allow_pickle, new_head)
        proof = swap_with_proof(backend, exact, attention, probe)
        del exact
    model, weights = _build(backend, recipe, head, config, seed, precision, allow_pickle, new_head)
    if recipe.perturb_weights:
        backend.set_weights(model, off_by_one_rounding(backend.get_weights(model), seed))
    backend.freeze(model, (*family_of(config).constant_weights, *recipe.train.freeze))
    if attention != STOCK and precision == "fp32":
        proof = swap_with_proof(backend, model, attention, probe)
    elif attention != STOCK:
        backend.swap_attention(model, attention)
    return Start(model, proof, weights)


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
