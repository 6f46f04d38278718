"""The batch plan: which examples go through the model together, in which order, and how they lie in its rows.

It is computed in NumPy, the same for both frameworks, and a pure function of (lengths, settings, seed, epoch): either
framework and any number of processes see the same batches, and a run that resumes at step N needs no loader state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from itertools import chain, islice, pairwise
from operator import le
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from pipeline.data.packing import (
    MOST_SHAPES,
    Layout,
    Packing,
    Shape,
    few_shapes,
    pack,
    pack_into,
    pack_into_shape,
    work,
)
from pipeline.data.ragged import Ragged
from pipeline.distributed.ranks import Ranks
from pipeline.recipe.data import Batching
from pipeline.utils.array_cache import shared
from pipeline.utils.hashing import sha256_of_bytes

# Sorted batches are sorted by length only inside a window of this many: little padding, and almost a plain shuffle.
WINDOW_BATCHES = 64
# Where the batches of a training are cut into groups, from the narrowest to the widest: those of a group get one width.
# The few wide ones do not widen the others. More groups leave less padding, but XLA compiles a step for each.
GROUP_ENDS = (0.0, 0.25, 0.5, 0.7, 0.85, 0.95, 1.0)
# From so many batches of a training are the shapes of all packed ones chosen, and from so many numbers of rows.
SAMPLE_BATCHES, MOST_NUMBERS = 256, 8
# Of so many batches is the number of rows chosen that suits them all.
PACKED_TO_CHOOSE = 256
# Epochs whose order is kept: where one ends and the next begins, both are in use.
KEPT_ORDERS = 2
# The keys of a batch that the loss reads; all others are inputs of the model.
TARGETS = ("labels", "loss_weights")

Array = NDArray
Features = dict[str, NDArray]


def filled(targets: Features, values: Array) -> Array:
    """An array of the labels' shape: `values`, or if there are only those of some positions, 0 elsewhere.

    These are the positions that count, in order; what is behind their values is left out.
    """
    if values.shape == targets["labels"].shape:
        return values
    counts = targets["loss_weights"] > 0
    out = np.zeros(targets["labels"].shape, values.dtype)
    out[counts] = values[: counts.sum()]
    return out


def share(batch: Features, ranks: Ranks) -> Features:
    """The rows of a batch that one of several ranks computes: every size-th, as wide as in the whole batch.

    If there are fewer rows than ranks, the others get one row that counts for nothing, so that all compute gradients
    of the same weights.
    """
    if ranks.size == 1:
        return batch
    if len(batch["labels"]) <= ranks.rank:
        return uncounted_row(batch)
    return {key: np.ascontiguousarray(value[ranks.rank :: ranks.size]) for key, value in batch.items()}


def uncounted_row(batch: Features) -> Features:
    """The first row of a batch, with weights of the loss by which it counts for nothing."""
    first = {key: value[:1] for key, value in batch.items()}
    return first | {"loss_weights": np.zeros_like(first["loss_weights"])}


def filled_up(batch: Features, num_rows: int, num_slots: int) -> Features:
    """A batch with at least this many rows, and packed examples in each: ones are added that count for nothing."""
    if "pooled_positions" in batch:
        missing = max(0, num_slots - batch["pooled_positions"].shape[1])
        slots = {
            key: np.pad(batch[key], [(0, 0), (0, missing), *[(0, 0)] * (batch[key].ndim - 2)])
            for key in ("pooled_positions", *TARGETS)
        }
        batch = batch | slots
    missing = max(0, num_rows - len(batch["labels"]))
    more = uncounted_row(batch)
    return {key: np.concatenate([value, *[more[key]] * missing]) for key, value in batch.items()}


@dataclass(frozen=True)
class Batch:
    """Rows of a split that go through the model together, and the widths that they get there.

    There is one width, or two for examples with a source and a target. Without `packing` each example has a row of its
    own, padded to the width. There are at least `least_rows` rows, of packed examples `least_slots` in each; those
    without an example count for nothing.
    """

    rows: NDArray[np.int64]
    widths: tuple[int, ...]
    packing: Packing | None = None
    least_rows: int = 0
    least_slots: int = 0

    def layout(self, lengths: NDArray[np.int64]) -> Layout:
        """What lies where in the batch; `lengths` are those of all examples of the split."""
        return Layout.of(lengths[self.rows].reshape(len(self.rows), -1), self.widths, self.packing)

    @property
    def num_rows(self) -> int:
        """How many rows the examples lie in, and those that are empty."""
        return max(self.least_rows, len(self.rows) if self.packing is None else self.packing.num_rows)

    @property
    def num_positions(self) -> int:
        """How many positions the model computes, padding among them."""
        return self.num_rows * sum(self.widths)


@dataclass(frozen=True)
class Plan(Sequence[Batch]):
    """The batches of an epoch, or of some of its steps; each is made when it is asked for, and not kept.

    So what a long training needs is the order of the current epoch, of which a machine has one copy if it is large.
    `rows_of_steps` draws that order: the rows of each step of the whole epoch. `make` lays the rows of a step out.
    """

    rows_of_steps: Callable[[], Ragged]
    make: Callable[[NDArray[np.int64]], Batch]
    steps: range

    def __len__(self) -> int:
        return len(self.steps)

    @overload
    def __getitem__(self, index: int) -> Batch: ...
    @overload
    def __getitem__(self, index: slice) -> Plan: ...
    def __getitem__(self, index: int | slice) -> Batch | Plan:
        if isinstance(index, slice):
            return replace(self, steps=self.steps[index])
        return self.make(self.rows(index))

    def rows(self, index: int) -> NDArray[np.int64]:
        """The rows of a batch, which is not laid out for this."""
        return self.rows_of_steps()[self.steps[index]]


def training_batches(
    lengths: NDArray[np.int64],
    batch_size: int,
    seed: int,
    epoch: int,
    batching: Batching,
    pad_to_multiple_of: int = 1,
) -> Plan:
    """The batches of one epoch: each example once; a smaller last batch is kept.

    `lengths` are in tokens, [N], or [N, 2] for sources and targets. The examples are shuffled and cut into batches,
    which are "packed" into few rows or "padded". For "sorted" ones, windows of many batches are cut instead and sorted
    by length before they are cut into padded batches, which are shuffled.
    """
    return training_plans(lengths, batch_size, seed, [epoch], batching, pad_to_multiple_of)[0]


def training_plans(
    lengths: NDArray[np.int64],
    batch_size: int,
    seed: int,
    epochs: Iterable[int],
    batching: Batching,
    pad_to_multiple_of: int = 1,
) -> list[Plan]:
    """`training_batches` of several epochs, of which only KEPT_ORDERS are in memory."""
    draw = lru_cache(KEPT_ORDERS)(partial(_rows_of_steps, lengths, batch_size, seed, batching))
    make = partial(
        packed_batch if batching == "packed" else padded_batch, lengths=lengths, pad_to_multiple_of=pad_to_multiple_of
    )
    return [Plan(partial(draw, epoch), make, range(-(-len(lengths) // batch_size))) for epoch in epochs]


def _rows_of_steps(lengths: NDArray[np.int64], batch_size: int, seed: int, batching: Batching, epoch: int) -> Ragged:
    def draw() -> Ragged:
        rng = np.random.default_rng([seed, epoch])
        order = rng.permutation(len(lengths))
        if batching != "sorted":
            return _cut(order, batch_size)
        totals, size = _totals(lengths), batch_size * WINDOW_BATCHES
        for window in (order[first : first + size] for first in range(0, len(order), size)):
            window[:] = window[np.argsort(totals[window], kind="stable")]
        batches = _cut(order, batch_size)
        shuffled = [batches[i] for i in rng.permutation(-(-len(order) // batch_size))]
        return Ragged(np.concatenate(shuffled), np.cumsum([0, *map(len, shuffled)]))

    return _one_copy(draw, lengths, f"{batching} {batch_size} {seed} {epoch}")


def evaluation_batches(lengths: NDArray[np.int64], batch_size: int, pad_to_multiple_of: int = 1) -> Plan:
    """Every example once, the longest first, so that a lack of memory shows at once; nothing is random."""

    def sort() -> Ragged:
        return _cut(np.argsort(-_totals(lengths), kind="stable"), batch_size)

    rows_of_steps = _one_copy(sort, lengths, f"evaluation {batch_size}")
    make = partial(padded_batch, lengths=lengths, pad_to_multiple_of=pad_to_multiple_of)
    return Plan(lambda: rows_of_steps, make, range(-(-len(lengths) // batch_size)))


def _one_copy(make: Callable[[], Ragged], lengths: NDArray[np.int64], what: str) -> Ragged:
    """The rows of each step that `make` returns, of which all processes of a machine have one copy if they are many."""
    return shared(make, (Ragged,), lengths.nbytes, lambda: [what.encode(), lengths.ravel().data, _source()])


@cache
def _source() -> bytes:
    return Path(__file__).read_bytes()


def padded_batch(rows: NDArray[np.int64], lengths: NDArray[np.int64], pad_to_multiple_of: int = 1) -> Batch:
    """A batch of these rows, as wide as the longest, rounded up to a multiple."""
    return Batch(rows, _rounded(lengths[rows].reshape(len(rows), -1).max(axis=0).tolist(), pad_to_multiple_of))


def packed_batch(
    rows: NDArray[np.int64], lengths: NDArray[np.int64], pad_to_multiple_of: int = 1, num_rows: int | None = None
) -> Batch:
    """A batch of these rows laid end to end in fewer, or in `num_rows`, whose width is rounded up to a multiple."""
    of_rows = lengths[rows].reshape(len(rows), -1)
    packing = pack(of_rows) if num_rows is None else pack_into(of_rows, min(num_rows, len(rows)))
    return Batch(rows, _rounded(packing.widths(of_rows), pad_to_multiple_of), packing)


def packed_in_few_shapes(
    plans: Sequence[Plan], lengths: NDArray[np.int64], pad_to_multiple_of: int = 1, precision: str = "fp32"
) -> list[Plan]:
    """The same steps in packed batches of few shapes, which need a little more padding.

    On a CPU the libraries prepare their operations for each shape and keep them, which takes time and memory. The
    shapes suit the first SAMPLE_BATCHES batches, with the numbers of rows that most of these have by themselves.
    """

    def of_examples(rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return lengths[rows].reshape(len(rows), -1)

    sample = [of_examples(rows) for rows in islice(chain.from_iterable(map(rows_of, plans)), SAMPLE_BATCHES)]
    numbers = Counter(pack(each).num_rows for each in sample).most_common(MOST_NUMBERS)
    numbers_of_rows = sorted(number for number, _ in numbers)
    shapes = few_shapes(sample, numbers_of_rows, pad_to_multiple_of, MOST_SHAPES[precision])
    num_slots: dict[Shape, int] = {}
    for rows in chain.from_iterable(map(rows_of, plans)):
        packing, shape = pack_into_shape(of_examples(rows), shapes)
        num_slots[shape] = max(packing.num_slots, num_slots.get(shape, 0))

    def shaped(rows: NDArray[np.int64]) -> Batch:
        packing, shape = pack_into_shape(of_examples(rows), shapes)
        return Batch(rows, shape.widths, packing, shape.num_rows, num_slots[shape])

    return [replace(plan, make=shaped) for plan in plans]


def in_few_shapes(
    plans: Sequence[Plan], lengths: NDArray[np.int64], rows_multiple: int = 1, pad_to_multiple_of: int = 1
) -> list[Plan]:
    """The same steps in batches of few shapes, at most one for each group of GROUP_ENDS, for steps that are compiled.

    All batches have the same number of rows, a multiple of `rows_multiple`, and the same number of examples in a row.
    Of the numbers of rows that packed batches have by themselves, the one with the least work is used.
    """
    is_packed = plans[0][0].packing is not None
    numbers = {_rounded([batch.num_rows], rows_multiple)[0] for batch in chain.from_iterable(plans)}

    def maker(num_rows: int) -> Callable[[NDArray[np.int64]], Batch]:
        if not is_packed:
            return plans[0].make
        return partial(packed_batch, lengths=lengths, pad_to_multiple_of=pad_to_multiple_of, num_rows=num_rows)

    def batches(num_rows: int) -> Iterator[Batch]:
        return map(maker(num_rows), chain.from_iterable(map(rows_of, plans)))

    def work_of_sample(num_rows: int) -> float:
        needed = Counter(batch.widths for batch in islice(batches(num_rows), PACKED_TO_CHOOSE))
        groups = _groups(needed)
        return sum(number * work(num_rows, _fitting(widths, groups)) for widths, number in needed.items())

    num_rows = min(sorted(numbers), key=work_of_sample) if is_packed else max(numbers)
    needed, num_slots, make = Counter[tuple[int, ...]](), 0, maker(num_rows)
    for batch in batches(num_rows):
        needed[batch.widths] += 1
        num_slots = max(num_slots, 0 if batch.packing is None else batch.packing.num_slots)
    groups = _groups(needed)

    def shaped(rows: NDArray[np.int64]) -> Batch:
        batch = make(rows)
        return replace(batch, widths=_fitting(batch.widths, groups), least_rows=num_rows, least_slots=num_slots)

    return [replace(plan, make=shaped) for plan in plans]


def _groups(needed: Mapping[tuple[int, ...], int]) -> list[tuple[int, ...]]:
    """The widths of each group of batches, from the narrowest; `needed` says how many batches need which widths."""
    narrowest_first = sorted(needed, key=lambda widths: (sum(widths), widths))
    num_before = np.cumsum([0, *(needed[widths] for widths in narrowest_first)])
    groups = []
    for begin, end in pairwise(round(share * num_before[-1]) for share in GROUP_ENDS):
        group = [widths for widths, first in zip(narrowest_first, num_before, strict=False) if begin <= first < end]
        if group:
            groups.append(tuple(max(each) for each in zip(*group, strict=True)))
    return groups


def _fitting(widths: tuple[int, ...], groups: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The first of the groups' widths that are large enough."""
    return next(group for group in groups if all(map(le, widths, group)))


