"""What a reader who has never seen the code asks of a report: each answer is on the page, and adds up."""

import re
import statistics

import pytest

from pipeline.comparison.records.costs import BreakEven
from pipeline.comparison.records.sameness import ControlComparison, PairDistance
from pipeline.comparison.records.scores import (
    Equivalence,
    Margin,
    MetricComparison,
    PairComparison,
    SeedDifference,
    Verdict,
)
from pipeline.comparison.results import Variant
from pipeline.reporting.content import facts, sections, variant_terms
from pipeline.reporting.details.figures import prediction_pictures
from pipeline.reporting.drawing.plots import LEAST_SPAN
from pipeline.reporting.figures import pictures
from pipeline.reporting.first_screen import write_headline
from pipeline.reporting.sameness.sentences import sameness_lead
from pipeline.reporting.sameness.tables import control as control_table
from pipeline.reporting.sameness.tables import sameness as sameness_table
from pipeline.reporting.sentences import limits, reproducing
from pipeline.reporting.tables import agreement, costs, differences, runs, time_table, verdicts
from pipeline.reporting.training_figures import training_pictures
from pipeline.reporting.writer import content_of, html_page, markdown_page
from tests.helpers.comparison_example import example, lockstep_example

PAIRS = [("torch/stock", "tensorflow/stock"), ("torch/stock", "torch/handwritten")]


def pair_of(names, **codes):
    """A pair with the verdicts of its metrics by name; a code with a number says how many seeds it would take."""
    metrics = {}
    for name, code in codes.items():
        code, _, needed = code.partition(":")
        unit, size = ("percent", 0.003) if name == "loss" else ("points", 0.01)
        metrics[name] = MetricComparison(
            margin=Margin(value=size, unit=unit, unit_size=size),
            seeds=SeedDifference(n=5, mean_difference=0.0, low=-size, high=size),
            equivalence=Equivalence(
                low=-size, high=size, p=0.2, equivalent=code == "equivalent", basis="seeds",
                seeds_needed=int(needed) if needed else None,
            ),
            bootstrap=None,
            verdict=Verdict(code=code, higher=names[0] if code == "different" else None),
        )  # fmt: skip
    return PairComparison(first=names[0], second=names[1], metrics=metrics, agreement=None)


def score_of(*by_pair):
    metric = example().metrics["accuracy"]
    metrics = {name: metric for name in by_pair[0]}
    pairs = [pair_of(names, **codes) for names, codes in zip(PAIRS, by_pair, strict=False)]
    return write_headline(example().model_copy(update={"comparisons": pairs, "metrics": metrics})).score


def test_a_yes_names_what_is_not_shown_to_be_equivalent_and_how_many_seeds_that_takes():
    settled = {"accuracy": "equivalent", "f1": "equivalent"}
    answer = score_of(settled | {"loss": "inconclusive:40"}, settled | {"loss": "inconclusive:13"})
    assert (answer.state, answer.word) == ("good", "Yes, in accuracy")
    assert answer.sentence.endswith(
        "Also equivalent: f1. Not shown to be equivalent: validation loss within 1% (2 of 2 pairs; if truly equal, "
        "about 40 seeds would show it)."
    )


@pytest.mark.parametrize(
    ("first", "second", "word", "end"),
    [
        ("equivalent", "equivalent", "Yes", " Also equivalent: f1."),
        ("equivalent", "different", "Yes, in accuracy", " Different: f1 (1 of 2 pairs)."),
        # Where it is not known of every pair, no number of seeds is promised.
        ("inconclusive:9", "inconclusive", "Yes, in accuracy",
         " Not shown to be equivalent: f1 within 1 point (2 of 2 pairs)."),
        ("constant", "constant", "Yes", " 1 of 1 within a framework."),
    ],
)  # fmt: skip
def test_every_other_metric_is_where_its_verdicts_are(first, second, word, end):
    answer = score_of({"accuracy": "equivalent", "f1": first}, {"accuracy": "equivalent", "f1": second})
    assert answer.word == word and answer.sentence.endswith(end)


