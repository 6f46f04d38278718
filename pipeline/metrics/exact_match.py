"""The share of texts that equal one of their references, 0 to 1; outer white space does not count."""

from __future__ import annotations

import evaluate

from pipeline.metrics._text import check, info


class Metric(evaluate.Metric):
    """The share of texts that equal one of their references, 0 to 1; outer white space does not count."""

    def _info(self) -> evaluate.MetricInfo:
        return info(self.__doc__, "Rajpurkar et al. 2016, section 6.1, here without their normalisation")

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        check(references)
        pairs = zip(predictions, references, strict=True)
        equal = [text.strip() in {reference.strip() for reference in texts} for text, texts in pairs]
        return {"exact_match": sum(equal) / len(equal)}
