"""BLEU of the whole set, 0 to 100, by sacrebleu's defaults.

Signature: nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0; nrefs:var where examples differ in the number of
references. The length penalty takes the reference that is nearest in length.
"""

from __future__ import annotations

import evaluate
from sacrebleu.metrics import BLEU

from pipeline.metrics._text import info, streams


class Metric(evaluate.Metric):
    """BLEU of the whole set, 0 to 100, by sacrebleu's defaults."""

    def _info(self) -> evaluate.MetricInfo:
        return info(self.__doc__, "Papineni et al. 2002; Post 2018, A call for clarity in reporting BLEU scores")

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        return {"sacrebleu": float(BLEU().corpus_score(predictions, streams(references)).score)}
