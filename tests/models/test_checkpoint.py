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
from tests.helpers.tiny_models import config


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
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_type": "electra"}))
    with pytest.raises(
        UserError, match='of type "electra"; supported are: bert, distilbert, roberta, gpt2, t5, marian'
    ):
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


@pytest.mark.parametrize(
    ("family", "key", "value", "message"),
    [
        ("bert", "layer_norm_eps", {}, "layer_norm_eps is {}, but must be a number"),
        ("bert", "hidden_act", {"a": 1}, "hidden_act is {'a': 1}, but must be a text"),
        ("bert", "num_hidden_layers", "2", "num_hidden_layers is '2', but must be a whole number"),
        ("bert", "hidden_size", True, "hidden_size is True, but must be a whole number"),
        ("gpt2", "layer_norm_epsilon", float("nan"), "layer_norm_epsilon is nan, but must be a number"),
        ("gpt2", "scale_attn_weights", "yes", "scale_attn_weights is 'yes', but must be true or false"),
        ("t5", "eos_token_id", 10**30, f"eos_token_id is {10**30}, but must be the number of one token"),
        (
            "t5",
            "decoder_start_token_id",
            [0, 1],
            "decoder_start_token_id is [0, 1], but must be the number of one token",
        ),
        ("bert", "num_hidden_layers", 10**9, "num_hidden_layers is 1000000000, but at most 1,000 layers are built"),
        ("gpt2", "n_layer", 1001, "num_hidden_layers is 1001, but at most 1,000 layers are built"),
        ("t5", "num_decoder_layers", 10**9, "num_decoder_layers is 1000000000, but at most 1,000 layers are built"),
        ("t5", "d_kv", 7.5, "d_kv is 7.5, but must be a whole number"),
    ],
)
def test_a_setting_of_another_kind_than_the_librarys_is_named(family, key, value, message, tmp_path):
    content = config(family).to_dict() | {key: value}
    (tmp_path / "config.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError) as refused:
        load_config(load_recipe("sentiment_bert", {"checkpoint": str(tmp_path)}))
    assert str(refused.value).endswith(f"config.json of checkpoint {tmp_path}: {message}")


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_a_setting_that_is_null_or_a_whole_number_for_a_number_is_the_librarys_business(family, saved):
    key = {"bert": "layer_norm_eps", "gpt2": "layer_norm_epsilon"}[family]
    recipe = saved({}, family)
    file = Path(recipe.checkpoint) / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: 1, "use_cache": None}))
    assert getattr(load_config(recipe), key) == 1
