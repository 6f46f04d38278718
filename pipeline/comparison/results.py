"""The results of a comparison, typed: what `results.json` holds and every report is written from.

The JSON Schema beside this file, `results.schema.json`, is generated from these classes:

    python -m pipeline.comparison.results > pipeline/comparison/results.schema.json

A variant is `<framework>/<attention>`, such as `torch/stock`. Variants keep the order in which they were asked for, and
the first one is the reference of ratios. Differences are first minus second. A number that is undefined (one seed has
no standard deviation, a failed run has no score) is None, which is `null` in JSON; there is no NaN.
"""

from __future__ import annotations

import json
import math
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

from pipeline.runs.record import EnvironmentRecord, TrainRecord

SCHEMA_VERSION = 4


def _defined(number: object) -> object:
    return None if isinstance(number, float) and not math.isfinite(number) else number


Number = Annotated[float | None, BeforeValidator(_defined)]
Quantity = Literal["logits", "early_loss", "early_parameters", "loss", "grad_norm", "parameters"]
State = Literal["good", "unknown", "bad"]
VerdictCode = Literal[
    "equivalent",  # the 90% interval of the difference lies inside the margin
    "different",  # the 95% intervals over seeds and over examples both leave out zero
    "inconclusive",  # neither could be shown
    "too_few_seeds",
    "undefined",  # the metric has no value in some seed
    "no_shared_seed",  # no seed was completed by both variants
    "no_margin",  # a relative margin of a mean that is zero or undefined
    "constant",  # a figure of the data, which no model changes
]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, populate_by_name=True)


class DataSummary(_Record):
    """The data set that all runs were trained on."""

    source: str
    """The Hub id or the format of local files."""
    fingerprint: str | None
    """Of the prepared rows; None if no run was completed."""
    splits: dict[str, dict[str, int]]
    """Counts by split, such as `rows` and `truncated`."""


class RecipeMargin(_Record):
    """The recipe's margin of equivalence."""

    value: float
    kind: Literal["absolute", "relative"]
    """Absolute in units of a metric between 0 and 1 (times 100 for metrics up to 100), or relative to the mean."""


class Variant(_Record):
    """One framework with one attention, over its seeds."""

    name: str
    framework: str
    attention: str
    seeds: list[int]
    completed: int
    """How many of its runs were completed."""
    failed: int
    """How many of its runs failed."""


class RunSummary(_Record):
    """One run: identity, scores, training figures, machine."""

    variant: str
    framework: str
    attention: str
    seed: int
    path: str
    """The run's directory."""
    status: Literal["completed", "failed"]
    log_tail: str | None
    """The end of a failed run's log."""
    metrics: dict[str, Number]
    train: TrainRecord | None
    """As in the run's metrics.json; None if the run failed."""
    startup_seconds: Number
    """From the start of the process to the first training step."""
    attention_sites: int | None
    """How many attention modules were replaced."""
    attention_max_difference: Number
    """The largest difference of the probe's logits that replacing the attention made."""
    environment: EnvironmentRecord | None
    """As in the run's environment.json; None if the run failed."""

    @property
    def label(self) -> str:
        """'torch/stock seed 0'."""
        return f"{self.variant} seed {self.seed}"

    @property
    def completed(self) -> bool:
        """Whether the run finished."""
        return self.status == "completed"


class RecipeDifference(_Record):
    """A setting that was not the same in all runs."""

    key: str
    values: dict[str, JsonValue]
    """The setting's value by run, such as `torch/stock seed 0`."""


class MetricSummary(_Record):
    """A metric of one variant over its seeds."""

    n: int
    """Seeds with a defined value."""
    mean: Number
    sd: Number
    """Sample standard deviation over seeds."""
    low: Number
    """Lower end of the 95% interval of the mean (Student's t, inside the metric's range); None below three seeds."""
    high: Number
    values: dict[int, Number]
    """The value of each seed."""


class Metric(_Record):
    """A validation metric of every variant."""

    lower_is_better: bool
    scale: int | None
    """1 or 100 for a metric between 0 (or -1) and that; None for one without an upper end."""
    variants: dict[str, MetricSummary]


class Margin(_Record):
    """How far apart two variants may be in one metric and still count as equivalent."""

    value: Number
    """In the metric's units; None if there is none (a relative margin of zero)."""
    unit: Literal["points", "percent"] | None
    """What differences are shown in."""
    unit_size: float
    """One point, or one percent of the first variant's mean, in the metric's units."""


class SeedDifference(_Record):
    """The difference of two variants, paired over seeds."""

    n: int
    mean_difference: Number
    low: Number
    """Lower end of the 95% interval of the mean difference (Student's t); None below three seeds."""
    high: Number


