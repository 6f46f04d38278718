"""Metrics of language models: sums over all tokens, divided once, so that a long example weighs as its tokens do."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pipeline.metrics.base import INTEGER, NUMBER, Inputs, Metric
from pipeline.metrics.resampling import Lines, Statistic, ratio


class Perplexity(Metric):
    """exp of the mean loss of a token in nats, 1 or more; infinite if that overflows.

    It depends on the tokenizer, so only models with the same one can be compared; bits_per_byte does not.
    """

    source = "Jelinek et al. 1977, Perplexity: a measure of the difficulty of speech recognition tasks"
    inputs = Inputs("loss_sums: nats of an example; tokens: how many", ({"loss_sums": NUMBER, "tokens": INTEGER},))

    def _compute(self, loss_sums: list[float], tokens: list[int]) -> dict[str, float]:
        return {"perplexity": _exponential(_pooled_mean(loss_sums, tokens))}

    @classmethod
    def statistic(cls, lines: Lines, labels: Sequence[str]) -> Statistic | None:
        """From the nats and tokens of each example."""
        return ratio(lines, "loss_sum", "tokens", np.exp)


class PerplexityFloor(Metric):
    """The lowest perplexity that is possible, if the true distribution of the text is known.

    exp of the true mean -log p of a token in nats: the score of a perfect model.
    """

    source = "Cover and Thomas 2006, Elements of Information Theory, theorem 5.4.3: entropy bounds cross-entropy"
    inputs = Inputs("floor_nats: -log p of an example; tokens: how many", ({"floor_nats": NUMBER, "tokens": INTEGER},))

    def _compute(self, floor_nats: list[float], tokens: list[int]) -> dict[str, float]:
        return {"perplexity_floor": _exponential(_pooled_mean(floor_nats, tokens))}

    @classmethod
    def statistic(cls, lines: Lines, labels: Sequence[str]) -> Statistic | None:
        """From the true nats and the tokens of each example."""
        return ratio(lines, "floor", "tokens", np.exp)


class BitsPerByte(Metric):
    """The mean loss of a byte of UTF-8 text in bits, which can be compared between tokenizers."""

    source = "Gao et al. 2020, The Pile, section 3.1"
    inputs = Inputs("loss_sums: nats of an example; bytes: how many", ({"loss_sums": NUMBER, "bytes": INTEGER},))

    def _compute(self, loss_sums: list[float], bytes: list[int]) -> dict[str, float]:
        return {"bits_per_byte": _pooled_mean(loss_sums, bytes) / math.log(2)}

    @classmethod
    def statistic(cls, lines: Lines, labels: Sequence[str]) -> Statistic | None:
        """From the nats and bytes of each example."""
        return ratio(lines, "loss_sum", "bytes", lambda nats_R: nats_R / math.log(2))


class MaskedAccuracy(Metric):
    """The share of masked tokens whose most probable filling is the true one, 0 to 1."""

    source = "Devlin et al. 2018, section 3.1: the masked language model"
    inputs = Inputs(
        "correct: masked tokens filled in right; tokens: how many", ({"correct": INTEGER, "tokens": INTEGER},)
    )

    def _compute(self, correct: list[int], tokens: list[int]) -> dict[str, float]:
        return {"masked_accuracy": _pooled_mean(correct, tokens)}

    @classmethod
    def statistic(cls, lines: Lines, labels: Sequence[str]) -> Statistic | None:
        """From the right and all masked tokens of each example."""
        return ratio(lines, "correct", "tokens")


def _pooled_mean(totals: Sequence[float], counts: Sequence[int]) -> float:
    assert sum(counts) > 0, "nothing was counted"
    return math.fsum(totals) / sum(counts)


def _exponential(nats: float) -> float:
    """exp(nats), or infinity if that is more than a float holds (about 709 nats)."""
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf
