"""The same training steps in both frameworks, compared one by one: are they the same experiment?

Each framework runs in a process of its own, through the same code as a fine-tuning, with dropout 0 in fp32, and
returns a trace. The loss alone misses much (dropping a weight decay of 0.01 moves it by 3e-5 in 50 steps), so gradient
norms and every trained parameter are compared too.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.backend import FRAMEWORKS, StepReport, load_backend
from pipeline.data.batches import Features
from pipeline.models.attention import STOCK
from pipeline.models.attention_check import swap_with_proof
from pipeline.models.checkpoint import checkpoint_fingerprint
from pipeline.models.families import FAMILIES
from pipeline.models.schedule import learning_rates
from pipeline.recipe.schema import Recipe
from pipeline.training.experiment import Experiment, prepare, start
from pipeline.utils import processes


@dataclass(frozen=True)
class Bounds:
    """The largest differences that still count as the same experiment.

    Measured over 50 steps of sentiment_bert: the parameters of a correct pair differ by 2e-5, and the smallest of the
    faults planted in the tests, weight decay dropped, makes 6e-2 of it; the bound lies between.
    """

    logits: float = 1e-4
    loss: float = 1e-3
    grad_norm: float = 1e-3
    parameters: float = 1e-3


@dataclass(frozen=True)
class Trace:
    """What one framework did in some training steps, and with what."""

    logits: NDArray  # of the probe, before the first step
    loss: NDArray  # [steps]
    grad_norm: NDArray  # [steps]
    before: dict[str, NDArray]  # parameters by name
    after: dict[str, NDArray]
    model_type: str
    fingerprints: dict[str, str] = field(default_factory=dict)  # of the data and the checkpoint


@dataclass(frozen=True)
class LockstepReport:
    """The largest differences between two traces, their bounds, and the parameter that differs most."""

    recipe: str
    steps: int
    differences: dict[str, float]
    bounds: Bounds
    worst_parameter: str
    loss_by_step: NDArray  # absolute differences, [steps]
    fingerprints: dict[str, str]

    @property
    def same(self) -> bool:
        """Whether every difference is within its bound; NaN is not."""
        return all(value <= getattr(self.bounds, name) for name, value in self.differences.items())

    def as_text(self) -> str:
        """A line for each difference, and the conclusion."""
        lines = [f"{self.recipe}: {self.steps} steps in PyTorch and TensorFlow, same start, same batches"]
        for name, value in self.differences.items():
            bound = getattr(self.bounds, name)
            mark = "ok" if value <= bound else "OVER"
            note = f"  ({self.worst_parameter})" if name == "parameters" else ""
            lines.append(f"  {_TITLES[name]:<42} {value:.2e}  bound {bound:.0e}  {mark}{note}")
        lines.append("the same experiment" if self.same else "NOT the same experiment")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.as_text()


_TITLES = {
    "logits": "initial logits, largest difference",
    "loss": "loss, largest difference of a step",
    "grad_norm": "gradient norm, largest relative difference",
    "parameters": "parameters at the end, relative to change",
}


def compare_frameworks(
    recipe: Recipe, steps: int = 50, attention: str = STOCK, seed: int = 0, bounds: Bounds | None = None
) -> LockstepReport:
    """Take `steps` training steps of the recipe in each framework, in a fresh process each, and compare."""
    first, second = (
        processes.call(record, recipe, framework, steps, attention, seed, framework=framework)
        for framework in FRAMEWORKS
    )
    return compare_traces(recipe.name, first, second, bounds or Bounds())


def record(recipe: Recipe, framework: str, steps: int, attention: str = STOCK, seed: int = 0) -> Trace:
    """Take the first `steps` training steps of the recipe in one framework, dropout 0, fp32, and write nothing."""
    deterministic = recipe.override({"train.dropout": 0.0, "train.precision": "fp32"})
    experiment, backend = prepare(deterministic, attention), load_backend(framework)
    model, _ = start(experiment, backend, seed)
    before = backend.get_weights(model)
    if attention != STOCK:
        swap_with_proof(backend, model, attention, experiment.probe())
    batches = itertools.islice(_training_features(experiment, seed), steps)
    learner = backend.Learner(
        model, deterministic.train, learning_rates(deterministic.train, steps), experiment.task.loss
    )
    logits = experiment.probe_logits(learner.logits(experiment.probe()))
    reports: list[StepReport] = []
    learner.fit([batches], reports.append, lambda epoch: False)
    if attention != STOCK:
        backend.restore_attention(model)
    return Trace(
        logits,
        np.array([step.loss for step in reports]),
        np.array([step.grad_norm for step in reports]),
        before,
        backend.get_weights(model),
        experiment.config.model_type,
        {"data": experiment.fingerprint, "checkpoint": checkpoint_fingerprint(recipe) or ""},
    )


def _training_features(experiment: Experiment, seed: int) -> Iterator[Features]:
    """The batches of all epochs, without end."""
    first_step = 0
    for epoch in itertools.count():
        plan = experiment.training_plan(epoch, seed)
        yield from experiment.features(plan, epoch, seed, first_step)
        first_step += len(plan)


def compare_traces(name: str, first: Trace, second: Trace, bounds: Bounds) -> LockstepReport:
    """The largest differences of two traces.

    Parameters are compared tensor by tensor: the distance between the two ends over the distance that training moved
    the tensor; the worst tensor counts, so that the embeddings cannot hide a fault in the few biases.
    """
    distances = parameter_distances(first, second)
    worst = max(distances, key=lambda tensor: distances[tensor])
    loss_by_step = np.abs(first.loss - second.loss)
    differences = {
        "logits": float(np.abs(first.logits - second.logits).max()),
        "loss": float(loss_by_step.max()),
        "grad_norm": float((np.abs(first.grad_norm - second.grad_norm) / first.grad_norm).max()),
        "parameters": distances[worst],
    }
    return LockstepReport(name, len(first.loss), differences, bounds, worst, loss_by_step, first.fingerprints)


def parameter_distances(first: Trace, second: Trace) -> dict[str, float]:
    """For each trained tensor, ‖first − second‖ / ‖first − start‖ at the end; weights without effect are left out."""
    distances = {}
    family = FAMILIES[first.model_type]
    ours, theirs = family.weights_with_effect(first.after), family.weights_with_effect(second.after)
    for name, start_value in family.weights_with_effect(first.before).items():
        end = ours[name].astype(np.float64)
        moved, distance = np.linalg.norm(end - start_value), np.linalg.norm(end - theirs[name])
        if moved or distance:
            distances[name] = float(distance / max(moved, 1e-12))
    return distances
