"""Measures what each of two processes holds of the data: how its own memory grows with the number of rows.

    python -m tests.benchmarks.rank_memory [--kinds single-label "masked blocks"] [--rows 40000 160000] [--steps 20]
        [--framework torch]

A tiny model trains for some steps in two processes, first on fewer and then on more rows, and so again, now with what
was tokenized kept; the figures are those of the second time. Own memory is what the process has filled, without the
pages of mapped files, of which the system keeps one copy for all processes. A line has, for each rank, the growth in
bytes for each row more.
"""

import argparse
import contextlib
import tempfile
from pathlib import Path

from pipeline import finetune
from pipeline.distributed.ranks import Ranks
from pipeline.training.signals import StopRequest
from pipeline.utils.errors import Stopped
from tests.benchmarks.memory_series import sample
from tests.helpers.families import KINDS, recipe_of, rows_of
from tests.helpers.ranks import in_ranks


class StopSoon(StopRequest):
    """Asked once a step at every rank; after some steps it writes the rank's own memory in MB, and ends the run."""

    def __init__(self, steps, file):
        self.steps_left, self.file = steps, file

    @property
    def requested(self):
        """Whether the run is to end."""
        self.steps_left -= 1
        if self.steps_left == 0:
            self.file.write_text(str(sample()[0]), encoding="ascii")
        return self.steps_left <= 0

    @requested.setter
    def requested(self, value):
        pass


def train(send, framework, recipe, folder, steps):
    """Train in this rank until it has its figure."""
    stop = StopSoon(steps, folder / f"rank{Ranks.from_environment().rank}")
    with contextlib.suppress(Stopped):
        finetune(recipe, framework, out=folder / "run", stop=stop)


def own_memory(framework, recipe, steps):
    """MB of each of two ranks."""
    with tempfile.TemporaryDirectory() as folder:
        in_ranks(train, framework, recipe, Path(folder), steps, framework=framework)
        return [float((Path(folder) / f"rank{rank}").read_text(encoding="ascii")) for rank in range(2)]


def recipe_with(kind, folder, num_rows):
    """A tiny recipe of a kind with so many rows, which repeat after two thousand."""
    fields = kind.removeprefix("gpt2 ")
    some = rows_of(fields, 2000, 0)
    rows = [some[number % len(some)] for number in range(num_rows)]
    return recipe_of(kind, folder, rows, rows_of(fields, 16, 1)).override({"train.batch_size": 32})


def main(words=None):
    """Print a line for each kind."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kinds", nargs="+", default=["single-label"], choices=KINDS)
    parser.add_argument("--rows", type=int, nargs=2, default=[150_000, 450_000])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--framework", default="torch")
    arguments = parser.parse_args(words)
    for kind in arguments.kinds:
        found = []
        for num_rows in arguments.rows:
            with tempfile.TemporaryDirectory() as folder:
                recipe = recipe_with(kind, Path(folder), num_rows)
                own_memory(arguments.framework, recipe, arguments.steps)  # fills the cache
                found.append(own_memory(arguments.framework, recipe, arguments.steps))
        fewer, more = arguments.rows
        growth = [(large - small) * 1e6 / (more - fewer) for small, large in zip(*found, strict=True)]
        memory = "; ".join(
            f"{rows:,} rows {small:.1f} and {large:.1f} MB"
            for rows, (small, large) in zip(arguments.rows, found, strict=True)
        )
        print(f"{arguments.framework}, {kind}: {memory}; {growth[0]:.1f} and {growth[1]:.1f} bytes a row", flush=True)


if __name__ == "__main__":
    from tests.benchmarks import rank_memory  # the functions of this program itself cannot be sent to other processes

    rank_memory.main()
