"""Every metric against a value worked out by hand or by the function of its library."""

import math

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu import corpus_bleu, corpus_chrf
from sklearn.metrics import roc_auc_score

from pipeline.metrics.scoring import load_metrics, metric_names

# tp 3, fp 1, fn 2, tn 4
CLASSES = {"predictions": [1, 1, 1, 1, 0, 0, 0, 0, 0, 0], "references": [1, 1, 1, 0, 1, 1, 0, 0, 0, 0]}

# Per label (tp, fp, fn): (2, 0, 1), (0, 1, 1), (1, 0, 0); the first and the last row are right.
LABELS = {
    "predictions": [[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 0, 1]],
    "references": [[1, 0, 0], [1, 0, 0], [1, 1, 0], [0, 0, 1]],
}

# About the means -2 0 -1 3 and -2 -1 1 2: squares 14 and 10, products 9. Ranks differ by 0, 1, 1 and 0.
NUMBERS = {"predictions": [1.0, 3.0, 2.0, 6.0], "references": [1.0, 2.0, 4.0, 5.0]}

# Of 4 predicted entities 3 are right, and of 5 true ones 3 are found: the second person ends a word early.
TAGS = {
    "predictions": [["B-person", "I-person", "O"], ["B-person", "O", "O", "B-place"], ["B-person", "O"]],
    "references": [["B-person", "I-person", "O"], ["B-person", "I-person", "O", "B-place"], ["B-person", "B-group"]],
}

# "The cat!" is right after normalization; "red dog" shares one word of two and three; the last has no answer.
ANSWERS = {
    "predictions": ["The  cat!", "red dog", "cow", "x"],
    "references": [["a dog", "cat"], ["the dog ran off", "a big dog"], ["horse"], []],
}

TEXTS = {
    "predictions": ["the cat sat on the mat", "", "many dogs were running home "],
    "references": [
        ["a cat sat on the mat", "there is a cat on the mat"],
        ["a bird"],
        [" many dogs were running home\n"],
    ],
}

# Pooled nats: (1 + 9) / (1 + 4); the mean of the two perplexities would be another number.
LOSSES = {"loss_sums": [1.0, 9.0], "tokens": [1, 4], "bytes": [7, 13], "floor_nats": [2.0, 3.0], "correct": [1, 2]}

