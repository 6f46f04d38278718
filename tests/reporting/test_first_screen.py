"""The first screen: what it says of frameworks and attentions, and that no table or figure says anything else."""

import pytest

from pipeline.comparison.records.costs import BreakEven, Cost, CostComparison, CostPair, CostSummary
from pipeline.comparison.records.sameness import BatchDifference, ControlComparison, PairDistance, ProbeDifference
from pipeline.comparison.records.scores import (
    Equivalence,
    Margin,
    MetricComparison,
    PairComparison,
    SeedDifference,
    Verdict,
)
from pipeline.comparison.results import Problem, RecipeDifference
from pipeline.comparison.statistics.equivalence import compare_metric, metric_margin, summarize
from pipeline.reporting.content import sections
from pipeline.reporting.figures import pictures
from pipeline.reporting.first_screen import answers, notices, write_headline
from pipeline.reporting.tables import costs, differences, machines, summary, verdicts
from pipeline.reporting.writer import content_of, html_page
from tests.helpers.comparison_example import example

MINUS = "\N{MINUS SIGN}"
POINT = Margin(value=0.01, unit="points", unit_size=0.01)


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
    training = answers(headline)["Same training?"]
    assert training.word == "No"
    assert training.sentence.startswith("Not the same experiment: the setting train.weight_decay differs")


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


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (
            1.3,
            "losses differ 1.3 times (bound: 3) as much as those of two PyTorch trainings that start one rounding ",
        ),
        # Above the control's three times, but within the fixed bound.
        (4.0, "losses differ no more than rounding explains."),
    ],
)
def test_how_far_trainings_are_apart_is_said_beside_the_control(share, text):
    (compared,) = example().comparisons[:1]
    apart = PairDistance(
        first=compared.first, second=compared.second, loss_distance=1e-4, share=share, agree=1.0, within=True,
        first_step_over_rounding=9,
    )  # fmt: skip
    control = ControlComparison(
        seeds=[0, 1, 2], first_step_over_rounding=5, loss_distance=1e-3, agree=0.99, seconds=3.0, pairs=[apart]
    )
    results = without_faults(comparisons=[compared])
    results = results.model_copy(update={"sameness": results.sameness.model_copy(update={"control": control})})
    training = write_headline(results).training
    assert training.state == "good" and f"Over whole trainings, {text}" in training.sentence


def test_start_batches_masks_and_lockstep_prove_that_the_training_is_the_same():
    training = write_headline(without_faults(comparisons=example().comparisons[:1])).training
    assert (training.state, training.word) == ("good", "Yes")
    assert training.sentence == (
        "Same start (outputs before training within 3e-08), same batches, same learning rates, same dropout masks, all "
        "10 steps compared one by one and within bounds (stock)."
    )


def of_two_recipes(*comparisons):
    """Results without faults in which torch/handwritten stands for the same variant with LoRA."""
    results, names = without_faults(), ("torch/stock", "torch/handwritten")
    labels = [run.label for run in results.runs]
    lora = RecipeDifference(
        key="train.lora", values={label: "rank 8" if names[1] in label else None for label in labels}, is_compared=True
    )
    trained = Cost(
        name="trainable_parameters", unit="parameters", higher_is_better=False,
        variants={
            name: CostSummary(median=number, low=number, high=number, ratio=None)
            for name, number in zip(names, (4386178.0, 12930.0), strict=True)
        },
    )  # fmt: skip
    pair = {"first": names[0], "second": names[1]}
    start = {"max_difference": 0.5, "tolerance": 1e-4, "same_shape": True, "within_tolerance": False}
    apart = {"loss_distance": 0.5, "share": 90.0, "agree": 0.5, "within": False, "first_step_over_rounding": 1}
    control = ControlComparison(
        seeds=[0, 1, 2], first_step_over_rounding=5, loss_distance=1e-3, agree=0.99, seconds=3.0,
        pairs=[PairDistance(**pair, **apart)],
    )  # fmt: skip
    sameness = {
        "probe": [*results.sameness.probe[1:], ProbeDifference(**pair, seed=0, **start)],
        "batches": [
            *results.sameness.batches,
            BatchDifference(**pair, seed=0, same=False, first_different_step=1, basis="rows"),
        ],
        "control": control,
    }
    return without_faults(
        recipe_differences=[lora], comparisons=list(comparisons) or results.comparisons[:1],
        costs=[*results.costs[-1:], trained],
        settings=results.settings | {"train.lora": None},
        metrics={
            name: metric.model_copy(update={"variants": {each: metric.variants[each] for each in names}})
            for name, metric in results.metrics.items()
        },
        sameness=results.sameness.model_copy(update=sameness),
    )  # fmt: skip