# By variant, seconds from launch to the first batch, of the first step, and of the whole training, run by run.
PLANTED = {
    "torch/stock": [(6.03, 0.1, 10.98), (9.2, 0.13, 13.1), (5.04, 0.08, 9.92)],
    "tensorflow/stock": [(7.38, 2.73, 13.74), (6.35, 2.39, 16.5)],
}


def timed(planted):
    """The example with these times in its runs and in the comparison of its pair."""
    results, left = example(), {name: list(times) for name, times in planted.items()}
    changed = []
    for run in results.runs:
        if not run.completed or not left.get(run.variant):
            continue
        launch, first, training = left[run.variant].pop(0)
        changed.append(
            run.model_copy(
                update={
                    "train": run.train.model_copy(update={"seconds": training, "first_step_seconds": first}),
                    "environment": run.environment.model_copy(update={"launch_seconds": launch}),
                }
            )
        )
    medians = [statistics.median(launch + each for launch, _, each in planted[name] if launch) for name in PAIRS[0]]
    pair = results.time.pairs[0].model_copy(
        update={"first_median": medians[0], "second_median": medians[1], "better": PAIRS[0][medians[1] < medians[0]]}
    )
    time = results.time.model_copy(update={"pairs": [pair], "is_same_machine": True})
    return results.model_copy(update={"runs": changed, "time": time, "costs": []})


def test_the_parts_of_the_time_add_up_to_the_median_of_the_totals():
    shown = {row[0]: row[1:] for row in time_table(timed(PLANTED)).groups[""]}
    assert shown["torch/stock"] == ["6.0", "0.1", "10.9", "17.0"]
    for name, times in PLANTED.items():
        *parts, total = map(float, shown[name])
        assert sum(parts) == pytest.approx(total)
        assert total == pytest.approx(statistics.median(launch + training for launch, _, training in times), abs=0.05)
    sentence = write_headline(timed(PLANTED)).time.sentence
    assert sentence.startswith("torch/stock 17.0 s from its launch to the last step, tensorflow/stock 22.0 s, ")
    assert (
        "Of these seconds, 6.0 and 6.9 pass before the first batch, 0.1 and 2.5 in the first step, in which TensorFlow "
        "traces its graph, and 10.9 and 12.6 in the other steps."
    ) in sentence


@pytest.mark.parametrize(
    ("first_steps", "is_shown", "text"),
    [
        (((0.1, 0.1), (2.4, 2.7)), False, " (longer in every run of tensorflow/stock: it traces its graph) and"),
        (((0.1, 0.1), (2.4, 2.7)), True, ", in which TensorFlow traces its graph, and"),
        (((2.9, 3.0), (2.4, 2.7)), False, " (longer in every run of torch/stock) and"),
        (((0.1, 2.5), (2.4, 2.7)), False, ", in which TensorFlow traces its graph, and"),
    ],
)
def test_a_first_step_that_is_longer_in_every_run_is_said_where_the_totals_show_nothing(first_steps, is_shown, text):
    results = timed(PLANTED)
    (cost,) = (cost for cost in example().costs if cost.name == "first_step_seconds")
    summaries = {
        name: cost.variants[name].model_copy(update={"low": low, "high": high})
        for name, (low, high) in zip(PAIRS[0], first_steps, strict=True)
    }
    shown = {"is_shown": is_shown, "overlapping": not is_shown, "fewest_runs": 3}
    (pair,), speed = results.time.pairs, results.speed.pairs[0].model_copy(update=shown)
    changed = results.model_copy(
        update={
            "costs": [cost.model_copy(update={"variants": summaries})],
            "time": results.time.model_copy(update={"pairs": [pair.model_copy(update=shown)]}),
            "speed": results.speed.model_copy(update={"pairs": [speed]}),
        }
    )
    sentence = write_headline(changed).time.sentence
    assert f"0.1 and 2.5 in the first step{text} 10.9 and 12.6 in the other steps." in sentence
    assert sentence.endswith("; ranges overlap.") is not is_shown


def test_parts_and_medians_that_need_not_agree_say_in_their_titles_of_which_runs_they_are():
    assert time_table(timed(PLANTED)).title.endswith(": the run with the median total")
    assert costs(example()).title.endswith(": medians over all runs")
    (title,) = (each.title for each in training_pictures(example()) if each.name == "quality-time")
    assert title == "accuracy against the time of training, means over seeds"


