"""Statistics of resampled examples are what the metric's own class computes on the examples that were drawn."""

import numpy as np
import pytest

from pipeline.metrics.loss import mean_loss
from pipeline.metrics.scoring import load_metrics, statistic_for
from pipeline.metrics.specs import METRICS
from tests.helpers.metric_examples import MAKERS, NUM_EXAMPLES, numbers, one_class, token_losses

# Every metric of the table with every kind of evaluation that it fits.
CASES = [
    (name, maker)
    for name, spec in METRICS.items()
    for outcome in spec.reads
    for maker in MAKERS[outcome]
    if not (spec.is_for_two_labels and maker is one_class)
]
DRAWS = {
    "every example once": np.arange(NUM_EXAMPLES),
    "a bootstrap resample": np.random.default_rng(3).integers(NUM_EXAMPLES, size=NUM_EXAMPLES),
    "seven examples again and again": np.arange(7).repeat(9)[:NUM_EXAMPLES],
    "one example only": np.full(NUM_EXAMPLES, 1),
}


def counts_of(rows):
    """How often each example was drawn, [1, N]."""
    return np.bincount(rows, minlength=NUM_EXAMPLES)[None].astype(float)


@pytest.mark.parametrize(("name", "maker"), CASES)
def test_a_statistic_is_the_value_of_the_metrics_class_on_the_drawn_examples(name, maker):
    evaluation = maker(np.random.default_rng(11))
    metric = load_metrics((name,))[name]
    reads = (metric.features[0] if isinstance(metric.features, list) else metric.features).keys()
    for draw, rows in DRAWS.items():
        expected = metric.compute(**{column: [evaluation.columns[column][i] for i in rows] for column in reads})
        assert name in expected
        for value_name, value in expected.items():
            statistic = statistic_for(value_name, evaluation.lines, evaluation.labels)
            values = statistic(counts_of(rows))
            assert values == pytest.approx([value], rel=1e-9, abs=1e-12, nan_ok=True), (value_name, draw)


def test_many_resamples_at_once_are_each_one_alone():
    for name, maker in CASES:
        evaluation = maker(np.random.default_rng(5))
        statistic = statistic_for(name, evaluation.lines, evaluation.labels)
        together = statistic(np.concatenate([counts_of(rows) for rows in DRAWS.values()]))
        alone = [statistic(counts_of(rows))[0] for rows in DRAWS.values()]
        assert together == pytest.approx(alone, rel=1e-12, nan_ok=True), name


def test_lines_with_the_likeliest_score_alone_have_no_area_and_scores_that_diverged_an_undefined_one():
    evaluation = one_class(np.random.default_rng(0))
    older = [{key: value for key, value in line.items() if key != "scores"} for line in evaluation.lines]
    assert statistic_for("roc_auc", older, evaluation.labels) is None
    diverged = [line | {"scores": [None] * 3} for line in evaluation.lines]
    assert np.isnan(statistic_for("roc_auc", diverged, evaluation.labels)(counts_of(np.arange(NUM_EXAMPLES))))


@pytest.mark.parametrize("value_name", ["loss", "hub:anything@1", "anything", "accuracy.good", "perplexity"])
def test_a_value_that_the_lines_do_not_hold_or_the_table_does_not_know_has_no_statistic(value_name):
    evaluation = one_class(np.random.default_rng(0))
    assert statistic_for(value_name, evaluation.lines, evaluation.labels) is None


def test_classes_without_names_have_no_statistic():
    evaluation = one_class(np.random.default_rng(0))
    assert statistic_for("accuracy", evaluation.lines, ()) is None


def test_the_loss_of_tokens_is_pooled_over_the_drawn_examples():
    lines = token_losses(np.random.default_rng(1)).lines
    for rows in DRAWS.values():
        expected = sum(lines[i]["loss_sum"] for i in rows) / sum(lines[i]["tokens"] for i in rows)
        assert statistic_for("loss", lines, ())(counts_of(rows)) == pytest.approx([expected])


def test_the_loss_of_numbers_is_the_mean_of_their_squared_errors():
    lines = numbers(np.random.default_rng(1)).lines
    for rows in DRAWS.values():
        expected = np.mean([(lines[i]["prediction"] - lines[i]["reference"]) ** 2 for i in rows])
        assert statistic_for("loss", lines, ())(counts_of(rows)) == pytest.approx([expected])


@pytest.mark.parametrize("name", ["pearson", "spearman", "mse", "loss"])
def test_numbers_that_diverged_have_no_statistic(name):
    lines = [{"prediction": float("nan") if i == 5 else 1.0, "reference": float(i)} for i in range(NUM_EXAMPLES)]
    assert statistic_for(name, lines, ()) is None


@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_resamples_of_one_example_have_a_correlation_of_zero_whatever_rounding_leaves(name):
    lines = numbers(np.random.default_rng(1)).lines
    of_each = statistic_for(name, lines, ())(NUM_EXAMPLES * np.eye(NUM_EXAMPLES))
    assert of_each.tolist() == [0.0] * NUM_EXAMPLES


@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_constant_numbers_have_a_correlation_of_zero(name):
    lines = [{"prediction": 1 / 3, "reference": float(i)} for i in range(NUM_EXAMPLES)]
    assert statistic_for(name, lines, ())(counts_of(np.arange(NUM_EXAMPLES))) == 0


def test_labels_keep_the_order_of_the_model():
    lines = [
        {"prediction": "good", "reference": "good", "score": 0.9},
        {"prediction": "bad", "reference": "good", "score": 0.6},
    ]
    for labels, precision in ((("bad", "good"), 1.0), (("good", "bad"), 0.0)):
        assert statistic_for("precision", lines, labels)(np.ones((1, 2))) == [precision]


def test_the_mean_loss_weighs_examples_by_their_targets():
    class Example:
        def __init__(self, loss, num_targets):
            self.loss, self.num_targets = loss, num_targets

    assert mean_loss([Example(1.0, 1), Example(9.0, 4)]) == 10 / 5
