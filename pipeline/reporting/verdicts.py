"""What the report says about a metric of two variants: a claim, its reason and its condition."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.comparison.results import Margin, MetricComparison, PairComparison, State, Statement, VerdictCode
from pipeline.reporting.formatting import MINUS
from pipeline.utils.text import count

VERDICT_STATES: dict[VerdictCode, State] = {"equivalent": "good", "constant": "good", "different": "bad"}


@dataclass(frozen=True)
class VerdictParts:
    """What is claimed, why, and under which condition."""

    claim: str
    reason: str
    caveat: str = ""


def verdict(pair: PairComparison, metric: str) -> Statement:
    """What can be claimed about a metric of two variants, without a capital and a full stop."""
    comparison = pair.metrics[metric]
    parts = verdict_parts(comparison)
    text = f"{parts.claim} ({parts.reason})" if _is_equivalent(comparison) else f"{parts.claim}: {parts.reason}"
    return Statement(state=verdict_state(comparison), sentence=text + parts.caveat)


def verdict_state(comparison: MetricComparison) -> State:
    """Whether the metric is equivalent, different or neither."""
    return VERDICT_STATES.get(comparison.verdict.code, "unknown")


def _is_equivalent(comparison: MetricComparison) -> bool:
    return comparison.verdict.code == "equivalent"


def verdict_parts(comparison: MetricComparison) -> VerdictParts:
    """What is claimed, why, and under which condition."""
    code, margin, seeds = comparison.verdict.code, comparison.margin, comparison.seeds
    tested, over_seeds = comparison.equivalence, f"over {count(seeds.n, 'seed')}"
    ninety = f"90% interval {_range(tested.low, tested.high, margin)}"
    if code == "constant":
        return VerdictParts("the same", "it describes the data, and no model changes it")
    if code == "equivalent":
        claim = f"equivalent within {margin_text(margin)} {over_seeds}"
        return VerdictParts(claim, _identical(comparison) or ninety, _caveat(comparison))
    if code == "different":
        size = difference_text(abs(seeds.mean_difference or 0.0), margin, signed=False) + _unit(margin)
        interval = f"95% interval {_range(seeds.low, seeds.high, margin)} {over_seeds}"
        return VerdictParts("different", f"{comparison.verdict.higher} is higher by {size} ({interval})")
    if code == "inconclusive":
        claim = f"not shown to be equivalent within {margin_text(margin)} {over_seeds}"
        return VerdictParts(claim, f"{ninety}{_unit(margin)}, {_what_is_shown(comparison)}")
    return VerdictParts("not shown to be equivalent", _what_is_missing(comparison))


def _what_is_missing(comparison: MetricComparison) -> str:
    """Why nothing can be claimed."""
    code, num_seeds = comparison.verdict.code, comparison.seeds.n
    if code == "undefined":
        undefined = comparison.verdict.undefined_seeds
        return f"undefined in {undefined} of {count(num_seeds + undefined, 'seed')}"
    if code == "no_shared_seed":
        return "no seed was completed by both"
    if code == "no_margin":
        return "the margin is relative to a mean of zero"
    verb = "is" if num_seeds == 1 else "are"
    shown = _identical(comparison) or f"difference {_difference_over_examples(comparison)}"
    return f"{count(num_seeds, 'seed')} {verb} too few ({shown})"


def _what_is_shown(comparison: MetricComparison) -> str:
    """The margin within which equivalence is shown, and how many seeds the recipe's margin would need."""
    margin, tested = comparison.margin, comparison.equivalence
    widest = difference_text(max(abs(tested.low or 0.0), abs(tested.high or 0.0)), margin, signed=False)
    shown = f"which shows equivalence within {widest}{_unit(margin)}"
    if tested.seeds_needed is None:
        return shown
    return f"{shown}; within {margin_text(margin)} it takes about {count(tested.seeds_needed, 'seed')}"


def _identical(comparison: MetricComparison) -> str | None:
    texts = {"predictions": "the predictions are the same", "scores": "no difference in any seed"}
    return texts.get(comparison.verdict.identical or "")


def _caveat(comparison: MetricComparison) -> str:
    examples = comparison.bootstrap
    if examples is None or not comparison.verdict.depends_on_examples:
        return ""
    return f"; on other examples it could be {_range(examples.low, examples.high, comparison.margin)}"


def _difference_over_examples(comparison: MetricComparison) -> str:
    margin, examples = comparison.margin, comparison.bootstrap
    text = difference_text(comparison.seeds.mean_difference or 0.0, margin) + _unit(margin)
    if examples is None:
        return text
    return f"{text}, 95% interval over examples {_range(examples.low, examples.high, margin)}"


def difference_text(number: float, margin: Margin, signed: bool = True) -> str:
    """A difference in points or percent, with one decimal more than the margin has."""
    digits = max(1, 1 - math.floor(math.log10(margin.value / margin.unit_size) + 1e-9)) if margin.value else 1
    text = f"{number / margin.unit_size:{'+' if signed else ''}.{digits}f}"
    return text.replace("-", MINUS) if float(text) else f"{0:.{digits}f}"


def margin_text(margin: Margin) -> str:
    """'1 point', '0.5 points', '1%'."""
    size = f"{(margin.value or 0.0) / margin.unit_size:.4g}"
    if margin.unit == "percent":
        return f"{size}%"
    return f"{size} point" + ("" if size == "1" else "s")


def _range(low: float | None, high: float | None, margin: Margin) -> str:
    return f"{difference_text(low or 0.0, margin)} to {difference_text(high or 0.0, margin)}"


def _unit(margin: Margin) -> str:
    return "%" if margin.unit == "percent" else " points"
