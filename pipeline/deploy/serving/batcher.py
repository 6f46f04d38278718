"""Batches requests for the server: one thread answers whatever rows are waiting, up to a number of rows at a time.

Nothing waits for a batch to fill. While the model computes, rows arrive, and the next batch has all of them: alone a
request is answered at once, and under load the batches grow by themselves.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

RowT = TypeVar("RowT")
AnswerT = TypeVar("AnswerT")


class QueueFull(Exception):
    """As many rows are waiting as may."""


@dataclass(eq=False)
class Job(Generic[RowT, AnswerT]):
    """Rows that are answered together, and the function that answers them, one answer for each row.

    Jobs with the same function and the same `key` may be answered in one call; a job without a key is alone.
    """

    rows: Sequence[RowT]
    function: Callable[[Sequence[RowT]], Sequence[AnswerT]]
    key: Hashable = None
    answers: Future[Sequence[AnswerT]] = field(default_factory=Future)

    def joins(self, other: Job) -> bool:
        """Whether it may be answered in one call with another job."""
        return self.key is not None and (self.key, self.function) == (other.key, other.function)


class Batcher:
    """A thread that answers jobs in the order in which they came.

    `most_rows` is the most rows of one batch, but a job with more of its own is answered as it is; `most_waiting` the
    most rows that wait. `on_batch` is told how many rows each batch had.
    """

    def __init__(self, most_rows: int, most_waiting: int, on_batch: Callable[[int], None] = lambda rows: None):
        self.most_rows, self.most_waiting, self.on_batch = most_rows, most_waiting, on_batch
        self._jobs: deque[Job] = deque()
        self._waiting_rows = 0
        self._is_closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._answer_all, name="batcher", daemon=True)
        self._thread.start()

    @property
    def waiting_rows(self) -> int:
        """How many rows wait at the moment."""
        return self._waiting_rows

    def submit(self, job: Job[RowT, AnswerT]) -> Future[Sequence[AnswerT]]:
        """Queue a job; cancelling its future takes it out again. Raises QueueFull."""
        with self._changed:
            assert not self._is_closed, "the batcher is closed"
            if self._waiting_rows and self._waiting_rows + len(job.rows) > self.most_waiting:
                raise QueueFull
            self._jobs.append(job)
            self._waiting_rows += len(job.rows)
            self._changed.notify()
        job.answers.add_done_callback(lambda future: self._take_out(job) if future.cancelled() else None)
        return job.answers

    def close(self, timeout_seconds: float | None = None) -> None:
        """Answer what waits, then end the thread; nothing may be submitted any more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join(timeout_seconds)

    def _take_out(self, job: Job) -> None:
        with self._changed:
            if job in self._jobs:
                self._jobs.remove(job)
                self._waiting_rows -= len(job.rows)

    def _answer_all(self) -> None:
        while batch := self._next_batch():
            self._answer(batch)

    def _next_batch(self) -> list[Job]:
        """The jobs to answer next, once there are some; none if the batcher is closed and nothing waits."""
        with self._changed:
            while not self._jobs and not self._is_closed:
                self._changed.wait()
            batch: list[Job] = []
            num_rows = 0
            while self._jobs:
                job = self._jobs[0]
                if batch and not (job.joins(batch[0]) and num_rows + len(job.rows) <= self.most_rows):
                    break
                self._jobs.popleft()
                self._waiting_rows -= len(job.rows)
                batch.append(job)
                num_rows += len(job.rows)
            return batch

    def _answer(self, batch: list[Job]) -> None:
        """Answer jobs in one call, or one by one if that fails: only the job that is wrong may suffer for it."""
        jobs = [job for job in batch if job.answers.set_running_or_notify_cancel()]
        if not jobs:
            return
        self.on_batch(sum(len(job.rows) for job in jobs))
        try:
            rows = [row for job in jobs for row in job.rows]
            answers = jobs[0].function(rows)
            assert len(answers) == len(rows), "an answer for each row"
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].answers.set_exception(error)
            else:
                self._answer_one_by_one(jobs)
            return
        start = 0
        for job in jobs:
            job.answers.set_result(answers[start : start + len(job.rows)])
            start += len(job.rows)

    def _answer_one_by_one(self, jobs: list[Job]) -> None:
        for job in jobs:
            try:
                job.answers.set_result(list(job.function(job.rows)))
            except Exception as error:
                job.answers.set_exception(error)
