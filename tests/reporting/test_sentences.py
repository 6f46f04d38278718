"""The sentences of a report: what each code and its numbers become in English."""

import pytest

from pipeline.comparison.results import (
    BatchDifference,
    CostRanking,
    Equivalence,
    ExampleDifference,
    Margin,
    MetricComparison,
    PairComparison,
    Problem,
    SeedDifference,
    Verdict,
)
from pipeline.reporting.formatting import margin_text
from pipeline.reporting.sentences import answers, notices, ranking_sentence, verdict, write_headline
from tests.helpers.comparison_example import example

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
        "good", f"equivalent within 1 point over 3 seeds (90% interval {MINUS}0.2 to +0.2)",
    )  # fmt: skip


def test_an_equivalence_that_depends_on_the_examples_has_a_caveat():
    state, text = sentence("equivalent", examples=(-0.03, 0.03), depends_on_examples=True)
    assert state == "good"
    assert text.endswith(f"(90% interval {MINUS}0.2 to +0.2); on other examples it could be {MINUS}3.0 to +3.0")


def test_what_is_identical_is_said_instead_of_zeros():
    equal = {"seeds": (3, 0.0, 0.0, 0.0), "ninety": (0.0, 0.0)}
    assert sentence("equivalent", identical="predictions", **equal) == (
        "good", "equivalent within 1 point over 3 seeds (the predictions are the same)",
    )  # fmt: skip
    assert sentence("equivalent", identical="scores", **equal) == (
        "good", "equivalent within 1 point over 3 seeds (no difference in any seed)",
    )  # fmt: skip
    assert sentence("too_few_seeds", (1, 0.0, None, None), (0.0, 0.0), identical="predictions") == (
        "unknown", "not shown to be equivalent: 1 seed is too few (the predictions are the same)",
    )  # fmt: skip


def test_a_difference_names_the_higher_variant_and_the_size():
    assert sentence("different", (3, -0.0403, -0.043, -0.037), higher="tensorflow/stock") == (
        "bad",
        f"different: tensorflow/stock is higher by 4.0 points (95% interval {MINUS}4.3 to {MINUS}3.7 over 3 seeds)",
    )  # fmt: skip


def test_what_is_inconclusive_has_its_interval():
    assert sentence("inconclusive", ninety=(-0.02, 0.03)) == (
        "unknown",
        f"not shown to be equivalent within 1 point over 3 seeds: 90% interval {MINUS}2.0 to +3.0 points, which shows "
        "equivalence within 3.0 points",
    )
    _, text = sentence("inconclusive", ninety=(-0.02, 0.013), needed=11)
    assert text.endswith("shows equivalence within 2.0 points; within 1 point it takes about 11 seeds")


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
    assert text.endswith(f"90% interval {MINUS}0.5 to 0.0%, which shows equivalence within 0.5%")
    _, text = sentence("inconclusive", margin=Margin(value=0.0005, unit="points", unit_size=0.01))
    assert text.startswith("not shown to be equivalent within 0.05 points") and f"{MINUS}0.200 to +0.200" in text


BEST = {"best": "torch/stock", "median": 80.0, "ratios": {"tensorflow/stock": 0.5}, "fewest_runs": 3}


@pytest.mark.parametrize(
    ("facts", "state", "text"),
    [
        ({"code": "ranked"}, "good", "Fastest was torch/stock with 80 examples/s; tensorflow/stock 0.50 × that."),
        (
            {"code": "ranked", "cost": "peak_memory_bytes", "median": 600 * 2**20},
            "good",
            "Smallest was torch/stock with 600 MiB at its peak; tensorflow/stock 0.50 × that.",
        ),
        (
            {
                "code": "ranked",
                "cost": "steady_examples_per_second",
                "slow_first_step": "tensorflow/stock",
                "first_step_share": 0.9,
            },
            "good",
            "After the first step, fastest was torch/stock with 80 examples/s; tensorflow/stock 0.50 × that. The first "
            "step took 90% of tensorflow/stock's training.",
        ),
        (
            {"code": "uncertain", "overlapping": ["tensorflow/stock"]},
            "unknown",
            "Fastest was torch/stock with 80 examples/s; tensorflow/stock 0.50 × that. The ranges of torch/stock and "
            "tensorflow/stock overlap, so their order is not shown.",
        ),
        (
            {"code": "uncertain", "fewest_runs": 1},
            "unknown",
            "Fastest was torch/stock with 80 examples/s; tensorflow/stock 0.50 × that. With 1 run of a variant, chance "
            "is not ruled out.",
        ),
        (
            {"code": "different_machines"},
            "bad",
            "The runs were made on different machines, so this compares the machines too: fastest was torch/stock with "
            "80 examples/s; tensorflow/stock 0.50 × that.",
        ),
    ],
)
def test_a_ranking_says_no_more_than_the_runs_allow(facts, state, text):
    ranking = CostRanking(**({"cost": "examples_per_second"} | BEST | facts))
    statement = ranking_sentence(ranking)
    assert (statement.state, statement.sentence) == (state, text)


def test_without_two_finished_variants_there_is_no_ranking():
    statement = ranking_sentence(CostRanking(code="nothing_to_compare", cost="examples_per_second"))
    assert (statement.state, statement.sentence) == (
        "unknown", "Fewer than two variants finished, so there is nothing to compare.",
    )  # fmt: skip


