"""What predictions show, task by task: counts beside those of scikit-learn and seqeval, and planted mistakes."""

from pathlib import Path

import numpy as np
import pytest
from seqeval.metrics.sequence_labeling import precision_recall_fscore_support as seqeval_scores
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support, precision_score, recall_score

from pipeline import UserError
from pipeline.comparison.predictions.classes import calibration, class_details, label_details
from pipeline.comparison.predictions.details import prediction_details
from pipeline.comparison.predictions.numbers import number_details
from pipeline.comparison.predictions.tags import tag_details
from pipeline.comparison.predictions.texts import answer_details, text_details
from pipeline.comparison.predictions.tokens import token_details
from pipeline.comparison.run_set import ComparedRun
from pipeline.comparison.same_experiment import smoothed
from pipeline.recipe.loading import load_recipe


def classified(seed, names, size=60):
    """Lines of predictions.jsonl with random classes and probabilities."""
    rng = np.random.default_rng(seed)
    return [
        {"prediction": str(rng.choice(names)), "reference": str(rng.choice(names)), "score": float(p)}
        for p in rng.uniform(1 / len(names), 1, size)
    ]


def test_counts_of_classes_are_those_of_scikit_learn():
    names = ["red", "green", "blue"]
    lines = classified(1, names)
    found = class_details(lines, names)
    true, predicted = ([line[key] for line in lines] for key in ("reference", "prediction"))
    assert found.confusion == confusion_matrix(true, predicted, labels=names).tolist()
    expected = np.transpose(precision_recall_fscore_support(true, predicted, labels=names))
    ours = [[each.precision, each.recall, each.f1, each.true] for each in found.classes]
    assert np.allclose(ours, expected)
    assert found.positive is None and found.operating == []


def test_points_of_the_precision_recall_curve_are_those_of_scikit_learn():
    lines = classified(2, ["no", "yes"])
    found = class_details(lines, ["no", "yes"])
    probability = np.array([each["score"] if each["prediction"] == "yes" else 1 - each["score"] for each in lines])
    true = np.array([line["reference"] == "yes" for line in lines])
    assert found.positive == "yes" and len(found.operating) > 20
    for point in found.operating:
        chosen = probability >= point.at_least
        assert point.precision == pytest.approx(precision_score(true, chosen))
        assert point.recall == pytest.approx(recall_score(true, chosen))
    assert found.operating[0].recall == 1


def test_curves_of_each_class_are_those_of_two_classes_it_and_the_rest():
    names = ["red", "green", "blue"]
    lines = classified(3, names)
    for line, scores in zip(lines, np.random.default_rng(4).dirichlet(np.ones(3), len(lines)), strict=True):
        line["scores"] = scores.tolist()
    found = class_details(lines, names)
    assert [each.name for each in found.curves] == names
    for i, curves in enumerate(found.curves):
        probability = np.array([line["scores"][i] for line in lines])
        true = np.array([line["reference"] == names[i] for line in lines])
        assert curves.calibration == calibration(probability, true)
        assert len(curves.operating) > 10
        for point in curves.operating:
            chosen = probability >= point.at_least
            assert point.precision == pytest.approx(precision_score(true, chosen))
            assert point.recall == pytest.approx(recall_score(true, chosen))
    assert class_details(lines, []).curves == [], "the order of the scores is not known without the model"
    older = classified(3, names)
    for several in (older, older + lines, lines + older):  # the seeds of a variant may be runs of several versions
        assert class_details(several, names).curves == []


def test_of_many_classes_those_that_are_true_most_often_have_curves():
    names = [f"class {i}" for i in range(15)]
    references = [name for i, name in enumerate(names) for _ in range(1 + i)]
    lines = [{"prediction": "class 3", "reference": name, "score": 1.0, "scores": [1 / 15] * 15} for name in references]
    assert [each.name for each in class_details(lines, names).curves] == names[3:]


