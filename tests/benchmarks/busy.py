"""Measures training steps beside other busy processes, with the threads that the pipeline chooses and with other ways.

    python -m tests.benchmarks.busy [--frameworks torch tensorflow] [--workloads classification causal seq2seq]
                                    [--busy 0 2 6] [--ways chosen all one passive] [--repeats 3] [--steps 60]

Each measurement is a training in a process of its own, beside as many processes that only count, which are started
before and ended after it. The ways take turns. A cell is the median over repeats of the seconds for the steps after
the first ten. `fair` is what one thread needs alone, times the share of the cores that each process would get if all
had the same; a way is as good as it should be if its last column is at most 1.5.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline.utils.cores import WAIT_VARIABLES, usable_cores
from pipeline.utils.environment import THREAD_VARIABLES
from tests.benchmarks.contestants import ours

WARMUP_STEPS = 10
CORES = usable_cores()
# Variables of the environment for each way; "chosen" is what a command does that is given none.
WAYS = {
    "chosen": {},
    "later": {"OMP_NUM_THREADS": str(CORES)},  # as if the others had begun after the number of threads was chosen
    "all": {"OMP_NUM_THREADS": str(CORES), "GOMP_SPINCOUNT": "300000"},  # as libraries do it when left alone
    "passive": {"OMP_NUM_THREADS": str(CORES), "OMP_WAIT_POLICY": "PASSIVE"},
    "one": {"OMP_NUM_THREADS": "1"},
}


class Enough(Exception):
    """The steps to measure are done."""


class Watch:
    """Takes the time of the steps after the first few, then ends the training."""

    def __init__(self, steps):
        self.steps, self.done, self.start, self.seconds = steps, 0, 0.0, 0.0

    def begin(self):
        pass

    def step(self):
        self.done += 1
        if self.done == WARMUP_STEPS:
            self.start = time.perf_counter()
        if self.done == WARMUP_STEPS + self.steps:
            self.seconds = time.perf_counter() - self.start
            raise Enough


def measure(framework, folder, steps):
    """Print threads and seconds of a training in this process."""
    watch = Watch(steps)
    workload = json.loads((folder / "workload.json").read_text(encoding="utf-8")) | {"epochs": steps + WARMUP_STEPS}
    with contextlib.suppress(Enough):
        ours(workload, folder, folder / f"run-{os.getpid()}", 0, watch, "fp32", framework, "stock")
    print(json.dumps({"threads": os.environ["OMP_NUM_THREADS"], "seconds": watch.seconds}))
    sys.stdout.flush()
    os._exit(0)  # threads of the frameworks can take seconds to end


@contextlib.contextmanager
def busy_processes(number) -> Iterator[None]:
    """So many processes that only count."""
    with contextlib.ExitStack() as ended:
        for _ in range(number):
            process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            ended.callback(process.wait)
            ended.callback(process.kill)
        time.sleep(0.5 if number else 0.0)
        yield


def measured(framework, folder, steps, way):
    """(threads, seconds) of a training in a process of its own."""
    kept = {k: v for k, v in os.environ.items() if k not in (*THREAD_VARIABLES, *WAIT_VARIABLES)}
    command = [sys.executable, "-m", "tests.benchmarks.busy", "--measure", framework, str(folder), str(steps)]
    done = subprocess.run(command, env=kept | WAYS[way], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    result = json.loads(done.stdout.splitlines()[-1])
    return result["threads"], result["seconds"]


def table(framework, name, folder, arguments):
    """Measure a workload in one framework, and print a line for each way and number of busy processes."""
    found = {}
    for _ in range(arguments.repeats):
        for number in arguments.busy:
            for way in arguments.ways:
                with busy_processes(number):
                    found.setdefault((number, way), []).append(measured(framework, folder, arguments.steps, way))
    seconds = {key: statistics.median(value for _, value in values) for key, values in found.items()}
    for (number, way), values in found.items():
        line = f"{framework:<10} {name:<14} {number:>4} {way:<8} {'/'.join(sorted({t for t, _ in values})):>7}"
        line += f" {seconds[number, way]:>8.2f}"
        if (0, "one") in seconds:
            fair = seconds[0, "one"] * max(1.0, (number + 1) / CORES)
            line += f" {fair:>8.2f} {seconds[number, way] / fair:>6.2f}"
        print(line, flush=True)


def main(words=None):
    """Measure all that is asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--frameworks", nargs="+", default=["torch", "tensorflow"])
    parser.add_argument("--workloads", nargs="+", default=["classification", "causal", "seq2seq"])
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 2, 6])
    parser.add_argument("--ways", nargs="+", default=["chosen", "later", "all", "one", "passive"], choices=WAYS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    arguments = parser.parse_args(words)
    print(f"{CORES} cores, load {os.getloadavg()[0]:.1f}")
    print(f"{'framework':<10} {'workload':<14} busy {'way':<8} threads  seconds     fair  ratio")
    with tempfile.TemporaryDirectory() as temporary:
        for name in arguments.workloads:
            folder = Path(temporary) / name
            rows = str(32 * (WARMUP_STEPS + arguments.steps + 2))
            command = [sys.executable, "-m", "tests.benchmarks.workloads", str(folder), name, rows, "small", "32"]
            subprocess.run(command, check=True, capture_output=True)
            for framework in arguments.frameworks:
                table(framework, name, folder, arguments)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
    main()