CASES = [
    ("accuracy", CLASSES, {"accuracy": 7 / 10}),
    ("precision", CLASSES, {"precision": 3 / 4}),
    ("recall", CLASSES, {"recall": 3 / 5}),
    ("f1", CLASSES, {"f1": 6 / 9}),
    ("f1_macro", CLASSES, {"f1_macro": (6 / 9 + 8 / 11) / 2}),
    ("f1_micro", CLASSES, {"f1_micro": 7 / 10}),
    ("matthews_correlation", CLASSES, {"matthews_correlation": (3 * 4 - 1 * 2) / (4 * 5 * 5 * 6) ** 0.5}),
    ("accuracy", LABELS, {"accuracy": 2 / 4}),
    ("f1_macro", LABELS, {"f1_macro": (4 / 5 + 0 + 1) / 3}),
    ("f1_micro", LABELS, {"f1_micro": 6 / (6 + 1 + 2)}),
    # Of the six pairs of a true 1 and a true 0 five are in order.
    (
        "roc_auc",
        {"scores": [[0.9, 0.1], [0.6, 0.4], [0.65, 0.35], [0.2, 0.8], [0.5, 0.5]], "references": [0, 0, 1, 1, 1]},
        {"roc_auc": 5 / 6},
    ),
    ("pearson", NUMBERS, {"pearson": 9 / (14 * 10) ** 0.5}),
    ("spearman", NUMBERS, {"spearman": 1 - 6 * 2 / (4 * 15)}),
    ("mse", NUMBERS, {"mse": (0 + 1 + 4 + 1) / 4}),
    (
        "seqeval_precision",
        TAGS,
        {
            "seqeval_precision": 3 / 4,
            "seqeval_precision.group": 0.0,
            "seqeval_precision.person": 2 / 3,
            "seqeval_precision.place": 1.0,
        },
    ),
    (
        "seqeval_recall",
        TAGS,
        {
            "seqeval_recall": 3 / 5,
            "seqeval_recall.group": 0.0,
            "seqeval_recall.person": 2 / 3,
            "seqeval_recall.place": 1.0,
        },
    ),
    (
        "seqeval_f1",
        TAGS,
        {"seqeval_f1": 6 / 9, "seqeval_f1.group": 0.0, "seqeval_f1.person": 2 / 3, "seqeval_f1.place": 1.0},
    ),
    ("squad_exact_match", ANSWERS, {"squad_exact_match": 100 / 4}),
    ("squad_f1", ANSWERS, {"squad_f1": 100 * (1 + 2 / 4 + 0 + 0) / 4}),
    ("perplexity", LOSSES, {"perplexity": math.exp(2)}),
    ("perplexity_floor", LOSSES, {"perplexity_floor": math.e}),
    ("bits_per_byte", LOSSES, {"bits_per_byte": 10 / 20 / math.log(2)}),
    ("masked_accuracy", LOSSES, {"masked_accuracy": 3 / 5}),
    # Words shared with the nearest reference: 5 of 6 and 6, then none, then all.
    ("rouge1", TEXTS, {"rouge1": (5 / 6 + 0 + 1) / 3}),
    ("rouge2", TEXTS, {"rouge2": (4 / 5 + 0 + 1) / 3}),
    ("rougeL", TEXTS, {"rougeL": (5 / 6 + 0 + 1) / 3}),
    ("exact_match", TEXTS, {"exact_match": 1 / 3}),
]
OF_LIBRARIES = {"sacrebleu", "chrf"}


def scored(name, columns, portions=1):
    """The metric of these columns, handed over in so many portions."""
    metric = load_metrics((name,))[name]
    features = metric.features[0] if isinstance(metric.features, list) else metric.features
    size = len(next(iter(columns.values())))
    for rows in np.array_split(np.arange(size), portions):
        metric.add_batch(**{key: [columns[key][i] for i in rows] for key in features})
    return metric.compute()


def test_every_metric_has_a_value_worked_out_by_hand_or_by_its_library():
    assert set(metric_names()) == {name for name, _, _ in CASES} | OF_LIBRARIES


@pytest.mark.parametrize(("name", "columns", "expected"), CASES)
def test_a_metric_has_the_value_worked_out_by_hand_in_one_call_or_several(name, columns, expected):
    for portions in (1, 2):
        values = scored(name, columns, portions)
        assert values == pytest.approx(expected)
        assert list(values)[0] == name and all(type(value) is float for value in values.values())


def test_a_home_that_cannot_be_written_stops_no_metric(tmp_path, monkeypatch):
    (tmp_path / "home").write_text("a file where the folder should be")
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", str(tmp_path / "home" / "cache"))
    (accuracy,) = load_metrics(("accuracy",)).values()
    assert accuracy.compute(predictions=[0, 1], references=[1, 1]) == {"accuracy": 0.5}
    assert len(load_metrics(metric_names())) == len(metric_names())


def test_a_metric_forgets_its_examples_once_it_is_computed():
    metric = load_metrics(("accuracy",))["accuracy"]
    for expected in (1.0, 0.0):
        metric.add_batch(predictions=[1, 1], references=[int(expected)] * 2)
        assert metric.compute() == {"accuracy": expected}


@pytest.mark.parametrize("name", ["precision", "recall", "f1", "matthews_correlation"])
def test_nothing_predicted_scores_zero_without_a_warning(name):
    assert scored(name, {"predictions": [0, 0], "references": [0, 0]}) == {name: 0.0}
    assert scored(name, {"predictions": [0, 0], "references": [0, 1]}) == {name: 0.0}


