"""Packing: every token once, no example split, as few rows as first-fit finds."""

import numpy as np
import pytest

from pipeline.data.batches import Batch, packed_batch, padded_batch
from pipeline.data.packing import Packing, pack
from pipeline.data.ragged import Ragged


def test_each_example_goes_into_the_emptiest_row_the_longest_first():
    # By hand: 460 tokens fill three rows as wide as the longest example, 140. 140, 100 and 80 open them; 80 joins 80,
    # 40 joins 100, and 20 the first of the two rows that have 140 then.
    lengths = np.array([[80], [140], [40], [80], [20], [100]])
    packing = pack(lengths)
    assert packing.rows.tolist() == [2, 0, 1, 2, 0, 1]
    assert packing.slots.tolist() == [0, 0, 1, 1, 1, 0]
    assert packing.starts[:, 0].tolist() == [0, 0, 100, 80, 140, 0]
    assert (packing.num_rows, packing.num_slots, packing.widths(lengths)) == (3, 2, (160,))


def test_examples_of_equal_length_keep_rows_of_their_own():
    packing = pack(np.full((12, 2), [9, 5]))
    assert packing.num_rows == 12 and packing.widths(np.full((12, 2), [9, 5])) == (9, 5)


# The mean lengths of short reviews, pairs of sentences, translations, and sources of many lengths with targets of one.
@pytest.mark.parametrize(("means", "spread"), [((13,), 8), ((53,), 12), ((5, 7), 2), ((13, 12), (2, 0))], ids=str)
def test_hardly_any_position_is_padding(means, spread):
    rng = np.random.default_rng(0)
    for _ in range(20):
        lengths = np.maximum(rng.normal(means, spread, (32, len(means))), 2).astype(int)
        packing = pack(lengths)
        packed = lengths.sum() / (packing.num_rows * sum(packing.widths(lengths)))
        assert packed > 0.87
        assert packed > lengths.sum() / (32 * lengths.max(axis=0).sum()) + 0.05


@pytest.mark.parametrize("num_streams", [1, 2])
def test_each_token_of_a_packed_batch_lies_in_one_place_in_order(num_streams):
    rng = np.random.default_rng(num_streams)
    lengths = rng.integers(1, 24, size=(97, num_streams))
    rows = rng.permutation(97)[:31]
    layout = packed_batch(rows, lengths).layout(lengths)
    for column, stream in enumerate(layout.streams):
        tokens = []
        for example, position, segment in zip(
            *map(np.ravel, (stream.examples, stream.positions, stream.segments)), strict=True
        ):
            assert (example < 0) == (segment == 0)
            if example >= 0:
                tokens.append((example, position))
        assert sorted(tokens) == [(i, p) for i, row in enumerate(rows) for p in range(lengths[row, column])]
        for example in range(31):
            places = np.argwhere(stream.examples == example)
            assert len(set(places[:, 0])) == 1, "an example is in one row"
            assert np.array_equal(places[:, 1], places[0, 1] + np.arange(len(places))), "its tokens are neighbors"
    segments = [
        dict(zip(s.examples.ravel().tolist(), s.segments.ravel().tolist(), strict=True)) for s in layout.streams
    ]
    assert all(each == segments[0] for each in segments), "a pair has the same number in both streams"


def test_a_padded_batch_is_one_example_in_each_row():
    (stream,) = padded_batch(np.array([2, 0]), np.array([3, 9, 2])).layout(np.array([3, 9, 2])).streams
    assert stream.examples.tolist() == [[0, 0, -1], [1, 1, 1]]
    assert stream.positions.tolist() == [[0, 1, 0], [0, 1, 2]]
    assert stream.segments.tolist() == [[1, 1, 0], [1, 1, 1]]


def test_tokens_and_labels_lie_where_the_layout_says():
    ragged = Ragged.of([[50, 51, 52], [60], [70, 71]])
    rows, labels = np.array([2, 0, 1]), np.array([0.2, 0.3, 0.1])
    packing = Packing(rows=np.array([1, 0, 1]), slots=np.array([0, 0, 1]), starts=np.array([[0], [0], [2]]))
    layout = Batch(rows, (4,), packing).layout(ragged.lengths)
    assert ragged.laid_out(rows, layout.streams[0], fill=9).tolist() == [[50, 51, 52, 9], [70, 71, 60, 9]]
    assert layout.by_slot(labels).tolist() == [[0.3, 0.0], [0.2, 0.1]]
    assert layout.by_slot(np.array([[1, 2], [3, 4], [5, 6]])).tolist() == [[[3, 4], [0, 0]], [[1, 2], [5, 6]]]
    tokens = ragged.laid_out(rows, layout.streams[0], fill=9)
    assert layout.pooled_positions().tolist() == [[0, 0], [0, 2]]
    assert layout.pooled_positions(last_of=tokens > 0).tolist() == [[2, 0], [1, 2]]
    assert layout.pooled_positions(last_of=np.isin(tokens, [9, 51, 71])).tolist() == [[1, 0], [1, 2]]


def test_padded_labels_stay_as_they_are():
    labels = np.array([5, 7])
    assert Batch(np.array([1, 0]), (4,)).layout(np.array([3, 4])).by_slot(labels) is labels


def test_packed_rows_are_rounded_up():
    batch = packed_batch(np.arange(3), np.array([150, 90, 90]), pad_to_multiple_of=64)
    assert batch.packing is not None and batch.packing.rows.tolist() == [0, 1, 1]
    assert batch.widths == (192,)
