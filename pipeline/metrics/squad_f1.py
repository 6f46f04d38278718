"""The mean F1 of the words of answers and their nearest accepted ones, 0 to 100, after SQuAD's normalisation."""

from __future__ import annotations

import evaluate

from pipeline.metrics._squad import info, overlap, percentage


class Metric(evaluate.Metric):
    """The mean F1 of the words of answers and their nearest accepted ones, 0 to 100, after SQuAD's normalisation."""

    def _info(self) -> evaluate.MetricInfo:
        return info(self.__doc__)

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        return {"squad_f1": percentage(overlap, predictions, references)}
