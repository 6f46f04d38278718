"""Statistics of scores: planted differences are found, planted equality is shown, too few seeds settle nothing."""

import math

import numpy as np
import pytest
from scipy import stats

from pipeline.comparison.statistics.agreement import agreement
from pipeline.comparison.statistics.bootstrap import Difference
from pipeline.comparison.statistics.equivalence import (
    compare_metric,
    equivalence,
    metric_margin,
    summarize,
    t_interval,
)
from pipeline.comparison.statistics.power import POWER, equivalence_power, seeds_needed
from pipeline.metrics.specs import ends, scale

PAIR = ("torch/stock", "tensorflow/stock")


def compare(first, second, metric="accuracy", margin=0.01, examples=None, same_predictions=False):
    """The comparison of two variants' scores, seed by seed."""
    known = [value for value in first if value is not None] or [math.nan]
    bounds = metric_margin(metric, margin, float(np.mean(known)))
    return compare_metric(metric, PAIR, first, second, bounds, examples, 200, same_predictions)


def over_examples(low, high, value=0.0):
    """A bootstrap difference whose resamples are spread evenly between two ends."""
    return Difference(value, np.linspace(low, high, 10_001))


def test_a_planted_equality_is_called_equivalent():
    comparison = compare([0.901, 0.909, 0.905], [0.902, 0.908, 0.905], examples=over_examples(-0.008, 0.008))
    assert comparison.equivalence.equivalent is True
    assert comparison.verdict.code == "equivalent"
    assert not comparison.verdict.depends_on_examples


def test_an_equality_that_depends_on_the_examples_is_marked():
    comparison = compare([0.901, 0.909, 0.905], [0.902, 0.908, 0.905], examples=over_examples(-0.032, 0.032))
    assert comparison.verdict.code == "equivalent"
    assert comparison.verdict.depends_on_examples


def test_a_planted_difference_is_called_different_with_the_higher_variant():
    high, low = [0.901, 0.905, 0.903], [0.86, 0.866, 0.862]
    comparison = compare(high, low, examples=over_examples(0.02, 0.06))
    assert comparison.equivalence.equivalent is False
    assert (comparison.verdict.code, comparison.verdict.higher) == ("different", "torch/stock")
    comparison = compare(low, high, examples=over_examples(-0.06, -0.02))
    assert (comparison.verdict.code, comparison.verdict.higher) == ("different", "tensorflow/stock")


def test_a_difference_that_other_examples_could_turn_is_inconclusive():
    comparison = compare([0.901, 0.905, 0.903], [0.86, 0.866, 0.862], examples=over_examples(-0.01, 0.09))
    assert comparison.verdict.code == "inconclusive"


def test_scores_that_scatter_are_inconclusive():
    comparison = compare([0.88, 0.93, 0.90], [0.91, 0.89, 0.92])
    assert comparison.equivalence.equivalent is False
    assert comparison.verdict.code == "inconclusive"


@pytest.mark.parametrize("seeds", [1, 2])
def test_too_few_seeds_settle_nothing_whatever_the_scores(seeds):
    first, second = [0.91, 0.9102][:seeds], [0.9101, 0.9102][:seeds]
    comparison = compare(first, second, examples=over_examples(-0.004, 0.004))
    assert comparison.equivalence.equivalent is None
    # Of two seeds there are only the points: an interval would be twelve deviations wide.
    assert comparison.equivalence.basis == ("examples" if seeds == 1 else None)
    assert (comparison.seeds.low, comparison.equivalence.low is None) == (None, seeds == 2)
    assert comparison.verdict.code == "too_few_seeds"


