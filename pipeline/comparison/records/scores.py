"""Records of scores: each metric of each variant, and what can be said of two variants."""

from __future__ import annotations

from typing import Literal

from pipeline.comparison.records.base import Number, Record

VerdictCode = Literal[
    "equivalent",  # the 90% interval of the difference lies inside the margin
    "different",  # the 95% intervals over seeds and over examples both leave out zero
    "inconclusive",  # neither could be shown
    "too_few_seeds",
    "all_zero",  # of a metric up to 1 or 100: every run scores 0, so nothing was learned that could be compared
    "undefined",  # the metric has no value in some seed
    "no_shared_seed",  # no seed was completed by both variants
    "no_margin",  # a relative margin of a mean that is zero or undefined
    "constant",  # a figure of the data, which no model changes
]


class MetricSummary(Record):
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


class Metric(Record):
    """A validation metric of every variant."""

    lower_is_better: bool
    scale: int | None
    """1 or 100 for a metric between 0 (or -1) and that; None for one without an upper end."""
    variants: dict[str, MetricSummary]


class Margin(Record):
    """How far apart two variants may be in one metric and still count as equivalent."""

    value: Number
    """In the metric's units; None if there is none (a relative margin of zero)."""
    unit: Literal["points", "percent"] | None
    """What differences are shown in."""
    unit_size: float
    """One point, or one percent of the first variant's mean, in the metric's units."""


class SeedDifference(Record):
    """The difference of two variants, paired over seeds."""

    n: int
    mean_difference: Number
    low: Number
    """Lower end of the 95% interval of the mean difference (Student's t); None below three seeds."""
    high: Number


class Equivalence(Record):
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


class ExampleDifference(Record):
    """The difference of two variants under a paired bootstrap over validation examples."""

    difference: float
    low: float
    """2.5th percentile of the resampled differences."""
    high: float
    """97.5th percentile of the resampled differences."""
    resamples: int
    num_examples: int


class Verdict(Record):
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


class MetricComparison(Record):
    """One metric of two variants."""

    margin: Margin
    seeds: SeedDifference
    equivalence: Equivalence
    bootstrap: ExampleDifference | None
    """None if the metric cannot be computed again from predictions.jsonl."""
    verdict: Verdict


class Agreement(Record):
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


class PairComparison(Record):
    """Two variants, metric by metric."""

    first: str
    second: str
    metrics: dict[str, MetricComparison]
    agreement: Agreement | None
    """For classification only."""
