"""LoRA as far as it is the same in both frameworks: which projections get an update, its start, its merge, its files.

    y = x W + b + alpha / rank · dropout(x) A B        A [in, rank] drawn from the seed, B [rank, out] zero at the start

W and b stay as they are, A and B are trained, and so is a head that is new. `pytorch/lora.py` and `tensorflow/lora.py`
compute it. Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.backend import Adapter
from pipeline.models.dropout import Place
from pipeline.models.families import family_of
from pipeline.models.initialization import Shapes, Weights
from pipeline.models.optimization import matching
from pipeline.models.safetensors_files import write_safetensors
from pipeline.recipe.schema import Lora
from pipeline.utils.errors import UserError, did_you_mean
from pipeline.utils.files import write_json

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# What A and B are called below the name of a projection, and where a model in training holds the projection itself.
FIRST, SECOND, BASE = "lora_A", "lora_B", "base_layer"
ALL_LINEAR = "all-linear"
# The sites of the updates' dropouts in shared masks begin here, beyond those that are counted: the masks of all others
# are those of a training without LoRA, and one mask serves a merged projection and its parts.
FIRST_SITE = 2**16
# The heads of the library for classes and spans, which are trained in full, as peft has it.
_HEADS = ("classifier", "pre_classifier", "score", "qa_outputs")
# What peft calls the tasks, by the Auto class of the model.
_TASK_TYPES = {
    "AutoModelForSequenceClassification": "SEQ_CLS",
    "AutoModelForTokenClassification": "TOKEN_CLS",
    "AutoModelForQuestionAnswering": "QUESTION_ANS",
    "AutoModelForCausalLM": "CAUSAL_LM",
    "AutoModelForSeq2SeqLM": "SEQ_2_SEQ_LM",
}
# Layers are numbered; nothing outside of them is adapted.
_IN_A_LAYER = re.compile(r"\.\d+\.")


def adapters_of(lora: Lora, shapes: Shapes, config: PretrainedConfig, seed: int) -> list[Adapter]:
    """The updates of a stock model's projections, in the order of their names; `shapes` are those of its weights.

    A is drawn as in peft, uniformly up to 1/√in, as a function of (name, seed). Raises UserError for a target that is
    no projection of the model, and for a rank above the sizes of one.
    """
    family, adapters = family_of(config), []
    projections = projections_of(shapes, config)
    for number, module in enumerate(projections):
        if not is_target(module, lora, config):
            continue
        num_in, num_out = sizes_of(shapes[f"{module}.weight"], config)
        if lora.rank > min(num_in, num_out):
            raise UserError(
                f"train.lora.rank is {lora.rank}, but {module} has {num_in} inputs and {num_out} outputs: an update of "
                f"rank {min(num_in, num_out)} can be any matrix; set train.lora.rank to less"
            )
        rng, bound = np.random.default_rng([seed, zlib.crc32(f"{module}.{FIRST}".encode())]), num_in**-0.5
        first = rng.uniform(-bound, bound, (num_in, lora.rank)).astype(np.float32)
        second = np.zeros((lora.rank, num_out), np.float32)
        reads_source = family.reads_source.search(module) is not None
        adapters.append(
            Adapter(module, first, second, lora.alpha / lora.rank, lora.dropout, FIRST_SITE + number, reads_source)
        )
    refuse_idle_targets(lora, projections)
    return adapters


def projections_of(shapes: Shapes, config: PretrainedConfig) -> list[str]:
    """The modules of a model's layers that are linear, by name and in the order of their names."""
    modules = (name.removesuffix(".weight") for name in shapes if name.endswith(".weight"))
    known = family_of(config).projections
    return sorted(module for module in modules if _IN_A_LAYER.search(module) and module.split(".")[-1] in known)


def is_target(module: str, lora: Lora, config: PretrainedConfig) -> bool:
    """Whether a projection is among those that get an update."""
    return ALL_LINEAR in lora.targets or ends_with(module, lora.targets or family_of(config).adapted)


def ends_with(module: str, targets: Iterable[str]) -> bool:
    """Whether a module's name is one of these or ends with one, after a dot."""
    return any(f".{module}".endswith(f".{target}") for target in targets)


def refuse_idle_targets(lora: Lora, projections: list[str]) -> None:
    """Raise UserError for a target that is the end of no projection's name."""
    known = sorted({module.split(".")[-1] for module in projections})
    for target in lora.targets:
        if target != ALL_LINEAR and not any(ends_with(module, [target]) for module in projections):
            raise UserError(
                f'train.lora.targets: "{target}" is no projection of this model, which has: {", ".join(known)}; or '
                f"{ALL_LINEAR} for all of them.{did_you_mean(target, known)}"
            )


def sizes_of(shape: tuple[int, ...], config: PretrainedConfig) -> tuple[int, int]:
    """Inputs and outputs of a projection, by the shape of its weight in the PyTorch layout."""
    return (shape[0], shape[1]) if family_of(config).has_inputs_first else (shape[1], shape[0])


