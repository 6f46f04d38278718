"""The figure of attention maps: a heat map for each layer and head."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.runs.attention_maps import AttentionMaps
from pipeline.utils.drawing import plain_texts
from pipeline.utils.files import atomic_write
from pipeline.utils.text import shorten, visible

# Inches: a heat map's least side, what each token adds, and the room for labels.
LEAST_SIDE, SIDE_PER_TOKEN, LABEL_SIDE = 2.2, 0.16, 0.8
# Tokens that are drawn, and characters of each; a figure of more could not be read, nor drawn in reasonable time.
MAX_TOKENS, MAX_CHARACTERS = 100, 16
# Pixels per inch, and on the longer side.
DPI, MAX_PIXELS = 120, 12_000


def draw_attention_maps(maps: AttentionMaps, path: Path, title: str = "") -> None:
    """Write a PNG with one heat map for each layer and head, queries down, keys across, labeled with the tokens.

    Of a long text, the first MAX_TOKENS tokens are drawn, and the title says so.
    """
    num_tokens = max(len(maps.tokens), len(maps.queries))
    if num_tokens > MAX_TOKENS:
        written = None if maps.written is None else maps.written[:MAX_TOKENS]
        maps = AttentionMaps(maps.weights[:, :, :MAX_TOKENS, :MAX_TOKENS], maps.tokens[:MAX_TOKENS], written)
        title = f"{title}: the first {MAX_TOKENS} of {num_tokens} tokens"
    with plain_texts():
        _draw(maps, path, title)


def _draw(maps: AttentionMaps, path: Path, title: str) -> None:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    num_layers, num_heads, *counts = maps.weights.shape
    height, width = (max(LEAST_SIDE, SIDE_PER_TOKEN * tokens + LABEL_SIDE) for tokens in counts)
    figure = Figure(figsize=(width * num_heads + 0.6, height * num_layers + LABEL_SIDE), layout="constrained")
    axes: list[Axes] = list(figure.subplots(num_layers, num_heads, squeeze=False, sharex=True, sharey=True).flat)
    images, keys, queries = [], _labels(maps.tokens), _labels(maps.queries)
    for axis, (layer, head) in zip(axes, np.ndindex(num_layers, num_heads), strict=True):
        images.append(axis.imshow(maps.weights[layer, head], cmap="viridis", vmin=0, vmax=1))
        axis.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=8)
        axis.set_xticks(range(len(keys)), keys, rotation=90, fontsize=6)
        axis.set_yticks(range(len(queries)), queries, fontsize=6)
    figure.colorbar(images[0], ax=axes, shrink=0.6, label="attention weight")
    figure.supxlabel("attended to (keys)" if maps.written is None else "read, and attended to (keys)", fontsize=9)
    figure.supylabel("attending (queries)" if maps.written is None else "written, attending (queries)", fontsize=9)
    figure.suptitle(shorten(visible(title), 100), fontsize=10)
    with atomic_write(path, binary=True) as file:
        figure.savefig(file, dpi=min(DPI, MAX_PIXELS / max(figure.get_size_inches())), format="png")


def _labels(tokens: list[str]) -> list[str]:
    return [shorten(visible(token), MAX_CHARACTERS) for token in tokens]
