"""exp of the mean loss of a token in nats, 1 or more; infinite where that overflows.

It depends on the tokeniser, so only models with the same one compare; bits_per_byte has no such bound.
"""

from __future__ import annotations

import evaluate

from pipeline.metrics._language import exponential, info, mean


class Metric(evaluate.Metric):
    """exp of the mean loss of a token in nats, 1 or more; infinite where that overflows."""

    def _info(self) -> evaluate.MetricInfo:
        return info(
            self.__doc__,
            "Jelinek et al. 1977, Perplexity: a measure of the difficulty of speech recognition tasks",
            "loss_sums",
            "tokens",
            "nats of an example",
        )

    def _compute(self, loss_sums: list[float], tokens: list[int]) -> dict[str, float]:
        return {"perplexity": exponential(mean(loss_sums, tokens))}
