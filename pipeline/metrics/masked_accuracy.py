"""The share of masked tokens whose most probable filling is the true one, 0 to 1."""

from __future__ import annotations

import evaluate

from pipeline.metrics._language import info, mean


class Metric(evaluate.Metric):
    """The share of masked tokens whose most probable filling is the true one, 0 to 1."""

    def _info(self) -> evaluate.MetricInfo:
        return info(
            self.__doc__,
            "Devlin et al. 2018, section 3.1: the masked language model",
            "correct",
            "tokens",
            "masked tokens filled in right",
        )

    def _compute(self, correct: list[int], tokens: list[int]) -> dict[str, float]:
        return {"masked_accuracy": mean(correct, tokens)}
