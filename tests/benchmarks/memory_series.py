"""Samples memory and open files over many steps, and over many lines to predict: whether they stay flat.

    python -m tests.benchmarks.memory_series [--frameworks torch tensorflow] [--kinds single-label]
        [--attention stock] [--set data.batching=padded data.pad_to_multiple_of=32] [--steps 2000] [--lines 100000]

A tiny model trains in a process of its own, and predicts in another one. Memory is what the process itself has filled,
without the pages of mapped files, which the system can drop. A row has it after a tenth of the steps, a half and all of
them, the most after the first tenth, and the slope of a straight line through the samples of the second half. With the
two settings above all batches of the first kind have the same shape, so that the libraries prepare nothing anew.
"""

import argparse
import json
import os
import re
import sys
import tempfile
from pathlib import Path

import numpy as np

from pipeline import finetune, load_run
from pipeline.recipe.overrides import parse_overrides
from pipeline.training.callbacks import TrainingCallback
from pipeline.utils.environment import configure_process
from pipeline.utils.processes import call
from tests.helpers.families import KINDS, recipe_of, rows_of

NUM_SAMPLES = 100


def sample():
    """Memory that this process has filled and holds now in MB, and its open files."""
    found = re.search(r"^RssAnon:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024 / 1e6, len(os.listdir("/proc/self/fd"))


class Sampler(TrainingCallback):
    """Takes a sample every so many steps."""

    def __init__(self, every):
        self.every, self.samples = every, []

    def on_step_end(self, record):
        if record.step % self.every == 0:
            self.samples.append((record.step, *sample()))


def train(framework, kind, attention, changes, folder, num_steps):
    """Samples of a training of so many steps, with an evaluation and a training checkpoint every fifty."""
    fields = kind.removeprefix("gpt2 ")
    recipe = recipe_of(kind, folder, rows_of(fields, 800, 0), rows_of(fields, 16, 1))
    often = {"train.epochs": num_steps // 50, "train.save_every": 50, "train.dropout": 0.1}
    recipe = recipe.override(often | changes)
    sampler = Sampler(max(1, num_steps // NUM_SAMPLES))
    finetune(recipe, framework, attention, out=folder / "run", callback=sampler)
    return sampler.samples


def predict_many(framework, kind, folder, num_lines):
    """Samples of so many predictions by the run in the folder."""
    from pipeline.runs.prediction import open_run, predict_lines

    lines = [json.dumps(row) for row in rows_of(kind.removeprefix("gpt2 "), 97, 1)]
    samples, every = [], max(1, num_lines // NUM_SAMPLES)
    trained = open_run(load_run(folder / "run"), framework)
    for number, _ in enumerate(predict_lines(trained, (lines[i % 97] for i in range(num_lines))), start=1):
        if number % every == 0:
            samples.append((number, *sample()))
    return samples


def shown(what, unit, samples):
    """A row of the table."""
    at, megabytes, files = np.array(samples, dtype=float).T
    last = at[-1]
    tenth, half = (int(np.searchsorted(at, last * share)) for share in (0.1, 0.5))
    slope = np.polyfit(at[half:], megabytes[half:], 1)[0] * 1000
    memory = [megabytes[tenth], megabytes[half], megabytes[-1], megabytes[tenth:].max()]
    counts = [files[tenth], files[-1], files.max()]
    cells = [f"{what}, {last:,.0f} {unit}", *(f"{each:.1f}" for each in memory), f"{slope:+.2f} per 1,000 {unit}"]
    return f"| {' | '.join(cells + [f'{count:.0f}' for count in counts])} |"


def main(words=None):
    """Print a row for each framework, kind of recipe and use."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--frameworks", nargs="+", default=["torch", "tensorflow"])
    parser.add_argument("--kinds", nargs="+", default=["single-label"], choices=list(KINDS))
    parser.add_argument("--attention", default="stock", choices=["stock", "handwritten"])
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="other settings of the recipe")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--lines", type=int, default=100_000)
    arguments = parser.parse_args(words)
    configure_process()
    from tests.benchmarks.memory_series import predict_many, train  # another process finds no function of __main__

    print("| use | MB after a tenth | a half | all | most | slope | open files: a tenth | all | most |")
    print("|---|---|---|---|---|---|---|---|---|")
    for framework in arguments.frameworks:
        for kind in arguments.kinds:
            with tempfile.TemporaryDirectory() as temporary:
                what, folder = f"{framework}, {kind}", Path(temporary)
                settings = (kind, arguments.attention, parse_overrides(arguments.set), folder, arguments.steps)
                steps = call(train, framework, *settings, framework=framework)
                print(shown(what, "steps", steps), flush=True)
                lines = call(predict_many, framework, kind, folder, arguments.lines, framework=framework)
                print(shown(what, "lines", lines), flush=True)


if __name__ == "__main__":
    sys.exit(main())
