"""How many seeds an equivalence test needs: the power of two one-sided paired t tests."""

from __future__ import annotations

import numpy as np
from scipy import stats

# A test is planned so that it shows what is true four times out of five. Source: Cohen 1988.
POWER = 0.8
MOST_SEEDS = 1000
_QUANTILES = (np.arange(2000) + 0.5) / 2000


def equivalence_power(num_seeds: int, deviation: float, margin: float, alpha: float = 0.05) -> float:
    """The probability that two one-sided paired t tests at `alpha` show equivalence, if the means are equal.

    `deviation` is the standard deviation of the differences over seeds, in the units of `margin`. The mean and the
    variance of a sample are independent, so this averages, over the variance's distribution, the probability that the
    mean lies where both tests reject. Source: Phillips 1990, by integration instead of tables.
    """
    if not deviation:
        return 1.0
    degrees = num_seeds - 1
    sample_deviations = deviation * np.sqrt(stats.chi2.ppf(_QUANTILES, degrees) / degrees)
    standard_error = deviation / np.sqrt(num_seeds)
    critical = stats.t.ppf(1 - alpha, degrees) * sample_deviations / np.sqrt(num_seeds)
    room = np.maximum(margin - critical, 0.0)
    return float(np.mean(2 * stats.norm.cdf(room / standard_error) - 1))


def seeds_needed(deviation: float, margin: float, alpha: float = 0.05) -> int | None:
    """The fewest seeds with which equivalence is shown with the probability POWER; None if MOST_SEEDS are too few."""
    fewest, most = 1, MOST_SEEDS
    if equivalence_power(most, deviation, margin, alpha) < POWER:
        return None
    while most - fewest > 1:
        middle = (fewest + most) // 2
        if equivalence_power(middle, deviation, margin, alpha) < POWER:
            fewest = middle
        else:
            most = middle
    return most