def test_recipes_that_are_compared_are_no_fault_and_their_figures_stand_side_by_side():
    changed = of_two_recipes()
    headline = write_headline(changed)
    assert (headline.training.state, headline.training.word, headline.notices) == ("bad", "No", [])
    assert headline.training.sentence == (
        "Not the same experiment: the recipes differ in train.lora. The numbers of trained weights (4,386,178 and "
        "12,930), peak memory and scores can be compared."
    )
    table = summary(changed)
    assert table.columns[-3:] == ["Trained weights", "Time", "Memory"]
    assert [row[4] for row in table.groups[""]] == ["4,386,178", "12,930"]
    page, usual = (html_page(content_of(each, [])) for each in (changed, without_faults()))
    assert page.index("The variants") < page.index('aria-label="Contents"') and "The variants" not in usual


@pytest.mark.parametrize("is_alone", [True, False])
def test_pairs_of_different_recipes_are_not_judged_by_start_batches_and_control(is_alone):
    across = pair_with(*ACROSS, "equivalent", 0.005)
    changed = of_two_recipes(*([] if is_alone else [*example().comparisons[:1], across]))
    found = {section.name: section for section in sections(changed)}
    cells = [
        cell for table in found["sameness"].tables for rows in table.groups.values() for row in rows for cell in row
    ]
    assert not [cell for cell in cells if not isinstance(cell, str) and cell.state != "good"]
    pairs = [cell for cell in cells if isinstance(cell, str) and MINUS in cell]
    assert pairs == ([] if is_alone else [f"torch/stock {MINUS} tensorflow/stock"])
    end = (
        "same batches, same learning rates, same dropout masks, all 10 steps compared one by one and within bounds "
        "(stock)."
    )
    answer = write_headline(changed.model_copy(update={"metrics": example().metrics})).training.sentence
    assert ("Variants of one recipe: same start" in answer and answer.endswith(end)) != is_alone
    lead = found["sameness"].lead
    assert lead.endswith("Variants of different recipes are left out here: nothing of them has to be the same.")
    assert lead.startswith("No two variants have the same recipe." if is_alone else "Scores alone cannot tell")
    (main, _) = found["settings"].tables
    assert ["train.lora", "compared: not set; rank 8"] in main.groups[""]


def without_lockstep(**changes):
    results = without_faults(**changes)
    return results.model_copy(update={"sameness": results.sameness.model_copy(update={"lockstep": []})})


def test_without_lockstep_records_alone_prove_nothing_unless_the_scores_are_equivalent_too():
    unsettled = write_headline(without_lockstep()).training
    assert (unsettled.state, unsettled.word) == ("unknown", "Not settled")
    assert unsettled.sentence.endswith("The steps themselves were not compared.")
    assert write_headline(without_lockstep(comparisons=example().comparisons[:1])).training.state == "good"


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
            {"code": "lockstep_failed", "attention": "handwritten-model", "error": "no"},
            "unknown",
            "The lock-step with handwritten model failed: no",
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


def scores(*pairs):
    answer = write_headline(without_faults(comparisons=list(pairs))).score
    return answer.state, answer.word, answer.sentence


