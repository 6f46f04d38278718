"""What scores bear: means and differences over seeds with their intervals, equivalence, agreement; a sentence each.

The tests are statsmodels' and scipy's. Seeds are the unit: what is said holds for seeds like these on this validation
split. The bootstrap over examples says how much hangs on the split.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.weightstats import DescrStatsW, ttost_paired

from pipeline.comparison.statistics.bootstrap import RESAMPLES, Difference
from pipeline.metrics.specs import is_constant, scale
from pipeline.reporting.formatting import MINUS

# With two seeds the t distribution has one degree of freedom, and scores of a small split coincide by chance.
FEWEST_SEEDS = 3

Values = Mapping[int, float | None]


@dataclass(frozen=True)
class Margin:
    """How far apart still counts as equivalent: `value` in units of the metric, `points` as a person says it."""

    value: float | None
    unit: float  # what is one point, or one percent, in units of the metric
    word: str

    def shown(self, number: float, signed: bool = True) -> str:
        """A difference in points or percent, with a decimal more than the margin has."""
        digits = max(1, 1 - math.floor(math.log10(self.value / self.unit) + 1e-9)) if self.value else 1
        text = f"{number / self.unit:{'+' if signed else ''}.{digits}f}"
        return text.replace("-", MINUS) if float(text) else f"{0:.{digits}f}"

    @property
    def text(self) -> str:
        """'1 point', '0.5 points', '1%'."""
        size = f"{self.value / self.unit:.4g}"
        return size + "%" if self.word == "%" else f"{size} point" + ("" if size == "1" else "s")


def margin_of(metric: str, margin: float, reference: float | None) -> Margin:
    """The recipe's margin for a metric; relative to `reference`, the first variant's mean, where it has no scale."""
    size = scale(metric)
    if size is not None:
        return Margin(margin * size, size / 100, "points")
    usable = reference is not None and math.isfinite(reference) and reference != 0
    return Margin(margin * abs(reference), abs(reference) / 100, "%") if usable else Margin(None, 1.0, "")


def summary(values: Values) -> dict[str, Any]:
    """Mean over seeds, standard deviation and 95% t interval; undefined values count as none."""
    known = np.array([value for value in values.values() if value is not None and math.isfinite(value)])
    found: dict[str, Any] = {"n": len(known), "mean": None, "sd": None, "low": None, "high": None}
    if len(known):
        found["mean"] = float(known.mean())
    if len(known) > 1:
        found["sd"] = float(known.std(ddof=1))
        found["low"], found["high"] = interval(known, 0.05)
    return found | {"values": {str(seed): value for seed, value in values.items()}}


def interval(values: np.ndarray, alpha: float) -> tuple[float, float]:
    """Student's t interval of the mean; the mean twice where nothing varies."""
    if np.ptp(values) <= 1e-12 * max(1.0, np.abs(values).max()):
        return float(values.mean()), float(values.mean())
    low, high = DescrStatsW(values).tconfint_mean(alpha)
    return float(low), float(high)


