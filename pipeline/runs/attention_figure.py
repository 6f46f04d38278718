"""The figure of attention maps: a heat map for each layer and head."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.runs.attention_maps import AttentionMaps
from pipeline.utils.files import atomic_write

# Inches: a heat map's least side, what each token adds, and the room for labels.
LEAST_SIDE, SIDE_PER_TOKEN, LABEL_SIDE = 2.2, 0.16, 0.8


def draw_attention_maps(maps: AttentionMaps, path: Path, title: str = "") -> None:
    """Write a PNG with one heat map for each layer and head, queries down, keys across, labeled with the tokens."""
    import matplotlib

    with matplotlib.rc_context({"text.parse_math": False}):  # a dollar sign is one, and begins no formula
        _draw(maps, path, title)


def _draw(maps: AttentionMaps, path: Path, title: str) -> None:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    num_layers, num_heads, num_tokens, _ = maps.weights.shape
    side = max(LEAST_SIDE, SIDE_PER_TOKEN * num_tokens + LABEL_SIDE)
    figure = Figure(figsize=(side * num_heads + 0.6, side * num_layers + LABEL_SIDE), layout="constrained")
    axes: list[Axes] = list(figure.subplots(num_layers, num_heads, squeeze=False, sharex=True, sharey=True).flat)
    images = []
    for axis, (layer, head) in zip(axes, np.ndindex(num_layers, num_heads), strict=True):
        images.append(axis.imshow(maps.weights[layer, head], cmap="viridis", vmin=0, vmax=1))
        axis.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=8)
        axis.set_xticks(range(num_tokens), maps.tokens, rotation=90, fontsize=6)
        axis.set_yticks(range(num_tokens), maps.tokens, fontsize=6)
    figure.colorbar(images[0], ax=axes, shrink=0.6, label="attention weight")
    figure.supxlabel("attended to (keys)", fontsize=9)
    figure.supylabel("attending (queries)", fontsize=9)
    figure.suptitle(title, fontsize=10)
    with atomic_write(path, binary=True) as file:
        figure.savefig(file, dpi=120, format="png")
