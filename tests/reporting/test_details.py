"""What a report says of predictions and settings: sentence, table and figure have the same numbers."""

import re
from pathlib import Path

import pytest

from pipeline.comparison.predictions.details import prediction_details
from pipeline.comparison.records import predictions as p
from pipeline.comparison.records.sameness import Evaluation
from pipeline.comparison.results import Results
from pipeline.comparison.run_set import ComparedRun
from pipeline.recipe.loading import load_recipe
from pipeline.reporting.details.figures import prediction_pictures
from pipeline.reporting.details.sentences import predictions_lead
from pipeline.reporting.details.tables import prediction_tables
from pipeline.reporting.first_screen import with_headline
from pipeline.reporting.tables import hyperparameters
from pipeline.reporting.training_figures import training_pictures
from pipeline.reporting.writer import content_of, markdown_page
from tests.helpers.comparison_example import CONFUSIONS, example

MINUS = "\N{MINUS SIGN}"


def details(**of_task):
    """The details of a variant whose other parts do not matter."""
    return p.PredictionDetails(num_predictions=100, **of_task)


def calibrated(probability, right, error=None, classes=(("no", 40, 50, 50), ("yes", 45, 50, 50))):
    counts = [p.ClassCounts(name=name, right=a, predicted=b, true=c) for name, a, b, c in classes]
    calibration = p.Calibration(
        bins=[], error=abs(probability - right) if error is None else error, probability=probability, right=right
    )
    return details(classes=p.ClassDetails(classes=counts, confusion=None, calibration=calibration))


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ((0.95, 0.85), (0.93, 0.86), "Probabilities are too high, by 7.0 to 10.0 points"),
        ((0.70, 0.85), (0.70, 0.85), "Probabilities are too low, by 15.0 points"),
        ((0.86, 0.85), (0.85, 0.86), "On average, probabilities are as high as the share that is right"),
        (
            (0.86, 0.85, 0.09),
            (0.85, 0.86),
            "as high as the share that is right, but high and low ones are not (expected",
        ),
        ((0.95, 0.85), (0.70, 0.85), f"share that is right, in points: a +10.0, b {MINUS}15.0"),
    ],
)
def test_probabilities_are_called_too_high_or_low_as_planted(first, second, said):
    assert said in predictions_lead({"a": calibrated(*first), "b": calibrated(*second)})


def test_the_hardest_class_is_one_for_all_or_each_variants_own():
    hard_no = calibrated(0.9, 0.9)
    hard_yes = calibrated(0.9, 0.9, classes=(("no", 45, 50, 50), ("yes", 30, 50, 50), ("never true", 0, 9, 0)))
    assert "The hardest class in every variant is “no” (F1 0.800)." in predictions_lead({"a": hard_no, "b": hard_no})
    both = predictions_lead({"a": hard_no, "b": hard_yes})
    assert "The hardest class is “no” in a (F1 0.800), “yes” in b (F1 0.600)." in both


def test_the_most_frequent_mistake_is_named():
    errors = p.EntityErrors(name="PER", right=6, other_type=1, other_words=0, missed=3, invented=9)
    tagged = details(tags=p.TagDetails(entities=[], errors=[errors]))
    assert "a, b: 60.0% of 10 true entities are found; the others are most often missed altogether." in (
        predictions_lead({"a": tagged, "b": tagged})
    )
    kinds = dict.fromkeys(p.AnswerErrors.model_fields, 0) | {"exact": 3, "too_long": 1}
    answered = details(answers=p.AnswerDetails(lengths=[], errors=p.AnswerErrors(**kinds)))
    assert "a: 75.0% of 4 answers are exactly an accepted one; the others most often have more words around it." in (
        predictions_lead({"a": answered})
    )


def test_sentence_table_and_figure_have_the_same_numbers():
    results = example()
    found = results.predictions
    lead = predictions_lead(found)
    tables = {table.title: table for table in prediction_tables(results) if table}
    pictures = {picture.name: picture for picture in prediction_pictures(results)}
    errors = {name: f"{each.classes.calibration.error:.3f}" for name, each in found.items()}
    assert f"{min(errors.values())} to {max(errors.values())}" in lead or len(set(errors.values())) == 1
    assert "91.0% of the predictions of torch/handwritten, 90.5% of the predictions of tensorflow/stock." in lead
    rows = tables["Can the probabilities be believed?"].groups[""]
    assert {row[0]: row[1] for row in rows} == errors
    for name, error in errors.items():
        assert f"{name} {error}" in pictures["calibration"].description
    (negative, positive) = CONFUSIONS["tensorflow/stock"]
    (row,) = tables["What is taken for what, most often"].groups[""][:1]
    assert row == ["negative → positive", "15", "15", "12"]
    right, total = negative[0] + positive[1], sum(negative) + sum(positive)
    assert pictures["confusion-3"].description == f"{right:,} of {total:,} predictions are on the diagonal."
    drawn = pictures["confusion-3"].svg()
    for count, share in ((88, "88.0%"), (12, "12.0%"), (7, "7.0%"), (93, "93.0%")):
        assert f": {count} ({share})</title>" in drawn


