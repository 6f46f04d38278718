"""The model card of a run: its front matter is what the Hub reads, and its code loads the model in both frameworks."""

import re

import numpy as np
import pytest
import transformers
from huggingface_hub import ModelCard

from pipeline import finetune
from pipeline.models.checkpoint import load_config
from pipeline.recipe.loading import load_recipe
from pipeline.runs.model_card import model_card
from pipeline.runs.record import RunIdentity
from tests.helpers.families import recipe_of
from tests.helpers.one_framework import needs

KINDS = {"single-label": "bert", "causal rows": "gpt2", "sequence-to-sequence": "t5"}
IDENTITY = RunIdentity(recipe="x", framework="torch", attention="stock", seed=3)


def card_of(recipe, metrics, auto_class="AutoModelForSequenceClassification"):
    bundled = load_recipe("sentiment_bert")
    return model_card(recipe, auto_class, load_config(bundled), IDENTITY, metrics)


def test_the_front_matter_names_checkpoint_data_metrics_and_license():
    text = card_of(load_recipe("sst2_bert"), {"accuracy": 0.91, "f1": float("nan"), "hub:matthews": None})
    data = ModelCard(text).data
    assert (data.base_model, data.datasets, data.license) == (
        "google-bert/bert-base-uncased",
        ["nyu-mll/glue"],
        "unknown",
    )
    assert (data.library_name, data.pipeline_tag, data.tags) == ("transformers", "text-classification", ["bert"])
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_config) == ("accuracy", 0.91, "sst2")
    assert result.dataset_split == "validation"


def test_a_local_checkpoint_and_local_files_are_named_without_their_folders(tmp_path):
    recipe = recipe_of("single-label", tmp_path)
    text = card_of(recipe, {"accuracy": 0.5})
    assert str(tmp_path) not in text and "/recipes/" not in text
    data = ModelCard(text).data
    assert data.base_model is None and data.datasets is None
    assert data.eval_results[0].dataset_name == "train.jsonl and validation.jsonl"
    assert "from the pretrained checkpoint `bert` on train.jsonl and validation.jsonl\nin torch" in text


def test_the_license_is_that_of_the_checkpoints_own_card(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# A model\n", encoding="utf-8")
    recipe = load_recipe("sentiment_bert", {"checkpoint": str(tmp_path)})
    assert ModelCard(card_of(recipe, {})).data.license == "mit"
    (tmp_path / "README.md").write_text("---\nlicense: [unclosed\n---\n", encoding="utf-8")
    assert ModelCard(card_of(recipe, {})).data.license == "unknown"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_code_of_the_card_loads_the_model_in_both_frameworks(kind, framework, tmp_path):
    needs("torch", "tensorflow")
    recipe = recipe_of(kind, tmp_path, num_rows=16)
    run = finetune(recipe, framework, out=tmp_path / "run")
    modes = {file.stat().st_mode for file in (run.path / "model").iterdir()}
    assert len(modes) == 1, "model.safetensors is as readable as the other files"
    text = (run.path / "model" / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    assert len(blocks) == 3
    models = []
    for block in blocks:
        names = {"folder": str(run.path / "model")}
        exec(block, names)
        models.append(names["model"])
    batch = some_inputs(models[0].config)
    outputs = [logits(model, batch) for model in models]
    for other in outputs[1:]:
        np.testing.assert_allclose(other, outputs[0], atol=1e-4)


@pytest.mark.slow
def test_tensorflow_needs_what_the_card_says_because_the_plain_call_fails():
    """If this fails, a new version of the libraries has mended the call, and the card can be shorter."""
    needs("tensorflow")
    folder, card = load_recipe("sentiment_bert").checkpoint, card_of(load_recipe("sentiment_bert"), {})
    with pytest.raises(TypeError) as failure:
        transformers.TFAutoModelForMaskedLM.from_pretrained(folder)
    assert str(failure.value) in card and f"to {transformers.__version__.rpartition('.')[0]} stops" in card


def some_inputs(config):
    ids = np.random.default_rng(0).integers(5, 50, (2, 7))
    return {"input_ids": ids} | ({"decoder_input_ids": ids[:, :3]} if config.is_encoder_decoder else {})


def logits(model, batch):
    if isinstance(model, transformers.TFPreTrainedModel):
        import tensorflow as tf

        return model({key: tf.constant(value, tf.int32) for key, value in batch.items()}).logits.numpy()
    import torch

    with torch.no_grad():
        return model(**{key: torch.tensor(value) for key, value in batch.items()}).logits.numpy()