@pytest.mark.parametrize(
    ("first", "second", "code", "undefined"),
    [
        ([], [], "no_shared_seed", 0),
        ([0.9, None, 0.9], [0.9, 0.9, 0.9], "undefined", 1),
        ([0.9, 0.9, 0.9], [0.9, math.nan, 0.9], "undefined", 1),
        ([None], [0.9], "undefined", 1),
    ],
)
def test_scores_that_are_missing_or_undefined_settle_nothing(first, second, code, undefined):
    comparison = compare(first, second)
    assert comparison.equivalence.equivalent is None
    assert (comparison.verdict.code, comparison.verdict.undefined_seeds) == (code, undefined)


def test_a_relative_margin_of_zero_settles_nothing():
    assert compare([0.0, 0.0, 0.0], [0.0, 0.0, 0.0], metric="loss").verdict.code == "no_margin"


def test_identical_scores_are_marked_and_identical_predictions_too():
    scores = [0.9, 0.92, 0.91]
    assert compare(scores, scores).verdict.identical == "scores"
    assert compare(scores, scores, same_predictions=True).verdict.identical == "predictions"
    # The loss can differ although the predictions do not.
    other = compare([0.31, 0.29, 0.3], [0.33, 0.28, 0.3], metric="loss", same_predictions=True)
    assert other.verdict.identical is None


def test_the_interval_is_the_t_interval_computed_by_hand():
    # 1, 2, 4: mean 7/3, deviation sqrt(7/3); t with 2 degrees of freedom at 97.5% is 4.302653 (any table).
    low, high = t_interval(np.array([1.0, 2.0, 4.0]), 0.05)
    half = 4.302653 * math.sqrt(7 / 3) / math.sqrt(3)
    assert (low, high) == (pytest.approx(7 / 3 - half, abs=1e-5), pytest.approx(7 / 3 + half, abs=1e-5))
    summary = summarize({0: 1.0, 3: 2.0, 7: None, 8: 4.0})
    assert summary.n == 3
    assert summary.mean == pytest.approx(7 / 3)
    assert summary.sd == pytest.approx(math.sqrt(7 / 3))
    assert (summary.low, summary.high) == (low, high)
    assert summary.values == {0: 1.0, 3: 2.0, 7: None, 8: 4.0}


def test_an_interval_ends_where_the_range_of_the_metric_does():
    values = {0: 0.99, 1: 1.0, 2: 0.9}
    assert summarize(values).high > 1
    summary = summarize(values, ends("accuracy"))
    assert (summary.high, summary.low) == (1.0, summarize(values).low)
    assert summarize({0: 0.01, 1: 0.0, 2: 0.1}, ends("loss")).low == 0.0
    assert summarize({0: 0.01, 1: 0.0, 2: 0.1}, ends("matthews_correlation")).low < 0
    assert [ends(name) for name in ("sacrebleu", "seqeval_f1.person", "spearman", "mse", "of_the_hub")] == [
        (0, 100), (0, 1), (-1, 1), (0, math.inf), (-math.inf, math.inf),
    ]  # fmt: skip


def test_values_of_fewer_than_three_seeds_have_no_interval_and_equal_values_have_one_of_no_width():
    summary = summarize({0: 0.9})
    assert (summary.n, summary.mean, summary.sd, summary.low, summary.high) == (1, 0.9, None, None, None)
    summary = summarize({0: 0.9, 1: 0.8})
    assert (summary.n, summary.low, summary.high) == (2, None, None) and summary.sd == pytest.approx(math.sqrt(0.005))
    assert t_interval(np.array([0.1 + 0.2, 0.3, 0.3]), 0.05) == (pytest.approx(0.3), pytest.approx(0.3))