TORCH = "Mean accuracy with 95% interval: torch/stock 0.9100 (0.8852 to 0.9348)"
ACROSS, WITHIN = ("torch/stock", "tensorflow/stock"), ("torch/stock", "torch/handwritten")


def test_both_scores_are_shown_as_numbers_with_their_intervals_and_the_verdict():
    assert scores(pair_with(*ACROSS, "equivalent", 0.005)) == (
        "good", "Yes",
        "Mean accuracy with 95% interval: torch/stock 0.9100 (0.8852 to 0.9348), tensorflow/stock 0.9050: equivalent "
        "within 1 point over 3 seeds (90% interval of the difference +0.4 to +0.6 points).",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("seeds", "opening"),
    [
        ([0], "Accuracy: torch/stock 0.9000, tensorflow/stock 0.8800: "),
        ([0, 1], "Mean accuracy: torch/stock 0.9100, tensorflow/stock 0.9050: "),
    ],
)
def test_below_three_seeds_no_interval_is_named(seeds, opening):
    metrics = example().metrics
    few = {
        name: summarize({seed: row.values[seed] for seed in seeds})
        for name, row in metrics["accuracy"].variants.items()
    }
    metrics = metrics | {"accuracy": metrics["accuracy"].model_copy(update={"variants": few})}
    results = without_faults(metrics=metrics, comparisons=[pair_with(*ACROSS, "too_few_seeds", 0.005)])
    assert write_headline(results).score.sentence.startswith(opening)
    captions = {picture.name: picture.caption for picture in pictures(results)}
    assert captions["scores-1"] == "Filled: the mean. Hollow: each seed."
    assert captions["scores-2"] == "Filled: the mean with its 95% interval. Hollow: each seed."


def test_scores_that_are_all_zero_are_called_equal_by_no_sentence_table_or_figure():
    compared = compare_metric("accuracy", ACROSS, [0.0] * 3, [0.0] * 3, POINT, None, 100, same_predictions=True)
    pair = PairComparison(first=ACROSS[0], second=ACROSS[1], metrics={"accuracy": compared}, agreement=None)
    metrics = example().metrics
    zeros = {name: summarize(dict.fromkeys(range(3), 0.0)) for name in ACROSS}
    metrics = {"accuracy": metrics["accuracy"].model_copy(update={"variants": zeros})}
    results = without_faults(comparisons=[pair], metrics=metrics)
    answer = write_headline(results).score
    assert (answer.state, answer.word) == ("unknown", "Not settled")
    assert answer.sentence == (
        "Mean accuracy with 95% interval: torch/stock 0.0000 (0.0000 to 0.0000), tensorflow/stock 0.0000 (0.0000 to "
        "0.0000): not shown to be equivalent: every run scores 0, so none has learned what this measures, and equal "
        "scores show nothing."
    )
    (((_, cell),),) = verdicts(results).groups.values()
    assert (cell.state, cell.word) == ("unknown", "Not settled")
    (((_, *cells),),) = differences(results).groups.values()
    assert cells == ["0.0000", "0.0000 to 0.0000", "–", "±0.0100", "–", "–", "–"]
    drawn = {picture.name: picture for picture in pictures(results)}
    assert "equivalence-1" not in drawn
    left, right = drawn["scores-1"].figure.axes[0].get_xlim()
    assert -0.01 < left < 0 < right, "no axis goes on where no score can be"


@pytest.mark.parametrize(
    ("metric", "score", "code"),
    [("seqeval_f1.person", 0.0, "all_zero"), ("mse", 0.0, "no_margin"), ("accuracy", 1.0, "equivalent")],
)
def test_zero_shows_nothing_only_where_it_is_the_worst_score(metric, score, code):
    margin = metric_margin(metric, 0.01, score)
    assert compare_metric(metric, ACROSS, [score] * 3, [score] * 3, margin, None, 100).verdict.code == code