def place_of_update(adapter: Adapter, name: str, is_decoder: bool, is_read: bool) -> Place:
    """Where the dropout of an update is; `name` is that of the module around it."""
    place = Place.of(name, is_decoder and not adapter.reads_source, is_cross_attention=False, is_read=is_read)
    return replace(place, site=adapter.site)


def moved(adapters: Iterable[Adapter]) -> list[Adapter]:
    """The updates with a B that is not zero, so that a model which ignores one has other logits."""
    rng = np.random.default_rng(0)
    return [
        replace(each, second=rng.normal(0.0, 0.02, each.second.shape).astype(np.float32) / np.float32(each.scale))
        for each in adapters
    ]


def head_weights(names: Iterable[str], new: Collection[str]) -> list[str]:
    """The weights that are trained besides the updates: a head for classes or spans, and what the checkpoint lacks."""
    return [name for name in names if name.split(".")[0] in _HEADS or name in new]


def weights_to_freeze(names: Iterable[str], new: Collection[str], freeze: tuple[str, ...]) -> list[str]:
    """The weights of an adapted model that are not trained, `freeze` among them, which are patterns of names.

    Raises UserError for a pattern that names nothing but weights which are not trained anyway.
    """
    names = list(names)
    trained = {*head_weights(names, new), *(name for name in names if name.endswith((f".{FIRST}", f".{SECOND}")))}
    frozen, unmatched = matching(sorted(trained), freeze)
    if unmatched:
        head = ", ".join(head_weights(names, new)[:4]) or "the model has no head that is trained"
        raise UserError(
            f'train.freeze: "{unmatched[0]}" names nothing that would be trained, since train.lora keeps all weights '
            f"but those of the updates and of the head ({head}); leave it out"
        )
    return [name for name in names if name not in trained or name in frozen]


def merged(weights: Weights, lora: Lora, config: PretrainedConfig) -> Weights:
    """The stock model's weights with the updates added to them, from those of an adapted model."""
    stock = {name: value for name, value in weights.items() if not name.endswith((f".{FIRST}", f".{SECOND}"))}
    for module, first, second in updates(weights):
        update = lora.alpha / lora.rank * (first.astype(np.float64) @ second.astype(np.float64))
        update = update if family_of(config).has_inputs_first else update.T
        stock[f"{module}.weight"] = (stock[f"{module}.weight"] + update).astype(np.float32)
    return stock


def updates(weights: Weights) -> list[tuple[str, NDArray, NDArray]]:
    """Each adapted projection's name, its A and its B."""
    modules = [name.removesuffix(f".{FIRST}") for name in weights if name.endswith(f".{FIRST}")]
    return [(module, weights[f"{module}.{FIRST}"], weights[f"{module}.{SECOND}"]) for module in modules]


def save_adapter(
    folder: Path,
    weights: Weights,
    lora: Lora,
    config: PretrainedConfig,
    new: Collection[str],
    checkpoint: str,
    auto_class: str,
) -> None:
    """Write the updates and the head of an adapted model as peft reads them.

    `checkpoint` is the model that they adapt, and `auto_class` the class with which to load it. Raises OSError.
    """
    folder.mkdir()
    found = updates(weights)
    tensors = {f"{module}.{FIRST}.weight": first.T for module, first, _ in found}
    tensors |= {f"{module}.{SECOND}.weight": second.T for module, _, second in found}
    head = head_weights(family_of(config).without_constants(weights), new)
    tensors |= {name: weights[name] for name in head}
    named = {f"base_model.model.{name}": tensor for name, tensor in sorted(tensors.items())}
    write_safetensors(folder / "adapter_model.safetensors", named, metadata={"format": "pt"})
    adapted = sorted(module for module, _, _ in found)
    targets = sorted({module.split(".")[-1] for module in adapted})
    all_modules = {name.rpartition(".")[0] for name in weights}
    is_exact = sorted(module for module in all_modules if ends_with(module, targets)) == adapted
    settings = {
        "peft_type": "LORA",
        "task_type": _TASK_TYPES.get(auto_class),
        "base_model_name_or_path": checkpoint,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": targets if is_exact else adapted,
        "modules_to_save": outermost({head_module(name) for name in head}) or None,
        "fan_in_fan_out": family_of(config).has_inputs_first,
        "bias": "none",
        "inference_mode": True,
    }
    write_json(folder / "adapter_config.json", settings)


def head_module(name: str) -> str:
    """The module of a head's weight as peft saves it: the whole head of the library, or the module that has it."""
    first = name.split(".")[0]
    return first if first in _HEADS else name.rpartition(".")[0]


def outermost(modules: Collection[str]) -> list[str]:
    """The modules that are in no other of them."""
    return sorted(module for module in modules if not any(module.startswith(f"{other}.") for other in modules))
