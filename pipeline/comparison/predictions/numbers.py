"""Predicted numbers: whether small and large ones are predicted alike well."""

from __future__ import annotations

import numpy as np

from pipeline.comparison.records.predictions import NumberBand, NumberDetails
from pipeline.metrics.resampling import Lines, finite_numbers

NUM_BANDS = 5


def number_details(lines: Lines) -> NumberDetails | None:
    """Errors of the smallest fifth of true numbers to the largest; None if a prediction is not finite."""
    found = finite_numbers(lines)
    if found is None:
        return None
    predicted_N, true_N = found
    order = np.argsort(true_N, kind="stable")
    bands = [
        NumberBand(
            low=float(true_N[part].min()),
            high=float(true_N[part].max()),
            count=len(part),
            true=float(true_N[part].mean()),
            predicted=float(predicted_N[part].mean()),
            error=float(np.abs(predicted_N[part] - true_N[part]).mean()),
        )
        for part in np.array_split(order, NUM_BANDS)
        if len(part)
    ]
    distance_N = predicted_N - true_N
    return NumberDetails(bands=bands, bias=float(distance_N.mean()), error=float(np.abs(distance_N).mean()))
