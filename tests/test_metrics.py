"""Metrics against values worked out by hand, offline, streamed."""

import pytest

from pipeline.metrics import load_metrics, metric_names

# tp 3, fp 1, fn 2, tn 4
PREDICTIONS = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
REFERENCES = [1, 1, 1, 0, 1, 1, 0, 0, 0, 0]
BY_HAND = {
    "accuracy": 7 / 10,
    "precision": 3 / 4,
    "recall": 3 / 5,
    "f1": 6 / 9,
    "f1_macro": (6 / 9 + 8 / 11) / 2,
    "matthews_correlation": (3 * 4 - 1 * 2) / (4 * 5 * 5 * 6) ** 0.5,
}


def test_every_metric_has_a_value_by_hand():
    assert set(metric_names()) == set(BY_HAND)


@pytest.mark.parametrize("name", BY_HAND)
def test_a_streamed_metric_is_the_value_by_hand(name):
    metric = load_metrics((name,))[name]
    for _ in range(2):  # computing starts the next round from nothing
        metric.add_batch(predictions=PREDICTIONS[:3], references=REFERENCES[:3])
        metric.add_batch(predictions=PREDICTIONS[3:], references=REFERENCES[3:])
        assert metric.compute() == {name: pytest.approx(BY_HAND[name])}


@pytest.mark.parametrize("name", ["precision", "recall", "f1"])
def test_nothing_predicted_scores_zero_without_a_warning(name):
    metric = load_metrics((name,))[name]
    metric.add_batch(predictions=[0, 0], references=[0, 0])
    assert metric.compute() == {name: 0.0}
