"""A Marian model whose body is the hand-written Transformer is the stock model, and every run proves it."""

import importlib

import numpy as np
import pytest
import transformers

from pipeline import UserError, finetune
from pipeline.backend import load_backend
from pipeline.comparison.lockstep import compare_traces
from pipeline.comparison.traces import distance, record
from pipeline.models.attention_check import refuse_attention, swap_with_proof
from pipeline.models.safetensors_files import read_safetensors
from pipeline.utils.errors import ProofError
from tests.helpers.families import recipe_of
from tests.helpers.framework_drivers import FRAMEWORKS, TensorFlow, Torch
from tests.helpers.packed_batches import learner_of, loss_and_gradients, with_dropout_keys
from tests.helpers.tiny_models import SITES, config, inputs, random_state, relative, writing_weights

WHOLE = "handwritten-model"
NAMES = ("torch", "tensorflow")
both = pytest.mark.parametrize("framework", FRAMEWORKS, ids=lambda framework: framework.name)
HEAD = "AutoModelForSeq2SeqLM"


def swapped(framework, **overrides):
    model = framework.build("marian", **overrides)
    assert framework.swap().swap_attention(model, WHOLE) == SITES["marian"]
    return model


def writer(framework, attention, seed=9):
    """A model that writes texts of several lengths."""
    backend, model = load_backend(framework.name), framework.build("marian")
    backend.set_weights(model, writing_weights(backend.get_weights(model), seed))
    if attention != "stock":
        backend.swap_attention(model, attention)
    return model


def sources():
    """Seven texts, two of them padded."""
    mask = np.ones((7, 11), np.int32)
    mask[2, 7:] = mask[5, :3] = 0
    ids = np.random.default_rng(29).integers(2, 96, mask.shape).astype(np.int32)
    return {"input_ids": ids, "attention_mask": mask}


@both
@pytest.mark.parametrize("padding", ["left", "right", "none"])
def test_the_model_gives_the_stock_logits_and_is_the_stock_model_again(framework, padding):
    model, batch, swap = framework.build("marian"), inputs("marian", padding), framework.swap()
    stock, names = framework.output(model, batch), list(framework.state(model))
    sites = swap.swap_attention(model, WHOLE)
    ours = framework.output(model, batch)
    assert swap.attention_calls(model) == [1] * sites == [1] * SITES["marian"]
    assert relative(ours, stock) <= 1e-6
    assert swap.restore_attention(model) == sites and swap.attention_sites(model) == 0
    assert list(framework.state(model)) == names
    np.testing.assert_array_equal(framework.output(model, batch), stock)


def test_the_models_of_both_frameworks_give_the_same_logits():
    outputs = [framework.output(swapped(framework), inputs("marian")) for framework in FRAMEWORKS]
    assert relative(*outputs) <= 1e-6


def written(framework, attention, seed=9, **how):
    settings = {"do_sample": False, "max_new_tokens": 17, "bad_words_ids": [[96]]} | how
    return framework.generate(writer(framework, attention, seed), sources(), **settings)


@both
@pytest.mark.parametrize(("num_beams", "seeds"), [(1, (9, 12)), pytest.param(4, (9,), marks=pytest.mark.slow)])
def test_the_model_writes_the_stock_tokens(framework, num_beams, seeds):
    stock = [written(framework, "stock", seed, num_beams=num_beams) for seed in seeds]
    assert len(np.unique(np.concatenate(stock, axis=None))) > 3
    for seed, texts in zip(seeds, stock, strict=True):
        np.testing.assert_array_equal(written(framework, WHOLE, seed, num_beams=num_beams), texts)


@both
def test_a_step_from_the_cache_gives_the_logits_of_the_whole_text(framework):
    model, batch = swapped(framework), inputs("marian", "left")
    whole, target, past = framework.output(model, batch), batch["decoder_input_ids"], None
    for position in range(target.shape[1]):
        tokens = framework.tensors(batch | {"decoder_input_ids": target[:, position : position + 1]})
        outputs = model(**tokens, past_key_values=past, use_cache=True)
        past = outputs.past_key_values
        assert relative(framework.numpy(outputs.logits)[:, 0], whole[:, position]) <= 1e-6


@pytest.mark.parametrize("how", [dict(use_cache=False), dict(cache_implementation="static")], ids=str)
def test_the_model_writes_the_same_tokens_without_a_cache_and_with_a_static_one(how):
    np.testing.assert_array_equal(written(Torch, WHOLE, **how), written(Torch, "stock"))


