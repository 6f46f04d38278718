"""Checkpoints that lack, add or break weights: loaded, completed from the seed, or refused by name."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import transformers
from safetensors.numpy import save_file

from pipeline.models.checkpoint import load_config, read_weights
from pipeline.models.initialization import complete_weights, draw
from pipeline.recipe.loading import load_recipe
from pipeline.utils.errors import UserError
from tests.helpers.classifiers import CONFIGS, built


@pytest.fixture
def saved(tmp_path):
    """Saves weights as a checkpoint with the bundled tokenizer and returns its recipe."""

    def save(weights, family="bert", **changes):
        config = CONFIGS[family].__class__.from_dict(CONFIGS[family].to_dict() | changes)
        folder = tmp_path / "checkpoint"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        config.save_pretrained(folder)
        save_file(weights, folder / "model.safetensors")
        return load_recipe("sentiment_bert", {"checkpoint": str(folder)})

    return save


def completed(recipe, shapes, seed=0):
    return complete_weights(recipe, read_weights(recipe), shapes, load_config(recipe), seed)


def bert_weights():
    backend, model = built("torch", "bert", seed=9)
    return backend.get_weights(model), backend.weight_shapes(model)


def test_a_checkpoint_loads_under_every_harmless_difference(saved):
    weights, shapes = bert_weights()
    body = {name: value for name, value in weights.items() if name.startswith("bert.")}
    harmless = {
        "as it is": weights,
        "a masked language model": body | {"cls.predictions.bias": np.zeros(101, np.float32)},
        "no pooler": {name: value for name, value in body.items() if "pooler" not in name},
        "the bare body": {name.removeprefix("bert."): value for name, value in body.items()},
        "old buffers": weights | {"bert.embeddings.position_ids": np.arange(59)[None]},
        "gamma and beta": {
            n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
            for n, v in weights.items()
        },
        "half precision": {name: value.astype(np.float16) for name, value in weights.items()},
        "another number of labels": weights | {"classifier.weight": np.zeros((3, 21), np.float32)},
    }
    for what, found in harmless.items():
        result = completed(saved(found), shapes)
        assert list(result) == list(shapes), what
        for name in body:
            if "pooler" not in name:
                assert result[name] == pytest.approx(weights[name], abs=1e-3), (what, name)


def test_new_heads_are_drawn_from_the_seed_alone(saved):
    weights, shapes = bert_weights()
    body = {name: value for name, value in weights.items() if name.startswith("bert.") and "pooler" not in name}
    first, again, other = (completed(saved(body), shapes, seed) for seed in (3, 3, 4))
    for name in ("classifier.weight", "bert.pooler.dense.weight"):
        assert (first[name] == again[name]).all() and not (first[name] == other[name]).all()
        assert first[name].std() == pytest.approx(0.02, rel=0.3)
    assert not first["classifier.bias"].any()


@pytest.mark.parametrize("fault", ["is missing", r"is \[20, 21\], expected \[101, 21\]", "is not part of the model"])
def test_body_weights_that_do_not_fit_are_named(saved, fault):
    weights, shapes = bert_weights()
    name = "bert.embeddings.word_embeddings.weight"
    if "missing" in fault:
        weights.pop(name)
    elif "expected" in fault:
        weights[name] = weights[name][:20]
    else:
        weights["bert.encoder.layer.2.output.dense.bias"] = np.zeros(21, np.float32)
        name = "bert.encoder.layer.2.output.dense.bias"
    with pytest.raises(UserError, match=f"{name} {fault}"):
        completed(saved(weights), shapes)


def test_pickled_weights_are_refused(saved):
    recipe = saved(bert_weights()[0])
    file = Path(recipe.checkpoint) / "model.safetensors"
    file.rename(file.with_name("pytorch_model.bin"))
    with pytest.raises(UserError, match="pickled weights are not read"):
        read_weights(recipe)


def test_a_torn_weight_file_is_named(saved):
    recipe = saved(bert_weights()[0])
    with open(f"{recipe.checkpoint}/model.safetensors", "r+b") as file:
        file.truncate(1000)
    with pytest.raises(UserError, match="model.safetensors cannot be read"):
        read_weights(recipe)


def test_an_unsupported_architecture_is_refused_by_name(saved, tmp_path):
    recipe = saved(bert_weights()[0])
    file = Path(recipe.checkpoint) / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_type": "roberta"}))
    with pytest.raises(UserError, match='of type "roberta"; supported are: bert, gpt2, t5'):
        load_config(recipe)


def test_fresh_weights_have_their_familys_deviation():
    gpt2, t5 = transformers.GPT2Config(n_layer=8), transformers.T5Config(d_model=256, d_kv=16, num_heads=4, d_ff=400)
    assert draw("h.0.attn.c_proj.weight", (200, 200), gpt2, 0).std() == pytest.approx(0.02 / 4, rel=0.05)
    assert draw("encoder.block.0.layer.0.SelfAttention.q.weight", (64, 256), t5, 0).std() == pytest.approx(
        1 / 64, rel=0.05
    )
    assert draw("encoder.block.0.layer.1.DenseReluDense.wo.weight", (256, 400), t5, 0).std() == pytest.approx(
        0.05, rel=0.05
    )
    assert (draw("ln_1.weight", (7,), gpt2, 0) == 1).all() and (draw("ln_1.bias", (7,), gpt2, 0) == 0).all()
