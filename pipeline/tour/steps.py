"""A training step of a recipe in a framework: its time, its memory, and which kinds of operators the time goes to."""

from __future__ import annotations

import re
import time
from contextlib import ExitStack
from itertools import pairwise

import numpy as np

from pipeline.backend import StepReport, load_backend
from pipeline.deploy.report.mode_costs import processor_seconds
from pipeline.deploy.report.results import Spread
from pipeline.recipe.loading import load_recipe
from pipeline.runs.machine import peak_memory_bytes
from pipeline.tour.experiments import functions_of
from pipeline.tour.results import StepCost
from pipeline.training.experiment import prepare, start

# The first steps trace and warm up.
WARM_UP = 3
# Kinds of operators, by what stands in their names in either framework; the first that fits counts.
KINDS = {
    "matrix products": r"addmm|::mm$|bmm|matmul|einsum|::linear$",
    "softmax and loss": r"softmax|crossentropy|nll_loss|logsumexp",
    "normalization": r"layer_?norm|moments|rsqrt|squareddifference",
    "optimizer": r"adam|optimizer|vector_norm|l2loss",
    "dropout masks": r"bernoulli|rand|dropout|bitwise|shift|xor",
    "moving data": (
        "copy|transpose|reshape|view|concat|cat$|slice|gather|scatter|index|embedding|select|pack|tile|pad|fill|zeros"
        "|ones|clone|unsortedsegment|cast|contiguous|as_strided|empty|expand|unique|assign|::t$|::to$|arange|split|narrow"
    ),
    "sums": r"sum|mean|reduce|max$|biasaddgrad",
    "element by element": r"",
}
BETWEEN = "between operators"


def measure_step(framework: str, recipe_name: str, steps: int) -> StepCost:
    """Training steps of a recipe on its first batches, in this process, which is fresh: timed, then profiled."""
    backend, recipe = load_backend(framework), load_recipe(recipe_name)
    experiment = prepare(recipe)
    model = start(experiment, backend, seed=0).model
    num_steps = WARM_UP + 2 * steps
    plan = [experiment.training_plan(0, 0)[0]] * num_steps  # one batch: all steps do the same work
    features = experiment.features(plan, epoch=0, seed=0, first_step=0)
    learner = backend.Learner(model, recipe.train, np.full(num_steps, 1e-4), experiment.task.loss)
    seconds: dict[str, float] = {}
    times, wall, profiler = [processor_seconds()], [], ExitStack()

    def on_step(report: StepReport) -> None:
        times.append(processor_seconds())
        if report.step == WARM_UP + steps:
            profiler.enter_context(functions_of(framework).profiled(seconds))
            wall.append(time.perf_counter())
        if report.step == num_steps - 1:  # the last step's end is also the end of reading batches
            wall.append(time.perf_counter())
            profiler.close()

    learner.fit([features], on_step, lambda epoch: True)
    milliseconds = [1000 * (after - before) for before, after in pairwise(times)]
    timed = milliseconds[WARM_UP : WARM_UP + steps]
    middle = Spread.of(timed).median
    by_kind = {kind: share * middle for kind, share in shares_of(seconds, wall[1] - wall[0]).items()}
    between = max(0.0, middle - sum(by_kind.values()))
    return StepCost(
        recipe=recipe_name,
        model=experiment.config.model_type.upper(),
        framework=framework,
        steps=steps,
        milliseconds=Spread.of(timed),
        first_step_seconds=milliseconds[0] / 1000,
        peak_memory_bytes=peak_memory_bytes(),
        milliseconds_by_kind=by_kind | {BETWEEN: between},
    )


def shares_of(seconds: dict[str, float], whole: float) -> dict[str, float]:
    """Which part of the whole each of `KINDS` took, from the seconds of all operators."""
    found = dict.fromkeys(KINDS, 0.0)
    for operator, taken in seconds.items():
        kind = next(kind for kind, pattern in KINDS.items() if re.search(pattern, operator.lower()))
        found[kind] += taken / whole
    return found
