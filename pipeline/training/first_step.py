"""The largest batch of a recipe, tried before a run: one step forward and backward, and what it took."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np

from pipeline.backend import Backend, Model, StepReport, load_backend
from pipeline.data.batches import Batch
from pipeline.models.attention import STOCK
from pipeline.models.building import WeightSources
from pipeline.recipe.schema import Recipe
from pipeline.training.experiment import Experiment, prepare, start
from pipeline.utils.environment import preserved_random_state
from pipeline.utils.errors import PipelineError, UserError
from pipeline.utils.text import count, one_line


@dataclass(frozen=True)
class FirstStep:
    """One step on the largest batch: its examples and positions, padding among them, and what the step took.

    `seconds` include what a framework does once, such as tracing a graph. `micro_batches` are more than the recipe's
    gradient_accumulation if memory was short.
    """

    examples: int
    positions: int
    seconds: float
    loss: float
    micro_batches: int

    def __str__(self) -> str:
        split = f" in {self.micro_batches} micro-batches" if self.micro_batches > 1 else ""
        return (
            f"largest batch: {count(self.examples, 'example')}, {count(self.positions, 'position')}; "
            f"forward and backward{split} took {self.seconds:.1f} s"
        )


def try_first_step(experiment: Experiment, backend: Backend, model: Model) -> FirstStep:
    """Take one step on the largest batch of the first epoch; the model is changed by it.

    Raises UserError if the step fails or its loss is not finite, and RunFailure if there is not enough memory.
    """
    recipe = experiment.recipe
    batch = max(experiment.training_plans(0, 1)[0], key=lambda batch: batch.num_positions)
    (features,) = experiment.features([batch], epoch=0, seed=0, first_step=0)
    reports: list[StepReport] = []
    began = time.perf_counter()
    try:
        learner = backend.Learner(model, recipe.train, np.array([recipe.train.learning_rate]), experiment.task.loss)
        learner.fit([[features]], reports.append, lambda epoch: True)
    except PipelineError:
        raise
    except Exception as error:  # a framework raises whatever its operations do with what does not fit together
        raise UserError(
            f"recipe {recipe.name}: the first step fails on {_described(batch)}: {type(error).__name__}: "
            f"{one_line(error)}. Config, tokenizer and weights of {recipe.checkpoint}, or an attention class of your "
            "own, do not fit together"
        ) from error
    seconds, (report,) = time.perf_counter() - began, reports
    for what, value in (("loss", report.loss), ("gradient norm", report.grad_norm)):
        if not math.isfinite(value):
            raise UserError(
                f"recipe {recipe.name}: the {what} is {value} before any training, on {_described(batch)}: the weights "
                f"of {recipe.checkpoint} are damaged or too large"
            )
    return FirstStep(len(batch.rows), batch.num_positions, seconds, report.loss, report.micro_batches)


def _described(batch: Batch) -> str:
    widths = " and ".join(map(str, batch.widths))
    return (
        f"the largest batch ({count(len(batch.rows), 'example')} in {count(batch.num_rows, 'row')} of {widths} tokens)"
    )


@preserved_random_state()
def check(
    recipe: Recipe,
    framework: str = "torch",
    attention: str = STOCK,
    allow_hub_code: bool = False,
    allow_pickle: bool = False,
) -> tuple[Experiment, WeightSources, FirstStep]:
    """Do everything that a run does up to its first step, and write nothing. Raises UserError and RunFailure."""
    experiment = prepare(recipe, attention, allow_hub_code, allow_pickle)
    backend = load_backend(framework)
    with backend.preserved_generators():
        started = start(experiment, backend, 0, attention)
        step = try_first_step(experiment, backend, started.model)
    backend.restore_attention(started.model)
    return experiment, started.sources, step