@pytest.mark.slow
def test_the_graphs_of_greedy_generation_write_the_stock_tokens():
    settings = {"max_new_tokens": 9, "num_beams": 1, "length_penalty": 1.0}
    texts = [
        load_backend("tensorflow").Predictor(writer(TensorFlow, attention)).generate(sources(), settings)
        for attention in ("stock", WHOLE)
    ]
    assert len(np.unique(texts[0])) > 1
    np.testing.assert_array_equal(*texts)


def gradients_of(framework, attention, batch, **how):
    """The loss and the gradients of a batch, by the stock names of the weights."""
    learner = learner_of(framework, "marian", attention, **how)
    if framework == "tensorflow":  # whose variables keep their names
        return loss_and_gradients(framework, learner, batch)
    learner.model.train()
    loss = float(learner.gradients(batch))
    load_backend(framework).restore_attention(learner.model)
    weights = learner.model.named_parameters()
    return loss, {name: weight.grad.numpy() for name, weight in weights if weight.grad is not None}


@pytest.mark.parametrize("rows", ["padded", "packed"])
def test_with_shared_dropout_masks_the_gradients_are_the_stock_ones(framework, rows):
    batch = dict(zip(("padded", "packed"), with_dropout_keys("marian"), strict=True))[rows]
    how = dict(dropout=0.3, dropout_masks="shared")
    (stock_loss, stock), (loss, ours) = (
        gradients_of(framework, attention, dict(batch), **how) for attention in ("stock", WHOLE)
    )
    still, _ = gradients_of(framework, WHOLE, dict(batch), dropout_masks="shared")
    assert loss == pytest.approx(stock_loss, rel=1e-6) and loss != pytest.approx(still, rel=1e-3)
    assert ours.keys() == stock.keys()
    assert relative(ours, stock) <= 1e-5
    total = np.sqrt(sum(np.square(gradient).sum() for gradient in stock.values()))
    for name, gradient in stock.items():
        # The softmax does not see what all keys share, so the gradient of a key bias is rounding alone.
        if np.linalg.norm(gradient) > 1e-6 * total:
            assert relative(ours[name], gradient) <= 1e-5, name


@pytest.mark.slow
def test_in_bf16_the_model_is_as_far_from_fp32_as_the_stock_one(framework):
    _, packed = with_dropout_keys("marian")
    packed = {name: value for name, value in packed.items() if "dropout" not in name}
    exact_loss, exact = gradients_of(framework, "stock", dict(packed))
    (stock_loss, stock), (loss, ours) = (
        gradients_of(framework, attention, dict(packed), precision="bf16") for attention in ("stock", WHOLE)
    )
    assert loss != exact_loss and loss == pytest.approx(stock_loss, rel=1e-2)
    assert relative(ours, exact) <= 2 * relative(stock, exact)


# --- what is proved before the first step


def a_layer_is_skipped(module):
    def shorter(self, x_BSD, bias, *training):
        for layer in list(self.encoder)[:1]:
            x_BSD = layer(x_BSD, bias, *training)
        return x_BSD

    return "Transformer.encode", shorter


def embeddings_are_not_scaled(module):
    embed = module.Transformer.embed

    def unscaled(self, tokens, *positions):
        return embed(self, tokens, *positions) - self.embedding(tokens) * (self.settings.width**0.5 - 1)

    return "Transformer.embed", unscaled


def the_source_is_not_read(module):
    decode = module.Transformer.decode

    def blind(self, x_BTD, bias, source, *rest):
        return decode(self, x_BTD, bias, (source[0], source[1] - source[1]), *rest)

    return "Transformer.decode", blind