def test_calibration_is_the_weighted_distance_of_probability_and_share_right():
    found = calibration(np.array([0.62, 0.68, 0.95, 1.0, 0.7]), np.array([True, False, True, True, False]))
    by_range = {(each.low, each.high): (each.count, each.probability, each.right) for each in found.bins if each.count}
    # 0.7 is in the range above it, and 1 in the last.
    assert by_range == {
        (0.6, 0.7): (2, pytest.approx(0.65), 0.5), (0.7, 0.8): (1, 0.7, 0.0), (0.9, 1.0): (2, pytest.approx(0.975), 1),
    }  # fmt: skip
    assert found.error == pytest.approx((2 * 0.15 + 1 * 0.7 + 2 * 0.025) / 5)
    assert found.right == pytest.approx(3 / 5) and found.probability == pytest.approx(0.79)
    assert calibration(np.array([np.nan]), np.array([True])) is None


def test_thresholds_count_what_is_sure_enough():
    probabilities = [(0.55, "a"), (0.65, "b"), (0.93, "b"), (0.97, "a")]
    lines = [{"prediction": name, "reference": "b", "score": p} for p, name in probabilities]
    found = class_details(lines, ["a", "b"])
    by_threshold = {each.at_least: (each.kept, each.right) for each in found.thresholds}
    assert by_threshold[0.0] == (1.0, 0.5)
    assert by_threshold[0.9] == (0.5, 0.5) and by_threshold[0.95] == (0.25, 0.0)
    assert by_threshold[0.99] == (0.0, None)


def test_labels_are_counted_each_by_itself():
    lines = [
        {"prediction": ["x"], "reference": ["x", "y"], "score": {"x": 0.9, "y": 0.4}},
        {"prediction": ["x", "y"], "reference": ["y"], "score": {"x": 0.8, "y": 0.7}},
    ]
    found = label_details(lines)
    assert [(each.name, each.right, each.predicted, each.true) for each in found.classes] == [
        ("x", 1, 2, 1), ("y", 1, 1, 2),
    ]  # fmt: skip
    assert found.confusion is None and found.calibration.right == 0.75
    assert [(each.name, each.calibration.right, each.operating[0].recall) for each in found.curves] == [
        ("x", 0.5, 1.0), ("y", 1.0, 1.0),
    ]  # fmt: skip


def test_each_true_entity_has_one_fate():
    true = ["B-PER", "I-PER", "O", "B-LOC", "O", "B-ORG", "I-ORG", "O", "B-PER", "O"]
    predicted = ["B-PER", "I-PER", "O", "B-ORG", "O", "B-ORG", "O", "O", "O", "B-LOC"]
    found = tag_details([{"prediction": predicted, "reference": true}])
    fates = {
        each.name: (each.right, each.other_type, each.other_words, each.missed, each.invented) for each in found.errors
    }
    assert fates == {"LOC": (0, 1, 0, 0, 1), "ORG": (0, 0, 1, 0, 0), "PER": (1, 0, 0, 1, 0)}
    expected = seqeval_scores([true], [predicted], average=None, zero_division=0)
    ours = [(each.precision, each.recall, each.f1, each.true) for each in found.entities]
    assert np.allclose(ours, np.transpose(expected))


def test_answers_are_sorted_by_what_is_wrong_with_them():
    cases = {
        "exact": ("The old mill", ["old mill", "a mill"]),
        "too_long": ("near the old mill now", ["old mill"]),
        "too_short": ("mill", ["old mill"]),
        "shifted": ("mill pond", ["old mill"]),
        "elsewhere": ("river", ["old mill"]),
        "wrongly_empty": ("", ["old mill"]),
        "wrongly_answered": ("mill", []),
    }
    found = answer_details([{"prediction": answer, "reference": accepted} for answer, accepted in cases.values()])
    assert found.errors.model_dump() == dict.fromkeys(cases, 1) | {"starts_wrong": 3, "ends_wrong": 2}
    by_length = {(band.low, band.high): (band.count, band.exact) for band in found.lengths}
    assert by_length == {(0, 0): (1, 0.0), (2, 2): (6, pytest.approx(1 / 6))}


def test_the_worst_texts_come_first_and_right_ones_are_not_among_them():
    texts = [("a cat sat", "a cat sat"), ("", "the dog ran off"), ("a cat sits", "a cat sat"), ("zzz", "one two")]
    lines = [{"prediction": text, "reference": reference} for text, reference in texts]
    found = text_details([(7, lines)], [{"source": f"row {i}"} for i in range(4)])
    assert [(each.index, each.fields) for each in found.worst] == [
        (1, {"source": "row 1"}), (3, {"source": "row 3"}), (2, {"source": "row 2"}),
    ]  # fmt: skip
    assert (found.empty, found.length_ratio[2]) == (1, pytest.approx((1 + 1 / 2) / 2))
    scores = {(band.low, band.high): (band.count, band.exact, band.partial) for band in found.lengths}
    assert scores == {(2, 4): (4, 0.25, pytest.approx((1 + 2 / 3) / 4))}


