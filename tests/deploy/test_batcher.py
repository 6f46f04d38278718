"""The batcher: each job gets its own answers, a wrong one harms no other, and what waits is bounded."""

import threading

import pytest

from pipeline.deploy.serving.batcher import Batcher, Job, QueueFull


class Model:
    """Answers a number with its square; the first batch waits until `gate` is set."""

    def __init__(self):
        self.gate, self.batches, self.is_asked = threading.Event(), [], threading.Event()

    def __call__(self, rows):
        self.is_asked.set()
        assert self.gate.wait(10)
        self.batches.append(list(rows))
        if 13 in rows:
            raise ValueError("13 is wrong")
        return [row**2 for row in rows]


@pytest.fixture
def model():
    return Model()


@pytest.fixture
def batcher():
    batcher = Batcher(most_rows=5, most_waiting=8)
    yield batcher
    batcher.close(10)


def busy(batcher, model):
    """A first job, which the model is asked and holds back, so that whatever follows must wait."""
    first = batcher.submit(Job([0], model, "k"))
    assert model.is_asked.wait(10)
    return first


def test_what_waits_is_answered_together_up_to_the_most_rows_and_each_job_gets_its_own_answers(batcher, model):
    busy(batcher, model)
    jobs = [[1], [2, 3], [4], [5, 6], [7]]
    waiting = [batcher.submit(Job(rows, model, "k")) for rows in jobs]
    model.gate.set()
    assert [future.result(10) for future in waiting] == [[row * row for row in rows] for rows in jobs]
    assert model.batches == [[0], [1, 2, 3, 4], [5, 6, 7]]


def test_a_job_alone_is_answered_at_once(batcher, model):
    model.gate.set()
    assert batcher.submit(Job([3], model, "k")).result(10) == [9]


def test_a_wrong_row_fails_its_own_job_only(batcher, model):
    busy(batcher, model)
    waiting = [batcher.submit(Job([row], model, "k")) for row in (1, 13, 2)]
    model.gate.set()
    assert waiting[0].result(10) == [1] and waiting[2].result(10) == [4]
    with pytest.raises(ValueError, match="13 is wrong"):
        waiting[1].result(10)


def test_jobs_of_different_keys_and_jobs_without_a_key_are_not_answered_together(batcher, model):
    busy(batcher, model)
    keys = ["k", "k", "other", None, None]
    waiting = [batcher.submit(Job([row], model, key)) for row, key in enumerate(keys, start=1)]
    model.gate.set()
    assert [future.result(10) for future in waiting] == [[row * row] for row in range(1, 6)]
    assert model.batches == [[0], [1, 2], [3], [4], [5]]


def test_more_rows_than_may_wait_are_refused_and_a_cancelled_job_makes_room(batcher, model):
    busy(batcher, model)
    waiting = [batcher.submit(Job([row] * 4, model, "k")) for row in (1, 2)]
    assert batcher.waiting_rows == 8
    with pytest.raises(QueueFull):
        batcher.submit(Job([3], model, "k"))
    assert waiting[0].cancel() and batcher.waiting_rows == 4
    last = batcher.submit(Job([3], model, "k"))
    model.gate.set()
    assert last.result(10) == [9] and model.batches == [[0], [2, 2, 2, 2, 3]]


def test_a_job_of_more_rows_than_a_batch_is_answered_if_nothing_else_waits(batcher, model):
    model.gate.set()
    assert batcher.submit(Job(list(range(9)), model, "k")).result(10) == [row * row for row in range(9)]


def test_closing_answers_what_waits(model):
    batcher = Batcher(most_rows=5, most_waiting=8)
    waiting = [busy(batcher, model), batcher.submit(Job([3], model, "k"))]
    model.gate.set()
    batcher.close(10)
    assert [future.result(0) for future in waiting] == [[0], [9]]


def test_an_answer_too_few_is_an_error_and_the_next_job_is_still_answered(batcher):
    with pytest.raises(AssertionError):
        batcher.submit(Job([1, 2], lambda rows: [1])).result(10)
    assert batcher.submit(Job([2], lambda rows: [4])).result(10) == [4]