def test_parts_of_the_time_are_left_out_where_a_run_did_not_record_its_launch():
    planted = PLANTED | {"torch/stock": [(6.03, 0.1, 10.98), (None, 0.1, 10.98)]}
    assert [row[0] for row in time_table(timed(planted)).groups[""]] == ["tensorflow/stock"]
    assert "Of these seconds" not in write_headline(timed(planted)).time.sentence
    assert not time_table(example())


def test_the_seconds_since_the_call_are_no_row_beside_those_since_the_launch():
    results = example()
    (since_call,) = (cost for cost in results.costs if cost.name == "startup_seconds")
    launch = since_call.model_copy(update={"name": "launch_seconds"})
    headings = [heading.partition(",")[0] for heading in costs(results).groups]
    assert "From the call to the first batch" in headings
    table = costs(results.model_copy(update={"costs": [*results.costs, launch]}))
    headings = [heading.partition(",")[0] for heading in table.groups]
    assert "From launch to the first batch" in headings and "From the call to the first batch" not in headings


def test_times_and_memory_have_their_ranges_in_sentence_and_table():
    results = example()
    headline, rows = write_headline(results), costs(results).groups
    for kind, title in (("time", "From launch to the last step, s"), ("memory", "Peak memory of the process, MiB")):
        by_variant = {row[0]: row for row in rows[f"{title} (lower is better)"]}
        for name in PAIRS[0]:
            assert f"(range {by_variant[name][2]})" in getattr(headline, kind).sentence


def test_the_first_screen_says_size_machine_and_what_the_attentions_are():
    results = example()
    sized = [
        run.model_copy(update={"train": run.train.model_copy(update={"parameters": 689_666})}) if run.train else run
        for run in results.runs
    ]
    changed = results.model_copy(update={"runs": sized, "machines": results.machines[:1]})
    assert "bert, 689,666 parameters \N{MIDDLE DOT}" in facts(changed)
    assert facts(changed).endswith("\N{MIDDLE DOT} A Processor (R), 2 cores")
    gpu = [
        run.model_copy(
            update={"environment": run.environment.model_copy(update={"framework": {"device": "A GPU"}})}
        ) if run.environment else run
        for run in sized
    ]  # fmt: skip
    assert facts(changed.model_copy(update={"runs": gpu})).endswith("A Processor (R), 2 cores, A GPU")
    assert variant_terms(results) == (
        "stock: the attention of the transformers library; handwritten: this project's in its place."
    )
    page = html_page(content_of(changed, []))
    assert page.index("this project&#39;s in its place") < page.index('class="answers"')
    own = Variant(name="torch/m:A", framework="torch", attention="m:A", seeds=[0], completed=1, failed=0)
    assert variant_terms(changed.model_copy(update={"variants": [own]})) == "m:A: this class in its place."


@pytest.mark.parametrize(
    ("whole", "compared"),
    [(375, "the first 10 of 375 steps"), (10, "all 10 steps"), (3, "10 steps, more than the 3 of a training,")],
)
def test_steps_in_lockstep_are_said_beside_those_of_a_training(whole, compared):
    results = example()
    trained = [
        run.model_copy(update={"train": run.train.model_copy(update={"steps": whole})}) if run.train else run
        for run in results.runs
    ]
    changed = results.model_copy(update={"runs": trained, "recipe_differences": []})
    assert f"In lock-step, {compared} were taken" in sameness_lead(changed)
    same = changed.sameness.model_copy(update={"batches": changed.sameness.batches[:1]})
    sentence = write_headline(changed.model_copy(update={"sameness": same})).training.sentence
    assert f"same dropout masks, {compared} compared one by one" in sentence


