"""The batch plan: which examples go through the model together, in which order, and how wide they are padded.

It is computed in NumPy, the same for both frameworks, and a pure function of (lengths, settings, seed, epoch): either
framework and any number of processes see the same batches, and a run that resumes at step N needs no loader state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.utils.hashing import short_digest

# Examples are sorted by length only inside a window of this many batches: little padding, and almost a plain shuffle.
WINDOW_BATCHES = 64
# The keys of a batch that the loss reads; all others are inputs of the model.
TARGETS = ("labels", "loss_weights")

Array = NDArray
Features = dict[str, NDArray]


def filled(targets: Features, values: Array) -> Array:
    """An array of the labels' shape: `values`, or if there are only those of positions that count, 0 elsewhere."""
    if values.shape == targets["labels"].shape:
        return values
    out = np.zeros(targets["labels"].shape, values.dtype)
    out[targets["loss_weights"] > 0] = values
    return out


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths in one flat array: row i is values[offsets[i]:offsets[i + 1]]."""

    values: Array
    offsets: NDArray[np.int64]

    @classmethod
    def of(cls, rows: Sequence[Sequence[int] | Array], dtype: type = np.int32) -> Ragged:
        lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        values = np.fromiter((value for row in rows for value in row), dtype=dtype, count=int(offsets[-1]))
        return cls(values, offsets)

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.offsets)

    def __getitem__(self, row: int) -> Array:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def padded(self, rows: Array, width: int, fill: int) -> Array:
        """These rows as one array [len(rows), width], padded with `fill` on the right."""
        out = np.full((len(rows), width), fill, dtype=self.values.dtype)
        real = np.arange(width) < self.lengths[rows][:, None]
        out[real] = np.concatenate([self[i] for i in rows])
        return out


@dataclass(frozen=True)
class Batch:
    """Rows of a split that go through the model together, and the widths to which they are padded.

    There is one width, or two for examples with a source and a target.
    """

    rows: NDArray[np.int64]
    widths: tuple[int, ...]


def training_batches(
    lengths: NDArray[np.int64], batch_size: int, seed: int, epoch: int, pad_to_multiple_of: int = 1
) -> list[Batch]:
    """The batches of one epoch: each example once, similar lengths together, the batches in random order.

    `lengths` are in tokens, [N], or [N, 2] for sources and targets. The examples are shuffled and cut into windows;
    each window is sorted by length and cut into batches, which are shuffled. A smaller last batch is kept.
    """
    rng = np.random.default_rng([seed, epoch])
    order, totals = rng.permutation(len(lengths)), _totals(lengths)
    window = batch_size * WINDOW_BATCHES
    chunks: list[NDArray[np.int64]] = []
    for start in range(0, len(order), window):
        rows = order[start : start + window]
        rows = rows[np.argsort(totals[rows], kind="stable")]
        chunks += [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    return [padded_batch(chunks[i], lengths, pad_to_multiple_of) for i in rng.permutation(len(chunks))]


def evaluation_batches(lengths: NDArray[np.int64], batch_size: int, pad_to_multiple_of: int = 1) -> list[Batch]:
    """Every example once, the longest first, so that a lack of memory shows at once; nothing is random."""
    order = np.argsort(-_totals(lengths), kind="stable")
    return [
        padded_batch(order[i : i + batch_size], lengths, pad_to_multiple_of) for i in range(0, len(order), batch_size)
    ]


def padded_batch(rows: NDArray[np.int64], lengths: NDArray[np.int64], pad_to_multiple_of: int = 1) -> Batch:
    """A batch of these rows, as wide as the longest, rounded up to a multiple."""
    longest = lengths[rows].reshape(len(rows), -1).max(axis=0)
    return Batch(rows, tuple(int(-(-length // pad_to_multiple_of) * pad_to_multiple_of) for length in longest))


def padding_fraction(lengths: NDArray[np.int64], batches: list[Batch]) -> float:
    """The share of positions in these batches that hold padding."""
    positions = sum(len(b.rows) * sum(b.widths) for b in batches)
    return 1 - sum(int(lengths[b.rows].sum()) for b in batches) / positions


def digest(batches: list[Batch]) -> str:
    """Sixteen hex digits of the rows of every batch, in order: two plans with the same one have the same batches."""
    counted = [np.concatenate([[len(batch.rows)], batch.rows]) for batch in batches]
    return short_digest(np.concatenate(counted).astype("<i8").tobytes())


def _totals(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return lengths.reshape(len(lengths), -1).sum(axis=1)
