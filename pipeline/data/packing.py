"""Packing: the examples of a batch laid end to end in few rows, so that a plain shuffle needs hardly any padding.

`first_fit` decides where each example of a batch begins; a `Layout` says for every position of the batch's rows which
example it belongs to. A padded batch is the special case of one example in each row. All of it is in NumPy.
"""

# B examples of the batch · R rows · L width of a row · P slots: the most examples in one row

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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
        """R."""
        return int(self.rows.max()) + 1

    @property
    def num_slots(self) -> int:
        """P."""
        return int(self.slots.max()) + 1


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

    def pooled_positions(self, of_last_tokens: bool) -> NDArray[np.int32]:
        """Where in its row each example's first or last token is, [R, P]; 0 for empty slots."""
        assert self.packing is not None, "the rows of a padded batch begin with their only example"
        firsts = self.packing.starts[:, 0]
        return self.by_slot(firsts + self.lengths[:, 0].astype(np.int32) - 1 if of_last_tokens else firsts)


def first_fit(lengths: NDArray[np.int64], widths: Sequence[int]) -> Packing:
    """Lay examples of these `lengths` [B, 1 or 2] into as few rows as first-fit finds, the longest first.

    Each goes into the first row with room for it, in both streams if there are two. No example may be wider than a row.
    """
    # A single stream is handled as one beside which there is nothing: plain tuples are what makes this fast.
    needs = [(*need, 0)[:2] for need in lengths.tolist()]
    width = (*widths, 0)[:2]
    rooms: list[tuple[int, int]] = []
    counts: list[int] = []
    rows, slots, starts = [0] * len(needs), [0] * len(needs), [(0, 0)] * len(needs)
    for i in np.argsort(-lengths.sum(axis=1), kind="stable").tolist():
        first, second = needs[i]
        row = 0
        for room in rooms:
            if room[0] >= first and room[1] >= second:
                break
            row += 1
        else:
            room = width
            rooms.append(room)
            counts.append(0)
        rows[i], slots[i], starts[i] = row, counts[row], (width[0] - room[0], width[1] - room[1])
        rooms[row] = (room[0] - first, room[1] - second)
        counts[row] += 1
    kept = np.array(starts, np.int32).reshape(-1, 2)[:, : lengths.shape[1]]
    return Packing(np.array(rows, np.int32), np.array(slots, np.int32), kept)


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
