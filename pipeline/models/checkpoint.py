"""Pretrained checkpoints in and out, as NumPy arrays in Hugging Face's PyTorch layout, the same for both frameworks.

Both frameworks read a checkpoint through this file, so a weight that is missing, left over or of another shape is
judged once; what a checkpoint lacks (a new head) is drawn here, so both start from the same numbers.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig
from transformers.utils import cached_file

from pipeline.data.hub import explain_hub_error, persistently
from pipeline.recipe.schema import Recipe
from pipeline.utils.errors import UserError
from pipeline.utils.hashing import sha256_of_file

Weights = dict[str, NDArray]
Shapes = dict[str, tuple[int, ...]]

FAMILIES = ("bert", "gpt2", "t5")
# Dropout rates by family; a recipe's `train.dropout` sets all of them.
_DROPOUT = {
    "bert": ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"),
    "gpt2": ("resid_pdrop", "embd_pdrop", "attn_pdrop", "summary_first_dropout"),
    "t5": ("dropout_rate", "classifier_dropout"),
}
# Buffers that older checkpoints carry and the library recomputes.
_BUFFERS = re.compile(r"(^|\.)(position_ids|attn\.bias|attn\.masked_bias)$")
_POOLER = re.compile(r"(^|\.)pooler\.")
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
# T5's embeddings under the names of both stacks, and a bias that its authors' files have and no model reads.
_T5_COPIES = re.compile(
    r"^(encoder|decoder)\.embed_tokens\.weight$"
    r"|^decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight$"
)


def load_config(recipe: Recipe) -> PretrainedConfig:
    """The checkpoint's configuration, with the recipe's dropout in it. Raises UserError."""
    try:
        config = persistently(lambda: AutoConfig.from_pretrained(recipe.checkpoint, trust_remote_code=False))
    except Exception as error:  # transformers raises OSError, ValueError, KeyError and the Hub's own kinds here
        raise UserError(f"recipe {recipe.name}: {_explain(error, recipe.checkpoint)}") from error
    if config.model_type not in FAMILIES:
        raise UserError(
            f'recipe {recipe.name}: checkpoint {recipe.checkpoint} is of type "{config.model_type}"; '
            f"supported are: {', '.join(FAMILIES)}"
        )
    if recipe.train.dropout is not None:
        for key in _DROPOUT[config.model_type]:
            setattr(config, key, recipe.train.dropout)
    config.dtype = "float32"
    vars(config).pop("auto_map", None)  # names code of the checkpoint's own, which a saved model must not hand on
    return config


def load_tokenizer(recipe: Recipe) -> Any:
    """The checkpoint's fast tokenizer; one without a pad token (GPT-2) pads with its end-of-text token."""
    try:
        tokenizer = persistently(
            lambda: AutoTokenizer.from_pretrained(recipe.checkpoint, use_fast=True, trust_remote_code=False)
        )
    except Exception as error:  # as in load_config
        raise UserError(f"recipe {recipe.name}: tokenizer: {_explain(error, recipe.checkpoint)}") from error
    if not tokenizer.is_fast:
        raise UserError(f"recipe {recipe.name}: checkpoint {recipe.checkpoint} has no fast tokenizer (tokenizer.json)")
    tokenizer.init_kwargs.pop("auto_map", None)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def fit_problems(recipe: Recipe, config: PretrainedConfig, tokenizer: Any, families: tuple[str, ...]) -> list[str]:
    """Where the recipe, the checkpoint's configuration, its tokenizer and the task's families contradict each other."""
    problems = []
    if config.model_type not in families:
        problems.append(
            f"checkpoint {recipe.checkpoint} is a {config.model_type}; {recipe.task} takes: {', '.join(families)}"
        )
    positions = getattr(config, "max_position_embeddings", None) if config.model_type != "t5" else None
    multiple = recipe.data.pad_to_multiple_of
    width = -(-recipe.data.max_length // multiple) * multiple
    if positions is not None and width > positions:
        rounded = f", rounded up to {width} by data.pad_to_multiple_of" if width != recipe.data.max_length else ""
        problems.append(
            f"data.max_length is {recipe.data.max_length}{rounded}, but the checkpoint has {positions} positions; "
            f"set data.max_length={positions // multiple * multiple} or less"
        )
    if len(tokenizer) > config.vocab_size:
        problems.append(
            f"checkpoint {recipe.checkpoint}: its tokenizer has {len(tokenizer)} tokens, but the model only "
            f"{config.vocab_size} embeddings; they do not belong together"
        )
    return problems


def read_weights(recipe: Recipe, read_pickle: Callable[[str], Weights] | None = None) -> Weights:
    """All weights of the checkpoint as float32, under today's names. Raises UserError.

    A pickle can run code: it is read with `read_pickle` where one is given and there are no safetensors.
    """
    where = f"recipe {recipe.name}: checkpoint {recipe.checkpoint}"
    files = _weight_files(recipe.checkpoint, where, read_pickle is not None)
    weights: Weights = {}
    for file in files:
        try:
            weights |= load_file(file) if str(file).endswith(".safetensors") else read_pickle(file)
        except (SafetensorError, OSError, ValueError) as error:
            raise UserError(f"{where}: {Path(file).name} cannot be read: {' '.join(str(error).split())}") from error
    # Checkpoints of 2018 name LayerNorm's weights after the paper: gamma and beta.
    renamed = {re.sub(r"\bgamma$", "weight", re.sub(r"\bbeta$", "bias", k)): v for k, v in weights.items()}
    return {name: np.asarray(value, dtype=np.float32) for name, value in renamed.items()}


def complete_weights(
    recipe: Recipe, found: Weights, expected: Shapes, base_prefix: str, config: PretrainedConfig, seed: int
) -> Weights:
    """A value for every expected weight: from the checkpoint, or drawn from the seed for a new head.

    `expected` has the model's names and shapes in the PyTorch layout; `base_prefix` ("bert") marks its body. Raises
    UserError naming body weights that are missing, unexpected or of another shape.
    """
    prefix = base_prefix + "."
    if config.model_type == "t5":
        found = {name: value for name, value in found.items() if not _T5_COPIES.search(name)}
        if config.tie_word_embeddings:
            found.pop("lm_head.weight", None)
        prefix = ""  # every weight of T5 is pretrained
    elif not any(name.startswith(prefix) for name in found):
        found = {prefix + name if prefix + name in expected else name: value for name, value in found.items()}

    def is_body(name: str) -> bool:
        return name.startswith(prefix) and not _POOLER.search(name)

    faults = []
    for name, shape in expected.items():
        if name not in found:
            faults += [f"{name} is missing"] if is_body(name) else []
        elif found[name].shape != shape:
            faults += [f"{name} is {list(found[name].shape)}, want {list(shape)}"] if is_body(name) else []
    faults += [
        f"{name} is not part of the model"
        for name in found
        if name not in expected and is_body(name) and not _BUFFERS.search(name)
    ]
    if faults:
        raise UserError(
            f"recipe {recipe.name}: the weights of checkpoint {recipe.checkpoint} do not fit its config.json: "
            + "; ".join(faults[:5])
            + (f"; and {len(faults) - 5} more" if faults[5:] else "")
        )
    return {
        name: found[name] if name in found and found[name].shape == shape else draw(name, shape, config, seed)
        for name, shape in expected.items()
    }


def random_weights(expected: Shapes, config: PretrainedConfig, seed: int) -> Weights:
    """Every weight drawn from the seed: the same architecture from scratch."""
    return {name: draw(name, shape, config, seed) for name, shape in expected.items()}


def draw(name: str, shape: tuple[int, ...], config: PretrainedConfig, seed: int) -> NDArray[np.float32]:
    """A fresh weight by its family's rule, a function of (name, seed) alone, whatever else is drawn.

    Biases are 0, LayerNorm scales 1, matrices normal with the family's deviation. Sources: Devlin et al. 2018 and
    Radford et al. 2019 (0.02; GPT-2's residual projections over sqrt(2 · layers)), Raffel et al. 2020 (by fan-in).
    """
    if name.endswith("bias"):
        return np.zeros(shape, np.float32)
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    weight = rng.normal(0.0, _deviation(name, config), shape).astype(np.float32)
    if config.model_type == "bert" and name.endswith("word_embeddings.weight") and config.pad_token_id is not None:
        weight[config.pad_token_id] = 0
    return weight


def save_checkpoint(folder: Path, weights: Weights, config: PretrainedConfig, tokenizer: Any, card: str) -> None:
    """Write a stock Hugging Face checkpoint: safetensors in the PyTorch layout, config, tokenizer, model card."""
    folder.mkdir(parents=True)
    contiguous = {name: np.ascontiguousarray(value) for name, value in weights.items()}
    save_file(contiguous, folder / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(card, encoding="utf-8")


def checkpoint_fingerprint(recipe: Recipe, allow_pickle: bool = False) -> str | None:
    """Sixteen hex digits of the checkpoint's weights, or None for random ones."""
    if recipe.weights == "random":
        return None
    return sha256_of_file(*_weight_files(recipe.checkpoint, recipe.name, allow_pickle))[:16]


def _weight_files(checkpoint: str, where: str, allow_pickle: bool = False) -> list[str]:
    """The safetensors files of a local folder or a Hub repository, shards in their index's order; else its pickles."""
    for name in ("model.safetensors", "model.safetensors.index.json", *(_PICKLES if allow_pickle else ())):
        file = _cached(checkpoint, name, where)
        if file is not None and not name.endswith(".json"):
            return [file]
        if file is not None:
            try:
                shards = dict.fromkeys(json.loads(Path(file).read_text(encoding="utf-8"))["weight_map"].values())
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(f"{where}: {name} is no index of weights") from error
            if any(Path(str(shard)).suffix != Path(name.removesuffix(".index.json")).suffix for shard in shards):
                raise UserError(f"{where}: {name} names files that are not {Path(name).name.split('.')[1]}")
            found = {shard: _cached(checkpoint, shard, where) for shard in shards}
            if missing := [shard for shard, path in found.items() if path is None]:
                raise UserError(f"{where}: {name} names {missing[0]}, which is not there")
            return list(found.values())
    pickles = any(_cached(checkpoint, name, where) for name in _PICKLES)
    raise UserError(
        f"{where}: there is no model.safetensors"
        + (
            ", and pickled weights are not read unasked: loading a pickle can run code. If you trust its maker, "
            "--allow-pickle (ALLOW_PICKLE=1) lets PyTorch read its tensors and nothing else"
            if pickles
            else "; train from scratch with weights=random, or name another"
        )
    )


def _cached(checkpoint: str, name: str, where: str) -> str | None:
    """The path of a checkpoint's file, downloaded where need be; None where it has none of that name."""
    try:
        return persistently(lambda: cached_file(checkpoint, name, _raise_exceptions_for_missing_entries=False))
    except Exception as error:  # as in load_config
        raise UserError(f"{where}: {_explain(error, checkpoint)}") from error


def _explain(error: Exception, checkpoint: str) -> str:
    if "trust_remote_code" in str(error):
        return (
            f"checkpoint {checkpoint} wants code of its own to be run (auto_map in its config.json), which never is; "
            f"supported are models of transformers' own: {', '.join(FAMILIES)}"
        )
    if os.path.isdir(checkpoint):
        return f"the folder {checkpoint} cannot be read as a checkpoint: {' '.join(str(error).split())[:300]}"
    if os.path.isabs(checkpoint):
        return f"checkpoint is {checkpoint}, but there is no such folder"
    return explain_hub_error(error, "checkpoint", checkpoint)


def _deviation(name: str, config: PretrainedConfig) -> float:
    if config.model_type == "gpt2" and name.endswith("c_proj.weight"):
        return config.initializer_range / np.sqrt(2 * config.n_layer)
    if config.model_type != "t5":
        return config.initializer_range
    fan_in = {
        "q": config.d_model * config.d_kv,
        "o": config.num_heads * config.d_kv,
        "wo": config.d_ff,
        "shared": 1,
        "lm_head": 1,
    }.get(name.split(".")[-2], config.d_model)
    return config.initializer_factor * fan_in**-0.5
