"""chrF2 of the whole set: shared runs of 1 to 6 characters, 0 to 100, by sacrebleu's defaults.

Signature: nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.6.0. An F-measure that gives recall twice the
weight. Of several references the best one counts.
"""

from __future__ import annotations

import evaluate
from sacrebleu.metrics import CHRF

from pipeline.metrics._text import info, streams


class Metric(evaluate.Metric):
    """chrF2 of the whole set: shared runs of 1 to 6 characters, 0 to 100, by sacrebleu's defaults."""

    def _info(self) -> evaluate.MetricInfo:
        return info(self.__doc__, "Popović 2015, chrF: character n-gram F-score for automatic MT evaluation")

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        return {"chrf": float(CHRF().corpus_score(predictions, streams(references)).score)}
