"""What is said of scores: planted differences are found, planted equality is shown, too few seeds settle nothing."""

import math

import numpy as np
import pytest
from scipy import stats

from pipeline.comparison.statistics.bootstrap import Difference
from pipeline.comparison.statistics.equivalence import (
    agreement,
    compare_metric,
    equivalence,
    interval,
    margin_of,
    summary,
)
from pipeline.metrics.specs import scale

PAIR = ("torch/stock", "tensorflow/stock")
MINUS = "\N{MINUS SIGN}"


def said(first, second, metric="accuracy", margin=0.01, examples=None, same_predictions=False):
    """What is said of two variants' scores, seed by seed."""
    bounds = margin_of(metric, margin, float(np.mean([value for value in first if value is not None] or [math.nan])))
    return compare_metric(metric, PAIR, first, second, bounds, examples, 200, same_predictions)


def over_examples(low, high, value=0.0):
    """A bootstrap difference whose resamples are spread evenly between two ends."""
    return Difference(value, np.linspace(low, high, 10_001))


def test_a_planted_equality_is_called_equivalent():
    found = said([0.901, 0.909, 0.905], [0.902, 0.908, 0.905], examples=over_examples(-0.008, 0.008))
    assert found["equivalence"]["equivalent"] is True
    assert found["verdict"] == {
        "state": "good",
        "sentence": f"equivalent within 1 point over 3 seeds (90% interval {MINUS}0.2 to +0.2)",
    }


def test_an_equality_that_hangs_on_the_examples_says_so():
    found = said([0.901, 0.909, 0.905], [0.902, 0.908, 0.905], examples=over_examples(-0.032, 0.032))
    assert found["verdict"]["state"] == "good"
    assert found["verdict"]["sentence"].endswith(f"; on other examples it could be {MINUS}3.0 to +3.0")


def test_a_planted_difference_is_called_different_and_who_is_higher():
    found = said([0.901, 0.905, 0.903], [0.86, 0.866, 0.862], examples=over_examples(0.02, 0.06))
    assert found["equivalence"]["equivalent"] is False
    assert found["verdict"]["state"] == "bad"
    assert found["verdict"]["sentence"].startswith("different: torch/stock is higher by 4.0 points (95% interval +3.7 ")
    lower = said([0.86, 0.866, 0.862], [0.901, 0.905, 0.903], examples=over_examples(-0.06, -0.02))
    assert lower["verdict"]["sentence"].startswith("different: tensorflow/stock is higher by 4.0 points (95% interval ")
    assert f"{MINUS}4.3 to {MINUS}3.7" in lower["verdict"]["sentence"]


def test_a_difference_that_other_examples_could_turn_is_not_settled():
    found = said([0.901, 0.905, 0.903], [0.86, 0.866, 0.862], examples=over_examples(-0.01, 0.09))
    assert found["verdict"]["state"] == "unknown"
    assert found["verdict"]["sentence"].startswith(
        "not shown to be equivalent within 1 point over 3 seeds: 90% interval"
    )


def test_scores_that_scatter_are_not_settled():
    found = said([0.88, 0.93, 0.90], [0.91, 0.89, 0.92])
    assert found["equivalence"]["equivalent"] is False
    assert found["verdict"]["state"] == "unknown"


@pytest.mark.parametrize(
    ("seeds", "sentence"),
    [
        (1, "not shown to be equivalent: 1 seed is too few (difference 0.0 points, 95% interval over examples"),
        (2, "not shown to be equivalent: 2 seeds are too few (difference 0.0 points, 95% interval over examples"),
    ],
)
def test_too_few_seeds_settle_nothing_whatever_the_scores(seeds, sentence):
    first, second = [0.91, 0.9102][:seeds], [0.9101, 0.9102][:seeds]
    found = said(first, second, examples=over_examples(-0.004, 0.004))
    assert found["equivalence"]["equivalent"] is None
    assert found["equivalence"]["basis"] == ("examples" if seeds == 1 else "seeds")
    assert found["verdict"]["state"] == "unknown"
    assert found["verdict"]["sentence"].startswith(sentence)


@pytest.mark.parametrize(
    ("first", "second", "sentence"),
    [
        ([], [], "not shown to be equivalent: no seed was completed by both"),
        ([0.9, None, 0.9], [0.9, 0.9, 0.9], "not shown to be equivalent: undefined in 1 of 3 seeds"),
        ([0.9, 0.9, 0.9], [0.9, math.nan, 0.9], "not shown to be equivalent: undefined in 1 of 3 seeds"),
    ],
)
def test_scores_that_are_missing_or_undefined_settle_nothing(first, second, sentence):
    found = said(first, second)
    assert found["equivalence"]["equivalent"] is None
    assert found["verdict"] == {"state": "unknown", "sentence": sentence}


