"""A T5 with an output matrix of its own (1.1) is loaded, trained and saved as it is by all versions of transformers.

The expected logits are those of TensorFlow, whose library is version 4.57 in every environment.
"""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from pipeline import finetune, predict
from pipeline.backend import load_backend
from pipeline.runs.directory import load_run
from pipeline.training.experiment import prepare, start
from pipeline.utils.processes import call, interpreter
from tests.helpers.checkpoints import changed_checkpoint
from tests.helpers.children import call_here
from tests.helpers.families import recipe_of

OF_VERSION_1_1 = {"feed_forward_proj": "gated-gelu", "is_gated_act": None, "dense_act_fn": None}
SOURCES = ["3 March 1999", "the 17th of May, 2003", "11/12/2013"]


def with_gates_and_an_output(weights):
    """The weights of a T5 of version 1.1, from those of an older one."""
    rng, changed = np.random.default_rng(3), {}
    for name, value in weights.items():
        if name.endswith("DenseReluDense.wi.weight"):
            changed[name.replace(".wi.", ".wi_0.")] = value
            changed[name.replace(".wi.", ".wi_1.")] = rng.permuted(value)
        else:
            changed[name] = value
    shape = weights["shared.weight"].shape
    return changed | {"lm_head.weight": rng.normal(0, shape[1] ** -0.5, shape).astype(np.float32)}


def expected_of(recipe, run):
    """In TensorFlow: the probe's logits by the checkpoint of a recipe and by its run, and the run's predictions."""
    backend = load_backend("tensorflow")
    logits = []
    for checkpoint in (recipe.checkpoint, str(load_run(run).directory.model_folder)):
        experiment = prepare(recipe.override({"checkpoint": checkpoint}))
        predictor = backend.Predictor(start(experiment, backend, 0).model)
        logits.append(experiment.probe_logits(predictor.logits(experiment.probe())))
    return logits, list(predict(run, SOURCES, "tensorflow"))


@pytest.mark.slow
def test_its_output_matrix_is_read_trained_and_saved(tmp_path):
    plain = recipe_of("sequence-to-sequence", tmp_path, changes={"train.learning_rate": 5e-3})
    changes = OF_VERSION_1_1 | {"tie_word_embeddings": False}
    recipe = changed_checkpoint(plain, tmp_path / "checkpoint", changes, weights=with_gates_and_an_output)
    run = finetune(recipe, out=tmp_path / "run", quiet=True)
    in_tensorflow = call_here if interpreter("tensorflow") == interpreter("torch") else call
    (before, after), predictions = in_tensorflow(expected_of, recipe, str(run.path), framework="tensorflow")
    probe = np.load(run.path / "probe.npz")
    assert np.abs(probe["logits_before"] - before).max() <= 1e-5 * max(1, np.abs(before).max())
    assert np.abs(probe["logits_after"] - after).max() <= 1e-5 * max(1, np.abs(after).max())
    assert list(predict(run, SOURCES)) == predictions

    saved = json.loads((run.path / "model" / "config.json").read_text(encoding="utf-8"))
    assert saved["tie_word_embeddings"] is False
    first, last = (load_file(folder / "model.safetensors") for folder in (tmp_path / "checkpoint", run.path / "model"))
    assert set(first) == set(last)
    assert np.abs(last["lm_head.weight"] - first["lm_head.weight"]).max() > 1e-3, "it is trained"
    assert np.abs(last["lm_head.weight"] - last["shared.weight"]).max() > 1e-3, "and is not the embeddings"
