"""How a report writes numbers and values: the same in HTML, in Markdown and in the figures."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Iterable, Sequence

from pipeline.comparison.records.scores import Margin, PairComparison

UNDEFINED = "–"
MINUS = "\N{MINUS SIGN}"
FRAMEWORK_NAMES = {"torch": "PyTorch", "tensorflow": "TensorFlow"}


def value(content: object) -> str:
    """A prediction, label or setting as a person would write it; tags in a row, an empty list as (none)."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(each, str) for each in content):
        return " ".join(content) or "(none)"
    return UNDEFINED if content is None else json.dumps(content, ensure_ascii=False)


def score(number: float | None, scale: int | None, signed: bool = False) -> str:
    """A metric: four decimals of 1, two of 100, and four significant figures if it has no scale."""
    if number is None:
        return UNDEFINED
    if scale is None:
        digits = f"{number:,.0f}" if abs(number) >= 10_000 else f"{number:.4g}"
        digits = f"{number:.4f}" if "e" in digits and abs(number) < 1 else digits
    else:
        digits = f"{number:.2f}" if scale == 100 else f"{number:.4f}"
    if not float(digits.replace(",", "")):
        return digits.lstrip("-")  # what rounds to zero has no sign
    return ("+" if signed and number > 0 else "") + digits.replace("-", MINUS)


def interval(low: float | None, high: float | None, scale: int | None, signed: bool = False) -> str:
    """'0.8981 to 0.9153'."""
    if low is None or high is None:
        return UNDEFINED
    return f"{score(low, scale, signed)} to {score(high, scale, signed)}"


def small(number: float | None) -> str:
    """A difference as small as rounding: 3.0e-08; 0 if there is none."""
    if number is None:
        return UNDEFINED
    return "0" if number == 0 else f"{number:.1e}"


def probability(p: float | None) -> str:
    """A p value to three decimals."""
    if p is None:
        return UNDEFINED
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def measured(number: float | None, unit: str) -> tuple[str, str]:
    """A cost with three figures, and its unit; bytes become MiB."""
    if unit == "bytes":
        number, unit = None if number is None else number / 2**20, "MiB"
    if number is None:
        return UNDEFINED, unit
    return (f"{number:,.0f}" if number >= 100 else f"{number:.1f}" if number >= 10 else f"{number:.2f}"), unit


def measured_range(low: float | None, high: float | None, unit: str) -> str:
    """'15.5 to 19.6', with the figures of `measured` and no unit; empty if both are written alike or unknown."""
    if low is None or high is None:
        return ""
    least, most = (measured(number, unit)[0] for number in (low, high))
    return "" if least == most else f"{least} to {most}"


def seconds_of_parts(parts: Sequence[float]) -> list[str]:
    """Parts of a time with one decimal, rounded so that they add up to their rounded sum."""
    ends = [round(sum(parts[: number + 1]), 1) for number in range(len(parts))]
    return [f"{end - begin:,.1f}" for begin, end in zip([0.0, *ends], ends, strict=False)]


def ratio(number: float | None) -> str:
    """'1.94 ×'."""
    return UNDEFINED if number is None else f"{number:.2f} ×"


def date(created: str) -> str:
    """'24 November 2026, 06:40 UTC'; a text that is not an ISO time stays as it is."""
    try:
        moment = datetime.datetime.fromisoformat(created)
    except (TypeError, ValueError):
        return str(created)
    zone = f" {moment.tzname()}" if moment.tzinfo else ""
    return f"{moment.day} {moment:%B %Y, %H:%M}{zone}"


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


def difference_interval(low: float | None, high: float | None, margin: Margin) -> str:
    """'−0.2 to +0.4', in points or percent."""
    return f"{difference_text(low or 0.0, margin)} to {difference_text(high or 0.0, margin)}"


def unit_after(margin: Margin) -> str:
    """What follows a number in the margin's unit: ' points' or '%'."""
    return "%" if margin.unit == "percent" else " points"


def spread(numbers: Sequence[float], form: str) -> str:
    """'98.3% to 99.1%', or the one number if both are written alike."""
    low, high = format(min(numbers), form), format(max(numbers), form)
    return low if low == high else f"{low} to {high}"


def largest(numbers: Iterable[float | None]) -> str:
    """The largest number; one that is undefined is larger than all."""
    known = list(numbers)
    return "an undefined amount" if None in known else f"{max(number for number in known if number is not None):.2g}"


def pair_name(pair: PairComparison) -> str:
    """'torch/stock − tensorflow/stock': the order is that of the subtraction."""
    return f"{pair.first} {MINUS} {pair.second}"


def maximum(numbers: Iterable[float | None]) -> float | None:
    """The largest number that is defined; None if none is."""
    return max((number for number in numbers if number is not None), default=None)
