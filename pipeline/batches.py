"""The batch plan: which examples, in which order, padded how; in NumPy, the same for both frameworks.

The plan is a pure function of (lengths, settings, seed, epoch): any number of processes and either framework see the
same batches, and a run that resumes at update N needs no loader state.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Examples are sorted by length only inside a window of this many batches: little padding, yet near to a plain shuffle.
WINDOW_BATCHES = 64
# Keys of a batch that the loss reads; all others are inputs of the model.
TARGETS = ("labels", "loss_weights")

Array = NDArray
Features = dict[str, NDArray]


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths in one flat array: row i is values[offsets[i]:offsets[i + 1]]."""

    values: Array
    offsets: NDArray[np.int64]

    @classmethod
    def of(cls, rows: list[list[int]], dtype: type = np.int32) -> Ragged:
        lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        values = np.fromiter((value for row in rows for value in row), dtype=dtype, count=int(offsets[-1]))
        return cls(values, offsets)

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.offsets)

    def padded(self, rows: Array, width: int, fill: int) -> Array:
        """The named rows as one array [len(rows), width], filled up on the right."""
        out = np.full((len(rows), width), fill, dtype=self.values.dtype)
        real = np.arange(width) < self.lengths[rows][:, None]
        out[real] = np.concatenate([self.values[self.offsets[i] : self.offsets[i + 1]] for i in rows])
        return out


@dataclass(frozen=True)
class Batch:
    """Rows of a split that go through the model together, and the width to which they are padded."""

    rows: NDArray[np.int64]
    width: int


def training_batches(
    lengths: NDArray[np.int64], batch_size: int, seed: int, epoch: int, pad_to_multiple_of: int = 1
) -> list[Batch]:
    """One epoch's updates: each example once, of like length inside a batch, the batches in random order.

    `lengths` [N] in tokens; the last, smaller batch is kept. Shuffle, cut into windows, sort by length inside each
    window, cut into batches, shuffle the batches.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))
    window = batch_size * WINDOW_BATCHES
    chunks: list[NDArray[np.int64]] = []
    for start in range(0, len(order), window):
        rows = order[start : start + window]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        chunks += [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    return [_batch(chunks[i], lengths, pad_to_multiple_of) for i in rng.permutation(len(chunks))]


def evaluation_batches(lengths: NDArray[np.int64], batch_size: int, pad_to_multiple_of: int = 1) -> list[Batch]:
    """Every example once, sorted by length; nothing random. The widest come first, so that too little memory shows."""
    order = np.argsort(-lengths, kind="stable")
    return [_batch(order[i : i + batch_size], lengths, pad_to_multiple_of) for i in range(0, len(order), batch_size)]


def split_update(update: Features, parts: int) -> Iterator[Features]:
    """Cut one update into at most `parts` micro-batches of the same width; never an empty one."""
    num_rows = len(next(iter(update.values())))
    bounds = [num_rows * i // parts for i in range(parts + 1)]
    for start, end in zip(bounds, bounds[1:], strict=False):
        if end > start:
            yield {key: value[start:end] for key, value in update.items()}


def padding_fraction(lengths: NDArray[np.int64], batches: list[Batch]) -> float:
    """The share of positions in these batches that hold padding."""
    positions = sum(len(b.rows) * b.width for b in batches)
    return 1 - sum(int(lengths[b.rows].sum()) for b in batches) / positions


def _batch(rows: NDArray[np.int64], lengths: NDArray[np.int64], multiple: int) -> Batch:
    width = int(lengths[rows].max())
    return Batch(rows, -(-width // multiple) * multiple)
