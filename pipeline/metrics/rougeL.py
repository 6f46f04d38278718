"""ROUGE-L: the F-measure of the longest common subsequence of words, stemmed, 0 to 1.

The text is one sequence. Papers on CNN/DailyMail mostly report ROUGE-Lsum, which takes each sentence alone and is
higher.
"""

from __future__ import annotations

import evaluate

from pipeline.metrics._rouge import CITATION, mean_f
from pipeline.metrics._text import info


class Metric(evaluate.Metric):
    """ROUGE-L: the F-measure of the longest common subsequence of words, stemmed, 0 to 1."""

    def _info(self) -> evaluate.MetricInfo:
        return info(self.__doc__, CITATION)

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        return {"rougeL": mean_f("rougeL", predictions, references)}
