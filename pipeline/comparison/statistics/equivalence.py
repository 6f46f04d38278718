"""Scores over seeds: means, paired differences with intervals, equivalence tests, and what they allow to claim.

The tests are those of statsmodels and scipy. The unit is the seed: a claim holds for seeds like these on this
validation split. The bootstrap over examples says how much it depends on the split.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, TypeGuard

import numpy as np
from numpy.typing import NDArray
from statsmodels.stats.weightstats import DescrStatsW, ttost_paired

from pipeline.comparison.records.scores import (
    Equivalence,
    ExampleDifference,
    Margin,
    MetricComparison,
    MetricSummary,
    SeedDifference,
    Verdict,
)
from pipeline.comparison.statistics.bootstrap import RESAMPLES, Difference
from pipeline.comparison.statistics.power import seeds_needed
from pipeline.metrics.specs import is_constant, scale

# With two seeds the t distribution has one degree of freedom, and scores of a small split coincide by chance.
MIN_SEEDS = 3

Scores = Sequence[float | None]


def metric_margin(metric: str, margin: float, reference: float | None) -> Margin:
    """The recipe's margin for a metric; for one without a scale relative to `reference`, the first variant's mean."""
    upper_end = scale(metric)
    if upper_end is not None:
        return Margin(value=margin * upper_end, unit="points", unit_size=upper_end / 100)
    if reference is None or not math.isfinite(reference) or reference == 0:
        return Margin(value=None, unit=None, unit_size=1.0)
    return Margin(value=margin * abs(reference), unit="percent", unit_size=abs(reference) / 100)


def summarize(values: Mapping[int, float | None], ends: tuple[float, float] = (-math.inf, math.inf)) -> MetricSummary:
    """Mean over seeds, standard deviation and 95% t interval, cut at the `ends` of the metric's range.

    Undefined values do not count.
    """
    known = np.array([value for value in values.values() if value is not None and math.isfinite(value)])
    low, high = t_interval(known, 0.05) if len(known) >= MIN_SEEDS else (None, None)
    if low is not None and high is not None:
        low, high = max(low, ends[0]), min(high, ends[1])
    return MetricSummary(
        n=len(known),
        mean=float(known.mean()) if len(known) else None,
        sd=float(known.std(ddof=1)) if len(known) > 1 else None,
        low=low,
        high=high,
        values=dict(values),
    )


def t_interval(values: NDArray, alpha: float) -> tuple[float, float]:
    """Student's t interval of the mean at level 1 - `alpha`; the mean twice if the values do not vary."""
    if np.ptp(values) <= 1e-12 * max(1.0, np.abs(values).max()):
        return float(values.mean()), float(values.mean())
    low, high = DescrStatsW(values).tconfint_mean(alpha)
    return float(low), float(high)


def compare_metric(
    metric: str, pair: tuple[str, str], first: Scores, second: Scores, margin: Margin,
    example_difference: Difference | None, num_examples: int, same_predictions: bool = False,
) -> MetricComparison:  # fmt: skip
    """Compare a metric of two variants; `first` and `second` have a value for each shared seed.

    `same_predictions` says that every example was predicted the same in every seed.
    """
    defined = [(a, b) for a, b in zip(first, second, strict=True) if _is_number(a) and _is_number(b)]
    a, b = np.array(defined, dtype=np.float64).reshape(-1, 2).T
    low, high = t_interval(a - b, 0.05) if len(a) >= MIN_SEEDS else (None, None)
    seeds = SeedDifference(n=len(a), mean_difference=float((a - b).mean()) if len(a) else None, low=low, high=high)
    tested = equivalence(a, b, margin.value, example_difference)
    undefined_seeds = len(first) - len(a)
    if undefined_seeds:
        tested = tested.model_copy(update={"equivalent": None})
    if is_constant(metric) and len(a) and np.array_equal(a, b):
        tested = tested.model_copy(update={"equivalent": True})
    # Of a metric that ends above: for one without ends, 0 may be the best.
    is_all_zero = len(a) > 0 and scale(metric) is not None and not a.any() and not b.any()
    if is_all_zero:
        tested = Equivalence(low=None, high=None, p=None, equivalent=None, basis=None)
    identical: Literal["predictions", "scores"] | None = None
    if not undefined_seeds and np.array_equal(a, b):
        identical = "predictions" if same_predictions else "scores"
    comparison = MetricComparison(
        margin=margin,
        seeds=seeds,
        equivalence=tested,
        bootstrap=_over_examples(example_difference, num_examples),
        verdict=Verdict(
            code="all_zero" if is_all_zero else "inconclusive", undefined_seeds=undefined_seeds, identical=identical
        ),
    )
    return comparison.model_copy(update={"verdict": _verdict(metric, pair, comparison)})


