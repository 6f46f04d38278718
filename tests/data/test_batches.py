"""The batch plan: complete, pure, nearly without padding, and never a part of a batch lost."""

import gc
import hashlib
import struct
import tracemalloc

import datasets
import numpy as np
import pytest

from pipeline.data.batches import (
    Batch,
    Plan,
    digest,
    evaluation_batches,
    filled_up,
    in_few_shapes,
    packed_batch,
    packed_in_few_shapes,
    padding_fraction,
    training_batches,
    training_plans,
)
from pipeline.data.ragged import Ragged
from pipeline.utils import array_cache

LENGTHS = np.random.default_rng(7).integers(3, 61, size=4099)


@pytest.mark.parametrize("batching", ["packed", "padded", "sorted"])
def test_an_epoch_has_every_example_once(batching):
    plan = training_batches(LENGTHS, batch_size=32, seed=3, epoch=1, batching=batching)
    assert sorted(np.concatenate([batch.rows for batch in plan])) == list(range(4099))
    assert sorted(len(batch.rows) for batch in plan) == [3] + [32] * 128


@pytest.mark.parametrize("batching", ["packed", "padded"])
def test_step_t_of_a_plain_shuffle_holds_the_permutations_rows_t(batching):
    plan = training_batches(LENGTHS, batch_size=32, seed=3, epoch=1, batching=batching)
    permutation = np.random.Generator(np.random.PCG64(np.random.SeedSequence([3, 1]))).permutation(4099)
    assert len(plan) == 129
    for step, batch in enumerate(plan):
        assert batch.rows.tolist() == permutation[step * 32 : (step + 1) * 32].tolist()


def test_packing_leaves_the_rows_of_a_plain_shuffle_hardly_any_padding():
    packed, padded = (training_batches(LENGTHS, 32, 0, 0, batching=batching) for batching in ("packed", "padded"))
    assert digest(packed) == digest(padded)
    assert padding_fraction(LENGTHS, packed) < 0.1 < 0.4 < padding_fraction(LENGTHS, padded)
    num_positions = sum(batch.widths[0] * len(set(batch.packing.rows.tolist())) for batch in packed)
    assert padding_fraction(LENGTHS, packed) == pytest.approx(1 - LENGTHS.sum() / num_positions)


@pytest.mark.parametrize("batching", ["packed", "padded", "sorted"])
def test_the_plan_is_a_pure_function_of_seed_and_epoch(batching):
    def flat(seed, epoch):
        return [list(batch.rows) for batch in training_batches(LENGTHS, 32, seed, epoch, batching)]

    assert flat(3, 1) == flat(3, 1)
    assert flat(3, 1) != flat(3, 2)
    assert flat(3, 1) != flat(4, 1)


def test_a_plan_draws_the_order_of_an_epoch_once_and_keeps_that_of_two():
    drawn = []
    plans = training_plans(LENGTHS, 32, 5, range(4), "packed")
    for plan in plans:
        plan.rows_of_steps.func.cache_clear()
        for step in range(len(plan)):
            plan.rows(step)
            plan[step : step + 2].rows(0)
        drawn.append(plan.rows_of_steps.func.cache_info())
    assert [info.misses for info in drawn] == [1] * 4
    assert {info.maxsize for info in drawn} == {2}


def test_batches_of_several_epochs_hold_nothing_that_grows_with_the_epochs():
    plans = training_plans(LENGTHS, 32, 5, range(30), "packed")
    tracemalloc.start()
    for plan in plans:
        assert sum(len(batch.rows) for batch in plan) == len(LENGTHS)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 4 * 8 * len(LENGTHS)  # two orders of 8 bytes a row, and what cuts them


@pytest.mark.parametrize("batching", ["packed", "padded", "sorted"])
def test_an_order_that_processes_share_is_the_one_that_each_would_draw(batching, tmp_path, monkeypatch):
    alone = [digest(plan) for plan in training_plans(LENGTHS, 32, 5, range(3), batching)]
    evaluated = digest(evaluation_batches(LENGTHS, 64))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(array_cache, "SHARED_BYTES", 0)
    monkeypatch.setattr(array_cache, "SMALL_BYTES", 0)
    together = training_plans(LENGTHS, 32, 5, range(3), batching)
    assert [digest(plan) for plan in together] == alone
    assert digest(evaluation_batches(LENGTHS, 64)) == evaluated
    assert 1 <= len(list((tmp_path / "twinstep").iterdir())) <= 2
    del together
    gc.collect()
    assert list((tmp_path / "twinstep").iterdir()) == []