# Lines of predictions.jsonl of each task, and what the report must show of them.
TASKS = {
    "labels": (
        [{"prediction": ["x"], "reference": ["x", "y"], "score": {"x": 0.9, "y": 0.4}}],
        ["Scores of each class", "Can the probabilities be believed?", "The probability of each class"],
    ),
    "number": (
        [{"prediction": 1.5 * i, "reference": float(i)} for i in range(7)],
        ["Small and large numbers"],
    ),
    "tags": (
        [{"prediction": ["B-PER", "O", "B-LOC"], "reference": ["B-PER", "I-PER", "B-ORG"]}],
        ["Scores of each type of entity", "What becomes of the entities"],
    ),
    "answer": (
        [{"prediction": "the mill", "reference": ["old mill"]}],
        ["What the answers are", "Scores by the length of the reference"],
    ),
    "text": (
        [{"prediction": "", "reference": "one two"}, {"prediction": "one", "reference": "one"}],
        ["Scores by the length of the reference", "Words written, over words of the reference", "The worst texts"],
    ),
    "token_losses": (
        [{"loss_sum": 6.0, "tokens": 3, "position_losses": [3.0, 2.0, 1.0]}],
        ["Loss of an example in nats a token", "Loss by the position of the token in its row"],
    ),
    "hidden_tokens": (
        [{"loss_sum": 6.0, "tokens": 2, "prediction": ["a", "b"], "reference": ["a", "a"]}],
        ["Loss of an example in nats a token", "Rare and frequent hidden tokens"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("outcome", TASKS)
def test_every_task_has_its_tables_its_figures_and_a_sentence(outcome):
    lines, titles = TASKS[outcome]
    outcomes = ("token_losses", outcome) if outcome == "hidden_tokens" else (outcome,)
    recipe = load_recipe("sentiment_bert")
    runs = [
        ComparedRun("torch", "stock", seed, Path("run"), recipe, "torch/stock", predictions=lines) for seed in (0, 1)
    ]
    found = prediction_details(runs, outcomes, [])
    assert found["torch/stock"].num_predictions == 2 * len(lines)
    results = example().model_copy(update={"predictions": found})
    tables = [table for table in prediction_tables(results) if table]
    assert [table.title for table in tables] == titles
    for table in tables:
        assert all(len(row) == len(table.columns) for rows in table.groups.values() for row in rows), table.title
    assert "torch/stock" in predictions_lead(found) or "median" in predictions_lead(found) or outcome == "labels"
    for picture in prediction_pictures(results):
        assert "torch/stock" in picture.description and "<title>torch/stock" in picture.svg()
    text = markdown_page(content_of(results, []))
    assert "<summary>What do they get right and wrong?</summary>" in text and f"**{titles[-1]}**" in text


def test_quality_against_time_is_drawn_where_times_are_known():
    results = example()
    pictures = {picture.name: picture for picture in training_pictures(results)}
    assert "torch/stock 0.9000 after 2.0 s" in pictures["quality-time"].description
    assert "torch/stock, epoch 1: 0.8000 after 1.0 s" in pictures["quality-time"].svg()
    untimed = {name: {0: [Evaluation(epoch=1, metrics={"accuracy": 0.9})]} for name in results.predictions}
    old = results.model_copy(update={"sameness": results.sameness.model_copy(update={"evaluations": untimed})})
    assert "quality-time" not in {picture.name for picture in training_pictures(old)}


def test_a_setting_that_differs_is_marked_with_its_values():
    cells = dict(hyperparameters(example()).groups[""])
    assert cells["train.learning_rate"] == "3e-05"
    assert (cells["train.weight_decay"].word, cells["train.weight_decay"].sentence) == ("Differs", "0.01; 0.1")
    assert "train.lora" not in cells


@pytest.mark.parametrize(("num_variants", "left_out"), [(3, 20), (8, 25), (12, 28)])
def test_the_markdown_has_a_summary_of_forty_lines_and_folds_the_rest(num_variants, left_out):
    content = with_headline(example()).to_json()
    notice = {"state": "unknown", "sentence": "Something else to know."}
    content["headline"]["notices"] = [notice] * 30
    variants = content["metrics"]["accuracy"]["variants"]
    variants |= {f"torch/{number}": variants["torch/stock"] for number in range(3, num_variants)}
    text = markdown_page(content_of(Results.model_validate(content), []))
    seen = re.sub(r"<details>.*?</details>\n*", "", text, flags=re.S)
    assert len(seen.splitlines()) <= 40
    assert f"{left_out} more notices are in report.html." in seen and "| torch/stock | 0.9100 |" in seen
    assert text.count("<details>") == text.count("</details>") >= 8
    assert len(text) < 65_536, "what a pull request takes"
