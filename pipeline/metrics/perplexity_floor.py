"""The lowest perplexity that is possible, where the text's true distribution is known.

exp of the true mean -log p of a token in nats: what a perfect model would score.
"""

from __future__ import annotations

import evaluate

from pipeline.metrics._language import exponential, info, mean


class Metric(evaluate.Metric):
    """The lowest perplexity that is possible, where the text's true distribution is known."""

    def _info(self) -> evaluate.MetricInfo:
        return info(
            self.__doc__,
            "Cover and Thomas 2006, Elements of Information Theory, theorem 5.4.3: entropy bounds cross-entropy",
            "floor_nats",
            "tokens",
            "-log p of an example",
        )

    def _compute(self, floor_nats: list[float], tokens: list[int]) -> dict[str, float]:
        return {"perplexity_floor": exponential(mean(floor_nats, tokens))}
