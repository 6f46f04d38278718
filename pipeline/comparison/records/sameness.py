"""Records of how alike the trainings were: start, batches, optimization, lock-step, control and curves."""

from __future__ import annotations

from typing import Literal

from pipeline.comparison.records.base import Number, PairAndSeed, Record

Quantity = Literal["logits", "early_loss", "early_parameters", "loss", "grad_norm", "parameters"]


class ProbeDifference(PairAndSeed):
    """The logits of the same probe rows before training."""

    max_difference: Number
    """Relative to the largest logit of the first variant, or to 1 if that is larger."""
    tolerance: float
    same_shape: bool
    within_tolerance: bool


class BatchDifference(PairAndSeed):
    """The batches of every step."""

    same: bool
    first_different_step: int | None
    """The first step with another number of examples or tokens."""
    basis: Literal["rows", "sizes"]
    """Whether digests of each epoch's rows could be compared too, or only the numbers of examples and tokens."""
    first_order_of_seed: int | None = None
    """If they differ: another seed, the batches of which the first variant's run has."""
    second_order_of_seed: int | None = None


class OptimizationDifference(PairAndSeed):
    """Learning rates and gradient norms, step by step."""

    learning_rate_max_difference: Number
    grad_norm_median_ratio: Number
    """The median over steps of first divided by second."""


class LockstepResult(Record):
    """PyTorch and TensorFlow step by step, from the same weights over the same batches with the same dropout masks."""

    attention: str
    steps: int
    seed: int | None = None
    """Of the batches, the dropout masks and new weights; None in the files of old lock-steps."""
    dropout: float = 0.0
    """The largest dropout rate of the model; 0 if dropout was off."""
    differences: dict[Quantity, Number]
    """The largest differences; early ones are those of the first three steps."""
    control: dict[Quantity, Number] = {}
    """The largest differences of PyTorch from itself, from starts off by one rounding; empty in old lock-steps."""
    num_controls: int = 0
    """How many such starts were trained."""
    bounds: dict[Quantity, float]
    """How large each difference may be: a fixed bound, or three times the control's if that is larger."""
    same: bool
    loss_by_step: list[Number]
    """The difference in loss, relative to the loss, or to 1 where that is larger."""
    control_loss_by_step: list[Number] = []
    """The same of the control that differs most at the step."""
    first_step_over_rounding: int | None = None
    """The first step at which the losses differ by more than 1e-6, from 1; None if there is none."""
    control_first_step_over_rounding: int | None = None
    """The same of the controls."""
    worst_parameter: str
    """The parameter that differs most."""


class PairDistance(Record):
    """How far the trainings of two variants are apart, over the seeds that have a control."""

    first: str
    second: str
    first_step_over_rounding: int | None
    """The first step, from 1, at which the losses of a seed differ by more than 1e-6; None if there is none."""
    loss_distance: Number
    """The root mean square, over all steps and seeds, of the difference in loss relative to the loss, or to 1."""
    share: Number
    """`loss_distance` divided by the control's."""
    agree: Number
    """The fraction of examples with the same prediction; None if the task does not predict."""
    within: bool
    """Whether the distance is at most three times the control's, or 1e-3."""


class ControlComparison(Record):
    """PyTorch against itself from a start in which each weight is off by one rounding, and the variants beside it."""

    seeds: list[int]
    """Those for which the control was trained."""
    first_step_over_rounding: int | None
    loss_distance: Number
    agree: Number
    seconds: Number
    """What the trainings of the control took, together."""
    pairs: list[PairDistance]


class Curve(Record):
    """The training of one variant over its seeds, at 400 steps at most."""

    step: list[int]
    loss_mean: list[Number]
    loss_low: list[Number]
    loss_high: list[Number]
    loss_smooth: list[Number] = []
    """The mean loss of the steps around each, a twentieth of the training together; empty in old results."""
    grad_norm: list[Number]
    learning_rate: list[Number]


class Evaluation(Record):
    """The scores after an epoch."""

    epoch: int
    metrics: dict[str, Number]
    seconds: Number = None
    """Training time from the first batch to the end of the epoch; None in old results."""


class Sameness(Record):
    """Evidence that the runs were the same experiment."""

    probe: list[ProbeDifference]
    batches: list[BatchDifference]
    batch_sizes_vary: bool
    """Whether the numbers of examples and tokens change from step to step, so that they can show the order."""
    optimization: list[OptimizationDifference]
    lockstep: list[LockstepResult]
    """One for each attention; empty if it was not run."""
    control: ControlComparison | None = None
    """None if no control was trained."""
    curves: dict[str, Curve]
    """By variant."""
    evaluations: dict[str, dict[int, list[Evaluation]]]
    """By variant and seed."""