def the_body_is_not_called(module):
    called = "forward" if hasattr(module.Transformer, "forward") else "call"
    return f"TransformerBody.{called}", lambda self, *args, **kwargs: self.stock(*args, **kwargs)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (a_layer_is_skipped, "attention handwritten-model: site 1 of 8 was never called"),
        (the_body_is_not_called, "attention handwritten-model: site 0 of 8 was never called"),
        (embeddings_are_not_scaled, "attention handwritten-model: the probe's logits differ"),
        (the_source_is_not_read, "attention handwritten-model: the probe's logits differ"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_fault_in_the_model_stops_the_run(framework, fault, message, monkeypatch):
    backend = load_backend(framework)
    model = backend.build_model(HEAD, config("marian"), "fp32", 0)
    backend.set_weights(model, random_state(backend.weight_shapes(model)))
    package = backend.__name__
    name, broken = fault(importlib.import_module(f"{package}.transformer"))
    monkeypatch.setattr(f"{package}.body.{name}", broken)
    probe = {key: value.astype(np.int32) for key, value in inputs("marian").items()}
    with pytest.raises(ProofError, match=message):
        swap_with_proof(backend, model, WHOLE, probe)


@pytest.mark.parametrize("kind", ["single-label", "causal rows", "sequence-to-sequence"])
def test_another_family_is_refused_by_name_before_anything_is_loaded(kind, tmp_path):
    recipe = recipe_of(kind, tmp_path)
    family = transformers.AutoConfig.from_pretrained(recipe.checkpoint)
    message = f'attention=handwritten-model does not fit .*: model_type is "{family.model_type}", but must be "marian"'
    with pytest.raises(UserError, match=message) as refusal:
        refuse_attention(recipe, family, WHOLE)
    assert "Supported: Marian encoders and decoders" in str(refusal.value)


@both
@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_a_model_object_of_another_family_is_refused_and_left_as_it_was(framework, family):
    model = framework.build(family)
    with pytest.raises(UserError, match='model_type is "[a-z0-9]*", but must be "marian"'):
        framework.swap().swap_attention(model, WHOLE)
    assert framework.swap().attention_sites(model) == 0


def test_a_body_of_pytorch_without_a_model_around_it_is_refused():
    model = Torch.build("marian", "Model")
    with pytest.raises(UserError, match="MarianModel is not a translation model of the library"):
        Torch.swap().swap_attention(model, WHOLE)
    assert Torch.swap().attention_sites(model) == 0


@pytest.mark.parametrize("training", [True, False])
def test_a_model_of_pytorch_stays_in_its_mode(training):
    model = Torch.build("marian").train(training)
    for change in (lambda: Torch.swap().swap_attention(model, WHOLE), lambda: Torch.swap().restore_attention(model)):
        change()
        assert {module.training for module in model.modules()} == {training}


def test_a_hook_that_the_model_would_lose_is_refused_and_one_that_moves_still_runs():
    model, seen = Torch.build("marian"), []
    model.model.encoder.layers[0].fc1.register_forward_hook(lambda *_: seen.append("fc1"))
    handle = model.model.encoder.layers[1].register_forward_hook(lambda *_: None)
    with pytest.raises(UserError, match=r"encoder.layers.1 \(MarianEncoderLayer\) has code of its own"):
        Torch.swap().swap_attention(model, WHOLE)
    handle.remove()
    Torch.swap().swap_attention(model, WHOLE)
    Torch.output(model, inputs("marian"))
    assert seen == ["fc1"]


@both
@pytest.mark.parametrize("argument", ["output_attentions", "output_hidden_states"])
def test_an_output_that_the_model_does_not_have_is_refused(framework, argument):
    with pytest.raises(UserError, match=f"Marian.* does not take {argument}; call the stock model"):
        framework.output(swapped(framework), inputs("marian"), **{argument: True})


@both
def test_until_it_is_restored_the_model_is_not_saved_under_wrong_names(framework, tmp_path):
    with pytest.raises(UserError, match="save_pretrained needs the stock attention"):
        swapped(framework).save_pretrained(tmp_path)


# --- whole runs

# Packed rows, micro-batches and shared dropout masks.
CHANGES = {"train.epochs": 2, "train.dropout": 0.1, "train.gradient_accumulation": 2, "data.limit.validation": 8}


@pytest.fixture(scope="module")
def stock_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stock")
    recipe = recipe_of("translation", folder, changes=CHANGES)
    return recipe, finetune(recipe, out=folder / "run")


@pytest.mark.slow
def test_a_run_takes_the_steps_of_a_stock_run_and_saves_a_stock_model(framework, stock_run, tmp_path):
    recipe, stock = stock_run
    run = finetune(recipe, framework, WHOLE, out=tmp_path / "run")
    assert run.record.attention == WHOLE and run.record.attention_sites == 6
    assert 0 < run.record.attention_max_difference < 1e-6
    losses, expected = ([step.loss for step in each.directory.history()] for each in (run, stock))
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert run.metrics == pytest.approx(stock.metrics, rel=1e-4)
    assert relative(*(read_safetensors(each.directory.weights_file) for each in (run, stock))) <= 1e-3
    _, loaded = transformers.MarianMTModel.from_pretrained(run.path / "model", output_loading_info=True)
    assert not any(loaded.values())


@pytest.mark.heavy
def test_the_steps_of_both_frameworks_are_in_lock_step_and_so_are_those_of_the_stock_model(tmp_path):
    recipe = recipe_of("translation", tmp_path, changes=CHANGES)
    traces = {name: record(recipe, name, 6, WHOLE) for name in NAMES}
    assert traces["torch"].dropout == 0.1
    assert compare_traces("tiny", traces["torch"], traces["tensorflow"]).same
    for other in (traces["tensorflow"], record(recipe, "torch", 6)):
        apart = distance(traces["torch"], other).largest
        assert apart["loss"] <= 1e-6 and apart["grad_norm"] <= 1e-5 and apart["early_parameters"] <= 1e-3, apart