@pytest.mark.parametrize(("name", "expected"), [("accuracy", 0.75), ("f1_macro", 0.8), ("f1_micro", 0.8)])
def test_a_single_label_is_scored_as_a_label_not_as_two_classes(name, expected):
    columns = {"predictions": [[1], [1], [0], [1]], "references": [[1], [1], [0], [0]]}
    assert scored(name, columns) == pytest.approx({name: expected})


def test_macro_is_the_mean_over_three_classes_and_micro_is_not():
    columns = {"predictions": [0, 0, 0, 1, 0], "references": [0, 0, 0, 1, 2]}
    assert scored("f1_macro", columns) == pytest.approx({"f1_macro": (6 / 7 + 1 + 0) / 3})
    assert scored("f1_micro", columns) == pytest.approx({"f1_micro": 4 / 5})


SCORES = [[0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.3, 0.3, 0.4], [0.4, 0.25, 0.35], [0.1, 0.6, 0.3]]


def test_roc_auc_of_several_classes_is_one_against_the_rest():
    references = [0, 1, 2, 2, 0]
    expected = roc_auc_score(references, SCORES, multi_class="ovr", average="macro")
    assert scored("roc_auc", {"scores": SCORES, "references": references}, 2) == {"roc_auc": pytest.approx(expected)}


def test_roc_auc_leaves_out_a_class_that_no_example_has():
    expected = np.mean([roc_auc_score(truth, np.array(SCORES)[:, c]) for c, truth in ((0, [1, 0, 0, 0, 1]),
                                                                                    (1, [0, 1, 1, 1, 0]))])  # fmt: skip
    values = scored("roc_auc", {"scores": SCORES, "references": [0, 1, 1, 1, 0]})
    assert values == {"roc_auc": pytest.approx(expected)}


def test_roc_auc_of_labels_is_their_mean_and_nan_if_no_label_has_a_curve():
    columns = {"scores": [[0.9, 0.2], [0.8, 0.3], [0.1, 0.4]], "references": [[0, 1], [1, 1], [0, 1]]}
    assert scored("roc_auc", columns) == {"roc_auc": 0.5}
    assert math.isnan(scored("roc_auc", {"scores": [[0.4, 0.6]] * 2, "references": [1, 1]})["roc_auc"])


@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_a_constant_has_a_correlation_of_zero_without_a_warning(name):
    assert scored(name, {"predictions": [2.5] * 3, "references": [1.0, 2.0, 3.0]}) == {name: 0.0}
    assert scored(name, {"predictions": [1.0, 2.0, 3.0], "references": [2.5] * 3}) == {name: 0.0}


def test_tags_without_entities_score_zero_and_a_stray_inner_tag_opens_one():
    assert scored("seqeval_f1", {"predictions": [["O"]], "references": [["O"]]}) == {"seqeval_f1": 0.0}
    values = scored("seqeval_f1", {"predictions": [["O", "I-x"]], "references": [["O", "B-x"]]})
    assert values == {"seqeval_f1": 1.0, "seqeval_f1.x": 1.0}


@pytest.mark.parametrize("name", ["squad_f1", "squad_exact_match"])
@pytest.mark.parametrize(
    ("prediction", "answers", "expected"),
    [
        ("", [], 100.0),
        ("x", [], 0.0),
        ("", ["x"], 0.0),
        ("the", [], 100.0),
        ("x", ["x", "the"], 100.0),
        ("", ["x", "the"], 0.0),
        ("An U.S.-based  THEORY", ["us based theory", "usbased theory"], 100.0),
    ],
)
def test_squad_answers_follow_the_rules_of_both_versions(name, prediction, answers, expected):
    assert scored(name, {"predictions": [prediction], "references": [answers]}) == {name: expected}