def test_a_part_of_a_plan_has_the_same_batches():
    plan = training_batches(LENGTHS, 32, 5, 0, "packed")
    part = plan[100:]
    assert len(part) == len(plan) - 100 and [b.rows.tolist() for b in part] == [b.rows.tolist() for b in plan][100:]
    assert (part[0].widths, part[-1].widths) == (plan[100].widths, plan[-1].widths)
    assert digest(plan[:100], part) == digest(plan) == digest(list(plan)) != digest(part, plan[:100])


def test_the_digest_tells_other_rows_another_order_and_other_cuts_apart():
    def of(*rows):
        return digest([Batch(np.array(each), (9,)) for each in rows])

    assert of([1, 2], [3]) == of([1, 2], [3])
    assert of([1, 2], [3]) == hashlib.sha256(struct.pack("<5q", 2, 1, 2, 1, 3)).hexdigest()[:16]
    assert (
        len({of([1, 2], [3]), of([1, 2], [4]), of([2, 1], [3]), of([3], [1, 2]), of([1], [2, 3]), of([1, 2, 3])}) == 6
    )


def test_sorted_batches_hold_examples_of_like_length_in_random_order():
    plan = training_batches(LENGTHS, 32, seed=0, epoch=0, batching="sorted")
    shuffled = [batch.rows for batch in plan]
    plain = np.array_split(np.random.default_rng(0).permutation(4099), 129)
    padded_plain = 1 - LENGTHS.sum() / sum(len(rows) * LENGTHS[rows].max() for rows in plain)
    assert padding_fraction(LENGTHS, plan) < 0.05 < 0.4 < padded_plain
    widths = [batch.widths[0] for batch in plan]
    assert abs(np.corrcoef(widths, np.arange(len(widths)))[0, 1]) < 0.3
    assert all(batch.widths[0] == LENGTHS[rows].max() for batch, rows in zip(plan, shuffled, strict=True))


@pytest.mark.parametrize("multiple", [1, 8])
def test_widths_are_rounded_up(multiple):
    plan = training_batches(LENGTHS, 32, 0, 0, "sorted", multiple)
    assert all(batch.widths[0] % multiple == 0 and batch.widths[0] >= LENGTHS[batch.rows].max() for batch in plan)
    assert all(batch.widths[0] - LENGTHS[batch.rows].max() < multiple for batch in plan)


def test_evaluation_has_every_example_once_the_widest_first():
    plan = evaluation_batches(LENGTHS, 64)
    assert sorted(np.concatenate([batch.rows for batch in plan])) == list(range(4099))
    assert plan[0].widths[0] == LENGTHS.max()
    assert [batch.widths[0] for batch in plan] == sorted((batch.widths[0] for batch in plan), reverse=True)


def test_ragged_rows_are_filled_up_on_the_right():
    ragged = Ragged.of([[5, 6, 7], [], [8]])
    rows = np.array([2, 0])
    (stream,) = Batch(rows, (4,)).layout(ragged.lengths).streams
    assert ragged.laid_out(rows, stream, fill=9).tolist() == [[8, 9, 9, 9], [5, 6, 7, 9]]
    assert ragged.lengths.tolist() == [3, 0, 1]


@pytest.mark.parametrize("batching", ["packed", "padded", "sorted"])
@pytest.mark.parametrize("num_streams", [1, 2])
def test_batches_for_compiled_steps_are_the_same_steps_in_at_most_six_shapes(batching, num_streams):
    lengths = LENGTHS if num_streams == 1 else np.stack([LENGTHS, LENGTHS[::-1]], axis=1)
    plans = [training_batches(lengths, 32, 5, epoch, batching) for epoch in range(3)]
    shaped = in_few_shapes(plans, lengths, rows_multiple=3)
    assert [digest(plan) for plan in shaped] == [digest(plan) for plan in plans]
    batches = [batch for plan in shaped for batch in plan]
    shapes = {(batch.num_rows, batch.least_slots, *batch.widths) for batch in batches}
    assert len(shapes) <= 6
    assert len({rows for rows, *_ in shapes}) == 1 and min(shapes)[0] % 3 == 0
    for batch in batches:
        needed = batch.layout(lengths)  # which fails if a row is too narrow
        assert len(needed.streams[0].examples) <= batch.num_rows
        assert sum(stream.is_real.sum() for stream in needed.streams) == lengths[batch.rows].sum()
    # Each shape covers batches of similar widths: little padding is added.
    more = padding_fraction(lengths, batches) - padding_fraction(lengths, [batch for plan in plans for batch in plan])
    assert more < 0.2


