"""Sequence to sequence: what the decoder reads, and that generation follows the recipe."""

import numpy as np

from pipeline.backend import load_backend
from pipeline.data.batches import padded_batch
from pipeline.training.experiment import prepare, start
from tests.helpers.families import of_rows, prepared, recipe_of


def test_the_decoder_reads_the_labels_shifted_and_padding_has_no_weight(tmp_path):
    rows = [{"source": "3 March 1984", "target": "1984-03-03"}, {"source": "5 May 2001 on", "target": "5"}]
    experiment, task, examples = prepared(of_rows("sequence-to-sequence", tmp_path, rows))
    batch = padded_batch(np.array([0, 1]), examples.lengths)
    inputs, targets = task.inputs(examples, batch), task.targets(examples, batch)
    labels = experiment.tokenizer(text_target=[row["target"] for row in rows], padding=True, return_tensors="np")
    assert (targets["labels"] == labels["input_ids"]).all()
    assert ((targets["loss_weights"] > 0) == labels["attention_mask"]).all()
    assert (inputs["decoder_input_ids"][:, 0] == experiment.config.decoder_start_token_id).all()
    assert (inputs["decoder_input_ids"][:, 1:] == labels["input_ids"][:, :-1]).all()
    assert inputs["input_ids"].shape[1] == batch.widths[0] != batch.widths[1]


def test_generation_follows_the_recipe_and_not_the_checkpoint(framework, tmp_path):
    """The library fills a setting that equals its own default from the checkpoint's config."""
    experiment = prepare(recipe_of("sequence-to-sequence", tmp_path))
    experiment.config.min_length, experiment.config.num_beams = 12, 3
    backend = load_backend(framework)
    learner = backend.Learner(start(experiment, backend, 0).model, experiment.recipe.train, np.ones(1))
    asked = {key: experiment.probe()[key] for key in ("input_ids", "attention_mask")}
    found = learner.generate(asked, {"max_new_tokens": 13, "num_beams": 1, "length_penalty": 1.0})
    for prompt, mask, written in zip(asked["input_ids"], asked["attention_mask"], found, strict=True):
        read, start_id = prompt[mask != 0][None], experiment.config.decoder_start_token_id
        reading = {"input_ids": read, "attention_mask": np.ones_like(read)}
        ids = [start_id]
        while len(ids) < 14 and ids[-1] != experiment.config.eos_token_id:  # the definition of greedy, without a cache
            logits = learner.logits(reading | {"decoder_input_ids": np.array([ids], np.int32)})
            ids.append(int(logits[0, -1].argmax()))
        assert written[: len(ids)].tolist() == ids
        assert (written[len(ids) :] == experiment.config.pad_token_id).all()
