"""Packing: the examples of a batch laid end to end in few rows, so that a plain shuffle has hardly any padding.

`pack` decides where each example of a batch begins; a `Layout` says for every position of the batch's rows which
example it belongs to. A padded batch is the special case of one example in each row. All of it is in NumPy.
"""

# B examples of the batch · R rows · L width of a row · P slots: the most examples in one row
# Of few shapes: S batches of a sample · N numbers of rows · W widths of a row, one for each stream · C candidates

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapreplace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Besides filling rows as wide as the longest example, up to this many examples a row are tried.
MOST_PER_ROW = 8
# In rows of this width a position costs about twice what it costs in a narrow one, because of attention: measured in
# training steps of BERT on one thread, of 256 dimensions 1.8 times, of 768 dimensions 1.5 times.
DOUBLE_WORK_WIDTH = 512
# The batches of a training get at most so many shapes. With fewer, more of their positions are padding; but in bf16,
# PyTorch prepares every product anew for each shape, which takes 8 ms for a BERT, and keeps what it prepared in memory.
MOST_SHAPES = {"fp32": 40, "bf16": 12}
# The share of batches for which a shape of their own is made, so that all shapes come up early in a training.
LEAST_SHARE = 0.015


@dataclass(frozen=True)
class Packing:
    """Where the examples of a batch lie.

    `rows` [B] has the row of each example, `slots` [B] its number within that row from 0, in order of position, and
    `starts` [B, streams] its first position in each stream: one, or two for a source and a target.
    """

    rows: NDArray[np.int32]
    slots: NDArray[np.int32]
    starts: NDArray[np.int32]

    @property
    def num_rows(self) -> int:
        """How many rows there are, R."""
        return int(self.rows.max()) + 1

    @property
    def num_slots(self) -> int:
        """The most examples in one row, P."""
        return int(self.slots.max()) + 1

    def widths(self, lengths: NDArray[np.int64]) -> tuple[int, ...]:
        """The width that the rows need in each stream for examples of these lengths [B, streams]."""
        return tuple((self.starts + lengths).max(axis=0).tolist())


class Shape(NamedTuple):
    """A number of rows, and their width in each stream."""

    num_rows: int
    widths: tuple[int, ...]

    @property
    def work(self) -> float:
        """The work of rows of this shape, see `work`."""
        return work(self.num_rows, self.widths)


@dataclass(frozen=True)
class Stream:
    """What lies at each position of a batch's rows, each [R, L] int32.

    `examples` is the index in the batch of the example that a token belongs to, -1 for padding; `positions` the token's
    position inside its example; `segments` the number of the example within the row from 1. Both are 0 for padding.
    """

    examples: NDArray[np.int32]
    positions: NDArray[np.int32]
    segments: NDArray[np.int32]

    @property
    def is_real(self) -> NDArray[np.bool_]:
        """Which positions hold a token, [R, L]."""
        return self.examples >= 0


@dataclass(frozen=True)
class Layout:
    """How a batch's examples of these `lengths` [B, streams] become rows.

    There is a stream for each kind of token. `packing` is None if each example has a row of its own.
    """

    lengths: NDArray[np.int64]
    streams: tuple[Stream, ...]
    packing: Packing | None

    @classmethod
    def of(cls, lengths: NDArray[np.int64], widths: Sequence[int], packing: Packing | None) -> Layout:
        """The layout of examples of these `lengths` [B, streams] in rows of these widths."""
        places = packing or _one_example_a_row(*lengths.shape)
        streams = tuple(_stream(lengths[:, i], width, places, places.starts[:, i]) for i, width in enumerate(widths))
        return cls(lengths, streams, packing)

    def by_slot(self, values: NDArray) -> NDArray:
        """A value for each example: [B, ...] as it is for padded rows, [R, P, ...] with 0 in empty slots for packed."""
        if self.packing is None:
            return values
        out = np.zeros((self.packing.num_rows, self.packing.num_slots, *values.shape[1:]), values.dtype)
        out[self.packing.rows, self.packing.slots] = values
        return out

    def pooled_positions(self, last_of: NDArray[np.bool_] | None = None) -> NDArray[np.int32]:
        """Where in its row each example's first token is, [R, P]; 0 for empty slots.

        With `last_of` [R, L], where the last of these tokens is, and the first token of an example that has none.
        """
        assert self.packing is not None, "the rows of a padded batch begin with their only example"
        found = np.zeros(len(self.lengths), np.int32)
        if last_of is not None:
            chosen = last_of & self.streams[0].is_real
            np.maximum.at(found, self.streams[0].examples[chosen], self.streams[0].positions[chosen])
        return self.by_slot(self.packing.starts[:, 0] + found)


