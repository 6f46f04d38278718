"""ROUGE-1: the F-measure of shared words, stemmed, 0 to 1."""

from __future__ import annotations

import evaluate

from pipeline.metrics._rouge import CITATION, mean_f
from pipeline.metrics._text import info


class Metric(evaluate.Metric):
    """ROUGE-1: the F-measure of shared words, stemmed, 0 to 1."""

    def _info(self) -> evaluate.MetricInfo:
        return info(self.__doc__, CITATION)

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        return {"rouge1": mean_f("rouge1", predictions, references)}
