"""The bootstrap: every metric from sums gives what its module gives, and its intervals cover what they say."""

import time

import numpy as np
import pytest

from pipeline.comparison.statistics.bootstrap import Difference, difference, on_the_full_set, resample
from pipeline.metrics.scoring import load_metrics, statistic_for

NUM = 61
WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "17", "dogs", "ran", "home", ",", "quickly", "!"]
NAMES = ["bad", "fair", "good"]


def classes(rng, num_labels):
    reference, prediction = rng.integers(num_labels, size=(2, NUM))
    prediction = np.where(rng.random(NUM) < 0.6, reference, prediction)
    scores = rng.uniform(1 / num_labels, 1, NUM).round(1)  # ties
    pairs = zip(prediction, reference, scores, strict=True)
    lines = [{"prediction": NAMES[p], "reference": NAMES[r], "score": float(s)} for p, r, s in pairs]
    columns = {"predictions": prediction.tolist(), "references": reference.tolist()}
    if num_labels == 2:
        chances = np.where(prediction == 1, scores, 1 - scores)
        columns["scores"] = np.stack([1 - chances, chances], axis=1).tolist()
    return lines, columns


def label_sets(rng):
    reference = rng.random((NUM, 3)) < 0.3
    scores = np.clip(0.5 * reference + rng.random((NUM, 3)) * 0.7, 0, 1).round(1)
    prediction = scores > 0.5
    lines = [
        {
            "prediction": [n for n, on in zip(NAMES, p, strict=True) if on],
            "reference": [n for n, on in zip(NAMES, r, strict=True) if on],
            "score": dict(zip(NAMES, s.tolist(), strict=True)),
        }
        for p, r, s in zip(prediction, reference, scores, strict=True)
    ]
    columns = {"predictions": prediction.astype(int).tolist(), "references": reference.astype(int).tolist()}
    return lines, columns | {"scores": scores.tolist()}


def numbers(rng):
    reference = rng.integers(1, 9, NUM) / 2  # ties
    prediction = reference + rng.normal(size=NUM).round(1)
    lines = [{"prediction": float(p), "reference": float(r)} for p, r in zip(prediction, reference, strict=True)]
    return lines, {"predictions": prediction.tolist(), "references": reference.tolist()}


def texts(rng):
    reference = [" ".join(rng.choice(WORDS, rng.integers(1, 12))) for _ in range(NUM)]
    prediction = [r if rng.random() < 0.3 else " ".join(rng.permutation(r.split())[1:]) for r in reference]
    lines = [{"prediction": p, "reference": r} for p, r in zip(prediction, reference, strict=True)]
    return lines, {"predictions": prediction, "references": [[r] for r in reference]}


def answers(rng):
    lines, columns = texts(rng)
    accepted = [[r, "the cat"] if i % 3 else [] for i, (r,) in enumerate(columns["references"])]
    lines = [line | {"reference": several} for line, several in zip(lines, accepted, strict=True)]
    return lines, {"predictions": columns["predictions"], "references": accepted}


def tags(rng):
    known = ["O", "O", "B-person", "I-person", "B-place", "I-place"]
    reference = [rng.choice(known, rng.integers(1, 9)).tolist() for _ in range(NUM)]
    prediction = [[t if rng.random() < 0.8 else str(rng.choice(known)) for t in row] for row in reference]
    lines = [{"prediction": p, "reference": r} for p, r in zip(prediction, reference, strict=True)]
    return lines, {"predictions": prediction, "references": reference}


def losses(rng):
    tokens = rng.integers(1, 20, NUM)
    lines = [
        {
            "loss_sum": float(t * rng.uniform(0.5, 3)),
            "tokens": int(t),
            "bytes": int(4 * t),
            "correct": int(rng.integers(t + 1)),
            "floor": float(t / 2),
        }
        for t in tokens
    ]
    titles = {"loss_sum": "loss_sums", "floor": "floor_nats"}
    return lines, {titles.get(key, key): [line[key] for line in lines] for key in lines[0]}


CASES = [
    ("two classes", "accuracy f1 f1_macro f1_micro precision recall matthews_correlation roc_auc"),
    ("classes", "accuracy f1_macro f1_micro matthews_correlation"),
    ("label sets", "accuracy f1_macro f1_micro roc_auc"),
    ("numbers", "mse pearson spearman"),
    ("texts", "exact_match rouge1 rouge2 rougeL sacrebleu chrf"),
    ("answers", "squad_f1 squad_exact_match"),
    ("tags", "seqeval_f1 seqeval_precision seqeval_recall"),
    ("losses", "perplexity perplexity_floor bits_per_byte masked_accuracy"),
]
MAKE = {
    "two classes": lambda rng: classes(rng, 2),
    "classes": lambda rng: classes(rng, 3),
    "label sets": label_sets,
    "numbers": numbers,
    "texts": texts,
    "answers": answers,
    "tags": tags,
    "losses": losses,
}


