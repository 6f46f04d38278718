"""What the first steps of a training do, recorded: losses, gradient norms and weights; and how far two are apart.

A training goes through the same code as a fine-tuning, in fp32, and writes nothing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.backend import Backend, Group, StepReport, load_backend
from pipeline.data.batches import Features, share
from pipeline.distributed.channel import Channel
from pipeline.distributed.ranks import Ranks
from pipeline.models.attention import STOCK
from pipeline.models.attention_check import swap_with_proof
from pipeline.models.checkpoint import checkpoint_fingerprint
from pipeline.models.families import FAMILIES, family_of
from pipeline.models.initialization import Weights, off_by_one_rounding
from pipeline.models.optimization import learning_rates
from pipeline.recipe.schema import Recipe
from pipeline.runs.machine import package_versions
from pipeline.training.agreement import digest
from pipeline.training.experiment import Experiment, prepare, start

# The weights are also compared after so many steps, when rounding has had no time to grow and hide a fault.
EARLY_STEPS = 3


@dataclass(frozen=True)
class Trace:
    """What one framework did in some training steps, and with what."""

    logits: NDArray  # of the probe, before the first step
    loss: NDArray  # [steps]
    grad_norm: NDArray  # [steps]
    before: Weights
    early: Weights  # after EARLY_STEPS steps, or after the last one if there are fewer
    after: Weights
    model_type: str
    dropout: float = 0.0  # the largest dropout rate of the model and of its updates
    fingerprints: dict[str, str] = field(default_factory=dict)  # of the data and the checkpoint
    versions: dict[str, str] = field(default_factory=dict)  # of Python and packages


@dataclass(frozen=True)
class Distance:
    """How far two traces are apart.

    Losses are compared relative to the loss, or to 1 where that is larger, and gradient norms relative to the norm.
    Parameters are compared tensor by tensor: the distance between what training moved the tensor by in the two traces,
    over how far it moved it. The worst tensor counts, so that the embeddings cannot hide a fault in the few biases.
    """

    logits: float
    loss: NDArray  # [steps]
    grad_norm: NDArray  # [steps]
    early_parameters: float
    parameters: float
    worst_parameter: str

    @property
    def largest(self) -> dict[str, float]:
        """The largest difference of each quantity that lock-step judges."""
        return {
            "logits": self.logits,
            "early_loss": float(self.loss[:EARLY_STEPS].max()),
            "early_parameters": self.early_parameters,
            "loss": float(self.loss.max()),
            "grad_norm": float(self.grad_norm.max()),
            "parameters": self.parameters,
        }


def record(
    recipe: Recipe, framework: str, steps: int, attention: str = STOCK, seed: int = 0, dropout: bool = True
) -> Trace:
    """Take the first `steps` training steps of the recipe in one framework, in fp32.

    Dropout is on if `dropout` says so and the recipe's masks are those that the frameworks share.
    """
    return _Training.of(recipe, framework, steps, attention, seed, dropout).trace()


def record_in_ranks(
    _: Callable[[object], None],
    recipe: Recipe,
    framework: str,
    steps: int,
    attention: str = STOCK,
    seed: int = 0,
    dropout: bool = True,
) -> Trace:
    """As `record`, at one of several ranks, each of which computes its share of every batch."""
    with Channel.join(Ranks.from_environment()).together() as channel:
        backend = load_backend(framework)
        group = backend.Group(channel, lambda: False)
        trace = _Training.of(recipe, framework, steps, attention, seed, dropout, group).trace()
        channel.agree({"the digest of the last weights": digest(trace.after)})
        group.leave()
    return trace


def record_with_controls(
    recipe: Recipe, framework: str, steps: int, attention: str, seed: int, dropout: bool, directions: Sequence[int]
) -> tuple[Trace, list[Distance]]:
    """A trace as from `record`, and for each of `directions` how far rounding alone takes the framework from it.

    For each direction it trains again from a start in which each weight is off by one rounding; a direction is a seed
    that says which weights go up and which go down.
    """
    training = _Training.of(recipe, framework, steps, attention, seed, dropout)
    trace = training.trace()
    return trace, [distance(trace, training.trace(direction)) for direction in directions]


@dataclass(frozen=True)
class _Training:
    """The first steps of a recipe in one framework, to be taken from one start or another."""

    recipe: Recipe
    experiment: Experiment
    backend: Backend
    steps: int
    attention: str
    seed: int
    group: Group | None

    @classmethod
    def of(
        cls, recipe: Recipe, framework: str, steps: int, attention: str, seed: int, dropout: bool,
        group: Group | None = None,
    ) -> _Training:  # fmt: skip
        changes: dict[str, object] = {"train.precision": "fp32"}
        if not dropout or recipe.train.dropout_masks != "shared":
            changes |= {"train.dropout": 0.0} | ({} if recipe.train.lora is None else {"train.lora.dropout": 0.0})
        recipe = recipe.override(changes)
        return cls(recipe, prepare(recipe, attention), load_backend(framework), steps, attention, seed, group)

    def trace(self, direction: int | None = None) -> Trace:
        """All steps, from a start that is off by one rounding if a direction is given."""
        trace = self.take_steps(self.steps, direction)
        if self.attention == STOCK or self.steps <= EARLY_STEPS:
            return trace
        # A swapped model's weights have their stock names only after training, so the first steps are taken again.
        return replace(trace, early=self.take_steps(EARLY_STEPS, direction).after)

    def take_steps(self, steps: int, direction: int | None) -> Trace:
        """The first `steps` of them."""
        experiment, backend, train = self.experiment, self.backend, self.recipe.train
        model = start(experiment, backend, self.seed).model
        before = backend.get_weights(model)
        if direction is not None:
            before = off_by_one_rounding(before, experiment.config, direction)
            backend.set_weights(model, before)
        if self.attention != STOCK:
            swap_with_proof(backend, model, self.attention, experiment.probe())
        rates = learning_rates(train, self.steps)[:steps]
        learner = backend.Learner(model, train, rates, experiment.task.loss, self.group)
        logits = experiment.probe_logits(learner.logits(experiment.probe()))
        reports: list[StepReport] = []
        early: list[Weights] = []

        def on_step(report: StepReport) -> None:
            reports.append(report)
            if report.step == EARLY_STEPS and self.attention == STOCK:
                early.append(backend.get_weights(model))

        learner.fit([itertools.islice(self.batches(), steps)], on_step, lambda epoch: False)
        if self.attention != STOCK:
            backend.restore_attention(model)
        after = backend.get_weights(model)
        rates_of_dropout = [getattr(experiment.config, key, None) for key in family_of(experiment.config).dropout_keys]
        rates_of_dropout += [] if train.lora is None else [train.lora.dropout]
        return Trace(
            logits,
            np.array([report.loss for report in reports]),
            np.array([report.grad_norm for report in reports]),
            before,
            early[0] if early else after,
            after,
            experiment.config.model_type,
            max(rate or 0.0 for rate in rates_of_dropout),
            {"data": experiment.fingerprint, "checkpoint": checkpoint_fingerprint(self.recipe) or ""},
            package_versions(),
        )

    def batches(self) -> Iterator[Features]:
        """This rank's share of the training batches of as many epochs as the steps need."""
        first_step = 0
        num_epochs = -(-self.steps // len(self.experiment.training_plan(0, self.seed)))
        for epoch, plan in enumerate(self.experiment.training_plans(self.seed, num_epochs)):
            for batch in self.experiment.features(plan, epoch, self.seed, first_step):
                yield share(batch, self.group.ranks) if self.group else batch
            first_step += len(plan)


def distance(first: Trace, second: Trace) -> Distance:
    """How far two traces of as many steps are apart."""
    early = parameter_distances(first, second, "early")
    late = parameter_distances(first, second, "after")
    worst = max(late, key=lambda name: late[name], default="")
    return Distance(
        logits=float(np.abs(first.logits - second.logits).max()),
        loss=np.abs(first.loss - second.loss) / np.maximum(1.0, np.abs(first.loss)),
        grad_norm=np.abs(first.grad_norm - second.grad_norm) / first.grad_norm,
        early_parameters=max(early.values(), default=0.0),
        parameters=late.get(worst, 0.0),
        worst_parameter=worst,
    )


def parameter_distances(first: Trace, second: Trace, when: str) -> dict[str, float]:
    """For each trained tensor how differently it moved, over how far it moved in the first trace; infinite for NaN.

    `when` is "early" or "after". Weights without effect are left out.
    """
    family = FAMILIES[first.model_type]
    ours, theirs = _moves(first, when), _moves(second, when)
    ours, theirs = family.weights_with_effect(ours), family.weights_with_effect(theirs)
    distances = {}
    for name, move in ours.items():
        moved, apart = np.linalg.norm(move), np.linalg.norm(move - theirs[name])
        if moved or apart:
            relative = float(apart / max(moved, 1e-12))
            distances[name] = math.inf if math.isnan(relative) else relative
    return distances


def _moves(trace: Trace, when: str) -> Weights:
    """What training added to each weight; two starts may differ."""
    weights = trace.early if when == "early" else trace.after
    return {name: weights[name].astype(np.float64) - value for name, value in trace.before.items()}