def test_the_difference_is_paired_over_seeds_as_scipy_has_it():
    first, second = [0.71, 0.92, 0.83, 0.64], [0.70, 0.90, 0.82, 0.65]
    seeds = compare(first, second).seeds
    expected = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert seeds.n == 4
    assert seeds.mean_difference == pytest.approx(0.0075)
    assert (seeds.low, seeds.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    # The seeds' own scatter, 15 times as large, must not widen it.
    assert seeds.high - seeds.low < 0.05


@pytest.mark.parametrize("turned", [False, True])
def test_the_equivalence_test_is_the_larger_of_two_one_sided_tests(turned):
    first, second, margin = np.array([0.71, 0.92, 0.83, 0.64]), np.array([0.70, 0.90, 0.82, 0.65]), 0.03
    if turned:  # either side is the larger once
        first, second = second, first
    tested = equivalence(first, second, margin, None)
    differences = first - second
    above = stats.ttest_1samp(differences, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(differences, margin, alternative="less").pvalue
    assert tested.p == pytest.approx(max(above, below))
    ninety = stats.ttest_rel(first, second).confidence_interval(0.9)
    assert (tested.low, tested.high) == (pytest.approx(ninety.low), pytest.approx(ninety.high))


@pytest.mark.parametrize("margin", [0.02, 0.021, 0.0225, 0.0227, 0.03])
def test_equivalent_is_the_same_as_the_90_percent_interval_inside_the_margin(margin):
    # Differences 0.01, 0.02, 0.01, -0.01: mean 0.0075, deviation 0.012583; the interval ends at 0.022306.
    first, second = np.array([0.71, 0.92, 0.83, 0.64]), np.array([0.70, 0.90, 0.82, 0.65])
    assert equivalence(first, second, margin, None).equivalent is (margin > 0.022306)


def test_differences_that_do_not_vary_are_judged_by_their_size():
    ones = np.array([0.5, 0.25, 0.75])
    for difference, equivalent, p in ((0.0, True, 0.0), (0.0078125, True, 0.0), (0.015625, False, 1.0)):
        tested = equivalence(ones + difference, ones, 0.01, None)
        assert (tested.equivalent, tested.p) == (equivalent, p)
        assert tested.low == tested.high == difference


@pytest.mark.slow
def test_at_the_edge_of_the_margin_equivalence_is_claimed_in_five_of_a_hundred_at_most():
    rng = np.random.default_rng(11)
    trials, margin = 600, 0.01
    for seeds, deviation in ((3, 0.001), (5, 0.004)):
        shared = rng.normal(0.9, 0.02, (trials, seeds))
        noise = rng.normal(0.0, deviation, (trials, seeds))
        claims = sum(
            bool(equivalence(a + margin + e, a, margin, None).equivalent) for a, e in zip(shared, noise, strict=True)
        )
        # Three standard errors of a share of 5% in 600 trials are 2.7%.
        assert abs(claims / trials - 0.05) <= 0.027
        close = [
            equivalence(a + e, a, margin, None).equivalent for a, e in zip(shared[:100], noise[:100] / 10, strict=True)
        ]
        assert np.mean(close) > 0.9


def test_a_margin_is_absolute_for_scores_with_a_scale_and_relative_for_others():
    assert [scale(name) for name in ("accuracy", "seqeval_f1.person")] == [1, 1]
    assert [scale(name) for name in ("squad_f1", "sacrebleu")] == [100, 100]
    assert [scale(name) for name in ("loss", "perplexity", "mse")] == [None, None, None]
    percent = metric_margin("accuracy", 0.01, 0.5)
    assert (percent.value, percent.unit, percent.unit_size) == (0.01, "points", 0.01)
    of_100 = metric_margin("squad_f1", 0.005, 50)
    assert (of_100.value, of_100.unit, of_100.unit_size) == (0.5, "points", 1)
    relative = metric_margin("perplexity", 0.01, 2.2)
    assert (relative.value, relative.unit) == (pytest.approx(0.022), "percent")
    assert relative.unit_size == pytest.approx(0.022)
    assert metric_margin("loss", 0.01, 0.0).value is None


def test_a_figure_of_the_data_is_constant_and_needs_no_seeds():
    comparison = compare([2.069], [2.069], metric="perplexity_floor")
    assert (comparison.verdict.code, comparison.equivalence.equivalent) == ("constant", True)


def table(both, first_only, second_only, neither):
    """Predictions of two classifiers of "a" and "b" whose truth is "a"."""
    cells = [("a", "a")] * both + [("a", "b")] * first_only + [("b", "a")] * second_only + [("b", "b")] * neither
    return [first for first, _ in cells], [second for _, second in cells], ["a"] * len(cells)


def test_agreement_is_cohens_kappa_and_mcnemars_exact_test_by_hand():
    # 20 and 15 agree of 50; by chance (25·30 + 25·20) / 50² = 0.5 would: kappa = (0.7 − 0.5) / 0.5 = 0.4.
    counted = agreement([table(20, 5, 10, 15)])
    assert counted.num_predictions == 50
    assert counted.agree == pytest.approx(0.7)
    assert counted.kappa == pytest.approx(0.4)
    assert (counted.first_only_right, counted.second_only_right) == (5, 10)
    # Twice the chance of 5 or fewer heads in 15: 2 · (1 + 15 + 105 + 455 + 1365 + 3003) / 2^15.
    assert counted.mcnemar_p == pytest.approx(2 * 4944 / 2**15)


def test_seeds_are_counted_together_and_the_smallest_p_is_multiplied_by_their_number():
    counted = agreement([table(20, 0, 9, 15), table(20, 5, 5, 15)])
    assert (counted.num_predictions, counted.first_only_right, counted.second_only_right) == (89, 5, 14)
    assert counted.mcnemar_p == pytest.approx(2 * (2 / 2**9))


def test_predictions_of_one_class_have_no_kappa():
    counted = agreement([(["a", "a"], ["a", "a"], ["a", "b"])])
    assert (counted.agree, counted.kappa, counted.mcnemar_p) == (1.0, None, 1.0)


def test_a_set_of_labels_is_one_answer_in_any_order():
    counted = agreement([([["x", "y"], []], [["y", "x"], ["x"]], [["x", "y"], []])])
    assert (counted.agree, counted.first_only_right) == (0.5, 1)


@pytest.mark.parametrize(("num_seeds", "deviation", "margin"), [(3, 0.004, 0.01), (5, 0.01, 0.01), (12, 0.012, 0.01)])
def test_the_power_is_how_often_simulated_experiments_show_equivalence(num_seeds, deviation, margin):
    differences = np.random.default_rng(5).normal(0, deviation, (40_000, num_seeds))
    error = differences.std(axis=1, ddof=1) / math.sqrt(num_seeds)
    reach = stats.t.ppf(0.95, num_seeds - 1) * error
    shown = np.mean(np.abs(differences.mean(axis=1)) + reach < margin)
    assert 0.02 < shown < 0.99
    assert equivalence_power(num_seeds, deviation, margin) == pytest.approx(shown, abs=0.01)


def test_the_seeds_that_a_margin_needs_are_the_fewest_with_the_power():
    needed = seeds_needed(0.01, 0.01)
    assert needed is not None and 8 < needed < 14
    assert equivalence_power(needed - 1, 0.01, 0.01) < POWER <= equivalence_power(needed, 0.01, 0.01)
    assert seeds_needed(1e-9, 0.01) == seeds_needed(0.0, 0.01) == 2
    assert seeds_needed(1.0, 0.01) is None


def test_a_pair_that_is_not_shown_to_be_equivalent_says_how_many_seeds_would_show_it():
    scores = [0.90, 0.92, 0.91], [0.91, 0.91, 0.90]
    tested = compare(*scores).equivalence
    deviation = np.std(np.subtract(*scores), ddof=1)
    assert tested.equivalent is False and tested.seeds_needed == seeds_needed(deviation, 0.01)
    assert compare([0.901, 0.909, 0.905], [0.902, 0.908, 0.905]).equivalence.seeds_needed is None
    assert compare([0.90, 0.92], [0.91, 0.91]).equivalence.seeds_needed is None
