"""Compares a training step as it is by default, compiled, and with each operation by itself, in one framework.

    python -m tests.benchmarks.compiled_steps torch|tensorflow [recipe] [rounds]

Each mode trains its own copy of the recipe's model on one of its batches, with dropout. The modes take turns in every
round. Processor time is measured, of all threads and of what compiles; medians over rounds with their range, and the
load of the machine, which moves the figures less than it moves the clock.
"""

import os
import resource
import statistics
import sys
import time

import numpy as np

from pipeline.backend import load_backend
from pipeline.recipe.loading import load_recipe
from pipeline.training.experiment import prepare, start
from pipeline.utils.environment import configure_process

MODES = ("default", "compiled", "debug-eager")
STEPS = 12


def processor_seconds():
    """Processor time of this process and of those that it has started, such as a compiler."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def mode(backend, experiment, name, batch):
    """A function that takes STEPS steps on the batch and returns when each was done, in processor seconds."""
    train = experiment.recipe.train.model_copy(update={"compile": name == "compiled"})
    with backend.eager_execution(name == "debug-eager"):
        model = start(experiment, backend, 0).model
        learner = backend.Learner(model, train, np.full(STEPS, train.learning_rate), experiment.task.loss)
    first = learner.state()

    def steps():
        times = [processor_seconds()]
        with backend.eager_execution(name == "debug-eager"):
            learner.load_state(first)
            learner.fit([[batch] * STEPS], lambda report: times.append(processor_seconds()), lambda epoch: False)
        return times

    return steps


def main(framework, recipe="sentiment_bert", rounds="5"):
    recipe = load_recipe(recipe, {"train.compile": True})
    experiment, backend = prepare(recipe), load_backend(framework)
    plan = sorted(experiment.training_plans(0, 1)[0], key=lambda batch: batch.num_positions)
    (batch,) = experiment.features([plan[len(plan) // 2]], 0, 0, 0)
    modes = {name: mode(backend, experiment, name, batch) for name in MODES}
    first = {}
    for name, steps in modes.items():
        times = steps()
        first[name] = times[1] - times[0]
    rounds = [{name: np.diff(steps()[1:]).mean() * 1e3 for name, steps in modes.items()} for _ in range(int(rounds))]
    rows, width = batch["input_ids"].shape
    print(f"{recipe.name}, {framework}, a batch of {rows} rows of {width} tokens, load {os.getloadavg()[0]:.1f}")
    print("| mode | first step, s | a step, ms | beside the default |\n|---|---|---|---|")
    for name in MODES:
        own = [each[name] for each in rounds]
        ratios = [each[name] / each["default"] for each in rounds]
        print(f"| {name} | {first[name]:.1f} | {spread(own, 0)} | {spread(ratios, 2)} |")


def spread(values, digits):
    """A median with its range."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


if __name__ == "__main__":
    configure_process(sys.argv[1])
    main(*sys.argv[1:])