def test_frameworks_are_judged_before_attentions():
    state, word, sentence = scores(pair_with(*WITHIN, "inconclusive", 0.05), pair_with(*ACROSS, "equivalent", 0.005))
    assert (state, word) == ("good", "Yes, across frameworks")
    assert sentence.startswith(
        "Mean accuracy with 95% interval: torch/stock 0.9100 (0.8852 to 0.9348), tensorflow/stock 0.9050: equivalent"
    )
    assert sentence.endswith("Equivalent pairs: 1 of 1 across frameworks, 0 of 1 within a framework.")
    state, word, _ = scores(pair_with(*WITHIN, "equivalent", 0.0), pair_with(*ACROSS, "inconclusive", 0.005))
    assert (state, word) == ("unknown", "Not settled")


def test_an_attention_that_scores_otherwise_is_a_no_whatever_the_frameworks_do():
    state, word, sentence = scores(
        pair_with(*ACROSS, "equivalent", 0.005), pair_with(*WITHIN, "different", 0.04, higher="torch/stock")
    )
    assert (state, word) == ("bad", "No")
    assert sentence.startswith(
        "Mean accuracy with 95% interval: torch/stock 0.9100 (0.8852 to 0.9348), torch/handwritten 0.9100"
    )
    assert "torch/stock is higher by 4.0 points" in sentence
    assert sentence.endswith("Equivalent pairs: 1 of 1 across frameworks, 0 of 1 within a framework.")


def test_of_several_pairs_the_one_with_the_largest_difference_is_named():
    _, _, sentence = scores(
        pair_with(*ACROSS, "inconclusive", 0.01), pair_with("torch/handwritten", ACROSS[1], "inconclusive", -0.02)
    )
    assert sentence.startswith(
        "Mean accuracy with 95% interval, of the pair that differs most: torch/handwritten 0.9100 (0.8852 to 0.9348), "
        "tensorflow/stock 0.9050"
    )
    assert sentence.endswith("Equivalent pairs: 0 of 2 across frameworks.")


def test_beside_a_pair_within_a_framework_the_pair_that_differs_most_is_called_one_of_frameworks():
    across = [pair_with(*ACROSS, "equivalent", 0.001), pair_with("torch/handwritten", ACROSS[1], "equivalent", 0.002)]
    _, _, sentence = scores(*across, pair_with(*WITHIN, "equivalent", 0.004))
    assert ", of the pair of frameworks that differs most: torch/handwritten" in sentence
    wrong = [pair_with(*names, "different", 0.04, higher=names[0]) for names in (ACROSS, WITHIN)]
    assert ", of the pair that differs most: " in scores(*wrong)[2], "both kinds are judged"


def test_scores_that_differ_without_a_reason_leave_the_training_unsettled():
    results = without_faults(comparisons=[pair_with(*ACROSS, "different", 0.04, higher="torch/stock")])
    training = write_headline(results).training
    assert training.state == "unknown"
    assert training.sentence.endswith("But the scores differ, which none of this explains.")


def cost_pair(first=12.1, second=20.4, **facts):
    better = ACROSS[0] if first <= second else ACROSS[1]
    fields = {
        "first": ACROSS[0], "second": ACROSS[1], "differ_in": "framework", "first_median": first,
        "second_median": second, "better": better, "factor": max(first, second) / min(first, second),
        "overlapping": False, "fewest_runs": 3, "is_shown": True,
    }  # fmt: skip
    return CostPair(**fields | facts)


def compared(cost, *pairs, **facts):
    fields = {"cost": cost, "higher_is_better": cost.startswith("steady"), "is_same_machine": True}
    return CostComparison(**fields | facts, pairs=list(pairs))


def answer_of(kind, *pairs, **facts):
    cost = {"time": "total_seconds", "memory": "peak_memory_bytes"}[kind]
    changes = {"speed": compared("steady_examples_per_second"), kind: compared(cost, *pairs, **facts), "costs": []}
    results = without_faults(**changes)
    answer = getattr(write_headline(results), kind)
    return answer.state, answer.word, answer.sentence


