"""The same updates in both frameworks, compared one by one: are they the same experiment?

Each framework runs in a process of its own, through the very code that a fine-tuning runs, with dropout 0 in fp32, and
hands back a trace. Loss alone is blind to much (dropping weight decay moves it by 3e-5 in 50 updates), so gradient
norms and every trained parameter are compared too.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.backend import FRAMEWORKS, StepReport, load_backend
from pipeline.models.attention_check import swap_with_proof
from pipeline.models.checkpoint import checkpoint_fingerprint
from pipeline.models.families import FAMILIES
from pipeline.models.schedule import learning_rates
from pipeline.recipe.schema import Recipe
from pipeline.training.experiment import prepare, start
from pipeline.utils import processes


@dataclass(frozen=True)
class Bounds:
    """The largest differences that still count as the same experiment.

    Measured over 50 updates of sentiment_bert: parameters of a clean pair differ by 2e-5, and the smallest of the
    faults planted in the tests, weight decay dropped, makes 6e-2 of it; the bound stands between.
    """

    logits: float = 1e-4
    loss: float = 1e-3
    grad_norm: float = 1e-3
    parameters: float = 1e-3


@dataclass(frozen=True)
class Trace:
    """What one framework did: the probe's logits before any update, then a value per update, the parameters at the
    start and the end by name, the model's family, and the fingerprints of the data and the checkpoint."""

    logits: NDArray
    loss: NDArray
    grad_norm: NDArray
    before: dict[str, NDArray]
    after: dict[str, NDArray]
    model_type: str
    fingerprints: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """Largest differences between two traces, their bounds, and where the parameters differ most."""

    recipe: str
    steps: int
    differences: dict[str, float]
    bounds: Bounds
    worst_parameter: str
    loss_by_step: NDArray
    fingerprints: dict[str, str]

    @property
    def same(self) -> bool:
        """Whether every difference is within its bound; a NaN is not."""
        return all(value <= getattr(self.bounds, name) for name, value in self.differences.items())

    def as_text(self) -> str:
        """A line for each difference and a verdict."""
        lines = [f"{self.recipe}: {self.steps} updates in PyTorch and TensorFlow, same start, same batches"]
        for name, value in self.differences.items():
            bound = getattr(self.bounds, name)
            mark = "ok" if value <= bound else "OVER"
            note = f"  ({self.worst_parameter})" if name == "parameters" else ""
            lines.append(f"  {_TITLES[name]:<42} {value:.2e}  bound {bound:.0e}  {mark}{note}")
        lines.append("the same experiment" if self.same else "NOT the same experiment")
        return "\n".join(lines)


_TITLES = {
    "logits": "initial logits, largest difference",
    "loss": "loss, largest difference of a step",
    "grad_norm": "gradient norm, largest relative difference",
    "parameters": "parameters at the end, relative to moves",
}


def compare_frameworks(
    recipe: Recipe, steps: int = 50, attention: str = "stock", seed: int = 0, bounds: Bounds | None = None
) -> Report:
    """Take `steps` updates of the recipe in each framework, in a fresh process each, and compare."""
    traces = [
        processes.call(record, recipe, framework, steps, attention, seed, framework=framework)
        for framework in FRAMEWORKS
    ]
    return compare_traces(recipe.name, *traces, bounds or Bounds())


def record(recipe: Recipe, framework: str, steps: int, attention: str = "stock", seed: int = 0) -> Trace:
    """Take the first `steps` updates of the recipe in one framework, dropout 0, fp32, and write nothing."""
    still = recipe.override({"train.dropout": 0.0, "train.precision": "fp32"})
    experiment, backend = prepare(still, attention), load_backend(framework)
    model, _ = start(experiment, backend, seed)
    before = backend.get_weights(model)
    if attention != "stock":
        swap_with_proof(backend, model, attention, experiment.probe())
    plans = (experiment.features(experiment.training_plan(epoch, seed), epoch, seed) for epoch in itertools.count())
    batches = itertools.islice(itertools.chain.from_iterable(plans), steps)
    learner = backend.Learner(model, still.train, learning_rates(still.train, steps), experiment.task.loss)
    logits = experiment.probe_logits(learner.logits(experiment.probe()))
    updates: list[StepReport] = []
    learner.fit([batches], updates.append, lambda epoch: False)
    if attention != "stock":
        backend.restore_attention(model)
    return Trace(
        logits,
        np.array([update.loss for update in updates]),
        np.array([update.grad_norm for update in updates]),
        before,
        backend.get_weights(model),
        experiment.config.model_type,
        {"data": experiment.fingerprint, "checkpoint": checkpoint_fingerprint(recipe) or ""},
    )


def compare_traces(name: str, first: Trace, second: Trace, bounds: Bounds) -> Report:
    """The largest differences of two traces.

    Parameters are compared tensor by tensor: the distance between the two ends over the distance that training moved
    the tensor; the worst tensor counts, so that a fault in the few biases is not drowned by the embeddings.
    """
    distances = parameter_distances(first, second)
    worst = max(distances, key=distances.get)
    differences = {
        "logits": float(np.abs(first.logits - second.logits).max()),
        "loss": float(np.abs(first.loss - second.loss).max()),
        "grad_norm": float((np.abs(first.grad_norm - second.grad_norm) / first.grad_norm).max()),
        "parameters": distances[worst],
    }
    apart = np.abs(first.loss - second.loss)
    return Report(name, len(first.loss), differences, bounds, worst, apart, first.fingerprints)


def parameter_distances(first: Trace, second: Trace) -> dict[str, float]:
    """For each trained tensor, ‖first − second‖ / ‖first − start‖ at the end; weights without effect are left out."""
    distances = {}
    family = FAMILIES[first.model_type]
    ours, theirs = family.weights_with_effect(first.after), family.weights_with_effect(second.after)
    for name, start_value in family.weights_with_effect(first.before).items():
        end = ours[name].astype(np.float64)
        moved, apart = np.linalg.norm(end - start_value), np.linalg.norm(end - theirs[name])
        if moved or apart:
            distances[name] = float(apart / max(moved, 1e-12))
    return distances