def padding_fraction(lengths: NDArray[np.int64], batches: Iterable[Batch]) -> float:
    """The share of positions in these batches that hold padding."""
    real = positions = 0
    for batch in batches:
        real += int(lengths[batch.rows].sum())
        positions += batch.num_positions
    return 1 - real / positions


def rows_of(batches: Sequence[Batch]) -> Iterator[NDArray[np.int64]]:
    """The rows of each batch; those of a plan are not laid out for this."""
    return map(batches.rows, range(len(batches))) if isinstance(batches, Plan) else (batch.rows for batch in batches)


def digest(*plans: Sequence[Batch]) -> str:
    """Sixteen hex digits of the rows of every batch, in order: two plans with the same one have the same batches."""
    rows_of_steps = chain.from_iterable(map(rows_of, plans))
    return sha256_of_bytes(np.append(len(rows), rows).astype("<i8").tobytes() for rows in rows_of_steps)[:16]


def _rounded(widths: Iterable[int], multiple: int) -> tuple[int, ...]:
    return tuple(-(-width // multiple) * multiple for width in widths)


def _cut(rows: NDArray[np.int64], size: int) -> Ragged:
    return Ragged(rows, np.minimum(np.arange(0, len(rows) + size, size), len(rows)))


def _totals(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return lengths.reshape(len(lengths), -1).sum(axis=1)