def test_the_distance_of_parameters_is_said_of_each_attention():
    results, stock = example(), lockstep_example()
    far = stock.differences | {"parameters": 7e-4}
    both = [stock, stock.model_copy(update={"attention": "handwritten", "differences": far})]
    apart = [
        PairDistance(
            first=first, second=second, loss_distance=1e-4, share=share, agree=1.0, within=True,
            first_step_over_rounding=9,
        )
        for (first, second), share in zip(PAIRS, (1.07, 1.28), strict=True)
    ]  # fmt: skip
    control = ControlComparison(
        seeds=[0, 1, 2], first_step_over_rounding=5, loss_distance=1e-3, agree=0.99, seconds=3.0, pairs=apart
    )
    changed = results.sameness.model_copy(update={"lockstep": both, "control": control})
    lead = sameness_lead(results.model_copy(update={"sameness": changed}))
    assert "differ 0.4 times (stock attention) and 0.7 times (handwritten attention) as much as" in lead
    assert "In lock-step, all 10 steps were taken, and" in lead, "old ones do not say of which seed"
    assert (
        "In whole trainings of 3 seeds, step 9 is the earliest of any pair and seed at which the losses differ by more "
        "than rounding. Over all steps they differ 1.07 times as much across frameworks and 1.28 times as much within "
        "a framework as those of two PyTorch trainings"
    ) in lead
    same = changed.model_copy(update={"batches": changed.batches[:1]})
    answer = write_headline(results.model_copy(update={"sameness": same, "recipe_differences": []})).training
    assert "losses across frameworks differ 1.07 times (bound: 3) as much as those of two PyTorch" in answer.sentence
    rows = {row[0]: row for row in control_table(results.model_copy(update={"sameness": changed})).groups[""]}
    assert [rows[" and ".join(names)][1].sentence for names in PAIRS] == ["1.07 ×", "1.28 ×"]
    stepped = [each.model_copy(update={"seed": 7}) for each in both]
    lead = sameness_lead(results.model_copy(update={"sameness": changed.model_copy(update={"lockstep": stepped})}))
    assert "In lock-step, all 10 steps of seed 7 were taken, and" in lead


def test_a_number_of_seeds_is_explained_below_the_verdicts_that_have_one():
    asked = pair_of(PAIRS[0], accuracy="inconclusive:40")
    table = verdicts(example().model_copy(update={"comparisons": [asked]}))
    (((_, cell),),) = table.groups.values()
    assert cell.sentence.endswith("within 1 point it takes about 40 seeds if there is no true difference")
    assert "in 80% of repetitions, if the true means are equal" in table.note
    assert not verdicts(example().model_copy(update={"comparisons": [pair_of(PAIRS[0], accuracy="equivalent:9")]})).note


@pytest.mark.parametrize(
    ("bases", "text"),
    [
        (["rows", "rows"], "tokens of every step, and a digest of the rows of each epoch in their order."),
        (["rows", "sizes"], "tokens of every step; a digest of the rows of each epoch in their order only where both"),
        (["sizes", "sizes"], "tokens of every step; their rows were not recorded by both."),
    ],
)
def test_what_was_compared_of_the_batches_is_said_below_their_table(bases, text):
    results = example()
    rows = [row.model_copy(update={"basis": basis}) for row, basis in zip(results.sameness.batches, bases, strict=True)]
    changed = results.sameness.model_copy(update={"batches": rows})
    assert (
        f"Batches: the number of examples and {text}"
        in sameness_table(results.model_copy(update={"sameness": changed})).note
    )


@pytest.mark.parametrize(
    ("device", "is_on", "text"),
    [
        ("cpu", False, "the same scores; speeds vary. A processor always computes the same bits"),
        ("A GPU", False, "nearly the same scores; speeds vary. A GPU computes the same bits each time only with"),
        ("A GPU", True, "the same scores, also on a GPU, since train.deterministic is on"),
    ],
)
def test_whether_scores_come_again_depends_on_the_device_and_its_setting(device, is_on, text):
    results = example()
    changed = [
        run.model_copy(
            update={"environment": run.environment.model_copy(update={"framework": {"device": device}})}
        ) if run.environment else run
        for run in results.runs
    ]  # fmt: skip
    settings = results.settings | {"train.deterministic": is_on}
    assert f" gives {text}" in reproducing(results.model_copy(update={"runs": changed, "settings": settings}))