ONE_RUN = "torch/stock 12.1 s from its launch to the last step, tensorflow/stock 20.4 s, 1.69 times as long"
TIMES = f"{ONE_RUN} (medians)"


@pytest.mark.parametrize(
    ("facts", "state", "word", "sentence"),
    [
        ({}, "good", "PyTorch is faster", f"{TIMES}."),
        ({"differ_in": "other"}, "good", "torch/stock is faster", f"{TIMES}."),
        (
            {"overlapping": True, "is_shown": False}, "unknown", "No difference shown",
            f"{TIMES}; the ranges overlap.",
        ),
        (
            {"fewest_runs": 1, "is_shown": False}, "unknown", "No difference shown",
            f"{ONE_RUN}; with 1 run of each, chance is not ruled out.",
        ),
    ],
)  # fmt: skip
def test_no_more_is_said_of_times_than_the_runs_show(facts, state, word, sentence):
    assert answer_of("time", cost_pair(**facts)) == (state, word, sentence)


def test_the_better_one_comes_first_whichever_it_is():
    assert answer_of("time", cost_pair(20.4, 12.1)) == (
        "good", "TensorFlow is faster",
        "tensorflow/stock 12.1 s from its launch to the last step, torch/stock 20.4 s, 1.69 times as long (medians).",
    )  # fmt: skip


def test_memory_is_in_mebibytes_at_its_peak():
    assert answer_of("memory", cost_pair(655 * 2**20, 995 * 2**20, fewest_runs=1)) == (
        "good", "PyTorch takes less", "torch/stock 655 MiB at its peak, tensorflow/stock 995 MiB, 1.52 times as much.",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("torch", "tensorflow", "text"),
    [
        (["5.24.0", "5.24.0"], ["4.57.6"], "transformers 5.24.0 in PyTorch and 4.57.6 in TensorFlow"),
        (
            ["5.24.0", "4.57.6"], ["4.57.6"],
            "transformers 5.24.0 in torch/stock seed 0 and 4.57.6 in tensorflow/stock seed 0, torch/stock seed 1",
        ),
        (["5.24.0", "5.2.0"], [None], "transformers 5.24.0 in torch/stock seed 0 and 5.2.0 in torch/stock seed 1"),
    ],
)  # fmt: skip
def test_of_several_versions_a_reader_learns_who_had_which(torch, tensorflow, text):
    versions = {f"torch/stock seed {seed}": version for seed, version in enumerate(torch)}
    versions |= {f"tensorflow/stock seed {seed}": version for seed, version in enumerate(tensorflow)}
    runs = [
        run.model_copy(
            update={
                "environment": run.environment.model_copy(
                    update={"versions": {"transformers": versions[run.label]} if versions[run.label] else {}}
                )
            }
        )
        for run in example().runs
        if run.label in versions
    ]
    several = {"transformers": list(dict.fromkeys(filter(None, versions.values())))}
    machine = example().machines[0].model_copy(update={"runs": list(versions), "versions": several})
    results = without_faults(runs=runs, machines=[machine])
    assert f"Versions differ between the runs: {text}" in [each.sentence for each in write_headline(results).notices]
    assert ["transformers", text.removeprefix("transformers ")] in machines(results).groups[""]


def test_different_machines_make_costs_incomparable():
    assert answer_of("time", cost_pair(), is_same_machine=False) == (
        "bad", "Not comparable",
        f"The runs were made on different machines, so this compares the machines too: {TIMES}.",
    )  # fmt: skip


def test_without_two_finished_variants_there_is_nothing_to_compare():
    expected = ("unknown", "Not settled", "Fewer than two variants finished, so there is nothing to compare.")
    assert answer_of("time") == answer_of("memory") == expected


