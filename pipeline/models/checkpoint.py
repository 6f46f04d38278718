"""Reads and writes Hugging Face checkpoints: config, tokenizer, and weights as NumPy arrays in the PyTorch layout."""

from __future__ import annotations

import inspect
import json
import math
import os
import re
import warnings
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from transformers import GenerationConfig, PretrainedConfig, PreTrainedTokenizerFast
from transformers.utils.hub import cached_file

from pipeline.backend import Architecture, GenerationSettings
from pipeline.data.hub import anew, explain_hub_error, persistently
from pipeline.models.families import FAMILIES, families_of, family_of
from pipeline.models.initialization import Weights
from pipeline.models.library import read_config, read_tokenizer, save_tokenizer
from pipeline.models.safetensors_files import read_safetensors, write_safetensors
from pipeline.recipe.schema import Recipe
from pipeline.tasks.options import SequenceToSequenceOptions
from pipeline.utils.errors import UserError
from pipeline.utils.hashing import sha256_of_file
from pipeline.utils.text import one_line, shorten

# What a setting of a configuration must be if the library's own is of this type; a bool is an int, so it is first.
_KINDS: dict[type, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
# More layers would be built one after the other until memory is full.
_NUMBERS_OF_LAYERS = ("num_hidden_layers", "num_decoder_layers", "encoder_layers", "decoder_layers")
_MOST_LAYERS = 1_000
# Tokenizers without a fast version, which the task of their models does not need.
_SLOW_TOKENIZERS = ("MarianTokenizer",)
# The token ids in a model's config that generation depends on.
_SPECIAL_IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")


def load_config(recipe: Recipe) -> PretrainedConfig:
    """The checkpoint's configuration, with the recipe's dropout in it. Raises UserError."""
    try:
        config, refusal = persistently(lambda: read_config(recipe.checkpoint))
    except Exception as error:  # transformers raises OSError, ValueError, KeyError and errors of the Hub's own here
        raise UserError(f"recipe {recipe.name}: {_explain(error, recipe.checkpoint)}") from error
    if config.model_type not in FAMILIES:
        raise UserError(
            f'recipe {recipe.name}: checkpoint {recipe.checkpoint} is of type "{config.model_type}"; '
            f"supported are: {', '.join(FAMILIES)}"
        )
    problems = list(_value_problems(config)) or ([one_line(refusal)] if refusal is not None else [])
    if problems:
        raise UserError(f"recipe {recipe.name}: config.json of checkpoint {recipe.checkpoint}: {'; '.join(problems)}")
    if recipe.train.dropout is not None:
        for key in family_of(config).dropout_keys:
            setattr(config, key, recipe.train.dropout)
    # Version 5 of transformers calls every T5 tied, and says here that one is not.
    if getattr(config, "scale_decoder_outputs", True) is False:
        config.tie_word_embeddings = False
    config.dtype = "float32"
    # In which form a model answers is for its caller to say.
    config.return_dict, config.torchscript = True, False
    config.output_attentions, config.output_hidden_states = False, False
    vars(config).pop("auto_map", None)  # names code in the checkpoint, which a saved model must not refer to
    return config


def _value_problems(config: PretrainedConfig) -> Iterator[str]:
    """Settings of the architecture that are of another kind than the library's own, with which a model fails late."""
    own = type(config)()
    for name in inspect.signature(type(config).__init__).parameters:
        default, value = getattr(own, name, None), getattr(config, name, None)
        kind = next((kind for kind in _KINDS if isinstance(default, kind)), None)
        if kind is not None and value is not None and not _is_of(kind, value):
            yield f"{name} is {one_line(shorten(repr(value), 60))}, but must be {_KINDS[kind]}"
    for name in _NUMBERS_OF_LAYERS:
        if isinstance(value := getattr(config, name, None), int) and value > _MOST_LAYERS:
            yield f"{name} is {shorten(str(value), 60)}, but at most {_MOST_LAYERS:,} layers are built"
    for name, value in family_of(config).requires.items():
        if getattr(config, name) != value:
            yield (
                f"{name} is {one_line(shorten(repr(getattr(config, name)), 60))}, but must be {value!r}: otherwise the "
                "library's PyTorch and TensorFlow compute different models"
            )
    for name in _SPECIAL_IDS:
        value = getattr(config, name, None)
        if value is not None and not (_is_of(int, value) and -1 <= value < 2**31):
            yield f"{name} is {one_line(shorten(repr(value), 60))}, but must be the number of one token"


def _is_of(kind: type, value: object) -> bool:
    if isinstance(value, bool) or kind in (bool, str):
        return isinstance(value, kind) and (kind is bool) == isinstance(value, bool)
    return isinstance(value, int) or (kind is float and isinstance(value, float) and math.isfinite(value))


def load_tokenizer(recipe: Recipe, config: PretrainedConfig | None = None) -> PreTrainedTokenizerFast:
    """The checkpoint's tokenizer, fast if it has a fast version; one without a pad token (GPT-2) pads with its end.

    For a model of this `config` it gives no token types if the model does not read any.
    """
    try:
        tokenizer = persistently(lambda: read_tokenizer(recipe.checkpoint))
    except Exception as error:  # as in load_config
        raise UserError(f"recipe {recipe.name}: tokenizer: {_explain(error, recipe.checkpoint)}") from error
    if not tokenizer.is_fast and type(tokenizer).__name__ not in _SLOW_TOKENIZERS:
        raise UserError(f"recipe {recipe.name}: checkpoint {recipe.checkpoint} has no fast tokenizer (tokenizer.json)")
    tokenizer.init_kwargs.pop("auto_map", None)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if config is not None and not family_of(config).reads_token_types(config):
        names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
        if names != tokenizer.model_input_names:  # also in the files that are saved of it
            tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = names
    return tokenizer


def fit_problems(
    recipe: Recipe,
    config: PretrainedConfig,
    tokenizer: PreTrainedTokenizerFast,
    architectures: Collection[Architecture],
) -> list[str]:
    """The contradictions between a recipe and its checkpoint's configuration and tokenizer.

    `architectures` are those that serve the recipe's task.
    """
    problems = []
    if family_of(config).architecture not in architectures:
        problems.append(
            f"checkpoint {recipe.checkpoint} is a {config.model_type}; {recipe.task} needs one of: "
            f"{', '.join(families_of(architectures))}"
        )
    problems += _length_problems(recipe, config)
    return problems + [f"checkpoint {recipe.checkpoint}: {text}" for text in _token_problems(config, tokenizer)]


def _length_problems(recipe: Recipe, config: PretrainedConfig) -> Iterator[str]:
    """The lengths in tokens of a recipe that are over the positions of the model."""
    positions, multiple = family_of(config).max_positions(config), recipe.data.pad_to_multiple_of
    lengths = {"data.max_length": recipe.data.max_length}
    if config.is_encoder_decoder and isinstance(recipe.options, SequenceToSequenceOptions):
        lengths |= {
            "options.max_target_length": recipe.options.max_target_length,
            "options.max_new_tokens": recipe.options.max_new_tokens,
        }
    for name, length in lengths.items():
        width = length if name == "options.max_new_tokens" else -(-length // multiple) * multiple
        if positions is not None and width > positions:
            rounded = f", rounded up to {width} by data.pad_to_multiple_of" if width != length else ""
            yield (
                f"{name} is {length}{rounded}, but the checkpoint has {positions} positions; "
                f"set {name}={positions // multiple * multiple} or less"
            )


def _token_problems(config: PretrainedConfig, tokenizer: PreTrainedTokenizerFast) -> Iterator[str]:
    """What the tokenizer lacks, or gives and the model does not know."""
    # Ids may have gaps, so that the largest can be beyond the number of tokens.
    num_ids = max([len(tokenizer) - 1, *tokenizer.get_vocab().values()]) + 1
    if num_ids > config.vocab_size:
        yield (
            f"its tokenizer has {num_ids} tokens, but the model only {config.vocab_size} embeddings; they do not "
            "belong together"
        )
    if tokenizer.pad_token_id is None:
        yield (
            "its tokenizer has neither a pad_token nor an eos_token that could pad; name one of its tokens in "
            'tokenizer_config.json, such as "pad_token": "[PAD]"'
        )
    padding = family_of(config).requires.get("pad_token_id", tokenizer.pad_token_id)
    if tokenizer.pad_token_id not in (None, padding):
        yield (
            f"its tokenizer pads with token {tokenizer.pad_token_id}, but must pad with token {padding}: otherwise the "
            "library's PyTorch and TensorFlow compute different models"
        )
    if config.is_encoder_decoder:
        for name, use in (("decoder_start_token_id", "begins"), ("eos_token_id", "ends")):
            if getattr(config, name, None) is None:
                yield f"its config.json has no {name}, with which each text that it writes {use}; add it"


def read_weights(recipe: Recipe, read_pickle: Callable[[str], Weights] | None = None) -> Weights:
    """All weights of the checkpoint as float32, under today's names. Raises UserError.

    A pickle can run code: it is only read if there are no safetensors, with `read_pickle`, if that is given.
    """
    where = f"recipe {recipe.name}: checkpoint {recipe.checkpoint}"
    files = _weight_files(recipe.checkpoint, where, read_pickle is not None)
    weights: Weights = {}
    for file in files:
        try:
            is_pickle = not str(file).endswith(".safetensors")
            weights |= read_pickle(file) if read_pickle is not None and is_pickle else read_safetensors(file)
        except (SafetensorError, OSError, ValueError) as error:
            remedy = "" if os.path.isdir(recipe.checkpoint) else anew("checkpoint", recipe.checkpoint)
            raise UserError(f"{where}: {Path(file).name} cannot be read: {one_line(error)}{remedy}") from error
    # Checkpoints of 2018 call LayerNorm's weights gamma and beta, as the paper does.
    renamed = {re.sub(r"\bgamma$", "weight", re.sub(r"\bbeta$", "bias", k)): v for k, v in weights.items()}
    return {name: np.asarray(value, dtype=np.float32) for name, value in renamed.items()}


def save_checkpoint(
    folder: Path, weights: Weights, config: PretrainedConfig, tokenizer: PreTrainedTokenizerFast, card: str
) -> None:
    """Write a stock Hugging Face checkpoint: safetensors in the PyTorch layout, config, tokenizer, model card."""
    folder.mkdir(parents=True)
    write_safetensors(folder / "model.safetensors", weights, metadata={"format": "pt"})
    with warnings.catch_warnings():
        # A checkpoint whose config.json says how to write texts is saved as it is.
        warnings.filterwarnings("ignore", "Some non-default generation parameters", UserWarning)
        config.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    (folder / "README.md").write_text(card, encoding="utf-8")


def checkpoint_fingerprint(recipe: Recipe, allow_pickle: bool = False) -> str | None:
    """Sixteen hex digits of the checkpoint's weights, or None for random ones."""
    if recipe.weights == "random":
        return None
    return sha256_of_file(*_weight_files(recipe.checkpoint, recipe.name, allow_pickle))[:16]


def generation_config(config: PretrainedConfig, settings: GenerationSettings) -> GenerationConfig:
    """The library's settings for generation without sampling, the same in both frameworks.

    Of the model's `config` only the special tokens count.
    """
    special = {key: getattr(config, key) for key in _SPECIAL_IDS if getattr(config, key, None) is not None}
    never = None if family_of(config).writes_padding else [[config.pad_token_id]]
    return GenerationConfig(**settings, **special, bad_words_ids=never, do_sample=False)


def generation_fingerprint(recipe: Recipe) -> str | None:
    """Sixteen hex digits of the checkpoint's generation_config.json, "none" without one, None if that is not known.

    Nothing here reads that file: texts are written by the recipe's settings. It is not known of a checkpoint of the
    Hub of which no such file was downloaded, and which cannot be reached.
    """
    try:
        file = cached_file(recipe.checkpoint, "generation_config.json", _raise_exceptions_for_missing_entries=False)
    except Exception:  # as in load_config, which has said what is wrong with a checkpoint that cannot be read
        return None
    return sha256_of_file(file)[:16] if file is not None else "none"


def _weight_files(checkpoint: str, where: str, allow_pickle: bool = False) -> list[str]:
    """The safetensors files of a local folder or a Hub repository, shards in their index's order; else its pickles."""
    for name in ("model.safetensors", "model.safetensors.index.json", *(_PICKLES if allow_pickle else ())):
        file = _cached(checkpoint, name, where)
        if file is not None and not name.endswith(".json"):
            return [file]
        if file is not None:
            return _shards(checkpoint, name, Path(file), where)
    if any(_cached(checkpoint, name, where) for name in _PICKLES):
        raise UserError(
            f"{where}: there is no model.safetensors, and pickled weights are not read unless you ask for it: loading "
            "a pickle can run code. If you trust its maker, allow_pickle=True lets PyTorch read its tensors and "
            "nothing else",
            arguments=("allow_pickle",),
        )
    raise UserError(
        f"{where}: there is no model.safetensors; train from scratch with weights=random, or name another checkpoint"
    )


def _shards(checkpoint: str, name: str, index: Path, where: str) -> list[str]:
    """The files that an index of weights names, in its order. Raises UserError."""
    try:
        shards = dict.fromkeys(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{where}: {name} is not an index of weights") from error
    if any(Path(str(shard)).suffix != Path(name.removesuffix(".index.json")).suffix for shard in shards):
        raise UserError(f"{where}: {name} names files that are not {name.split('.')[1]}")
    files = []
    for shard in shards:
        if (path := _cached(checkpoint, shard, where)) is None:
            raise UserError(f"{where}: {name} names {shard}, which does not exist")
        files.append(path)
    return files


def _cached(checkpoint: str, name: str, where: str) -> str | None:
    """The path of a checkpoint's file, downloaded if necessary; None if it has none of that name."""
    try:
        return persistently(lambda: cached_file(checkpoint, name, _raise_exceptions_for_missing_entries=False))
    except Exception as error:  # as in load_config
        raise UserError(f"{where}: {_explain(error, checkpoint)}") from error


def _explain(error: Exception, checkpoint: str) -> str:
    if "trust_remote_code" in str(error):
        return (
            f"checkpoint {checkpoint} needs code of its own (auto_map in its config.json), which is never run; "
            f"supported are the models of transformers itself: {', '.join(FAMILIES)}"
        )
    if os.path.isdir(checkpoint):
        return f"the folder {checkpoint} cannot be read as a checkpoint: {one_line(error)}"
    if os.path.isabs(checkpoint):
        return f"checkpoint is {checkpoint}, but there is no such folder"
    return explain_hub_error(error, "checkpoint", checkpoint)
