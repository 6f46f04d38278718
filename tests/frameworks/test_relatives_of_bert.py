"""DistilBERT and RoBERTa from end to end, with what their checkpoints have and BERT's do not."""

import json
import math

import numpy as np
import pytest
import transformers

from pipeline import UserError, finetune
from pipeline.backend import load_backend
from pipeline.comparison.traces import distance, record
from pipeline.models.building import build_model
from pipeline.models.checkpoint import load_config
from pipeline.models.initialization import random_weights
from pipeline.runs.attention_maps import attention_maps
from pipeline.runs.prediction import predict
from pipeline.training.experiment import prepare
from tests.helpers.adapters import logits_of
from tests.helpers.checkpoints import changed_checkpoint
from tests.helpers.families import recipe_of, rows_of
from tests.helpers.relatives import checkpoint_of
from tests.helpers.tiny_models import RELATIVES, config, inputs, relative

KINDS = (
    "single-label", "pairs", "regression", "multi-label", "token-classification", "question-answering",
    "masked blocks", "masked words",
)  # fmt: skip
# In every test run the heads that no other family has: a layer before the classifier, two dropouts in it.
ALWAYS = {"distilbert": "pairs", "roberta": "single-label"}
# Of the kinds that have the same head one; the others differ in their loss, which is that of BERT.
CASES = [
    pytest.param(family, kind, marks=() if kind == always else pytest.mark.heavy, id=f"{family} {kind}")
    for family, always in ALWAYS.items()
    for kind in (always, "token-classification", "question-answering", "masked words")
]
# A tokenizer that takes words one by one, and a run from end to end.
ALWAYS_RUN = ("torch", "roberta", "token-classification")
# TensorFlow's runs take the steps above; what they save and predict is the same for every kind.
RUNS = [
    *(("torch", family, kind) for family in RELATIVES for kind in KINDS),
    ("tensorflow", "distilbert", "question-answering"),
    ("tensorflow", "roberta", "masked words"),
]


def recipe_on(family, kind, folder, **changes):
    """A recipe of a kind on the tiny checkpoint of a family."""
    return recipe_of(kind, folder, changes={"checkpoint": checkpoint_of(family), **changes})