@pytest.mark.parametrize(
    ("faster", "end"),
    [
        (
            "torch/stock",
            "After the first step: torch/stock 493 examples/s, tensorflow/stock 351. torch/stock takes less time for "
            "longer trainings, too.",
        ),
        (
            "tensorflow/stock",
            "After the first step: torch/stock 493 examples/s, tensorflow/stock 351. From about 12,400 training "
            "examples on, tensorflow/stock takes less time in all; these runs had 4,000.",
        ),
    ],
)
def test_the_time_names_both_speeds_and_where_the_order_turns(faster, end):
    turning = BreakEven(first=ACROSS[0], second=ACROSS[1], faster=faster, examples=12_411.3, examples_of_run=4000.0)
    speed = compared("steady_examples_per_second", cost_pair(493.0, 351.0))
    time = compared("total_seconds", cost_pair())
    answer = write_headline(without_faults(time=time, speed=speed, break_even=[turning], costs=[])).time
    assert answer.sentence == f"{TIMES}. {end}"
    by_chance = compared("steady_examples_per_second", cost_pair(493.0, 351.0, overlapping=True, is_shown=False))
    answer = write_headline(without_faults(time=time, speed=by_chance, break_even=[turning], costs=[])).time
    assert answer.sentence == f"{TIMES}. {end.partition('. ')[0]}; ranges overlap."


# Medians of torch/stock and of tensorflow/stock, and which of them is better.
PLANTED = [(100.0, 400.0, 0), (400.0, 100.0, 1), (250.0, 251.0, 0)]


@pytest.mark.parametrize(("torch", "tensorflow", "better"), PLANTED)
def test_sentence_table_and_figure_agree_on_who_took_less(torch, tensorflow, better):
    results = without_faults()
    medians = {"torch/stock": torch * 2**20, "tensorflow/stock": tensorflow * 2**20}
    (cost,) = (cost for cost in results.costs if cost.name == "peak_memory_bytes")
    variants = {name: CostSummary(median=m, low=m, high=m, ratio=None) for name, m in medians.items()}
    memory = compared("peak_memory_bytes", cost_pair(*medians.values()))
    changed = without_faults(costs=[cost.model_copy(update={"variants": variants})], memory=memory)
    sentence = write_headline(changed).memory.sentence
    ((_, rows),) = costs(changed).groups.items()
    (picture,) = (picture for picture in pictures(changed) if picture.name == "peak-memory-bytes")
    by_row = sorted(rows, key=lambda row: float(row[1]))
    assert sentence.startswith(f"{ACROSS[better]} {by_row[0][1]} MiB") and by_row[0][0] == ACROSS[better]
    for row in rows:
        assert f"{row[0]} {row[1]} MiB" in sentence
        assert f"{row[0]} {row[1]} MiB" in picture.description


def test_a_cost_that_no_run_recorded_is_left_out_and_a_missing_one_is_explained():
    (cost,) = (cost for cost in example().costs if cost.name == "peak_memory_bytes")
    nothing = CostSummary(median=None, low=None, high=None, ratio=None)
    none = cost.model_copy(update={"variants": dict.fromkeys(cost.variants, nothing)})
    assert not costs(without_faults(costs=[none]))
    some = cost.model_copy(update={"variants": cost.variants | {"torch/stock": nothing}})
    assert costs(without_faults(costs=[some])).note.startswith("–: not recorded")
    assert costs(without_faults(costs=[cost])).note == ""


@pytest.mark.parametrize("code", ["equivalent", "inconclusive", "different"])
def test_sentence_and_table_agree_on_the_verdict(code):
    pair = pair_with(*ACROSS, code, 0.005, higher="torch/stock" if code == "different" else None)
    changed = without_faults(comparisons=[pair])
    answer = write_headline(changed).score
    (((_, cell),),) = verdicts(changed).groups.values()
    assert cell.state == answer.state
    assert answer.sentence.endswith(f" {cell.sentence}.") and not cell.sentence.startswith(cell.word.lower())
