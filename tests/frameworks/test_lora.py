"""LoRA in both frameworks: updates of low rank, what is trained, the same steps, and files that peft reads."""

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file

from pipeline import UserError, finetune, load_recipe
from pipeline.backend import load_backend
from pipeline.comparison.traces import distance, record
from pipeline.models.lora import adapters_of
from pipeline.recipe.schema import Lora
from pipeline.training.experiment import check
from tests.helpers.adapters import logits_of
from tests.helpers.families import recipe_of
from tests.helpers.interruption import assert_same_outcome, kill_at
from tests.helpers.tiny_models import FAMILIES, RELATIVES, config, inputs, random_state, relative

AUTO_CLASSES = {
    "bert": "AutoModelForSequenceClassification", "distilbert": "AutoModelForSequenceClassification",
    "roberta": "AutoModelForSequenceClassification", "gpt2": "AutoModelForCausalLM", "t5": "AutoModelForSeq2SeqLM",
    "marian": "AutoModelForSeq2SeqLM",
}  # fmt: skip
# How many linear layers the tiny models have in their layers: those of each attention and of each feed-forward part.
LINEAR = {
    "bert": 2 * 6,
    "distilbert": 2 * 6,
    "roberta": 2 * 6,
    "gpt2": 2 * 4,
    "t5": 2 * 6 + 2 * 10,
    "marian": 2 * 6 + 3 * 10,
}
# Of BERT's relatives PyTorch's tests show what TensorFlow's would repeat.
REPEATED = {("tensorflow", family) for family in RELATIVES}
WORDS = {
    "bert": ["query", "value"], "distilbert": ["q_lin", "v_lin"], "roberta": ["query", "value"], "gpt2": ["c_attn"],
    "t5": ["q", "v"], "marian": ["q_proj", "v_proj"],
}  # fmt: skip


def built(framework, family):
    """(backend, model) of a tiny model with random weights."""
    backend = load_backend(framework)
    model = backend.build_model(AUTO_CLASSES[family], config(family), "fp32", 0)
    backend.set_weights(model, random_state(backend.weight_shapes(model)))
    return backend, model


def with_random_updates(adapters):
    rng = np.random.default_rng(3)
    return [replace(each, second=rng.normal(0, 0.3, each.second.shape).astype(np.float32)) for each in adapters]


@pytest.mark.parametrize(
    ("framework", "family"),
    [
        pytest.param(framework, family, marks=pytest.mark.heavy if (framework, family) in REPEATED else ())
        for framework in ("torch", "tensorflow")
        for family in (*FAMILIES, *RELATIVES)
    ],
)
def test_updates_are_a_product_added_to_the_weights_with_any_attention(framework, family):
    backend, model = built(framework, family)
    shapes, batch = backend.weight_shapes(model), inputs(family, "none")
    lora = Lora(rank=3, alpha=6.0, targets=("all-linear",))
    adapters = with_random_updates(adapters_of(lora, shapes, config(family), 0))
    assert len(adapters) == LINEAR[family]
    backend.add_adapters(model, adapters)

    def logits(model):
        return backend.Predictor(model, optimize=False).logits(batch)

    found, before = {"stock": logits(model)}, backend.get_weights(model)
    attentions = ["handwritten", *(["handwritten-model"] if family == "marian" else [])]
    for attention in attentions:
        backend.swap_attention(model, attention)
        found[attention] = logits(model)
        backend.restore_attention(model)
    after = backend.get_weights(model)
    assert {name: value.tolist() for name, value in before.items()} == {n: v.tolist() for n, v in after.items()}

    _, expected = built(framework, family)
    weights = backend.get_weights(expected)
    without = logits(expected)
    for each in adapters:
        product = 2.0 * (each.first @ each.second)  # alpha / rank is 2
        weights[f"{each.module}.weight"] += product if family == "gpt2" else product.T
    backend.set_weights(expected, weights)
    assert relative(without, logits(expected)) > 0.1
    for attention, value in found.items():
        assert relative(value, logits(expected)) < 1e-5, attention


@pytest.mark.parametrize("family", [*FAMILIES, *RELATIVES])
def test_by_default_the_projections_that_peft_takes_get_an_update_that_is_zero(family):
    backend, model = built("torch", family)
    shapes = backend.weight_shapes(model)
    adapters = adapters_of(Lora(rank=2), shapes, config(family), 0)
    expected = {
        name.removesuffix(".weight")
        for name in shapes
        if name.endswith(".weight") and name.split(".")[-2] in WORDS[family]
    }
    assert {each.module for each in adapters} == expected
    assert not any(each.second.any() for each in adapters)
    again = adapters_of(Lora(rank=2), shapes, config(family), 0)
    other = adapters_of(Lora(rank=2), shapes, config(family), 1)
    for each, same, different in zip(adapters, again, other, strict=True):
        bound = each.first.shape[0] ** -0.5
        assert np.abs(each.first).max() <= bound and each.first.std() == pytest.approx(bound / 3**0.5, rel=0.4)
        np.testing.assert_array_equal(each.first, same.first)
        assert not np.array_equal(each.first, different.first)


