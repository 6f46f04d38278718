"""The bootstrap over examples: its intervals cover what they claim to."""

import time

import numpy as np
import pytest

from pipeline.comparison.statistics.bootstrap import Difference, difference, resample
from pipeline.metrics.scoring import statistic_for
from pipeline.metrics.specs import metrics_for
from tests.helpers.metric_examples import LABELS, MAKERS, NUM_EXAMPLES


def test_resampled_accuracies_have_the_spread_of_the_binomial():
    lines = [{"prediction": "good" if i % 5 else "bad", "reference": "good", "score": 1.0} for i in range(500)]
    (values,) = resample([statistic_for("accuracy", lines, LABELS)], 500)
    assert values.shape == (10_000,)
    assert values.mean() == pytest.approx(0.8, abs=1e-3)
    assert values.std() == pytest.approx((0.8 * 0.2 / 500) ** 0.5, rel=0.03)


def test_the_interval_of_a_difference_covers_the_truth_nineteen_times_of_twenty():
    rng, covered, trials = np.random.default_rng(5), 0, 300
    for _ in range(trials):
        truth = rng.random(200)
        first, second = truth < 0.8, np.where(rng.random(200) < 0.5, truth < 0.7, rng.random(200) < 0.7)
        columns = [flags.astype(float) for flags in (first, second)]
        runs = [lambda counts, c=c: counts @ c / counts.sum(axis=1) for c in columns]
        a, b = resample(runs, 200, resamples=400)
        low, high = difference([(columns[0].mean(), a)], [(columns[1].mean(), b)]).interval(0.95)
        covered += low <= 0.1 <= high
    assert 0.91 <= covered / trials <= 0.98


def test_a_difference_that_is_often_undefined_is_none():
    half = np.array([0.1, np.nan] * 50)
    assert difference([(0.1, half)], [(0.0, np.zeros(100))]) is None
    assert difference([(np.inf, np.zeros(100))], [(0.0, np.zeros(100))]) is None
    found = difference([(1.0, np.full(100, 1.0)), (3.0, np.full(100, 3.0))], [(0.0, np.zeros(100))] * 2)
    assert found.value == 2.0
    assert found.interval(0.9) == (2.0, 2.0)
    assert isinstance(found, Difference)


def test_three_thousand_examples_take_seconds():
    statistics = []
    for outcome, makers in MAKERS.items():
        for maker in makers:
            made = maker(np.random.default_rng(2))
            of_each = [statistic_for(name, made.lines * 50, made.labels) for name in metrics_for((outcome,))]
            statistics += [statistic for statistic in of_each if statistic is not None]
    begun = time.process_time()
    resample(statistics, 50 * NUM_EXAMPLES, resamples=1000)  # a tenth of what a report takes
    assert time.process_time() - begun < 5