@pytest.mark.parametrize(("kind", "metric"), [(kind, name) for kind, names in CASES for name in names.split()])
def test_a_metric_from_sums_is_the_metrics_own_value_on_any_resample(kind, metric):
    lines, columns = MAKE[kind](np.random.default_rng(11))
    scorer = load_metrics((metric,))[metric]
    for rows in (np.arange(NUM), np.random.default_rng(3).integers(NUM, size=NUM), np.arange(7).repeat(9)[:NUM]):
        given = {name: [values[i] for i in rows] for name, values in columns.items() if name in _features(scorer)}
        expected = scorer.compute(**given)
        counts = np.bincount(rows, minlength=NUM)[None].astype(float)
        for name, value in expected.items():
            found = statistic_for(name, lines, NAMES[:2] if kind == "two classes" else NAMES)(counts)
            assert found == pytest.approx([value], rel=1e-9, abs=1e-12, nan_ok=True), name


def _features(scorer):
    return (scorer.features[0] if isinstance(scorer.features, list) else scorer.features).keys()


def test_constant_numbers_correlate_with_nothing():
    lines = [{"prediction": 1 / 3, "reference": float(i)} for i in range(NUM)]
    for metric in ("pearson", "spearman"):
        assert on_the_full_set(statistic_for(metric, lines, []), NUM) == 0


def test_what_predictions_do_not_hold_has_no_statistic():
    lines, _ = classes(np.random.default_rng(0), 3)
    assert statistic_for("roc_auc", lines, NAMES) is None
    assert statistic_for("loss", lines, NAMES) is None
    assert statistic_for("hub:anything@1", lines, NAMES) is None


def test_resampled_accuracies_have_the_spread_of_the_binomial():
    lines = [{"prediction": "good" if i % 5 else "bad", "reference": "good", "score": 1.0} for i in range(500)]
    (values,) = resample([statistic_for("accuracy", lines, NAMES)], 500)
    assert values.shape == (10_000,)
    assert values.mean() == pytest.approx(0.8, abs=1e-3)
    assert values.std() == pytest.approx((0.8 * 0.2 / 500) ** 0.5, rel=0.03)


def test_the_interval_of_a_difference_covers_the_truth_nineteen_times_of_twenty():
    rng, covered, trials = np.random.default_rng(5), 0, 300
    for _ in range(trials):
        truth = rng.random(200)
        first, second = truth < 0.8, np.where(rng.random(200) < 0.5, truth < 0.7, rng.random(200) < 0.7)
        columns = [flags.astype(float) for flags in (first, second)]
        runs = [lambda counts, c=c: counts @ c / counts.sum(axis=1) for c in columns]
        a, b = resample(runs, 200, resamples=400)
        low, high = difference([(columns[0].mean(), a)], [(columns[1].mean(), b)]).interval(0.95)
        covered += low <= 0.1 <= high
    assert 0.91 <= covered / trials <= 0.98


def test_a_difference_that_is_often_undefined_is_none():
    half = np.array([0.1, np.nan] * 50)
    assert difference([(0.1, half)], [(0.0, np.zeros(100))]) is None
    assert difference([(np.inf, np.zeros(100))], [(0.0, np.zeros(100))]) is None
    found = difference([(1.0, np.full(100, 1.0)), (3.0, np.full(100, 3.0))], [(0.0, np.zeros(100))] * 2)
    assert found.value == 2.0
    assert found.interval(0.9) == (2.0, 2.0)
    assert isinstance(found, Difference)


def test_three_thousand_examples_take_seconds():
    rng = np.random.default_rng(2)
    made = [MAKE[kind](rng) for kind, _ in CASES]
    statistics = [
        statistic_for(name, lines * 50, NAMES[:2] if kind == "two classes" else NAMES)
        for (kind, names), (lines, _) in zip(CASES, made, strict=True)
        for name in names.split()
    ]
    begun = time.process_time()
    resample(statistics, 50 * NUM, resamples=1000)  # a tenth of what a report takes
    assert time.process_time() - begun < 5
