"""Attention maps: the attention weights of every layer and head for one text, from a finished run or a model object."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

from pipeline.backend import Backend, Model, load_backend
from pipeline.data.batches import Features
from pipeline.models.attention import HANDWRITTEN
from pipeline.runs.directory import Run, load_run
from pipeline.runs.prediction import changes_blamed, open_run
from pipeline.utils.environment import preserved_random_state
from pipeline.utils.errors import UserError

# Tokens that are read of a text if the model's configuration has no limit of its own, as T5's.
MOST_TOKENS = 512
Tokenizer = PreTrainedTokenizer | PreTrainedTokenizerFast


@dataclass(frozen=True)
class AttentionMaps:
    """The attention weights of a text [layers, heads, T, S], each row summing to 1, and its tokens [T]."""

    weights: NDArray[np.float32]
    tokens: list[str]


@overload
def attention_maps(run: Run | str | Path, text: str, *, framework: str | None = None) -> NDArray[np.float32]: ...


@overload
def attention_maps(run: Model, text: str, tokenizer: Tokenizer) -> NDArray[np.float32]: ...


def attention_maps(
    run: Run | str | Path | Model,
    text: str,
    tokenizer: Tokenizer | None = None,
    framework: str | None = None,
) -> NDArray[np.float32]:
    """The attention weights of every layer for one text, [layers, heads, T, S]; each row sums to 1.

    `run` is a finished run or its directory, opened in `framework`, by default its own; or it is a transformers model
    of either framework, which needs its `tokenizer` and is left as it was. The weights are those of the hand-written
    attention, so they follow its formula; T5's are those of its encoder. Raises UserError.

    >>> attention_maps("runs/sentiment_bert/torch-stock-seed0", "The food was great.").shape  # doctest: +SKIP
    (3, 4, 9, 9)
    """
    if isinstance(run, Run | str | Path):
        return maps_of_run(run, text, framework).weights
    return maps_of_model(run, tokenizer, text).weights


def maps_of_run(run: Run | str | Path, text: str, framework: str | None = None) -> AttentionMaps:
    """The maps of a finished run's model, in a framework, by default the run's own. Raises UserError."""
    trained = open_run(run if isinstance(run, Run) else load_run(run), framework)
    with changes_blamed(trained):
        return _maps(trained.backend, trained.model, trained.tokenizer, text)


def maps_of_model(model: Model, tokenizer: Tokenizer | None, text: str) -> AttentionMaps:
    """The maps of a transformers model of either framework, which is left as it was. Raises UserError."""
    backend = load_backend(_framework_of(model))
    if tokenizer is None:
        raise UserError("attention_maps: a model object needs its tokenizer; give tokenizer=...")
    return _maps(backend, model, tokenizer, text)


def _maps(backend: Backend, model: Model, tokenizer: Tokenizer, text: str) -> AttentionMaps:
    most = getattr(model.config, "max_position_embeddings", None) or MOST_TOKENS
    encoded = tokenizer([text], return_tensors="np", truncation=True, max_length=most)
    batch = {key: value.astype(np.int32) for key, value in encoded.items()}
    if batch["input_ids"].shape[1] == 0:
        raise UserError("attention_maps: the text is empty")
    with preserved_random_state(), backend.preserved_generators():  # new layers draw weights and seeds
        weights = _handwritten_weights(backend, model, batch)
    tokens = tokenizer.convert_ids_to_tokens(batch["input_ids"][0].tolist())
    return AttentionMaps(weights, list(tokens))


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