# Everything that the two frameworks could do in different ways: dropout of updates, in cross-attention and in the last
# layer, of which only some tokens are computed; weights that are cut; a head that is trained; micro-batches.
SAME_STEPS = {
    "single-label": ("stock", {"train.gradient_accumulation": 2}),
    "causal rows": ("handwritten", {"train.dropout": 0.1}),
    "sequence-to-sequence": ("handwritten", {"train.dropout": 0.1}),
    "translation": ("handwritten-model", {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", SAME_STEPS)
def test_both_frameworks_take_the_same_steps(kind, tmp_path):
    attention, changes = SAME_STEPS[kind]
    lora = {"rank": 4, "dropout": 0.3, "targets": ["all-linear"]}
    recipe = recipe_of(kind, tmp_path, changes={"train.lora": lora, "train.learning_rate": 5e-3} | changes)
    first, second = (record(recipe, framework, 3, attention) for framework in ("torch", "tensorflow"))
    moved = [name for name in first.before if name.endswith("lora_B") and first.after[name].any()]
    assert len(moved) == sum(name.endswith("lora_B") for name in first.before)
    largest = distance(first, second).largest
    assert largest["loss"] < 1e-5 and largest["grad_norm"] < 1e-4 and largest["early_parameters"] < 5e-4, largest


@pytest.mark.parametrize(("kind", "attention"), [("single-label", "handwritten"), ("causal rows", "handwritten")])
def test_the_steps_are_the_same_with_any_attention(kind, attention, tmp_path):
    lora = {"rank": 4, "dropout": 0.3, "targets": ["all-linear"]}
    recipe = recipe_of(kind, tmp_path, changes={"train.lora": lora, "train.learning_rate": 5e-3, "train.dropout": 0.0})
    first, second = (record(recipe, "torch", 3, each) for each in ("stock", attention))
    largest = distance(first, second).largest
    assert largest["loss"] < 1e-5 and largest["early_parameters"] < 5e-4, largest


def test_lockstep_without_dropout_is_without_that_of_the_updates(tmp_path):
    lora = {"rank": 4, "dropout": 0.3}
    changes = {"train.lora": lora, "train.learning_rate": 5e-3, "train.dropout": 0.0}
    recipe = recipe_of("causal rows", tmp_path, changes=changes)
    kept = recipe.override({"train.lora.dropout": 0.0})
    on, off, none = record(recipe, "torch", 2), record(recipe, "torch", 2, dropout=False), record(kept, "torch", 2)
    assert (on.dropout, off.dropout) == (0.3, 0.0)
    assert off.loss.tolist() == none.loss.tolist() and on.loss[1] != none.loss[1]


CHANGES = {
    "train.epochs": 2, "train.lora.rank": 4, "train.learning_rate": 5e-3, "train.dropout": 0.1, "train.keep": "best",
    "train.lora.dropout": 0.1, "train.keep_metric": "loss", "train.save_every": 2, "data.limit.validation": 8,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("framework", "kind"),
    [
        ("torch", "single-label"), ("torch", "causal rows"), ("tensorflow", "causal rows"),
        pytest.param("tensorflow", "single-label", marks=pytest.mark.heavy),
    ],
)  # fmt: skip
def test_a_run_trains_updates_and_head_alone_resumes_and_is_read_by_peft(framework, kind, tmp_path):
    recipe = recipe_of(kind, tmp_path, changes=CHANGES)
    attention = "handwritten" if kind == "causal rows" else "stock"
    run = finetune(recipe, framework, attention, out=tmp_path / "run")
    trained = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert run.record.train.trainable_parameters == sum(value.size for value in trained.values())

    killed = tmp_path / "killed"
    kill_at(("step", 5), recipe, framework=framework, attention=attention, out=killed)
    (checkpoint,) = sorted((tmp_path / "killed.checkpoints").glob("step-00000004*"))
    state = load_file(checkpoint / "state.safetensors")
    weights = [value for name, value in state.items() if name.startswith("weights.")]
    assert sum(value.size for value in weights) == run.record.train.trainable_parameters
    assert_same_outcome(run.path, finetune(recipe, framework, attention, out=killed, resume=True).path)

    loaded, by_peft, after = logits_of(recipe, run)
    np.testing.assert_allclose(loaded, by_peft, atol=1e-5 * max(1, np.abs(loaded).max()))
    np.testing.assert_allclose(after, np.load(run.path / "probe.npz")["logits_after"], atol=2e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.lora.targets": "querry"}, 'train.lora.targets: "querry" is no projection .* dense, key, query, value'),
        ({"train.lora.rank": 999}, "train.lora.rank is 999, but bert.encoder.layer.0.* 128 inputs and 128 outputs"),
        (
            {"train.lora.rank": 2, "train.freeze": ["bert.embeddings.*"]},
            'train.freeze: "bert.embeddings.*" names nothing',
        ),
    ],
)
def test_what_contradicts_lora_is_refused_before_the_first_step(changes, message):
    recipe = load_recipe("sentiment_bert", {"data.limit.train": 8, "data.limit.validation": 8} | changes)
    with pytest.raises(UserError, match=message):
        check(recipe)


def test_a_frozen_head_is_not_trained(tmp_path):
    changes = {
        "train.lora.rank": 2,
        "train.freeze": ["classifier.*"],
        "data.limit.train": 8,
        "data.limit.validation": 8,
        "train.warmup_ratio": 0.0,
        "train.weight_decay": 0.0,
    }
    trace = record(load_recipe("sentiment_bert", changes), "torch", 1)
    moved = {name for name, value in trace.after.items() if not np.array_equal(value, trace.before[name])}
    # B is zero at first, so A does not move in the first step.
    assert {name.rpartition(".")[2] for name in moved} == {"lora_B", "weight", "bias"}
    assert {name for name in moved if "lora" not in name} == {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}


def test_random_weights_are_not_kept_as_they_are():
    with pytest.raises(UserError, match="train.lora keeps the checkpoint's weights|weights is random"):
        load_recipe("sentiment_bert", {"weights": "random", "train.lora.rank": 2})


def test_older_names_are_hinted_at():
    with pytest.raises(UserError, match='Did you mean "train.lora.alpha"'):
        load_recipe("sentiment_bert", {"train.lora.lora_alpha": 2})