def test_how_longer_trainings_are_reckoned_is_said_only_where_the_first_screen_does():
    results = example()
    shown = results.speed.pairs[0].model_copy(update={"is_shown": True})
    turning = BreakEven(first=PAIRS[0][0], second=PAIRS[0][1], faster=PAIRS[0][0], examples=5.0, examples_of_run=9.0)
    speed = results.speed.model_copy(update={"pairs": [shown]})
    for points in ([], [turning]):
        changed = results.model_copy(update={"break_even": points, "speed": speed})
        (method,) = (section for section in sections(changed) if section.name == "method")
        assert ("Longer trainings" in method.points) == bool(points)
        assert (" takes less time in all; these runs had 9." in write_headline(changed).time.sentence) == bool(points)


def test_the_data_is_named_and_what_holds_for_it_alone():
    assert "320 train, 100 validation rows of json ·" in facts(example())
    assert limits(example())["Data"].startswith("Scores hold for this data, this model and these settings")


def test_terms_of_the_statistics_are_explained_below_their_tables():
    table = differences(example())
    assert "90% interval is over" in table.columns and "Basis" not in table.columns
    assert "with a single seed it is over resampled validation examples" in table.note
    assert (
        "Cohen's κ" in agreement(example()).columns
        and "Cohen's κ (kappa): how much more often" in agreement(example()).note
    )


def test_the_markdown_says_of_what_the_page_has_more():
    results = example()
    many = [results.disagreements[0].model_copy(update={"index": number}) for number in range(11)]
    text = markdown_page(content_of(results.model_copy(update={"disagreements": many}), []))
    assert "\nreport.html has 3 more of these examples.\n" in text


def test_commands_of_runs_are_those_that_a_person_types():
    results = example()
    old = [
        run.model_copy(
            update={"environment": run.environment.model_copy(update={"command": ["__main__.py", "finetune", "a b"]})}
        ) if run.environment else run
        for run in results.runs
    ]  # fmt: skip
    for rows in runs(results.model_copy(update={"runs": old})).groups.values():
        assert dict(rows)["command"] == "python -m pipeline finetune 'a b'"


def test_an_axis_of_nearly_equal_scores_has_ticks_as_the_tables_write_them():
    results = example()
    summary = results.metrics["loss"].variants["torch/stock"]
    near = {
        name: summary.model_copy(
            update={"mean": 47.2335 + 1e-7 * number, "low": None, "high": None, "values": {0: 47.2335 + 1e-7 * number}}
        )
        for number, name in enumerate(results.metrics["loss"].variants)
    }
    metrics = {"perplexity": results.metrics["loss"].model_copy(update={"variants": near})}
    (drawn,) = (each for each in pictures(results.model_copy(update={"metrics": metrics})) if each.name == "scores-1")
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", drawn.svg())
    assert not [text for text in texts if "e+" in text or "1e" in text], texts
    assert [text for text in texts if text.startswith("47.")]


def test_scores_against_time_have_ticks_as_the_tables_write_them_too():
    results = example()
    evaluations = {
        name: {
            seed: [each.model_copy(update={"metrics": {"accuracy": 0.9 + 1e-9 * number}}) for each in epochs]
            for seed, epochs in by_seed.items()
        }
        for number, (name, by_seed) in enumerate(results.sameness.evaluations.items())
    }
    changed = results.sameness.model_copy(update={"evaluations": evaluations})
    drawn = training_pictures(results.model_copy(update={"sameness": changed}))
    (picture,) = (each for each in drawn if each.name == "quality-time")
    low, high = picture.figure.axes[0].get_ylim()
    assert low < 0.9 < high and high - low == pytest.approx(LEAST_SPAN * 0.9, rel=0.1)


def test_a_variant_with_a_single_point_is_in_the_figure_of_lines():
    results, name = example(), "tensorflow/stock"
    calibration = results.predictions[name].classes.calibration
    one = [each if each.low == 0.9 else each.model_copy(update={"probability": None}) for each in calibration.bins]
    classes = results.predictions[name].classes.model_copy(
        update={"calibration": calibration.model_copy(update={"bins": one})}
    )
    found = results.predictions | {name: results.predictions[name].model_copy(update={"classes": classes})}
    drawn = prediction_pictures(results.model_copy(update={"predictions": found}))
    (picture,) = (each for each in drawn if each.name == "calibration")
    lines = {line.get_label(): line for line in picture.figure.axes[0].get_lines()}
    assert len(lines[name].get_xdata()) == 1 and len(lines["torch/stock"].get_xdata()) == 2
