"""Processes that fill one cache of tokenized splits at the same moment, one of which may be killed."""

import hashlib
import multiprocessing
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# Its processes begin as copies of one that has only imported: they start fast, and share no lock or thread.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["pipeline.training.experiment", __name__])
NUM_PROCESSES = 3
START_SECONDS, ROUND_SECONDS = 60, 120


@dataclass
class Round:
    """How a round ended."""

    was_killed: bool
    digests: list[str]
    left: list[str]
    seconds: float
    """From the common start until the last answer."""


def fill(recipe, folder, together, answers):
    """Prepare the recipe with a cache in the folder, and send a digest of all that was tokenized."""
    import datasets

    from pipeline.training.experiment import prepare

    datasets.config.HF_DATASETS_CACHE = Path(folder)
    together.wait(START_SECONDS)
    answers.send(digest(prepare(recipe).examples))


def digest(examples):
    """A digest of the arrays of all splits."""
    found = hashlib.sha256()
    for split in sorted(examples):
        for name, ragged in sorted(examples[split].features.items()):
            found.update(f"{split} {name}".encode() + ragged.values.tobytes() + ragged.offsets.tobytes())
        found.update(np.asarray(examples[split].lengths).tobytes())
    return found.hexdigest()


def play(recipe, folder, kill_after=None):
    """One round in an empty folder; with `kill_after` one process is killed so many seconds after the start."""
    num_processes = NUM_PROCESSES if kill_after is not None else 1
    together = CONTEXT.Barrier(num_processes + 1)
    pipes = [CONTEXT.Pipe(duplex=False) for _ in range(num_processes)]
    processes = [CONTEXT.Process(target=fill, args=(recipe, folder, together, theirs)) for _, theirs in pipes]
    for process in processes:
        process.start()
    together.wait(START_SECONDS)
    start = time.perf_counter()
    if kill_after is not None:
        time.sleep(kill_after)
        processes[0].kill()
    survivors = pipes[1:] if kill_after is not None else pipes
    digests = [ours.recv() if ours.poll(ROUND_SECONDS) else "no answer" for ours, _ in survivors]
    seconds = time.perf_counter() - start
    for process in processes:
        process.join(START_SECONDS)
    left = sorted(path.name for path in (Path(folder) / "twinstep").iterdir())
    return Round(processes[0].exitcode != 0, digests, left, seconds)
