"""Masked language modeling: which tokens are hidden, and by what."""

import datasets
import numpy as np
import pytest

from pipeline.tasks import masked_language_modeling
from pipeline.tasks.masked_language_modeling import choose
from pipeline.training.experiment import prepare
from tests.helpers.families import of_rows, prepared, recipe_of, sentences


@pytest.mark.parametrize("whole_word", [False, True])
def test_the_chosen_share_of_a_row_is_the_probability_and_never_nothing(whole_word):
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 60, 500)
    owners = np.repeat(np.arange(500), lengths + 2)
    words = np.concatenate([[-1, *np.sort(rng.integers(0, max(1, n * 2 // 3), n)), -1] for n in lengths])
    chosen = choose(owners, words, 0.15, whole_word, rng)
    assert not chosen[words < 0].any()
    counts = np.bincount(owners, weights=chosen).astype(int)
    assert counts.min() >= 1
    quota = np.maximum(np.round(0.15 * lengths), 1)
    if not whole_word:
        assert (counts == quota).all()
        return
    for row in range(500):
        mine = owners == row
        fate = {word: set(chosen[mine & (words == word)].tolist()) for word in set(words[mine]) - {-1}}
        assert all(len(values) == 1 for values in fate.values())
    assert (counts[counts > quota] < 20).all() and abs(counts.sum() / lengths.sum() - 0.15) < 0.03


def test_of_the_chosen_tokens_80_percent_are_hidden_10_random_10_kept(tmp_path):
    experiment, task, _ = prepared(recipe_of("masked blocks", tmp_path, num_rows=2000))
    plain = task.encode(datasets.Dataset.from_list([{"text": text} for text in sentences(2000)]))
    masked = task.for_epoch(plain, [0, 0])
    labels, ids = masked.labels.values, masked.features["input_ids"].values
    chosen = labels >= 0
    assert (labels[chosen] == plain.features["input_ids"].values[chosen]).all()
    assert (ids[~chosen] == plain.features["input_ids"].values[~chosen]).all()
    hidden = (ids[chosen] == experiment.tokenizer.mask_token_id).mean()
    kept = (ids[chosen] == labels[chosen]).mean()
    assert hidden == pytest.approx(0.8, abs=0.02) and kept == pytest.approx(0.1, abs=0.02)
    assert not set(ids[chosen & (ids != labels)]) & (set(experiment.tokenizer.all_special_ids) - {4})


def test_masks_are_a_function_of_seed_and_epoch_and_validation_has_its_own(tmp_path):
    recipe = recipe_of("masked blocks", tmp_path)
    one, two = prepare(recipe), prepare(recipe)
    masks = [
        experiment.task.for_epoch(experiment.examples["train"], key).features["input_ids"].values
        for experiment, key in ((one, [0, 0]), (two, [0, 0]), (one, [0, 1]), (one, [1, 0]))
    ]
    assert (masks[0] == masks[1]).all() and (masks[0] != masks[2]).any() and (masks[0] != masks[3]).any()
    validation = [e.examples["validation"].features["input_ids"].values for e in (one, two)]
    assert (validation[0] == validation[1]).all()
    assert (validation[0] == one.tokenizer.mask_token_id).any()


@pytest.mark.parametrize("whole_word", [False, True])
def test_tokens_hidden_in_blocks_of_rows_are_those_of_all_rows_at_once(tmp_path, monkeypatch, whole_word):
    """The random numbers are drawn here for the whole split: for what may be chosen, for fates, for other tokens."""
    recipe = recipe_of("masked words", tmp_path).override({"options.whole_word": whole_word})
    experiment = prepare(recipe)
    task, examples = experiment.task, experiment.examples["train"]
    ids, words = examples.features["input_ids"], examples.words.values
    owners, rng = np.repeat(np.arange(len(ids.lengths)), ids.lengths), np.random.default_rng([5, 2, 0x3A5C])
    chosen = choose(owners, words, task.options.masking_probability, whole_word, rng)
    fate, tokenizer = rng.random(len(chosen)), task.tokenizer
    vocabulary = np.setdiff1d(np.arange(len(tokenizer)), tokenizer.all_special_ids)
    other = vocabulary[rng.integers(len(vocabulary), size=len(chosen))]
    expected = np.select(
        [chosen & (fate < 0.8), chosen & (fate >= 0.9)],
        [np.full(len(chosen), tokenizer.mask_token_id), other],
        ids.values,
    )
    for block in (1, 40, 10**6):
        monkeypatch.setattr(masked_language_modeling, "BLOCK_TOKENS", block)
        hidden = task.for_epoch(examples, [5, 2])
        assert hidden.features["input_ids"].values.tolist() == expected.tolist()
        assert hidden.labels.values.tolist() == np.where(chosen, ids.values, -1).tolist()
        assert hidden.num_targets.tolist() == [sum(chosen[owners == row]) for row in range(len(ids.lengths))]


def test_special_tokens_spelled_out_in_a_text_are_nothing_to_predict(tmp_path):
    rows = [{"text": "good [SEP] film [MASK] good ☃"}] * 3
    experiment, task, examples = prepared(of_rows("masked words", tmp_path, rows))
    for epoch in range(20):
        labels = task.for_epoch(examples, [0, epoch]).labels.values
        assert not set(labels[labels >= 0]) & set(experiment.tokenizer.all_special_ids)
