"""Sequence classification: the losses of numbers and label sets, and what its rows must have."""

import json
import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pipeline import UserError
from pipeline.metrics.scoring import statistic_for
from pipeline.recipe.loading import load_recipe
from pipeline.tasks.numerics import recorded
from pipeline.tasks.sequence_classification import MOST_SCORED_CLASSES, LabeledTexts, SequenceClassification
from pipeline.training.experiment import prepare
from tests.helpers.classifiers import loss_and_gradient
from tests.helpers.families import recipe_of


def test_the_losses_of_numbers_and_of_label_sets_are_the_usual_ones(framework):
    logits, weights = np.array([[0.3], [-1.2]], np.float32), np.array([0.5, 0.25], np.float32)
    loss, slope = loss_and_gradient(framework, logits, np.float32([1, -1]), weights, 0.0, "squared_error")
    assert loss == pytest.approx(0.7**2 / 2 + 0.2**2 / 4, rel=1e-5)
    assert slope == pytest.approx(np.array([[-0.7], [-0.1]]), rel=1e-5)
    logits, labels = np.float32([[2, -1]]), np.array([[1.0, 0.0]], np.float32)
    loss, slope = loss_and_gradient(framework, logits, labels, np.float32([[0.5, 0.25]]), 0.0, "binary_cross_entropy")
    assert loss == pytest.approx(math.log(1 + math.exp(-2)) / 2 + math.log(1 + math.exp(-1)) / 4, rel=1e-5)
    assert slope == pytest.approx(np.array([[-0.5 / (1 + math.exp(2)), 0.25 / (1 + math.exp(1))]]), rel=1e-5)


def test_a_pair_for_a_tokenizer_that_puts_nothing_between_is_refused(tmp_path):
    recipe = recipe_of("pairs", tmp_path, changes={"checkpoint": recipe_of("causal rows", tmp_path).checkpoint})
    (tmp_path / "pairs").mkdir()
    recipe = recipe_of("pairs", tmp_path / "pairs", changes={"checkpoint": recipe.checkpoint})
    with pytest.raises(UserError, match="puts nothing between the texts of a pair"):
        prepare(recipe)


@pytest.mark.parametrize("num_classes", [2, 3, MOST_SCORED_CLASSES, MOST_SCORED_CLASSES + 1])
def test_a_line_has_the_scores_of_all_classes_if_they_are_more_than_two_and_not_very_many(num_classes):
    task = SequenceClassification(load_recipe("sentiment_bert"))
    task.labels = tuple(f"class {i}" for i in range(num_classes))
    logits = np.random.default_rng(2).normal(size=(5, num_classes)).astype(np.float32)
    ones = np.ones(5, np.int64)
    examples = LabeledTexts({}, lengths=ones, num_targets=ones, counts={}, labels=np.arange(5) % num_classes)
    scored = task.score_batch(logits, examples, np.arange(5))
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    answers = task.decode_batch(logits, examples, np.arange(5))
    for row, (line, answer) in enumerate(zip((each.line for each in scored), answers, strict=True)):
        assert line["score"] == pytest.approx(expected[row].max(), abs=1e-6)
        assert ("scores" in line) == (2 < num_classes <= MOST_SCORED_CLASSES) and "scores" not in answer
        if "scores" in line:
            assert line["scores"] == pytest.approx(expected[row].tolist(), abs=1e-6)
            assert line["prediction"] == task.labels[int(np.argmax(line["scores"]))]


@pytest.mark.parametrize("kind", ["two classes", "three classes", "labels"])
def test_the_order_of_a_very_sure_models_predictions_survives_in_its_lines(kind):
    """The area under the curve of the lines is that of the logits, where six decimals would be 0 or 1 for most rows."""
    gaps = np.linspace(-30, 30, 61, dtype=np.float32)
    truth = np.random.default_rng(3).integers(0, 2, 61)
    logits = np.stack([np.zeros(61), gaps, np.full(61, -60.0)][: 3 if kind == "three classes" else 2], axis=1)
    problem = "multi_label_classification" if kind == "labels" else "single_label_classification"
    recipe = load_recipe("sentiment_bert", {"options.problem_type": problem, "metrics": ["roc_auc"]})
    task = SequenceClassification(recipe)
    task.labels = ("no", "yes", "never")[: logits.shape[1]]
    if kind == "labels":
        logits, labels = np.stack([-gaps, gaps], axis=1), np.eye(2, dtype=np.float32)[truth]
    else:
        labels = truth.astype(np.int32)
    ones = np.ones(61, np.int64)
    examples = LabeledTexts({}, lengths=ones, num_targets=ones, counts={}, labels=labels)
    scored = task.score_batch(logits.astype(np.float32), examples, np.arange(61))
    lines = [json.loads(json.dumps(each.line)) for each in scored]
    expected = roc_auc_score(truth, gaps)
    assert statistic_for("roc_auc", lines, task.labels)(np.ones((1, 61))) == pytest.approx(expected, abs=1e-12)
    assert max(len(json.dumps(each)) for line in lines for each in numbers_in(line)) <= 22


def numbers_in(line):
    """The probabilities of a line of predictions.jsonl."""
    score = line["score"]
    return [*(score.values() if isinstance(score, dict) else [score]), *line.get("scores", [])]


@pytest.mark.parametrize(
    ("probability", "written"),
    [
        (0.123456789, 0.123457),
        (1.23456789e-9, 1.23457e-9),
        (1 - 1.23456789e-9, 0.99999999876543),
        (0.5, 0.5),
        (0.0, 0.0),
        (1.0, 1.0),
        (5e-324, 0.0),
        (math.nan, math.nan),
    ],
)
def test_a_probability_has_six_significant_digits_also_of_what_is_missing_to_1(probability, written):
    assert recorded(np.array([probability])) == pytest.approx([written], rel=1e-15, abs=0, nan_ok=True)