def test_squad_f1_counts_a_repeated_word_as_often_as_both_have_it():
    columns = {"predictions": ["go go go"], "references": [["go go stop home"]]}
    assert scored("squad_f1", columns) == {"squad_f1": pytest.approx(100 * 2 * 2 / (3 + 4))}


@pytest.mark.parametrize("name", ["perplexity", "perplexity_floor"])
def test_a_perplexity_beyond_floats_is_infinite(name):
    columns = {"loss_sums": [2000.0], "floor_nats": [2000.0], "tokens": [2]}
    assert scored(name, columns) == {name: math.inf}


def test_bleu_and_chrf_are_those_of_sacrebleu_if_all_examples_have_as_many_references():
    predictions = ["the cat sat on the mat today", "he read the book there"]
    first, second = (
        ["the cat sat on a mat today", "he read a book"],
        ["a cat sat on the mat", "he has read the book there"],
    )
    columns = {"predictions": predictions, "references": [list(pair) for pair in zip(first, second, strict=True)]}
    for name, function in (("sacrebleu", corpus_bleu), ("chrf", corpus_chrf)):
        expected = function(predictions, [first, second]).score
        assert 0 < expected < 100
        assert expected != pytest.approx(function(predictions, [first]).score)
        for portions in (1, 2):
            assert scored(name, columns, portions) == {name: pytest.approx(expected)}


def test_bleu_of_one_and_of_two_references_is_the_value_worked_out_by_hand():
    # Shared n-grams: 6 of 7 words, 5 of 5 pairs, 4 of 4, 3 of 3. The nearest references have 6 and 3 words.
    columns = {
        "predictions": ["the cat sat on the mat", "x"],
        "references": [["no", "the cat sat on the mat"], ["y z w"]],
    }
    expected = 100 * math.exp(1 - 9 / 7) * (6 / 7) ** (1 / 4)
    assert scored("sacrebleu", columns, 2) == {"sacrebleu": pytest.approx(expected)}


def test_chrf_of_one_and_of_two_references_is_that_of_each_examples_best_one():
    columns = {"predictions": ["the cat", "dogs ran"], "references": [["zzz", "the cats"], ["dog ran"]]}
    expected = corpus_chrf(["the cat", "dogs ran"], [["the cats", "dog ran"]]).score
    assert scored("chrf", columns, 2) == {"chrf": pytest.approx(expected)}


@pytest.mark.parametrize("name", ["sacrebleu", "chrf", "rouge1", "rouge2", "rougeL", "exact_match"])
def test_empty_predictions_score_zero_and_no_reference_is_an_error(name):
    assert scored(name, {"predictions": ["", ""], "references": [["a b"], ["c", "d"]]}) == {name: 0.0}
    with pytest.raises(ValueError, match="example 2 has no reference"):
        scored(name, {"predictions": ["a", "b"], "references": [["a"], []]})


@pytest.mark.parametrize("name", ["rouge1", "rouge2", "rougeL"])
def test_rouge_is_the_score_of_the_library_with_stemming_for_the_best_reference(name):
    prediction, references = (
        "dogs chased the cat home quickly",
        ["the cat was chased home", "a dog is chasing the cat home"],
    )
    with_stems, without = (
        max(RougeScorer([name], use_stemmer=stems).score(text, prediction)[name].fmeasure for text in references)
        for stems in (True, False)
    )
    assert with_stems != pytest.approx(without)
    assert scored(name, {"predictions": [prediction], "references": [references]}) == {name: pytest.approx(with_stems)}


def test_rouge_l_depends_on_the_order_of_words_and_rouge_1_does_not():
    columns = {"predictions": ["mat cat"], "references": [["cat mat"]]}
    assert scored("rouge1", columns) == {"rouge1": 1.0}
    assert scored("rougeL", columns) == {"rougeL": 0.5}
    assert scored("rouge2", columns) == {"rouge2": 0.0}
