"""Where the time of a run goes, from its launch to its last step, in parts that add up to the first screen's total."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from pipeline.comparison.results import Results


@dataclass(frozen=True)
class TimeParts:
    """Seconds of one run, or the mean of two; evaluation and saving are in none of them."""

    before_first_batch: float
    """Python and its imports, which PyTorch and TensorFlow do at different places; data, model and checks."""
    first_step: float
    other_steps: float

    @property
    def in_order(self) -> tuple[float, float, float]:
        """The parts in the order in which they pass."""
        return self.before_first_batch, self.first_step, self.other_steps

    @property
    def total(self) -> float:
        """From the launch to the last step."""
        return sum(self.in_order)


def time_parts(results: Results) -> dict[str, TimeParts]:
    """By variant, of the run whose total is the median, or the mean of the two runs in the middle.

    Medians of the parts would not add up. Variants are left out if a run of theirs did not record its launch.
    """
    by_variant: dict[str, list[TimeParts | None]] = defaultdict(list)
    for run in results.runs:
        if run.train is None or run.environment is None:
            continue
        launch, first = run.environment.launch_seconds, run.train.first_step_seconds
        parts = None if launch is None else TimeParts(launch, first, run.train.seconds - first)
        by_variant[run.variant].append(parts)
    return {name: _middle([each for each in parts if each]) for name, parts in by_variant.items() if all(parts)}


def _middle(runs: list[TimeParts]) -> TimeParts:
    ordered = sorted(runs, key=lambda parts: parts.total)
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return TimeParts(
        (low.before_first_batch + high.before_first_batch) / 2,
        (low.first_step + high.first_step) / 2,
        (low.other_steps + high.other_steps) / 2,
    )
