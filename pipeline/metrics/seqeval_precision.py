"""Precision of whole entities: right of predicted ones, 0 to 1; seqeval_precision.TYPE for each entity type."""

from __future__ import annotations

import evaluate

from pipeline.metrics._seqeval import Tags, info, values


class Metric(evaluate.Metric):
    """Precision of whole entities: right of predicted ones, 0 to 1; seqeval_precision.TYPE for each entity type."""

    def _info(self) -> evaluate.MetricInfo:
        return info(self.__doc__)

    def _compute(self, predictions: Tags, references: Tags) -> dict[str, float]:
        return values("seqeval_precision", predictions, references)
