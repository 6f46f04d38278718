"""Samples memory and open files over many steps, and over many lines to predict: whether they stay flat.

    python -m tests.benchmarks.memory_series [--frameworks torch tensorflow] [--steps 2000] [--lines 100000]

A tiny BERT trains in a process of its own, and predicts in another one. A row has the first and the last sample after
the warm-up, which is the first tenth, the most, and the slope of a straight line through the samples in between.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

from pipeline import finetune, load_run
from pipeline.training.callbacks import TrainingCallback
from pipeline.utils.environment import configure_process
from pipeline.utils.processes import call
from tests.helpers.families import recipe_of, rows_of

NUM_SAMPLES = 100
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def sample():
    """Memory that this process holds now in MB, and its open files."""
    resident = int(Path("/proc/self/statm").read_text().split()[1])
    return resident * PAGE_BYTES / 1e6, len(os.listdir("/proc/self/fd"))


class Sampler(TrainingCallback):
    """Takes a sample every so many steps."""

    def __init__(self, every):
        self.every, self.samples = every, []

    def on_step_end(self, record):
        if record.step % self.every == 0:
            self.samples.append((record.step, *sample()))


def train(framework, folder, num_steps):
    """Samples of a training of so many steps, with an evaluation and a training checkpoint every fifty."""
    recipe = recipe_of("single-label", folder, rows_of("single-label", 800, 0), rows_of("single-label", 16, 1))
    recipe = recipe.override({"train.epochs": num_steps // 50, "train.save_every": 50, "train.dropout": 0.1})
    sampler = Sampler(max(1, num_steps // NUM_SAMPLES))
    finetune(recipe, framework, out=folder / "run", callback=sampler)
    return sampler.samples


def predict_many(framework, folder, num_lines):
    """Samples of so many predictions by the run in the folder."""
    from pipeline.runs.prediction import open_run, predict_lines

    texts, samples = [row["text"] for row in rows_of("single-label", 97, 1)], []
    trained = open_run(load_run(folder / "run"), framework)
    every = max(1, num_lines // NUM_SAMPLES)
    for number, _ in enumerate(predict_lines(trained, (texts[i % 97] for i in range(num_lines))), start=1):
        if number % every == 0:
            samples.append((number, *sample()))
    return samples


def shown(what, unit, samples):
    """A row of the table."""
    warm = np.array([each for each in samples if each[0] > samples[-1][0] / 10], dtype=float)
    at, megabytes, files = warm.T
    slope = np.polyfit(at, megabytes, 1)[0] * 1000
    counts = f"{files[0]:.0f} | {files[-1]:.0f} | {files.max():.0f}"
    memory = f"{megabytes[0]:.1f} | {megabytes[-1]:.1f} | {megabytes.max():.1f} | {slope:+.3f} per 1,000 {unit}"
    return f"| {what} | {memory} | {counts} |"


def main(words=None):
    """Print a row for each framework and use."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--frameworks", nargs="+", default=["torch", "tensorflow"])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--lines", type=int, default=100_000)
    arguments = parser.parse_args(words)
    configure_process()
    from tests.benchmarks.memory_series import predict_many, train  # another process finds no function of __main__

    print(
        "| use | first, MB | last | most | slope | open files: first | last | most |\n|---|---|---|---|---|---|---|---|"
    )
    for framework in arguments.frameworks:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            steps = call(train, framework, folder, arguments.steps, framework=framework)
            print(shown(f"{framework}, {arguments.steps:,} steps", "steps", steps), flush=True)
            lines = call(predict_many, framework, folder, arguments.lines, framework=framework)
            print(shown(f"{framework}, {arguments.lines:,} lines", "lines", lines), flush=True)


if __name__ == "__main__":
    sys.exit(main())