class Equivalence(_Record):
    """Two one-sided paired t tests, each at 5%, against the margin."""

    low: Number
    """Lower end of the 90% interval of the difference; None with two seeds."""
    high: Number
    p: Number
    equivalent: bool | None
    """None if nothing can be concluded."""
    basis: Literal["seeds", "examples"] | None
    """What the interval is over: seeds, or with a single seed the bootstrap over examples."""
    seeds_needed: int | None = None
    """If equivalence is not shown: how many seeds would show it four times out of five, if the means are equal and the
    differences vary as these do; None if more than 1000, or if fewer than three seeds were compared."""


class ExampleDifference(_Record):
    """The difference of two variants under a paired bootstrap over validation examples."""

    difference: float
    low: float
    """2.5th percentile of the resampled differences."""
    high: float
    """97.5th percentile of the resampled differences."""
    resamples: int
    num_examples: int


class Verdict(_Record):
    """What can be claimed about a metric of two variants, and the figures that the sentence about it needs."""

    code: VerdictCode
    higher: str | None = None
    """The variant with the higher mean, if they are different."""
    undefined_seeds: int = 0
    """Shared seeds in which the metric has no value."""
    identical: Literal["predictions", "scores"] | None = None
    """Set if every seed has the same score in both variants: because all predictions are the same, or not."""
    depends_on_examples: bool = False
    """Equivalent on this validation split, but the interval over examples is wider than the margin."""


class MetricComparison(_Record):
    """One metric of two variants."""

    margin: Margin
    seeds: SeedDifference
    equivalence: Equivalence
    bootstrap: ExampleDifference | None
    """None if the metric cannot be computed again from predictions.jsonl."""
    verdict: Verdict


class Agreement(_Record):
    """How often two classifiers agree, counted over all seeds together."""

    num_predictions: int
    agree: float
    """The fraction of examples with the same prediction."""
    kappa: Number
    """Cohen's kappa; None if all predictions are one class."""
    mcnemar_p: float
    """The smallest p of McNemar's exact test in each seed, times the number of seeds."""
    first_only_right: int
    second_only_right: int


class PairComparison(_Record):
    """Two variants, metric by metric."""

    first: str
    second: str
    metrics: dict[str, MetricComparison]
    agreement: Agreement | None
    """For classification only."""


class _PairAndSeed(_Record):
    first: str
    second: str
    seed: int


class ProbeDifference(_PairAndSeed):
    """The logits of the same probe rows before training."""

    max_difference: Number
    """Relative to the largest logit of the first variant, or to 1 if that is larger."""
    tolerance: float
    same_shape: bool
    within_tolerance: bool


class BatchDifference(_PairAndSeed):
    """The batches of every step."""

    same: bool
    first_different_step: int | None
    """The first step with another number of examples or tokens."""
    basis: Literal["rows", "sizes"]
    """Whether digests of each epoch's rows could be compared too, or only the numbers of examples and tokens."""
    first_order_of_seed: int | None = None
    """If they differ: another seed, the batches of which the first variant's run has."""
    second_order_of_seed: int | None = None


class OptimizationDifference(_PairAndSeed):
    """Learning rates and gradient norms, step by step."""

    learning_rate_max_difference: Number
    grad_norm_median_ratio: Number
    """The median over steps of first divided by second."""


class LockstepResult(_Record):
    """PyTorch and TensorFlow step by step, from the same weights over the same batches with the same dropout masks."""

    attention: str
    steps: int
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


class PairDistance(_Record):
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


class ControlComparison(_Record):
    """PyTorch against itself from a start in which each weight is off by one rounding, and the variants beside it."""

    seeds: list[int]
    """Those for which the control was trained."""
    first_step_over_rounding: int | None
    loss_distance: Number
    agree: Number
    seconds: Number
    """What the trainings of the control took, together."""
    pairs: list[PairDistance]


class Curve(_Record):
    """The training of one variant over its seeds, at 400 steps at most."""

    step: list[int]
    loss_mean: list[Number]
    loss_low: list[Number]
    loss_high: list[Number]
    grad_norm: list[Number]
    learning_rate: list[Number]


class Evaluation(_Record):
    """The scores after an epoch."""

    epoch: int
    metrics: dict[str, Number]


class Sameness(_Record):
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


class Disagreement(_Record):
    """A validation example for which the variants do not predict the same."""

    index: int
    """The row in the validation split."""
    seed: int
    fields: dict[str, JsonValue]
    """What the prediction is made from; empty if the data cannot be read any more."""
    reference: JsonValue
    predictions: dict[str, JsonValue]
    """By variant."""


class CostSummary(_Record):
    """A cost of one variant over its runs."""

    median: Number
    low: Number
    high: Number
    ratio: Number
    """The median divided by the first variant's."""


