"""Language models: how unequal the losses of examples are, and which positions or tokens are hard."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import cast

import numpy as np

from pipeline.comparison.records.predictions import FrequencyScore, PositionLoss, TokenDetails
from pipeline.metrics.resampling import Lines, column, lists_of_texts

LOSS_PERCENTILES = (5, 25, 50, 75, 95)
# How often a token is hidden: the lowest and the highest number of each band.
FREQUENCY_BANDS = ((1, 1), (2, 4), (5, 16), (17, 64), (65, None))


def token_details(runs: Sequence[Lines]) -> TokenDetails | None:
    """Losses by example, by position, and hidden tokens by frequency; `runs` are the lines of each seed.

    None if no example has a token.
    """
    lines = [line for of_run in runs for line in of_run]
    loss_N, tokens_N = column(lines, "loss_sum"), column(lines, "tokens")
    means = loss_N[tokens_N > 0] / tokens_N[tokens_N > 0]
    means = means[np.isfinite(means)]
    if not len(means):
        return None
    return TokenDetails(
        percentiles=np.percentile(means, LOSS_PERCENTILES).tolist(),
        positions=_by_position(lines),
        frequencies=_by_frequency(runs) if "prediction" in lines[0] else [],
    )


def _by_position(lines: Lines) -> list[PositionLoss]:
    """The mean loss at positions 1, 2, 3 to 4, 5 to 8 and so on; empty if the lines do not have it."""
    if not all("position_losses" in line for line in lines):
        return []
    sums: dict[int, float] = defaultdict(float)
    counts: Counter[int] = Counter()
    for line in lines:
        length, losses = cast(int, line["tokens"]), cast(list[float | None], line["position_losses"])
        for band, loss in enumerate(losses):
            if loss is None:  # a model that diverged
                continue
            first, last = _positions(band)
            sums[band] += loss
            counts[band] += max(0, min(last, length) - first + 1)
    found = []
    for band in sorted(counts):
        first, last = _positions(band)
        if counts[band]:
            found.append(PositionLoss(first=first, last=last, tokens=counts[band], loss=sums[band] / counts[band]))
    return found


def _positions(band: int) -> tuple[int, int]:
    """The first and the last position of a band, from 1."""
    return (1, 1) if band == 0 else (2 ** (band - 1) + 1, 2**band)


def _by_frequency(runs: Sequence[Lines]) -> list[FrequencyScore]:
    """How many hidden tokens are right, by how often they are hidden in the split; rare ones first."""
    tokens: Counter[int] = Counter()
    right: Counter[int] = Counter()
    for lines in runs:
        predicted, true = lists_of_texts(lines, "prediction"), lists_of_texts(lines, "reference")
        occurs = Counter(token for row in true for token in row)
        for ours, theirs in zip(predicted, true, strict=True):
            for one, other in zip(ours, theirs, strict=True):
                band = _band(occurs[other])
                tokens[band] += 1
                right[band] += one == other
    return [
        FrequencyScore(low=low, high=high, tokens=tokens[band], right=right[band])
        for band, (low, high) in enumerate(FREQUENCY_BANDS)
        if tokens[band]
    ]


def _band(number: int) -> int:
    return next(i for i, (_, high) in enumerate(FREQUENCY_BANDS) if high is None or number <= high)
