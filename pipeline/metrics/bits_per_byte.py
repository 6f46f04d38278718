"""The mean loss of a byte of UTF-8 text in bits: comparable between tokenisers."""

from __future__ import annotations

import math

import evaluate

from pipeline.metrics._language import info, mean


class Metric(evaluate.Metric):
    """The mean loss of a byte of UTF-8 text in bits: comparable between tokenisers."""

    def _info(self) -> evaluate.MetricInfo:
        return info(self.__doc__, "Gao et al. 2020, The Pile, section 3.1", "loss_sums", "bytes", "nats of an example")

    def _compute(self, loss_sums: list[float], bytes: list[int]) -> dict[str, float]:
        return {"bits_per_byte": mean(loss_sums, bytes) / math.log(2)}