def equivalence(a: NDArray, b: NDArray, margin: float | None, examples: Difference | None) -> Equivalence:
    """Two one-sided paired t tests at 5% (Schuirmann 1987), which is the 90% interval inside the margin.

    With one seed the interval is the bootstrap's over examples, with two there is none; below MIN_SEEDS nothing is
    concluded.
    """
    if len(a) >= MIN_SEEDS:
        low, high = t_interval(a - b, 0.1)
        if margin is None:
            return Equivalence(low=low, high=high, p=None, equivalent=None, basis="seeds")
        inside = -margin < low and high < margin
        p = float(ttost_paired(a, b, -margin, margin)[0]) if low < high else 1.0 - inside
        needed = None if p < 0.05 else seeds_needed(float((a - b).std(ddof=1)), margin)
        return Equivalence(low=low, high=high, p=p, equivalent=p < 0.05, basis="seeds", seeds_needed=needed)
    if len(a) > 1:
        return Equivalence(low=None, high=None, p=None, equivalent=None, basis=None)
    if examples is not None:
        low, high = examples.interval(0.9)
        return Equivalence(low=low, high=high, p=None, equivalent=None, basis="examples")
    return Equivalence(low=None, high=None, p=None, equivalent=None, basis=None)


def _over_examples(difference: Difference | None, num_examples: int) -> ExampleDifference | None:
    if difference is None:
        return None
    low, high = difference.interval(0.95)
    return ExampleDifference(
        difference=difference.value, low=low, high=high, resamples=RESAMPLES, num_examples=num_examples
    )


def _verdict(metric: str, pair: tuple[str, str], comparison: MetricComparison) -> Verdict:
    """The strongest claim that the numbers allow, and no more."""
    verdict, margin, seeds = comparison.verdict, comparison.margin.value, comparison.seeds
    if is_constant(metric) and comparison.equivalence.equivalent:
        return verdict.model_copy(update={"code": "constant"})
    if verdict.undefined_seeds:
        return verdict.model_copy(update={"code": "undefined"})
    if not seeds.n:
        return verdict.model_copy(update={"code": "no_shared_seed"})
    if verdict.code == "all_zero":
        return verdict
    if margin is None:
        return verdict.model_copy(update={"code": "no_margin"})
    if seeds.n < MIN_SEEDS:
        return verdict.model_copy(update={"code": "too_few_seeds"})
    examples = comparison.bootstrap
    if comparison.equivalence.equivalent:
        depends = examples is not None and not -margin <= examples.low <= examples.high <= margin
        return verdict.model_copy(update={"code": "equivalent", "depends_on_examples": depends})
    apart_over_seeds = _leaves_out_zero(seeds.low, seeds.high)
    if apart_over_seeds and (examples is None or _leaves_out_zero(examples.low, examples.high)):
        higher = pair[0] if (seeds.mean_difference or 0.0) > 0 else pair[1]
        return verdict.model_copy(update={"code": "different", "higher": higher})
    return verdict


def _leaves_out_zero(low: float | None, high: float | None) -> bool:
    return low is not None and high is not None and (low > 0 or high < 0)


def _is_number(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)
