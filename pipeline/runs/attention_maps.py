"""Attention maps: who looks at whom, from a finished run or a model object, in either framework."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.backend import load_backend
from pipeline.runs.directory import Run, load_run
from pipeline.runs.prediction import open_run
from pipeline.utils.errors import UserError


def attention_maps(
    run_or_model: Run | str | Path | Any, text: str, tokenizer: Any = None, framework: str | None = None
) -> NDArray[np.float32]:
    """The attention weights of every layer for one text, [layers, heads, T, S]; each row sums to 1.

    A run is given as such or by its directory and is opened in `framework`, by default its own. A stock model object
    of either framework wants its `tokenizer` too, and is left as it was. Maps come from the hand-written module, so
    what is drawn is what the formula says. T5's are those of its encoder. Raises UserError.
    """
    return maps_and_tokens(run_or_model, text, tokenizer, framework)[0]


def maps_and_tokens(
    run_or_model: Run | str | Path | Any, text: str, tokenizer: Any = None, framework: str | None = None
) -> tuple[NDArray[np.float32], list[str]]:
    """Maps as in `attention_maps`, with the text's tokens [T]."""
    if isinstance(run_or_model, Run | str | Path):
        run = run_or_model if isinstance(run_or_model, Run) else load_run(run_or_model)
        trained = open_run(run, framework)
        backend, model, tokenizer = trained.backend, trained.model, trained.tokenizer
    else:
        model, backend = run_or_model, load_backend(_framework_of(run_or_model))
        if tokenizer is None:
            raise UserError("attention_maps: a model object has no tokenizer of its own; give tokenizer=...")
    encoded = tokenizer([text], return_tensors="np", truncation=True, max_length=_positions(model.config))
    batch = {key: value.astype(np.int32) for key, value in encoded.items()}
    if batch["input_ids"].shape[1] == 0:
        raise UserError("attention_maps: the text is empty")
    swapped_here = not backend.attention_calls(model)
    if swapped_here:
        backend.swap_attention(model, "handwritten")
    try:
        maps = backend.attention_weights(model, batch)
    finally:
        if swapped_here:
            backend.restore_attention(model)
    return maps, tokenizer.convert_ids_to_tokens(batch["input_ids"][0])


def draw_maps(maps: NDArray, tokens: Sequence[str], path: Path, title: str = "") -> None:
    """Write a PNG with one heat map for each layer and head, queries down, keys across, labelled with the tokens."""
    from matplotlib.figure import Figure

    num_layers, num_heads, num_tokens, _ = maps.shape
    side = max(2.2, 0.16 * num_tokens + 0.8)
    figure = Figure(figsize=(side * num_heads + 0.6, side * num_layers + 0.8), layout="constrained")
    axes = figure.subplots(num_layers, num_heads, squeeze=False, sharex=True, sharey=True)
    for (layer, head), axis in np.ndenumerate(axes):
        image = axis.imshow(maps[layer, head], cmap="viridis", vmin=0, vmax=1)
        axis.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=8)
        axis.set_xticks(range(num_tokens), tokens, rotation=90, fontsize=6)
        axis.set_yticks(range(num_tokens), tokens, fontsize=6)
    figure.colorbar(image, ax=axes, shrink=0.6, label="attention weight")
    figure.supxlabel("looked at (keys)", fontsize=9)
    figure.supylabel("looking (queries)", fontsize=9)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=120)


def _framework_of(model: Any) -> str:
    bases = {base.__module__.partition(".")[0] for base in type(model).__mro__}
    if "torch" in bases:
        return "torch"
    if "tf_keras" in bases:
        return "tensorflow"
    raise UserError(f"attention_maps: want a run or a transformers model, not {type(model).__name__}")


def _positions(config: Any) -> int:
    return getattr(config, "max_position_embeddings", None) or 512
