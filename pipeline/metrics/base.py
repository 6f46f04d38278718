"""The base class of our metrics: an `evaluate.Metric` that works offline and describes itself by its docstring."""

from __future__ import annotations

import contextlib
import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import datasets

from pipeline.metrics.resampling import Lines, Statistic


@contextlib.contextmanager
def _without_pipelines_of_transformers() -> Iterator[None]:
    """Keep `evaluate` from importing transformers' pipelines for its evaluator: they would import both frameworks."""
    if "evaluate" in sys.modules or "transformers.pipelines" in sys.modules:
        yield
        return
    sys.modules["transformers.pipelines"] = None  # type: ignore[assignment]  # its import fails, which evaluate allows
    try:
        yield
    finally:
        del sys.modules["transformers.pipelines"]


with _without_pipelines_of_transformers():
    import evaluate

INTEGER = datasets.Value("int64")
NUMBER = datasets.Value("float64")
TEXT = datasets.Value("string")
Columns = Mapping[str, datasets.Value | datasets.List]


@dataclass(frozen=True)
class Inputs:
    """The columns that a metric reads: a description, and their types.

    A metric may accept columns of several types; the first example decides. The names are the same in each.
    """

    description: str
    types: tuple[Columns, ...]

    def features(self) -> datasets.Features | list[datasets.Features]:
        """The types as `evaluate` takes them."""
        features = [datasets.Features(dict(columns)) for columns in self.types]
        return features if len(features) > 1 else features[0]


class Metric(evaluate.Metric, ABC):
    """An `evaluate.Metric` whose card consists of its docstring, `source` and `inputs`.

    A subclass defines `_compute(self, ...)`, which takes the columns by name and returns a dict from the metric's name
    to its value, and, if the comparison is to resample its examples, `statistic`.
    """

    source: ClassVar[str]
    inputs: ClassVar[Inputs]

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=inspect.getdoc(type(self)) or "",
            citation=self.source,
            inputs_description=self.inputs.description,
            features=self.inputs.features(),
        )

    def _build_data_dir(self) -> str:
        # What is kept in memory needs no folder; the library makes one in the home, which may be read-only.
        return "" if self.keep_in_memory else super()._build_data_dir()

    @abstractmethod
    def _compute(self, **columns: object) -> dict[str, float]: ...

    @classmethod
    def statistic(cls, lines: Lines, labels: Sequence[str]) -> Statistic | None:
        """The metric of resampled examples; None if predictions.jsonl does not hold what it needs.

        `labels` are the class names in the order of the model, or none. A metric without a statistic is compared
        between seeds only.
        """
        return None

    @classmethod
    def part_statistic(cls, part: str, lines: Lines, labels: Sequence[str]) -> Statistic | None:
        """The same for a value of one part, recorded as "metric.part"."""
        return None