def test_the_first_screen_names_every_fault_of_the_example():
    headline = write_headline(example())
    assert [notice.sentence for notice in notices(headline)] == [
        "The setting train.weight_decay differs: 0.01 in torch/stock seed 0, torch/handwritten seed 0, torch/stock "
        "seed 1 and 3 more; 0.1 in tensorflow/stock seed 0, tensorflow/stock seed 1",
        "The batches of torch/stock and tensorflow/stock are not the same: seed 0 from step 3 on",
        "The run tensorflow/stock seed 2 failed; the end of its log is below",
        "The runs were made on different machines, so their speeds cannot be compared: A Processor (R), 2 cores; A "
        "Processor (R), 4 cores",
    ]
    same = answers(headline)["Did they do the same thing?"]
    assert same.word == "No"
    assert same.sentence.startswith("Not the same experiment: the setting train.weight_decay differs")


def without_faults(**changes):
    """The example's results with nothing to complain about."""
    results = example()
    pairs = {"first": "torch/stock", "second": "tensorflow/stock", "seed": 0}
    batches = [BatchDifference(**pairs, same=True, first_different_step=None, basis="rows")]
    return results.model_copy(
        update={
            "recipe_differences": [],
            "machines": results.machines[:1],
            "runs": [run for run in results.runs if run.completed],
            "sameness": results.sameness.model_copy(update={"batches": batches}),
        }
        | changes
    )


def test_one_equivalent_pair_is_a_yes():
    results = without_faults(comparisons=example().comparisons[:1])
    assert write_headline(results).same.sentence == (
        "Same start (logits within 3e-08), same batches, same learning rates, same dropout masks, 10 steps "
        "in lock-step within bounds (stock). In lock-step the losses are equal except for rounding in all 10 steps, "
        "and at the end the parameters of PyTorch and TensorFlow differ 0.4 times as much as those of two PyTorch "
        "trainings whose first weights differ by one rounding. The accuracy is equivalent within 1 point over 3 seeds "
        "(no difference in any seed); "
        f"on other examples it could be {MINUS}3.0 to +3.0."
    )
    assert write_headline(results).same.state == "good"


def test_one_pair_that_is_not_settled_is_named_with_its_reason():
    headline = write_headline(without_faults())
    assert headline.same.state == "unknown"
    assert headline.same.sentence.endswith(
        "The accuracy is not shown to be equivalent in 1 of 2 pairs, such as torch/stock and tensorflow/stock: 2 seeds "
        f"are too few (difference +0.5 points, 95% interval over examples {MINUS}2.5 to +3.5)."
    )


@pytest.mark.parametrize(
    ("problem", "state", "text"),
    [
        (
            {"code": "different_example_counts"},
            "bad",
            "The runs have predictions for different numbers of examples, so these are not resampled",
        ),
        (
            {
                "code": "score_not_reproduced",
                "run": "a/b seed 0",
                "metric": "accuracy",
                "recorded": 0.7,
                "recomputed": 0.9,
            },
            "bad",
            "The recorded accuracy of a/b seed 0 is 0.7, but its predictions.jsonl gives 0.9",
        ),
        (
            {"code": "attention_map_failed", "run": "a/b seed 0", "error": "no"},
            "unknown",
            "The attention of a/b seed 0 could not be drawn: no",
        ),
        (
            {"code": "lockstep_failed", "attention": "stock", "error": "no"},
            "unknown",
            "The lock-step with stock attention failed: no",
        ),
        (
            {"code": "lockstep_outdated"},
            "unknown",
            "The data or the checkpoint changed since the runs, so a lock-step would say nothing about them; repeat "
            "the runs to have one",
        ),
    ],
)
def test_a_problem_of_the_comparison_is_a_notice(problem, state, text):
    headline = write_headline(without_faults(problems=[Problem(**problem)]))
    assert [(notice.state, notice.sentence) for notice in headline.notices] == [(state, text)]


def pair_with(first, second, code, mean, **facts):
    """A pair whose only metric, accuracy, differs by `mean` points of a hundred."""
    comparison = MetricComparison(
        margin=POINT,
        seeds=SeedDifference(n=3, mean_difference=mean, low=mean - 0.001, high=mean + 0.001),
        equivalence=Equivalence(low=mean - 0.001, high=mean + 0.001, p=0.5, equivalent=False, basis="seeds"),
        bootstrap=None,
        verdict=Verdict(code=code, **facts),
    )
    return PairComparison(first=first, second=second, metrics={"accuracy": comparison}, agreement=None)


def test_a_pair_that_is_different_is_named_before_pairs_that_are_not_settled():
    pairs = [
        pair_with("a/b", "a/c", "inconclusive", 0.05),
        pair_with("a/b", "d/b", "different", 0.04, higher="a/b"),
    ]
    same = write_headline(without_faults(comparisons=pairs)).same
    assert same.state == "bad"
    assert same.sentence.endswith(
        "But the accuracy differs in 1 of 2 pairs, such as a/b and d/b: a/b is higher by 4.0 points (95% interval +3.9 "
        "to +4.1 over 3 seeds)."
    )


def test_of_several_pairs_the_one_with_the_largest_difference_is_named():
    pairs = [
        pair_with("a/b", "a/c", "inconclusive", 0.01),
        pair_with("a/b", "d/b", "inconclusive", -0.02),
    ]
    same = write_headline(without_faults(comparisons=pairs)).same
    assert "in 2 of 2 pairs, such as a/b and d/b: 90% interval" in same.sentence
