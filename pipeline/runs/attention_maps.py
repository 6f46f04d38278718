"""Attention maps: the attention weights of every layer and head for one text, of a finished run or a model object.

Of a model that writes a text from another, there are also those of its cross-attention: from which source tokens each
written token was made, which is an alignment of the two texts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

from pipeline.backend import Backend, GenerationSettings, Model, load_backend
from pipeline.data.batches import Features
from pipeline.models.attention import HANDWRITTEN
from pipeline.models.families import family_of
from pipeline.runs.directory import Run, load_run
from pipeline.runs.prediction import changes_blamed, open_run
from pipeline.tasks.options import SequenceToSequenceOptions
from pipeline.utils.environment import preserved_random_state
from pipeline.utils.errors import UserError

# Tokens that are read of a text if the model's configuration has no limit of its own, as T5's.
MOST_TOKENS = 512
# How a model object writes, which has no recipe.
WRITING: GenerationSettings = {"max_new_tokens": 64, "num_beams": 1, "length_penalty": 1.0}
Tokenizer = PreTrainedTokenizer | PreTrainedTokenizerFast


@dataclass(frozen=True)
class AttentionMaps:
    """The attention weights of a text [layers, heads, T, S], each row summing to 1, and its tokens [S].

    The tokens attend to each other, so T is S; or, in cross-attention, the tokens [T] that a model has `written` do.
    """

    weights: NDArray[np.float32]
    tokens: list[str]
    written: list[str] | None = None

    @property
    def queries(self) -> list[str]:
        """The tokens that attend."""
        return self.tokens if self.written is None else self.written


@overload
def attention_maps(
    run: Run | str | Path, text: str, *, framework: str | None = None, cross: bool = False
) -> NDArray[np.float32]: ...


@overload
def attention_maps(run: Model, text: str, tokenizer: Tokenizer, *, cross: bool = False) -> NDArray[np.float32]: ...


def attention_maps(
    run: Run | str | Path | Model,
    text: str,
    tokenizer: Tokenizer | None = None,
    framework: str | None = None,
    cross: bool = False,
) -> NDArray[np.float32]:
    """The attention weights of every layer for one text, [layers, heads, T, S]; each row sums to 1.

    `run` is a finished run or its directory, opened in `framework`, by default its own; or it is a transformers model
    of either framework, which needs its `tokenizer` and is left as it was. The weights are those of the hand-written
    attention, so they follow its formula; those of T5 and Marian are their encoder's. With `cross` they are those with
    which the decoder of such a model reads the text: row t for the t-th token that the model writes. Raises UserError.

    >>> attention_maps("runs/sentiment_bert/torch-stock-seed0", "The food was great.").shape  # doctest: +SKIP
    (3, 4, 9, 9)
    """
    if isinstance(run, Run | str | Path):
        return maps_of_run(run, text, framework, cross).weights
    return maps_of_model(run, tokenizer, text, cross).weights


def maps_of_run(run: Run | str | Path, text: str, framework: str | None = None, cross: bool = False) -> AttentionMaps:
    """The maps of a finished run's model, in a framework, by default the run's own. Raises UserError.

    With `cross` the model writes as its recipe says. What stands before each source in the recipe does so here.
    """
    trained = open_run(run if isinstance(run, Run) else load_run(run), framework)
    options, writing = trained.task.options, WRITING
    if isinstance(options, SequenceToSequenceOptions):
        text, writing = f"{options.prefix}{text}" if text else text, options.generation_settings()
    with changes_blamed(trained):
        return _maps(trained.backend, trained.model, trained.tokenizer, text, writing if cross else None)


def maps_of_model(model: Model, tokenizer: Tokenizer | None, text: str, cross: bool = False) -> AttentionMaps:
    """The maps of a transformers model of either framework, which is left as it was. Raises UserError.

    With `cross` the model writes greedily, at most 64 tokens.
    """
    backend = load_backend(_framework_of(model))
    if tokenizer is None:
        raise UserError("attention_maps: a model object needs its tokenizer; give tokenizer=...")
    return _maps(backend, model, tokenizer, text, WRITING if cross else None)


def _maps(
    backend: Backend, model: Model, tokenizer: Tokenizer, text: str, writing: GenerationSettings | None
) -> AttentionMaps:
    """The maps of the text's own tokens; if the model is `writing` a text with these settings, of its tokens."""
    if writing is not None and not model.config.is_encoder_decoder:
        raise UserError(
            f"attention_maps: a {model.config.model_type} has no cross-attention, only the attention of a text to "
            "itself; leave cross out",
            arguments=("cross",),
        )
    family = family_of(model.config)
    most = family.max_positions(model.config) or MOST_TOKENS
    encoded = tokenizer([text], return_tensors="np", truncation=True, max_length=most)
    # A plain fast tokenizer gives token types to any model.
    names = ("input_ids", "attention_mask", *(("token_type_ids",) if family.reads_token_types(model.config) else ()))
    batch = {name: value.astype(np.int32) for name, value in encoded.items() if name in names}
    if batch["input_ids"].shape[1] == 0:
        raise UserError("attention_maps: the text is empty")
    tokens, written = _texts(tokenizer, batch["input_ids"][0]), None
    with preserved_random_state(), backend.preserved_generators():  # new layers draw weights and seeds
        if writing is not None:
            read, ids = _written(backend, model, batch, writing)
            batch, written = batch | {"decoder_input_ids": read[None]}, _texts(tokenizer, ids)
        weights = _handwritten_weights(backend, model, batch)
    return AttentionMaps(weights, tokens, written)


def _written(
    backend: Backend, model: Model, batch: Features, writing: GenerationSettings
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """What the decoder reads while it writes, and what it writes: both [T], the second one token ahead."""
    positions = getattr(model.config, "max_position_embeddings", None) or MOST_TOKENS
    writing = {**writing, "max_new_tokens": min(writing["max_new_tokens"], positions)}
    ids = backend.Predictor(model, optimize=False).generate(batch, writing)[0].astype(np.int32)
    ends = np.flatnonzero(ids[1:] == model.config.eos_token_id)
    length = ends[0] + 1 if ends.size else len(ids) - 1
    return ids[:length], ids[1 : length + 1]


def _texts(tokenizer: Tokenizer, ids: NDArray[np.int32]) -> list[str]:
    """Each token as the tokenizer writes it."""
    return list(tokenizer.convert_ids_to_tokens(ids.tolist()))


def _handwritten_weights(backend: Backend, model: Model, batch: Features) -> NDArray[np.float32]:
    """The weights of the hand-written attention, which takes the stock one's place for that."""
    is_stock = not backend.attention_calls(model)
    if is_stock:
        backend.swap_attention(model, HANDWRITTEN)
    try:
        return backend.attention_weights(model, batch)
    finally:
        if is_stock:
            backend.restore_attention(model)


def _framework_of(model: object) -> str:
    packages = {base.__module__.partition(".")[0] for base in type(model).__mro__}
    if "torch" in packages:
        return "torch"
    if "tf_keras" in packages:
        return "tensorflow"
    raise UserError(f"attention_maps takes a run or a transformers model, not {type(model).__name__}")
