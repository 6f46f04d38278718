"""Records of what the runs cost: time, speed and memory, of each variant and of two, and the machines."""

from __future__ import annotations

from typing import Literal

from pipeline.comparison.records.base import Number, Record


class CostSummary(Record):
    """A cost of one variant over its runs."""

    median: Number
    low: Number
    high: Number
    ratio: Number
    """The median divided by the first variant's."""


class Cost(Record):
    """A cost of every variant."""

    name: str
    unit: str
    higher_is_better: bool
    variants: dict[str, CostSummary]


class CostPair(Record):
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


class CostComparison(Record):
    """A cost, pair by pair: frameworks with the same attention first, then attentions in the same framework."""

    cost: str
    """The name of the cost."""
    higher_is_better: bool
    is_same_machine: bool
    pairs: list[CostPair]
    """Empty if there are not two variants with this cost."""


class BreakEven(Record):
    """In how long a training the variant that is faster after the first step makes up for its later start."""

    first: str
    second: str
    faster: str
    """The variant that is faster after the first step."""
    examples: float
    """From so many training examples on it takes less time in all; 0 if it does from the beginning."""
    examples_of_run: float
    """How many there were in these runs."""


class Machine(Record):
    """A machine with the runs made on it."""

    runs: list[str]
    processor: str | None
    cores: int | None
    threads: dict[str, str]
    """By framework."""
    platform: str | None
    versions: dict[str, list[str]]
    """Of each package; more than one if the runs had several."""
