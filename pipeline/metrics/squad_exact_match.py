"""The share of answers that equal an accepted one, 0 to 100, after SQuAD's normalisation."""

from __future__ import annotations

import evaluate

from pipeline.metrics._squad import exact, info, percentage


class Metric(evaluate.Metric):
    """The share of answers that equal an accepted one, 0 to 100, after SQuAD's normalisation."""

    def _info(self) -> evaluate.MetricInfo:
        return info(self.__doc__)

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        return {"squad_exact_match": percentage(exact, predictions, references)}