def test_what_is_the_same_is_said_instead_of_zeros():
    scores = [0.9, 0.92, 0.91]
    told = said(scores, scores, same_predictions=True)["verdict"]
    assert told == {
        "state": "good", "sentence": "equivalent within 1 point over 3 seeds (the predictions are the same)",
    }  # fmt: skip
    told = said(scores, scores)["verdict"]
    assert told["sentence"] == "equivalent within 1 point over 3 seeds (no difference in any seed)"
    told = said(scores[:1], scores[:1], same_predictions=True, examples=over_examples(0, 0))["verdict"]
    assert told == {
        "state": "unknown", "sentence": "not shown to be equivalent: 1 seed is too few (the predictions are the same)",
    }  # fmt: skip
    # The loss can differ where the predictions do not.
    told = said([0.31, 0.29, 0.3], [0.33, 0.28, 0.3], metric="loss", same_predictions=True)["verdict"]
    assert "the predictions are the same" not in told["sentence"]


def test_the_interval_is_the_t_interval_computed_by_hand():
    # 1, 2, 4: mean 7/3, deviation sqrt(7/3); t with 2 degrees of freedom at 97.5% is 4.302653 (any table).
    low, high = interval(np.array([1.0, 2.0, 4.0]), 0.05)
    half = 4.302653 * math.sqrt(7 / 3) / math.sqrt(3)
    assert (low, high) == (pytest.approx(7 / 3 - half, abs=1e-5), pytest.approx(7 / 3 + half, abs=1e-5))
    found = summary({0: 1.0, 3: 2.0, 7: None, 8: 4.0})
    assert found["n"] == 3
    assert found["mean"] == pytest.approx(7 / 3)
    assert found["sd"] == pytest.approx(math.sqrt(7 / 3))
    assert (found["low"], found["high"]) == (low, high)
    assert found["values"] == {"0": 1.0, "3": 2.0, "7": None, "8": 4.0}


def test_one_value_has_no_interval_and_equal_values_have_one_of_no_width():
    assert summary({0: 0.9}) == {"n": 1, "mean": 0.9, "sd": None, "low": None, "high": None, "values": {"0": 0.9}}
    assert interval(np.array([0.1 + 0.2, 0.3, 0.3]), 0.05) == (pytest.approx(0.3), pytest.approx(0.3))


def test_the_difference_is_paired_over_seeds_as_scipy_has_it():
    first, second = [0.71, 0.92, 0.83, 0.64], [0.70, 0.90, 0.82, 0.65]
    found = said(first, second)["seeds"]
    expected = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert found["n"] == 4
    assert found["mean_difference"] == pytest.approx(0.0075)
    assert (found["low"], found["high"]) == (pytest.approx(expected.low), pytest.approx(expected.high))
    # The seeds' own scatter, 15 times as large, must not widen it.
    assert found["high"] - found["low"] < 0.05