class Cost(_Record):
    """A cost of every variant."""

    name: str
    unit: str
    higher_is_better: bool
    variants: dict[str, CostSummary]


class CostPair(_Record):
    """A cost of two variants, by the medians of their runs."""

    first: str
    second: str
    differ_in: Literal["framework", "attention", "other"]
    """The one thing in which they differ; "other" for settings, and if there are several."""
    first_median: float
    second_median: float
    better: str
    """The variant with the better median; the first one if both are the same."""
    factor: Number
    """How many times as much the other takes, or as fast the better one is: 1 or more; None if a median is zero."""
    overlapping: bool
    """Whether the ranges over the runs overlap."""
    fewest_runs: int
    """Completed runs of the variant that has fewer."""
    is_shown: bool
    """Whether the runs show which is better: no overlap, and several runs or a factor that is more than chance."""


class CostComparison(_Record):
    """A cost, pair by pair: frameworks with the same attention first, then attentions in the same framework."""

    cost: str
    """The name of the cost."""
    higher_is_better: bool
    is_same_machine: bool
    pairs: list[CostPair]
    """Empty if there are not two variants with this cost."""


class BreakEven(_Record):
    """In how long a training the variant that is faster after the first step makes up for its later start."""

    first: str
    second: str
    faster: str
    """The variant that is faster after the first step."""
    examples: float
    """From so many training examples on it takes less time in all; 0 if it does from the beginning."""
    examples_of_run: float
    """How many there were in these runs."""


class Machine(_Record):
    """A machine with the runs made on it."""

    runs: list[str]
    processor: str | None
    cores: int | None
    threads: dict[str, str]
    """By framework."""
    platform: str | None
    versions: dict[str, list[str]]
    """Of each package; more than one if the runs had several."""


class AttentionMap(_Record):
    """The hand-written attention's weights after training, for one text."""

    variant: str
    seed: int
    text: str
    tokens: list[str]
    """Those of the text, which are attended to: the keys."""
    weights: list[list[list[list[float]]]]
    """[layers][heads][queries][keys], rounded to three decimals."""
    written: list[str] | None = None
    """In cross-attention the queries: what the model wrote from the text. Else the text's own tokens are."""

    @property
    def queries(self) -> list[str]:
        """The tokens that attend."""
        return self.tokens if self.written is None else self.written


class Problem(_Record):
    """Something that a comparison could not do, or that the runs contradict."""

    code: Literal[
        "different_example_counts", "score_not_reproduced", "attention_map_failed", "lockstep_failed",
        "lockstep_outdated", "control_failed",
    ]  # fmt: skip
    run: str | None = None
    attention: str | None = None
    metric: str | None = None
    recorded: Number = None
    recomputed: Number = None
    """From predictions.jsonl."""
    error: str | None = None


class Statement(_Record):
    """A sentence with its state: good, unknown (it cannot be said) or bad."""

    state: State
    sentence: str


class Answer(Statement):
    """A statement with the word that answers the question, such as Yes."""

    word: str


class Headline(_Record):
    """The first screen of the report."""

    training: Answer
    """Same training?"""
    score: Answer
    """Same score?"""
    time: Answer
    memory: Answer
    notices: list[Statement]
    """What a reader must know besides."""


class Results(_Record):
    """The results of a comparison."""

    schema_version: Literal[4] = Field(default=SCHEMA_VERSION, alias="schema")
    created: str
    """ISO 8601."""
    command: list[str]
    recipe: str
    task: str
    checkpoint: str
    """A local checkpoint by the name of its folder."""
    weights: str
    data: DataSummary
    margin: RecipeMargin
    headline: Headline | None = None
    """Written from the rest of the results."""
    variants: list[Variant]
    runs: list[RunSummary]
    recipe_differences: list[RecipeDifference]
    metrics: dict[str, Metric]
    comparisons: list[PairComparison]
    sameness: Sameness
    disagreements: list[Disagreement]
    """20 at most."""
    costs: list[Cost]
    time: CostComparison
    """Seconds from the start of the process to the end of the last step, without evaluation."""
    speed: CostComparison
    """Training speed after the first step."""
    memory: CostComparison
    break_even: list[BreakEven]
    """For each pair of frameworks with the same attention."""
    machines: list[Machine]
    """More than one if the runs come from different machines."""
    attention_maps: list[AttentionMap]
    problems: list[Problem]

    def to_json(self) -> dict[str, object]:
        """What results.json holds, as plain dicts, lists and scalars."""
        return self.model_dump(mode="json", by_alias=True)


def json_schema() -> dict[str, object]:
    """The JSON Schema of results.json."""
    schema = Results.model_json_schema(by_alias=True, mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def schema_text() -> str:
    """The JSON Schema as results.schema.json holds it."""
    return json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(schema_text(), end="")