def pack(lengths: NDArray[np.int64]) -> Packing:
    """Lay examples of these `lengths` [B, streams] into rows with little padding; a pure function of the lengths.

    For a given number of rows, the examples are taken from the longest to the shortest, each goes into the row that is
    the least full, and the rows become as wide as the fullest. Several numbers of rows are tried: the one for rows as
    wide as the longest example, and those for one to MOST_PER_ROW examples a row, which suit examples of similar
    lengths. The one with the least work is used; at worst that is the padded batch.
    """
    num_examples, longest = len(lengths), lengths.max(axis=0).tolist()
    totals = np.maximum(lengths.sum(axis=0), 1)
    counts = {-(-num_examples // per_row) for per_row in range(1, MOST_PER_ROW + 1)}
    counts.add(max(1, min(int(total) // width for total, width in zip(totals, longest, strict=True) if width)))
    least = {
        count: work(count, [max(width, -(-int(total) // count)) for total, width in zip(totals, longest, strict=True)])
        for count in counts
    }
    best: tuple[float, Packing] | None = None
    for count in sorted(counts, key=lambda count: (least[count], count)):
        if best is not None and least[count] >= best[0]:
            break
        packing = pack_into(lengths, count)
        needed = work(count, packing.widths(lengths))
        if best is None or needed < best[0]:
            best = (needed, packing)
    assert best is not None
    return best[1]


def pack_into(lengths: NDArray[np.int64], num_rows: int) -> Packing:
    """As `pack`, into this number of rows, each of which gets an example; there must be as many examples."""
    totals = np.maximum(lengths.sum(axis=0), 1)
    shares = (lengths * (totals.prod() // totals)).sum(axis=1)  # of all streams alike, in whole numbers
    return _balanced(lengths, np.argsort(-shares, kind="stable"), shares, num_rows)


def few_shapes(
    sample: Sequence[NDArray[np.int64]], numbers: Sequence[int], multiple: int = 1, most: int = MOST_SHAPES["fp32"]
) -> list[Shape]:
    """At most `most` shapes in which batches like those of a sample are packed, that of the least work first.

    `sample` has the lengths [B, streams] of the examples of each batch, `numbers` the numbers of rows to choose from;
    widths are multiples of `multiple`. The first choice is a shape wider than any batch of the sample needs, which is
    meant for the largest LEAST_SHARE of them. Then the shape that saves the most work is added, again and again, if
    at least LEAST_SHARE of the sample use it.
    """
    needed_SNW = np.array([[pack_into(each, min(n, len(each))).widths(each) for n in numbers] for each in sample])
    needed_SNW = -(-needed_SNW // multiple) * multiple
    largest_NW = needed_SNW.max(axis=0)
    ample_NW = -(-ample_widths(largest_NW + largest_NW // 8) // multiple) * multiple
    by_number = [
        [Shape(num_rows, tuple(widths)) for widths in needed_SNW[:, n].tolist()] for n, num_rows in enumerate(numbers)
    ]
    smallest_first = np.argsort([min(shape.work for shape in shapes) for shapes in zip(*by_number, strict=True)])
    is_large = np.isin(np.arange(len(sample)), smallest_first[len(sample) - int(LEAST_SHARE * len(sample)) :])
    ample = [Shape(num_rows, tuple(widths)) for num_rows, widths in zip(numbers, ample_NW.tolist(), strict=True)]
    own = {shape for shapes in by_number for shape, large in zip(shapes, is_large, strict=True) if not large}
    candidates = [min(ample, key=lambda shape: shape.work), *sorted(own)]
    costs_CS = [
        np.where((needed_SNW[:, numbers.index(shape.num_rows)] <= shape.widths).all(axis=-1), shape.work, np.inf)
        for shape in candidates
    ]
    chosen = _with_least_work(np.stack(costs_CS, axis=1), most)
    return sorted((candidates[c] for c in chosen), key=lambda shape: shape.work)


def _with_least_work(costs_SC: NDArray[np.float64], most: int) -> list[int]:
    """The first candidate and the others that `few_shapes` chooses; costs are infinite where a batch does not fit."""
    chosen, costs_S = [0], costs_SC[:, 0]
    while len(chosen) < most:
        sums_C = np.minimum(costs_S[:, None], costs_SC).sum(axis=0)
        sums_C[(costs_SC < costs_S[:, None]).mean(axis=0) < LEAST_SHARE] = np.inf
        if sums_C.min() >= costs_S.sum():
            break
        chosen.append(int(sums_C.argmin()))
        costs_S = np.minimum(costs_S, costs_SC[:, chosen[-1]])
    return chosen


def ample_widths(widths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each width rounded up to one of eight between a power of two and the next."""
    step = 2 ** np.maximum(0, np.floor(np.log2(np.maximum(widths, 1))).astype(np.int64) - 3)
    return -(-widths // step) * step


def pack_into_shape(lengths: NDArray[np.int64], shapes: Sequence[Shape]) -> tuple[Packing, Shape]:
    """Lay examples of these `lengths` [B, streams] into the first of the shapes that is large enough.

    If none is, into the rows of the last one, made as wide as they need to be, and a little wider.
    """
    packings: dict[int, Packing] = {}
    longest, totals = lengths.max(axis=0), lengths.sum(axis=0)
    for shape in shapes:
        num_rows = min(shape.num_rows, len(lengths))
        if (np.maximum(longest, -(-totals // num_rows)) <= shape.widths).all():  # else there is no need to try
            if num_rows not in packings:
                packings[num_rows] = pack_into(lengths, num_rows)
            if np.less_equal(packings[num_rows].widths(lengths), shape.widths).all():
                return packings[num_rows], shape
    last = shapes[-1]
    packing = pack_into(lengths, min(last.num_rows, len(lengths)))
    widths = ample_widths(np.maximum(packing.widths(lengths), last.widths)).tolist()
    return packing, Shape(last.num_rows, tuple(widths))


def work(num_rows: int, widths: Sequence[int]) -> float:
    """The work of rows of these widths, in positions; with attention, a position costs more in a wide row."""
    return num_rows * sum(width * (1 + width / DOUBLE_WORK_WIDTH) for width in widths)


def _balanced(
    lengths: NDArray[np.int64], order: NDArray[np.int64], shares: NDArray[np.int64], num_rows: int
) -> Packing:
    """Each example, in this order, in the row whose sum of `shares` is the smallest."""
    loads = [(0, row) for row in range(num_rows)]  # a heap
    chosen = []
    for share in shares[order].tolist():
        load, row = loads[0]
        chosen.append(row)
        heapreplace(loads, (load + share, row))
    by_row = np.argsort(chosen, kind="stable")
    examples, rows_of = order[by_row], np.array(chosen, np.int32)[by_row]
    first_of_row = np.searchsorted(rows_of, np.arange(num_rows))[rows_of]
    before = np.cumsum(lengths[examples], axis=0) - lengths[examples]
    packing = Packing(*(np.zeros(shape, np.int32) for shape in (len(order), len(order), lengths.shape)))
    packing.rows[examples], packing.slots[examples] = rows_of, np.arange(len(order)) - first_of_row
    packing.starts[examples] = before - before[first_of_row]
    return packing


def _one_example_a_row(num_examples: int, num_streams: int) -> Packing:
    """The places of a padded batch."""
    zeros = np.zeros((num_examples, num_streams), np.int32)
    return Packing(np.arange(num_examples, dtype=np.int32), zeros[:, 0], zeros)


def _stream(lengths: NDArray[np.int64], width: int, places: Packing, starts: NDArray[np.int32]) -> Stream:
    owners = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    positions = np.arange(len(owners)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    taken = places.rows[owners], starts[owners] + positions
    shape = (places.num_rows, width)
    stream = Stream(np.full(shape, -1, np.int32), np.zeros(shape, np.int32), np.zeros(shape, np.int32))
    stream.examples[taken], stream.positions[taken] = owners, positions
    stream.segments[taken] = places.slots[owners] + 1
    return stream
