"""What a second process gives on this machine: the same threads in one process and in several, and the sum over ranks.

    python -m tests.benchmarks.processes --frameworks torch tensorflow --processes 1 2 --repeats 3

Each run is a fresh start. The counts take turns, so that a machine that slows down favors none. "all-reduce" is the sum
of as many numbers as the model has weights, alone; its share is of the time of a step.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pipeline import finetune, load_recipe
from pipeline.distributed.launcher import Launch
from pipeline.training.callbacks import TrainingCallback
from pipeline.utils.environment import configure_process

# The first steps are slower: memory is reserved, and TensorFlow traces its graph.
SKIPPED_STEPS = 5
NUM_SUMS = 50


class Stopwatch(TrainingCallback):
    """The seconds of each step and of the evaluations."""

    def __init__(self):
        self.steps, self.evaluation, self.began = [], 0.0, 0.0

    def on_step_end(self, record):
        self.steps.append((record.seconds, record.examples))

    def on_evaluate_begin(self, epoch):
        self.began = time.perf_counter()

    def on_evaluate_end(self, epoch, metrics):
        self.evaluation += time.perf_counter() - self.began

    def measured(self):
        """Seconds for a step, examples per second, and seconds of evaluation."""
        (first, _), (last, _) = self.steps[SKIPPED_STEPS - 1], self.steps[-1]
        steps = self.steps[SKIPPED_STEPS:]
        return (last - first) / len(steps), sum(n for _, n in steps) / (last - first), self.evaluation


def sum_seconds(send: Callable[[object], None], num_values: int) -> float:
    """The median seconds of a sum over all ranks, with torch.distributed; called in each rank."""
    import torch
    from torch import distributed

    distributed.init_process_group("gloo")
    values, seconds = torch.ones(num_values), []
    for _ in range(NUM_SUMS):
        distributed.barrier()
        began = time.perf_counter()
        distributed.all_reduce(values)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def main(words: list[str] | None = None) -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--recipe", default="sentiment_bert")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--frameworks", nargs="+", default=["torch", "tensorflow"])
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args(words)
    configure_process()
    # By the module's name: the processes that are started know no __main__ of this one.
    from tests.benchmarks import processes as named

    recipe = load_recipe(arguments.recipe, arguments.settings)
    found: dict[tuple[str, int], list[tuple[float, float, float]]] = {}
    num_values = 0
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(arguments.repeats):
            order = arguments.processes[:: -1 if repeat % 2 else 1]
            for framework, processes in ((f, n) for f in arguments.frameworks for n in order):
                watch, out = Stopwatch(), Path(folder) / f"{framework}-{processes}-{repeat}"
                # With a restart allowed, one process is started anew as several are.
                run = finetune(recipe, framework, out=out, processes=processes, restarts=1, callback=watch)
                num_values = run.directory.weights_file.stat().st_size // 4
                found.setdefault((framework, processes), []).append(watch.measured())
    print("framework   processes  step ms  examples/s  evaluation s")
    for (framework, processes), each in found.items():
        step, rate, evaluation = (statistics.median(values) for values in zip(*each, strict=True))
        print(f"{framework:<11} {processes:>9}  {1000 * step:7.1f}  {rate:10.0f}  {evaluation:12.2f}")
    for processes in (n for n in arguments.processes if n > 1):
        seconds = Launch(named.sum_seconds, (num_values,), processes, "torch", lambda event: None).run(lambda: False)
        step = statistics.median(each[0] for each in found[arguments.frameworks[0], processes])
        print(f"all-reduce of {num_values:,} numbers in {processes} processes: {1000 * seconds:.1f} ms", end="")
        print(f", {seconds / step:.0%} of a step in {arguments.frameworks[0]}")


if __name__ == "__main__":
    main()