def test_numbers_are_looked_at_in_five_groups():
    true = np.arange(10.0)
    lines = [{"prediction": t + (2.0 if t > 7 else 0.0), "reference": float(t)} for t in true[::-1]]
    found = number_details(lines)
    assert [(band.low, band.high, band.count, band.error) for band in found.bands][-1] == (8, 9, 2, 2)
    assert all(band.error == 0 for band in found.bands[:-1])
    assert found.bias == found.error == pytest.approx(0.4)


def test_losses_are_told_apart_by_position_and_hidden_tokens_by_frequency():
    rows = [{"loss_sum": 6.0, "tokens": 3, "position_losses": [3.0, 2.0, 1.0]}] * 2
    found = token_details([rows])
    assert [(each.first, each.last, each.tokens, each.loss) for each in found.positions] == [
        (1, 1, 2, 3.0), (2, 2, 2, 2.0), (3, 4, 2, 1.0),
    ]  # fmt: skip
    assert found.percentiles == [2.0] * 5
    hidden = [
        {"loss_sum": 1.0, "tokens": 3, "prediction": ["a", "b", "a"], "reference": ["a", "a", "c"]},
        {"loss_sum": 0.0, "tokens": 0, "prediction": [], "reference": []},
    ]
    found = token_details([hidden])
    assert [(each.low, each.high, each.tokens, each.right) for each in found.frequencies] == [
        (1, 1, 1, 0),
        (2, 4, 2, 1),
    ]
    assert found.positions == []


def test_smoothing_keeps_a_straight_line_and_evens_out_the_rest():
    line = np.linspace(3.0, 1.0, 200)
    assert np.allclose(smoothed(line), line)
    zigzag = line + np.where(np.arange(200) % 2, 0.5, -0.5)
    assert np.abs(smoothed(zigzag) - line)[5:-5].max() < 0.06
    assert smoothed(np.array([1.0, 5.0])).tolist() == [1.0, 5.0]


def test_a_model_that_diverged_has_counts_but_no_probabilities():
    lines = [{"prediction": "a", "reference": name, "score": None} for name in ("a", "b")]
    found = class_details(lines, ["a", "b"])
    assert found.confusion == [[1, 0], [1, 0]]
    assert (found.calibration, found.operating, found.thresholds[0].right) == (None, [], 0.5)
    assert label_details([{"prediction": [], "reference": ["x"], "score": {"x": None}}]).calibration is None
    assert number_details([{"prediction": None, "reference": 1.0}]) is None
    diverged = {"loss_sum": None, "tokens": 2, "position_losses": [None, None]}
    assert token_details([[diverged]]) is None
    sound = {"loss_sum": 3.0, "tokens": 2, "position_losses": [2.0, 1.0]}
    assert [(each.tokens, each.loss) for each in token_details([[diverged, sound]]).positions] == [(1, 2.0), (1, 1.0)]


def test_lines_of_older_versions_show_what_they_hold():
    lines = [{"prediction": "a", "reference": "b"}, {"prediction": "b", "reference": "b"}]
    found = class_details(lines, ["a", "b"])
    assert (found.confusion, found.calibration) == ([[0, 0], [1, 1]], None)
    bare = ComparedRun("torch", "stock", 0, Path("run"), load_recipe("sentiment_bert"), "v", predictions=[{"index": 0}])
    for outcome in ("class", "labels", "number", "tags", "answer", "text", "token_losses"):
        assert prediction_details([bare], (outcome,), []) == {}


def test_predictions_of_another_task_are_refused_with_their_file():
    recipe = load_recipe("sentiment_bert")
    lines = [{"index": 0, "prediction": "positive", "reference": "negative", "score": "high"}]
    run = ComparedRun("torch", "stock", 0, Path("runs/one"), recipe, "torch/stock", predictions=lines)
    with pytest.raises(UserError, match=r"runs/one/predictions\.jsonl does not hold predictions of this task"):
        prediction_details([run], ("class",), [])