@pytest.mark.slow
@pytest.mark.parametrize(("family", "kind"), CASES)
def test_both_frameworks_take_the_same_steps_with_either_attention(family, kind, tmp_path):
    """In packed rows and with dropout; PyTorch in two micro-batches, for which TensorFlow would trace it twice."""
    recipe = recipe_on(family, kind, tmp_path, **{"train.dropout": 0.1})
    in_two = recipe.override({"train.gradient_accumulation": 2})
    first, second = record(in_two, "torch", 3, "stock"), record(recipe, "tensorflow", 3, "handwritten")
    largest = distance(first, second).largest
    assert largest["loss"] < 1e-5 and largest["grad_norm"] < 1e-4 and largest["early_parameters"] < 5e-4, largest
    assert first.loss.std() > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("framework", "family", "kind"),
    [pytest.param(*each, marks=() if each == ALWAYS_RUN else pytest.mark.heavy, id=" ".join(each)) for each in RUNS],
)
def test_a_run_with_handwritten_attention_scores_saves_and_predicts(framework, family, kind, tmp_path):
    recipe = recipe_on(family, kind, tmp_path)
    run = finetune(recipe, framework=framework, attention="handwritten", out=tmp_path / "run", quiet=True)
    assert all(math.isfinite(value) for value in run.metrics.values())
    assert run.record.attention_sites == 2 and run.record.attention_max_difference < 1e-5
    asked = [{"text": f"The film was {'[MASK]' if family == 'distilbert' else '<mask>'}."}]
    asked = asked if kind.startswith("masked") else rows_of(kind, 16, 1)[:3]
    other = {"torch": "tensorflow", "tensorflow": "torch"}[framework]
    here = list(predict(run, asked))
    if framework == "tensorflow" or kind == "pairs":  # the other one builds a model of its own
        there = list(predict(run, asked, framework=other))
        assert json.dumps(here[0]["prediction"] if "prediction" in here[0] else here[0].get("tags")) == json.dumps(
            there[0]["prediction"] if "prediction" in there[0] else there[0].get("tags")
        )
    stock = transformers.AutoModel.from_pretrained(run.path / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(run.path / "model")
    stock(**tokenizer(["The film."], return_tensors="pt"))  # no token types that the model does not take


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "head"), [("distilbert", ["classifier", "pre_classifier"]), ("roberta", ["classifier"])]
)
def test_peft_reads_an_adapter_with_its_whole_head(family, head, tmp_path):
    changes = {"train.lora.rank": 4, "train.learning_rate": 5e-3, "train.epochs": 2}
    recipe = recipe_on(family, "single-label", tmp_path, **changes)
    run = finetune(recipe, attention="handwritten", out=tmp_path / "run", quiet=True)
    settings = json.loads((run.path / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert settings["modules_to_save"] == head
    merged, by_peft, _ = logits_of(recipe, run)
    np.testing.assert_allclose(merged, by_peft, atol=1e-5)


def test_a_tokenizer_of_bytes_begins_each_word_with_its_space(tmp_path):
    """RoBERTa knows a word by the space before it; a list of words has none."""
    recipe = recipe_on("roberta", "token-classification", tmp_path)
    experiment = prepare(recipe)
    examples, tokenizer = experiment.examples["train"], experiment.tokenizer
    words = examples.words[0]
    found = tokenizer.decode(examples.features["input_ids"][0], skip_special_tokens=True)
    assert found == " " + " ".join(words)
    assert [examples.words[0][word] for word in examples.word_starts[0] if word >= 0] == words
    assert experiment.task.row_from_text("Café, that's it")["tokens"] == ["Café", ",", "that", "'s", "it"]
    tokenizer.save_pretrained(tmp_path / "saved")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert again(words, is_split_into_words=True)["input_ids"] == examples.features["input_ids"][0].tolist()


@pytest.mark.parametrize("family", RELATIVES)
def test_pairs_of_texts_have_no_token_types(family, tmp_path):
    experiment = prepare(recipe_on(family, "pairs", tmp_path))
    assert set(experiment.examples["train"].features) == {"input_ids"}
    assert "token_type_ids" not in experiment.tokenizer("a film")


def test_the_positions_of_roberta_begin_behind_that_of_padding(tmp_path):
    recipe = recipe_on("roberta", "single-label", tmp_path)
    with pytest.raises(UserError, match=r"data.max_length is 66, but the checkpoint has 65 positions"):
        prepare(recipe.override({"data.max_length": 66, "data.pad_to_multiple_of": 1}))
    text = " ".join(["film"] * 200)
    backend = load_backend("torch")
    model = build_model(backend, recipe, "AutoModelForMaskedLM", load_config(recipe), 0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint_of("roberta"))
    assert attention_maps(model, text, tokenizer).shape == (2, 2, 65, 65)


def test_another_token_for_padding_is_refused_since_tensorflow_would_count_other_positions(tmp_path):
    recipe = recipe_on("roberta", "single-label", tmp_path)
    changed = changed_checkpoint(recipe, tmp_path / "config", config={"pad_token_id": 0})
    with pytest.raises(UserError, match="pad_token_id is 0, but must be 1: .* compute different models"):
        prepare(changed)
    changed = changed_checkpoint(recipe, tmp_path / "tokenizer", tokenizer={"pad_token": "<unk>"})
    with pytest.raises(UserError, match="its tokenizer pads with token 3, but must pad with token 1"):
        prepare(changed)


@pytest.mark.parametrize("is_sinusoidal", [False, True])
def test_positions_that_begin_as_sinusoids_are_the_librarys(is_sinusoidal):
    import torch

    settings = config("distilbert", dim=24, sinusoidal_pos_embds=is_sinusoidal)
    with torch.no_grad():
        theirs = transformers.DistilBertModel(settings).embeddings.position_embeddings.weight.numpy()
    name = "distilbert.embeddings.position_embeddings.weight"
    ours = random_weights({name: theirs.shape}, settings, 0)[name]
    assert np.allclose(ours, theirs, atol=1e-6) == is_sinusoidal
    assert ours.dtype == np.float32


@pytest.mark.parametrize("family", RELATIVES)
def test_eager_attention_computes_packed_rows_too(family):
    """That of DistilBERT takes a mask of keys only."""
    import torch

    from pipeline.pytorch.swap import packed_hidden_states
    from tests.helpers.framework_drivers import Torch

    batch = Torch.tensors(inputs(family, "none"))
    positions = torch.cat([torch.arange(4), torch.arange(7)]).expand(2, -1)
    segments = torch.tensor([1] * 4 + [2] * 7).expand(2, -1)
    packed = {"input_ids": batch["input_ids"], "position_ids": positions, "segment_ids": segments}
    found = []
    for implementation in ("eager", "sdpa"):
        model = Torch.build(family, implementation=implementation)
        with torch.inference_mode():
            found.append(packed_hidden_states(model, packed, None).numpy())
            alone = model.base_model(batch["input_ids"][:, 4:]).last_hidden_state
    assert relative(found[0], found[1]) < 1e-6
    assert relative(found[0][:, 4:], alone.numpy()) < 1e-6
