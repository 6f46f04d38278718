"""Draws validation and test rows from the training split, for data that come without them."""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import numpy as np
from numpy.typing import NDArray

from pipeline.recipe.data import Split


def draw_splits(rows: datasets.Dataset, split: Split, stratum: str | None) -> dict[str, datasets.Dataset]:
    """The rows that remain for training, and those drawn, each in file order; a function of rows and seed alone.

    With `stratum`, the column of a label, each label has the same share in every split, to a row.
    """
    labels = [repr(label) for label in rows[stratum][:]] if stratum else [""] * len(rows)
    order = np.random.default_rng(split.seed).permutation(len(rows))
    order = order[np.argsort(np.array(labels)[order], kind="stable")]
    parts: dict[str, NDArray[np.int64]] = {}
    for name in ("validation", "test"):
        share = getattr(split, name)
        if share is not None:
            chosen = _evenly_spaced(len(order), max(1, round(len(rows) * share)))
            parts[name], order = order[chosen], np.delete(order, chosen)
    return {name: rows.select(_in_file_order(part)) for name, part in {"train": order, **parts}.items()}


def _evenly_spaced(length: int, number: int) -> NDArray[np.int64]:
    """Positions with the same distance between them, at most all."""
    number = min(number, length)
    return (2 * np.arange(number) + 1) * length // (2 * max(number, 1))


def _in_file_order(part: NDArray[np.int64]) -> Sequence[int]:
    return np.sort(part).tolist()
