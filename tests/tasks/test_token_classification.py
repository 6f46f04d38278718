"""Token classification: tags stand on the first pieces of words, and truncation is counted and scored."""

import numpy as np
import pytest

from pipeline import UserError
from pipeline.data.batches import padded_batch
from pipeline.tasks.token_classification import spans
from pipeline.training.experiment import prepare
from tests.helpers.families import of_rows, prepared, recipe_of


def test_a_tag_stands_on_the_first_piece_of_its_word_only(tmp_path):
    rows = [{"tokens": ["unwatchablest", "film"], "tags": ["B-X", "O"]}, {"tokens": ["film"], "tags": ["O"]}]
    experiment, task, examples = prepared(of_rows("token-classification", tmp_path, rows))
    batch = padded_batch(np.array([0, 1]), examples.lengths)
    pieces = experiment.tokenizer.convert_ids_to_tokens(examples.features["input_ids"][0].tolist())
    assert pieces[0] == "[CLS]" and pieces[2].startswith("##") and pieces[-2:] == ["film", "[SEP]"]
    targets = task.targets(examples, batch)
    weighted = np.argwhere(targets["loss_weights"] > 0).tolist()
    assert weighted == [[0, 1], [0, len(pieces) - 2], [1, 1]]
    assert targets["loss_weights"].sum() == pytest.approx(1)
    assert [task.labels[targets["labels"][tuple(at)]] for at in weighted] == ["B-X", "O", "O"]


def test_words_and_entities_that_truncation_cuts_are_counted_and_scored_as_missed(tmp_path):
    words = ["film"] * 40
    rows = [{"tokens": words, "tags": ["B-X"] + ["O"] * 28 + ["B-X", "I-X"] + ["O"] * 9}]
    _, task, examples = prepared(of_rows("token-classification", tmp_path, rows))
    assert examples.counts == {"rows": 1, "truncated": 1, "words without label": 10, "entities cut": 1}
    perfect = np.full((1, 32, 3), -9.0)
    ids = {name: i for i, name in enumerate(task.labels)}
    for position, word in enumerate(range(30), start=1):
        perfect[0, position, ids[rows[0]["tags"][word]]] = 9.0
    (scored,) = task.score_batch(perfect, examples, np.array([0]))
    assert scored.columns["references"] == rows[0]["tags"]
    assert scored.columns["predictions"] == ["B-X"] + ["O"] * 28 + ["B-X"] + ["O"] * 10


def test_spans_of_tags():
    assert spans(["B-A", "I-A", "O", "I-B", "B-B", "I-A"]) == [
        ("A", 0, 2), ("B", 3, 4), ("B", 4, 5), ("A", 5, 6),
    ]  # fmt: skip


def test_a_split_without_any_target_is_refused(tmp_path):
    good = [{"tokens": ["a"], "tags": ["B-X"]}, {"tokens": ["b"], "tags": ["O"]}]
    dropped = [{"tokens": ["\u0007"], "tags": ["O"]}]  # a control character, of which the tokenizer makes nothing
    with pytest.raises(UserError, match="data.validation: no row has a target that counts"):
        prepare(recipe_of("token-classification", tmp_path, good, dropped))
