"""The sentences about a metric of two variants: what each code and its numbers become in English."""

import pytest

from pipeline.comparison.records.scores import (
    Equivalence,
    ExampleDifference,
    Margin,
    MetricComparison,
    PairComparison,
    SeedDifference,
    Verdict,
)
from pipeline.reporting.formatting import margin_text
from pipeline.reporting.sentences import verdict

MINUS = "\N{MINUS SIGN}"
POINT = Margin(value=0.01, unit="points", unit_size=0.01)


def sentence(
    code, seeds=(3, -0.0003, -0.0028, 0.0022), ninety=(-0.002, 0.002), examples=None, margin=POINT, needed=None, **facts
):
    """The state and sentence of a verdict; `seeds` are n, mean difference and the ends of its interval."""
    n, mean, low, high = seeds
    comparison = MetricComparison(
        margin=margin,
        seeds=SeedDifference(n=n, mean_difference=mean, low=low, high=high),
        equivalence=Equivalence(
            low=ninety[0], high=ninety[1], p=0.01, equivalent=None, basis="seeds", seeds_needed=needed
        ),
        bootstrap=examples
        and ExampleDifference(difference=0.0, low=examples[0], high=examples[1], resamples=10_000, num_examples=200),
        verdict=Verdict(code=code, **facts),
    )
    pair = PairComparison(first="torch/stock", second="tensorflow/stock", metrics={"m": comparison}, agreement=None)
    statement = verdict(pair, "m")
    return statement.state, statement.sentence


def test_equivalence_is_claimed_with_its_interval():
    assert sentence("equivalent") == (
        "good", f"equivalent within 1 point over 3 seeds (90% interval of the difference {MINUS}0.2 to +0.2 points)",
    )  # fmt: skip


def test_an_equivalence_that_depends_on_the_examples_has_a_caveat():
    state, text = sentence("equivalent", examples=(-0.03, 0.03), depends_on_examples=True)
    assert state == "good"
    assert text.endswith(
        f"(90% interval of the difference {MINUS}0.2 to +0.2 points); on other validation examples it could be "
        f"{MINUS}3.0 to +3.0 points"
    )


def test_what_is_identical_is_said_instead_of_zeros():
    equal = {"seeds": (3, 0.0, 0.0, 0.0), "ninety": (0.0, 0.0)}
    assert sentence("equivalent", identical="predictions", **equal) == (
        "good", "equivalent within 1 point over 3 seeds (the predictions are the same)",
    )  # fmt: skip
    assert sentence("equivalent", identical="scores", **equal) == (
        "good", "equivalent within 1 point over 3 seeds (no difference in any seed)",
    )  # fmt: skip
    assert sentence("too_few_seeds", (1, 0.0, None, None), (0.0, 0.0), identical="predictions") == (
        "unknown", "not shown to be equivalent: the predictions are the same, but 1 seed is too few",
    )  # fmt: skip


def test_a_difference_names_the_higher_variant_and_the_size():
    assert sentence("different", (3, -0.0403, -0.043, -0.037), higher="tensorflow/stock") == (
        "bad",
        "different: tensorflow/stock is higher by 4.0 points (95% interval 3.7 to 4.3 over 3 seeds)",
    )  # fmt: skip


def test_what_is_inconclusive_has_its_interval():
    assert sentence("inconclusive", ninety=(-0.02, 0.03)) == (
        "unknown",
        f"not shown to be equivalent within 1 point over 3 seeds: 90% interval of the difference {MINUS}2.0 to +3.0 "
        "points, which shows equivalence within 3.0 points",
    )
    _, text = sentence("inconclusive", ninety=(-0.02, 0.013), needed=11)
    assert text.endswith(
        "shows equivalence within 2.0 points; within 1 point it takes about 11 seeds if there is no true difference"
    )


def test_too_few_seeds_are_counted_with_the_difference_over_examples():
    assert sentence("too_few_seeds", (1, 0.014, None, None), examples=(0.005, 0.023)) == (
        "unknown",
        "not shown to be equivalent: 1 seed is too few (difference +1.4 points, 95% interval over examples +0.5 to "
        "+2.3)",
    )
    assert sentence("too_few_seeds", (2, 0.0, None, None)) == (
        "unknown", "not shown to be equivalent: 2 seeds are too few (difference 0.0 points)",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("code", "n", "undefined", "reason"),
    [
        ("undefined", 2, 1, "undefined in 1 of 3 seeds"),
        ("undefined", 0, 1, "undefined in 1 of 1 seed"),
        ("all_zero", 3, 0, "every run scores 0, so none has learned what this measures, and equal scores show nothing"),
        ("no_shared_seed", 0, 0, "no seed was completed by both"),
        ("no_margin", 3, 0, "the margin is relative to a mean of zero"),
    ],
)
def test_what_is_missing_is_named(code, n, undefined, reason):
    state, text = sentence(code, (n, None, None, None), undefined_seeds=undefined)
    assert (state, text) == ("unknown", f"not shown to be equivalent: {reason}")


def test_a_figure_of_the_data_is_the_same():
    assert sentence("constant") == ("good", "the same: it describes the data, and no model changes it")


def test_margins_are_points_or_percent_with_one_decimal_more_in_differences():
    assert margin_text(POINT) == "1 point"
    assert margin_text(Margin(value=0.5, unit="points", unit_size=1)) == "0.5 points"
    percent = Margin(value=0.022, unit="percent", unit_size=0.022)
    assert margin_text(percent) == "1%"
    _, text = sentence("inconclusive", ninety=(-0.011, -0.0001), margin=percent)
    assert text.endswith(f"90% interval of the difference {MINUS}0.5 to 0.0%, which shows equivalence within 0.5%")
    _, text = sentence("inconclusive", margin=Margin(value=0.0005, unit="points", unit_size=0.01))
    assert text.startswith("not shown to be equivalent within 0.05 points") and f"{MINUS}0.200 to +0.200" in text
