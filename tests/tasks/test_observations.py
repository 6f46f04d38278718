"""What `check` counts for a person: unknown tokens, rows that training has too, how often each label is."""

import pytest

from pipeline.training.experiment import prepare
from tests.helpers.families import recipe_of


def observed(kind, tmp_path, rows, validation=None, **changes):
    return prepare(recipe_of(kind, tmp_path, rows, validation, changes=changes)).observations


def test_labels_leaks_and_unknown_tokens_are_counted(tmp_path):
    train = [{"text": "the film was good", "label": "good"}, {"text": "the ☃ was ☃", "label": "bad"}] * 2
    validation = [{"text": "the film was good", "label": "bad"}, {"text": "the plot was bad", "label": "bad"}]
    found = observed("single-label", tmp_path, train, validation)
    assert found["train"].labels == {"bad": 2, "good": 2}
    assert found["train"].counts == {"unknown tokens": 4}
    assert found["validation"].counts == {"unknown tokens": 0, "rows that training has too": 1}
    assert found["validation"].labels == {"bad": 2, "good": 0}


def test_labels_of_sets_and_tags_are_counted(tmp_path):
    sets = [{"text": "a film", "label": ["x", "y"]}, {"text": "a plot", "label": ["y"]}]
    assert observed("multi-label", tmp_path, sets)["train"].labels == {"x": 1, "y": 2}
    tags = [{"tokens": ["a", "film"], "tags": ["O", "B-X"]}, {"tokens": ["plot"], "tags": ["O"]}]
    assert observed("token-classification", tmp_path, tags)["train"].labels == {"B-X": 1, "O": 2}


@pytest.mark.parametrize("side", ["source", "target"])
def test_unknown_tokens_of_sources_and_targets_are_told_apart(tmp_path, side):
    rows = [{"source": "a", "target": "b"} | {side: "☃"}]
    counts = observed("sequence-to-sequence", tmp_path, rows)["train"].counts
    plain = observed("sequence-to-sequence", tmp_path, [{"source": "a", "target": "b"}])["train"].counts
    name = {"source": "unknown tokens", "target": "unknown tokens in targets"}[side]
    assert counts[name] > plain[name] == 0