@pytest.mark.parametrize("turned", [False, True])
def test_the_equivalence_test_is_the_larger_of_two_one_sided_tests(turned):
    first, second, margin = np.array([0.71, 0.92, 0.83, 0.64]), np.array([0.70, 0.90, 0.82, 0.65]), 0.03
    if turned:  # either side is the larger once
        first, second = second, first
    found = equivalence(first, second, margin, None)
    differences = first - second
    above = stats.ttest_1samp(differences, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(differences, margin, alternative="less").pvalue
    assert found["p"] == pytest.approx(max(above, below))
    ninety = stats.ttest_rel(first, second).confidence_interval(0.9)
    assert (found["low"], found["high"]) == (pytest.approx(ninety.low), pytest.approx(ninety.high))


@pytest.mark.parametrize("margin", [0.02, 0.021, 0.0225, 0.0227, 0.03])
def test_equivalent_is_the_same_as_the_90_percent_interval_inside_the_margin(margin):
    # Differences 0.01, 0.02, 0.01, -0.01: mean 0.0075, deviation 0.012583; the interval ends at 0.022306.
    first, second = np.array([0.71, 0.92, 0.83, 0.64]), np.array([0.70, 0.90, 0.82, 0.65])
    assert equivalence(first, second, margin, None)["equivalent"] is (margin > 0.022306)


def test_differences_that_do_not_vary_are_judged_by_their_size():
    ones = np.array([0.5, 0.25, 0.75])
    for difference, equivalent, p in ((0.0, True, 0.0), (0.0078125, True, 0.0), (0.015625, False, 1.0)):
        found = equivalence(ones + difference, ones, 0.01, None)
        assert (found["equivalent"], found["p"]) == (equivalent, p)
        assert found["low"] == found["high"] == difference


def test_at_the_edge_of_the_margin_equivalence_is_claimed_in_five_of_a_hundred_at_most():
    rng = np.random.default_rng(11)
    trials, margin = 1000, 0.01
    for seeds, deviation in ((3, 0.001), (5, 0.004)):
        shared = rng.normal(0.9, 0.02, (trials, seeds))
        noise = rng.normal(0.0, deviation, (trials, seeds))
        claims = sum(
            bool(equivalence(a + margin + e, a, margin, None)["equivalent"]) for a, e in zip(shared, noise, strict=True)
        )
        # Three standard errors of a share of 5% in 1000 trials are 2%.
        assert claims / trials <= 0.05 + 0.02
        assert claims / trials >= 0.05 - 0.02
        close = [
            equivalence(a + e, a, margin, None)["equivalent"]
            for a, e in zip(shared[:300], noise[:300] / 10, strict=True)
        ]
        assert np.mean(close) > 0.9


def test_a_margin_is_absolute_for_scores_with_a_scale_and_relative_for_others():
    assert [scale(name) for name in ("accuracy", "seqeval_f1.person")] == [1, 1]
    assert [scale(name) for name in ("squad_f1", "sacrebleu")] == [100, 100]
    assert [scale(name) for name in ("loss", "perplexity", "mse")] == [None, None, None]
    assert (margin_of("accuracy", 0.01, 0.5).value, margin_of("accuracy", 0.01, 0.5).text) == (0.01, "1 point")
    assert (margin_of("squad_f1", 0.005, 50).value, margin_of("squad_f1", 0.005, 50).text) == (0.5, "0.5 points")
    relative = margin_of("perplexity", 0.01, 2.2)
    assert (relative.value, relative.text) == (pytest.approx(0.022), "1%")
    assert relative.shown(-0.011) == f"{MINUS}0.5"
    assert relative.shown(-0.0001) == "0.0"
    assert margin_of("loss", 0.01, 0.0).value is None


def test_a_figure_of_the_data_is_the_same_and_needs_no_seeds():
    found = said([2.069], [2.069], metric="perplexity_floor")
    assert found["verdict"] == {"state": "good", "sentence": "the same: a figure of the data, which no model changes"}


def table(both, first_only, second_only, neither):
    """Predictions of two classifiers of "a" and "b" whose truth is "a"."""
    cells = [("a", "a")] * both + [("a", "b")] * first_only + [("b", "a")] * second_only + [("b", "b")] * neither
    return [first for first, _ in cells], [second for _, second in cells], ["a"] * len(cells)


def test_agreement_is_cohens_kappa_and_mcnemars_exact_test_by_hand():
    # 20 and 15 agree of 50; by chance (25·30 + 25·20) / 50² = 0.5 would: kappa = (0.7 − 0.5) / 0.5 = 0.4.
    found = agreement([table(20, 5, 10, 15)])
    assert found["n"] == 50
    assert found["agree"] == pytest.approx(0.7)
    assert found["kappa"] == pytest.approx(0.4)
    assert (found["first_only_right"], found["second_only_right"]) == (5, 10)
    # Twice the chance of 5 or fewer heads in 15: 2 · (1 + 15 + 105 + 455 + 1365 + 3003) / 2^15.
    assert found["mcnemar_p"] == pytest.approx(2 * 4944 / 2**15)


def test_seeds_are_counted_together_and_the_smallest_p_is_multiplied_by_their_number():
    found = agreement([table(20, 0, 9, 15), table(20, 5, 5, 15)])
    assert (found["n"], found["first_only_right"], found["second_only_right"]) == (89, 5, 14)
    assert found["mcnemar_p"] == pytest.approx(2 * (2 / 2**9))


def test_predictions_of_one_class_have_no_kappa():
    found = agreement([(["a", "a"], ["a", "a"], ["a", "b"])])
    assert (found["agree"], found["kappa"], found["mcnemar_p"]) == (1.0, None, 1.0)


def test_a_set_of_labels_is_one_answer_in_any_order():
    found = agreement([([["x", "y"], []], [["y", "x"], ["x"]], [["x", "y"], []])])
    assert (found["agree"], found["first_only_right"]) == (0.5, 1)
