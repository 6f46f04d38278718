"""Measures an export in its runtime: time until the first answer, processor time of an answer, memory.

The process that is measured imports this file, so it imports no framework and no transformers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.deploy.exported_model import load_model
from pipeline.deploy.runtimes import Arrays
from pipeline.runs.machine import peak_memory_bytes

# Calls in one measurement, and before the first.
LEAST_CALLS = 3


class Measured(NamedTuple):
    """What one fresh process needed; the milliseconds are for each batch."""

    first_answer_seconds: float
    milliseconds: list[float]
    peak_memory_bytes: int


def measure_export(folder: Path, batches: Sequence[Arrays], seconds: float) -> Measured:
    """What the runtime of an export needs in this process, which is fresh."""
    return measure_process(lambda: load_model(folder).run, batches, seconds)


def measure_process(
    load: Callable[[], Callable[[Arrays], object]], batches: Sequence[Arrays], seconds: float
) -> Measured:
    """What a model needs in this process, which is fresh, from its start; `load` loads it."""
    answer = load()
    answer(batches[0])
    first_answer = time.process_time()
    milliseconds = []
    for batch in batches:
        for _ in range(LEAST_CALLS):  # the first ones with a new shape cost more
            answer(batch)
        milliseconds.append(call_milliseconds(answer, batch, seconds))
    return Measured(first_answer, milliseconds, peak_memory_bytes())


def call_milliseconds(function: Callable[[Arrays], object], batch: Arrays, seconds: float) -> float:
    """Processor time of a call, the mean of as many calls as take this long, and of a few at least."""
    started, calls = time.process_time(), 0
    while True:
        function(batch)
        calls += 1
        taken = time.process_time() - started
        if calls >= LEAST_CALLS and taken >= seconds:
            return 1000 * taken / calls