def compare_metric(
    metric: str, pair: tuple[str, str], first: list[float], second: list[float], margin: Margin,
    example_difference: Difference | None, num_examples: int, same_predictions: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """All that is said of a metric of two variants; `first` and `second` have a value for each shared seed.

    `same_predictions` says that each example was predicted alike in every seed.
    """
    finite = [(a, b) for a, b in zip(first, second, strict=True) if _is_number(a) and _is_number(b)]
    a, b = np.array(finite, dtype=np.float64).reshape(-1, 2).T
    seeds = {"n": len(a), "mean_difference": float((a - b).mean()) if len(a) else None, "low": None, "high": None}
    if len(a) > 1:
        seeds["low"], seeds["high"] = interval(a - b, 0.05)
    tested = equivalence(a, b, margin.value, example_difference)
    if len(a) < len(first):  # undefined in some seed
        tested["equivalent"] = None
    bootstrap = None
    if example_difference is not None:
        low, high = example_difference.interval(0.95)
        bootstrap = {"difference": example_difference.value, "low": low, "high": high}
        bootstrap |= {"resamples": RESAMPLES, "n_examples": num_examples}
    if is_constant(metric) and len(a) and np.array_equal(a, b):
        tested["equivalent"] = True
    found = {"seeds": seeds, "equivalence": tested, "bootstrap": bootstrap}
    alike = None
    if len(a) == len(first) and np.array_equal(a, b):
        alike = "the predictions are the same" if same_predictions else "no difference in any seed"
    return found | {"verdict": verdict(metric, pair, found, margin, len(first) - len(a), alike)}


def equivalence(a: np.ndarray, b: np.ndarray, margin: float | None, examples: Difference | None) -> dict[str, Any]:
    """Two one-sided paired t tests at 5% (Schuirmann 1987), which is the 90% interval inside the margin.

    With one seed the interval is the bootstrap's over examples; below FEWEST_SEEDS nothing is concluded.
    """
    found: dict[str, Any] = {"margin": margin, "low": None, "high": None, "p": None, "equivalent": None}
    if len(a) > 1:
        found["low"], found["high"] = interval(a - b, 0.1)
        if margin is not None:
            varies = found["low"] < found["high"]
            inside = -margin < found["low"] and found["high"] < margin
            found["p"] = float(ttost_paired(a, b, -margin, margin)[0]) if varies else 1.0 - inside
            found["equivalent"] = bool(found["p"] < 0.05) if len(a) >= FEWEST_SEEDS else None
        return found | {"basis": "seeds"}
    if examples is not None:
        found["low"], found["high"] = examples.interval(0.9)
        return found | {"basis": "examples"}
    return found | {"basis": None}


def verdict(
    metric: str, pair: tuple[str, str], found: dict[str, Any], margin: Margin, undefined: int, alike: str | None = None
) -> dict[str, str]:
    """A state and a sentence that claims no more than the numbers bear; `alike` is said in place of zeros."""
    seeds, tested, bootstrap = found["seeds"], found["equivalence"], found["bootstrap"]
    num = seeds["n"] + undefined
    if is_constant(metric) and tested["equivalent"]:
        return _said("good", "the same: a figure of the data, which no model changes")
    if undefined or not num or margin.value is None:
        why = f"undefined in {undefined} of {_count(num, 'seed')}" if num else "no seed was completed by both"
        return _said("unknown", f"not shown to be equivalent: {why if undefined or not num else 'no margin of a zero'}")
    if num < FEWEST_SEEDS:
        sentence = f"not shown to be equivalent: {_count(num, 'seed')} {'is' if num == 1 else 'are'} too few"
        return _said("unknown", f"{sentence} ({alike or 'difference ' + _difference(seeds, bootstrap, margin)})")
    ninety = f"90% interval {margin.shown(tested['low'])} to {margin.shown(tested['high'])}"
    over = f"over {_count(num, 'seed')}"
    if tested["equivalent"]:
        sentence = f"equivalent within {margin.text} {over} ({alike or ninety})"
        if bootstrap and not -margin.value <= bootstrap["low"] <= bootstrap["high"] <= margin.value:
            sentence += f"; on other examples it could be {_range(bootstrap, margin)}"
        return _said("good", sentence)
    apart = seeds["low"] > 0 or seeds["high"] < 0
    if apart and (bootstrap is None or bootstrap["low"] > 0 or bootstrap["high"] < 0):
        higher = pair[0] if seeds["low"] > 0 else pair[1]
        size = margin.shown(abs(seeds["mean_difference"]), signed=False) + _unit(margin)
        return _said("bad", f"different: {higher} is higher by {size} (95% interval {_range(seeds, margin)} {over})")
    return _said("unknown", f"not shown to be equivalent within {margin.text} {over}: {ninety}{_unit(margin)}")


def agreement(pairs: Iterable[tuple[list[Any], list[Any], list[Any]]]) -> dict[str, Any] | None:
    """Of classifications, (first, second, truth) for each seed: agreement, Cohen's kappa, McNemar's exact test.

    Counts are over all seeds together. Examples return with each seed, so they are no independent trials: McNemar's p
    is the smallest of the seeds' times their number (Bonferroni).
    """
    cells, rights, p_values = [], np.zeros((2, 2), int), []
    for answers in pairs:
        right = np.zeros((2, 2), int)  # whether the first, and the second, is wrong
        for a, b, truth in zip(*(map(_key, column) for column in answers), strict=True):
            cells.append((a, b))
            right[int(a != truth), int(b != truth)] += 1
        rights += right
        p_values.append(float(mcnemar(right, exact=True).pvalue))
    if not cells:
        return None
    names = {name: i for i, name in enumerate(dict.fromkeys(name for cell in cells for name in cell))}
    counts = np.zeros((len(names), len(names)), int)
    for a, b in cells:
        counts[names[a], names[b]] += 1
    return {
        "n": len(cells),
        "agree": float(np.trace(counts) / len(cells)),
        # Where all predictions are one class, chance explains everything and kappa is 0 / 0.
        "kappa": float(cohens_kappa(counts).kappa) if len(names) > 1 else None,
        "mcnemar_p": min(1.0, len(p_values) * min(p_values)),
        "first_only_right": int(rights[0, 1]),
        "second_only_right": int(rights[1, 0]),
    }


def _difference(seeds: dict, bootstrap: dict | None, margin: Margin) -> str:
    text = margin.shown(seeds["mean_difference"]) + _unit(margin)
    return text + (f", 95% interval over examples {_range(bootstrap, margin)}" if bootstrap else "")


def _range(found: dict, margin: Margin) -> str:
    return f"{margin.shown(found['low'])} to {margin.shown(found['high'])}"


def _unit(margin: Margin) -> str:
    return "%" if margin.word == "%" else " points"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _said(state: str, sentence: str) -> dict[str, str]:
    return {"state": state, "sentence": sentence}


def _key(prediction: Any) -> Any:
    """A set of labels is one answer, whatever their order."""
    return tuple(sorted(prediction)) if isinstance(prediction, list) else prediction


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