@pytest.mark.parametrize("multiple", [1, 4])
@pytest.mark.parametrize("num_streams", [1, 2])
def test_packed_batches_are_the_same_steps_in_few_shapes(num_streams, multiple):
    lengths = LENGTHS if num_streams == 1 else np.stack([LENGTHS, LENGTHS + LENGTHS[::-1] // 8], axis=1)
    plans = [training_batches(lengths, 32, 5, epoch, "packed", multiple) for epoch in range(4)]
    shaped = packed_in_few_shapes(plans, lengths, multiple)
    assert [digest(plan) for plan in shaped] == [digest(plan) for plan in plans]
    by_themselves, batches = ([batch for plan in each for batch in plan] for each in (plans, shaped))
    shapes = [(batch.num_rows, batch.least_slots, *batch.widths) for batch in batches]
    assert len({(batch.num_rows, *batch.widths) for batch in by_themselves}) > 1.5 * len(set(shapes))
    assert len(set(shapes)) <= 40 + 2, "those of the sample, and up to two for larger batches"
    assert all(width % multiple == 0 for _, _, *widths in shapes for width in widths)
    for batch in batches:
        needed = batch.layout(lengths)  # which fails if a row is too narrow
        assert len(needed.streams[0].examples) <= batch.num_rows and batch.packing.num_slots <= batch.least_slots
        assert sum(stream.is_real.sum() for stream in needed.streams) == lengths[batch.rows].sum()
    assert padding_fraction(lengths, batches) - padding_fraction(lengths, by_themselves) < 0.04
    fewer = [batch for plan in packed_in_few_shapes(plans, lengths, multiple, "bf16") for batch in plan]
    assert len({(batch.num_rows, *batch.widths) for batch in fewer}) <= 12 + 2
    assert padding_fraction(lengths, fewer) - padding_fraction(lengths, by_themselves) < 0.08


def in_order(lengths, batch_size):
    """A plan of batches as the examples come."""
    rows_of_steps = np.arange(len(lengths)).reshape(-1, batch_size)
    return Plan(lambda: rows_of_steps, lambda rows: packed_batch(rows, lengths), range(len(rows_of_steps)))


def test_batches_of_two_sizes_get_two_shapes_without_more_padding():
    # By hand: 2, 2, 2 and 6 tokens fill two rows of 6; four times 6 tokens need four.
    lengths = np.array([2, 2, 2, 6, 6, 6, 6, 6] * 50)
    (shaped,) = packed_in_few_shapes([in_order(lengths, 4)], lengths)
    assert [(b.num_rows, b.widths, b.least_slots) for b in shaped] == [(2, (6,), 3), (4, (6,), 1)] * 50
    assert shaped[0].packing.rows.tolist() == [1, 1, 1, 0]
    assert shaped[0].packing.starts.tolist() == [[0], [2], [4], [0]]


def test_a_batch_larger_than_those_that_the_shapes_were_chosen_for_gets_wider_rows():
    lengths = np.append(np.full(4000, 5), [50, 50, 50, 53])
    (shaped,) = packed_in_few_shapes([in_order(lengths, 4)], lengths)
    assert {(batch.num_rows, batch.widths) for batch in shaped[:-1]} == {(4, (5,))}
    # 53 in the steps of four from 32 to 64; the others need 5, and an eighth more.
    assert (shaped[-1].num_rows, shaped[-1].widths) == (4, (56,))


def test_rows_and_slots_that_fill_a_batch_up_count_for_nothing_and_change_no_other():
    rng = np.random.default_rng(0)
    batch = {
        "input_ids": rng.integers(1, 9, (2, 7)),
        "pooled_positions": rng.integers(0, 7, (2, 3)),
        "labels": rng.integers(0, 5, (2, 3, 2)),
        "loss_weights": rng.uniform(0.1, 1, (2, 3, 2)),
    }
    filled = filled_up(batch, 5, 4)
    assert {key: value.shape for key, value in filled.items()} == {
        "input_ids": (5, 7), "pooled_positions": (5, 4), "labels": (5, 4, 2), "loss_weights": (5, 4, 2),
    }  # fmt: skip
    for key, value in batch.items():
        assert np.array_equal(filled[key][:2, : value.shape[1]], value)
    assert filled["loss_weights"].sum() == pytest.approx(batch["loss_weights"].sum(), rel=1e-15)
    padded = {"input_ids": batch["input_ids"], "labels": np.ones(2), "loss_weights": np.ones(2)}
    assert filled_up(padded, 3, 0)["loss_weights"].tolist() == [1, 1, 0]
    assert len(filled_up(padded, 1, 0)["labels"]) == 2
