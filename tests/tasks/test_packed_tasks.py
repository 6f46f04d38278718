"""Every kind of task in packed rows: what the pipeline lays out gives the loss and the gradients of padded rows."""

import numpy as np
import pytest

from pipeline.backend import load_backend
from pipeline.data.batches import Batch, padded_batch
from pipeline.data.packing import Packing
from pipeline.training.experiment import start
from tests.helpers.families import KINDS, of_rows, prepared, recipe_of
from tests.helpers.packed_batches import loss_and_gradients
from tests.helpers.tiny_models import relative

BATCH, PER_ROW = 16, 3


def packed_and_padded(experiment):
    """The features of one batch with three examples in a row, whatever their lengths, and with one."""
    lengths = experiment.examples["train"].lengths
    rows = np.random.default_rng(3).permutation(len(lengths))[:BATCH]
    of_rows = lengths[rows].reshape(BATCH, -1)
    row_of, slot_of = (each.astype(np.int32) for each in np.divmod(np.arange(BATCH), PER_ROW))
    starts = np.array([of_rows[i - slot : i].sum(axis=0) for i, slot in enumerate(slot_of)], np.int32)
    packed = Batch(rows, tuple((starts + of_rows).max(axis=0) + 2), Packing(row_of, slot_of, starts))
    # Both are the batch of the first step, so that shared dropout masks are the same.
    return [
        next(experiment.features([batch], 0, seed=3, first_step=0)) for batch in (packed, padded_batch(rows, lengths))
    ]


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_a_packed_step_has_the_loss_and_gradients_of_the_padded_one(kind, dropout, framework, tmp_path):
    changes = {"train.dropout": dropout, "train.dropout_masks": "shared"}
    experiment, task, _ = prepared(recipe_of(kind, tmp_path, changes=changes))
    packed, padded = packed_and_padded(experiment)
    assert (len(packed["labels"]), len(padded["labels"])) == (6, 16)
    assert "attention_mask" in padded and "attention_mask" not in packed
    backend = load_backend(framework)
    model = start(experiment, backend, 0).model
    learner = backend.Learner(model, experiment.recipe.train, np.zeros(1), task.loss)
    (loss, gradients), (expected_loss, expected) = (
        loss_and_gradients(framework, learner, batch) for batch in (packed, padded)
    )
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert relative(gradients, expected) <= 1e-5


def test_texts_that_end_with_the_token_for_padding_are_read_at_the_same_token(framework, tmp_path):
    """GPT-2 pads with the token that ends a text; heads of the library read the last token before it."""
    rows = [{"text": f"a fine film{'<|endoftext|>' * (i % 3)}", "label": ("bad", "good")[i % 2]} for i in range(32)]
    experiment, task, examples = prepared(of_rows("gpt2 single-label", tmp_path, rows, **{"train.dropout": 0.0}))
    assert set(examples.features["input_ids"].values[examples.features["input_ids"].offsets[1:] - 1]) > {
        experiment.tokenizer.pad_token_id
    }
    backend = load_backend(framework)
    model = start(experiment, backend, 0).model
    learner = backend.Learner(model, experiment.recipe.train, np.zeros(1), task.loss)
    packed, padded = (loss_and_gradients(framework, learner, batch)[0] for batch in packed_and_padded(experiment))
    assert packed == pytest.approx(padded, rel=1e-6)


@pytest.mark.parametrize("kind", ["single-label", "gpt2 single-label", "sequence-to-sequence"])
def test_the_other_examples_of_a_row_do_not_change_an_examples_loss(kind, framework, tmp_path):
    experiment, task, _ = prepared(recipe_of(kind, tmp_path, changes={"train.dropout": 0.0}))
    packed, _ = packed_and_padded(experiment)
    backend = load_backend(framework)
    model = start(experiment, backend, 0).model
    learner = backend.Learner(model, experiment.recipe.train, np.zeros(1), task.loss)
    is_first = {"input_ids": packed["segment_ids"] == 1}
    if "decoder_segment_ids" in packed:
        is_first["decoder_input_ids"] = packed["decoder_segment_ids"] == 1
    changed = packed | {key: np.where(own, packed[key], packed[key][::-1]) for key, own in is_first.items()}
    assert not np.array_equal(changed["input_ids"], packed["input_ids"])
    weights = packed["loss_weights"].copy()
    if weights.shape[1] == PER_ROW:
        weights[:, 1:] = 0
    else:
        weights[~is_first["decoder_input_ids"]] = 0
    losses = [loss_and_gradients(framework, learner, each | {"loss_weights": weights})[0] for each in (packed, changed)]
    assert losses[0] == losses[1] != 0
