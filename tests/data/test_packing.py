"""Packing: every token once, no example split, as few rows as first-fit finds."""

import numpy as np
import pytest

from pipeline.data.batches import Batch, Ragged, packed_batch, padded_batch
from pipeline.data.packing import first_fit


def test_examples_are_packed_by_first_fit_the_longest_first():
    # By hand: 7 opens row 0, 5 row 1, the first 4 row 2, where the second has room; 2 goes into row 1, 1 into row 0.
    packing = first_fit(np.array([[4], [7], [2], [4], [1], [5]]), widths=(8,))
    assert packing.rows.tolist() == [2, 0, 1, 2, 0, 1]
    assert packing.slots.tolist() == [0, 0, 1, 1, 1, 0]
    assert packing.starts[:, 0].tolist() == [0, 0, 5, 4, 7, 0]
    assert (packing.num_rows, packing.num_slots) == (3, 2)


def test_a_pair_goes_where_both_its_source_and_its_target_have_room():
    # The third pair's source has room in row 0, its target only in row 1.
    packing = first_fit(np.array([[5, 6], [7, 2], [2, 3]]), widths=(8, 6))
    assert packing.rows.tolist() == [0, 1, 2]
    packing = first_fit(np.array([[5, 6], [5, 2], [3, 3]]), widths=(8, 6))
    assert packing.rows.tolist() == [0, 1, 1]
    assert packing.starts.tolist() == [[0, 0], [0, 0], [5, 2]]


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
    batch = packed_batch(rows, ragged.lengths)
    layout = batch.layout(ragged.lengths)
    assert ragged.laid_out(rows, layout.streams[0], fill=9).tolist() == [[50, 51, 52], [70, 71, 60]]
    assert layout.by_slot(labels).tolist() == [[0.3, 0.0], [0.2, 0.1]]
    assert layout.by_slot(np.array([[1, 2], [3, 4], [5, 6]])).tolist() == [[[3, 4], [0, 0]], [[1, 2], [5, 6]]]
    assert layout.pooled_positions(of_last_tokens=False).tolist() == [[0, 0], [0, 2]]
    assert layout.pooled_positions(of_last_tokens=True).tolist() == [[2, 0], [1, 2]]


def test_padded_labels_stay_as_they_are():
    labels = np.array([5, 7])
    assert Batch(np.array([1, 0]), (4,)).layout(np.array([3, 4])).by_slot(labels) is labels


def test_packed_rows_are_rounded_up():
    batch = packed_batch(np.arange(3), np.array([5, 3, 3]), pad_to_multiple_of=8)
    assert batch.widths == (8,)
    assert batch.packing is not None and batch.packing.rows.tolist() == [0, 0, 1]
