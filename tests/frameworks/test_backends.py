"""What both backends must do, each against a reference in NumPy or against the other."""

import importlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import transformers
from safetensors.numpy import load_file, save_file

from pipeline.backend import load_backend
from pipeline.models.checkpoint import load_config, read_weights, save_checkpoint
from pipeline.models.initialization import complete_weights, draw, random_weights
from pipeline.models.optimization import decays
from pipeline.recipe.loading import load_recipe
from pipeline.recipe.schema import Train
from pipeline.training.experiment import prepare, start
from pipeline.utils.errors import RunFailure, UserError

FRAMEWORKS = ("torch", "tensorflow")
CONFIGS = {
    "bert": transformers.BertConfig(
        vocab_size=101, hidden_size=21, num_attention_heads=3, num_hidden_layers=2, intermediate_size=23,
        max_position_embeddings=59, type_vocab_size=2, num_labels=5, pad_token_id=0,
    ),
    "gpt2": transformers.GPT2Config(
        vocab_size=101, n_embd=21, n_head=3, n_layer=2, n_positions=59, num_labels=5, pad_token_id=0,
    ),
}  # fmt: skip
AUTO_CLASS = "AutoModelForSequenceClassification"


def train_module(framework):
    return importlib.import_module(f"pipeline.{'pytorch' if framework == 'torch' else framework}.train")


def optimizer_module(framework):
    return importlib.import_module(f"pipeline.{'pytorch' if framework == 'torch' else framework}.optimizer")


def tensor(framework, value):
    if framework == "torch":
        import torch

        return torch.tensor(value)
    import tensorflow as tf

    return tf.constant(value)


def built(framework, family, seed=0, precision="fp32", **changes):
    config = CONFIGS[family].__class__.from_dict(CONFIGS[family].to_dict() | changes)
    backend = load_backend(framework)
    model = backend.build_model(AUTO_CLASS, config, precision, seed)
    backend.set_weights(model, random_weights(backend.weight_shapes(model), config, seed))
    return backend, model


def batch(rows=7, width=11, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, width + 1, rows)
    mask = (np.arange(width) < lengths[:, None]).astype(np.int32)
    return {"input_ids": rng.integers(1, 101, (rows, width)).astype(np.int32) * mask, "attention_mask": mask}


def with_targets(features, seed=0):
    rng = np.random.default_rng(seed)
    rows = len(features["input_ids"])
    weights = rng.uniform(0.5, 2, rows)
    labels = rng.integers(0, 5, rows).astype(np.int32)
    return features | {"labels": labels, "loss_weights": (weights / weights.sum()).astype(np.float32)}


def trained(framework, family, settings, updates, seed=0, rates=None, **changes):
    backend, model = built(framework, family, seed, settings.precision, **changes)
    backend.freeze(model, settings.freeze)
    learner, seen = backend.Learner(model, settings, np.full(len(updates), 1e-3) if rates is None else rates), []
    learner.fit([updates], seen.append, lambda epoch: False)
    return backend.get_weights(model), seen


def logits_as_built(backend, model, inputs):
    return backend.Predictor(model, optimize=False).logits(inputs)


NO_DROPOUT = {
    "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
}


@pytest.mark.parametrize("family", CONFIGS)
def test_both_frameworks_have_the_same_weights_by_name_and_shape(family):
    shapes = [load_backend(framework).weight_shapes(built(framework, family)[1]) for framework in FRAMEWORKS]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("family", CONFIGS)
def test_weights_come_out_as_they_went_in(framework, family):
    backend, model = built(framework, family)
    weights = {name: np.random.default_rng(1).normal(size=shape).astype(np.float32)
               for name, shape in backend.weight_shapes(model).items()}  # fmt: skip
    backend.set_weights(model, weights)
    found = backend.get_weights(model)
    assert all((found[name] == weights[name]).all() for name in weights)


@pytest.mark.parametrize("family", CONFIGS)
def test_the_same_start_gives_the_same_logits(family):
    logits = [logits_as_built(*built(framework, family, seed=5), batch()) for framework in FRAMEWORKS]
    assert np.abs(logits[0] - logits[1]).max() <= 1e-6
    assert logits[0].std() > 1e-3


def test_an_optimized_predictor_gives_the_models_logits(framework):
    backend, model = built(framework, "bert")
    expected = logits_as_built(backend, model, batch())
    predictor = backend.Predictor(model)
    found = [predictor.logits(batch()), predictor.logits(batch(rows=3, width=5))]
    assert found[0] == pytest.approx(expected, abs=1e-6)
    assert found[1].shape == (3, 5)


@pytest.mark.parametrize("offset", [0.0, 1000.0], ids=["", "large logits"])
@pytest.mark.parametrize("share", [1.0, 0.7, 0.2, 0.0])  # of the labels that count
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_weighted_cross_entropy(framework, smoothing, share, offset):
    rng = np.random.default_rng(3)
    logits, labels = rng.normal(0, 4, size=(6, 9, 5)).astype(np.float32), rng.integers(0, 5, (6, 9)).astype(np.int32)
    weights = (rng.uniform(size=(6, 9)) * (rng.uniform(size=(6, 9)) < share)).astype(np.float32)
    log_p = logits - np.log(np.exp(logits.astype(np.float64)).sum(-1, keepdims=True))
    targets = np.eye(5)[labels] * (1 - smoothing) + smoothing / 5
    expected = -(weights * (targets * log_p).sum(-1)).sum()
    slope = weights[..., None] * (np.exp(log_p) - targets)
    if framework == "torch":
        labels = labels.astype(np.int64)
    arguments = (tensor(framework, value) for value in (logits + np.float32(offset), labels, weights))
    loss, gradient = loss_and_gradient(framework, *arguments, smoothing)
    # At 1,000 the logits themselves are rounded to 6e-5.
    assert loss == pytest.approx(expected, rel=1e-5 if offset == 0 else 1e-4)
    assert gradient == pytest.approx(slope, abs=1e-6 if offset == 0 else 1e-4)


def loss_and_gradient(framework, logits, labels, weights, smoothing):
    weighted_loss = train_module(framework).weighted_loss
    if framework == "torch":
        logits.requires_grad_()
        loss = weighted_loss(logits * 1, labels, weights, smoothing)
        loss.backward()
        return loss.item(), logits.grad.numpy()
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = weighted_loss(logits, labels, weights, smoothing)
    return float(loss), tape.gradient(loss, logits).numpy()


@pytest.mark.parametrize("max_grad_norm", [None, 0.5, 100.0])
def test_gradients_are_clipped_by_their_global_norm(framework, max_grad_norm):
    values = [np.array([3.0, 0.0], np.float32), np.array([[4.0]], np.float32)]
    if framework == "torch":
        import torch

        weights = [torch.nn.Parameter(torch.zeros_like(torch.tensor(value))) for value in values]
        for weight, value in zip(weights, values, strict=True):
            weight.grad = torch.tensor(value)
        norm = optimizer_module(framework).clip_gradients(weights, max_grad_norm)
        clipped = [weight.grad.numpy() for weight in weights]
    else:
        clipped, norm = optimizer_module(framework).clip_gradients(
            [tensor(framework, v) for v in values], max_grad_norm
        )
    scale = min(1.0, (max_grad_norm or np.inf) / (5 + 1e-6))
    assert float(norm) == pytest.approx(5.0)
    for found, value in zip(clipped, values, strict=True):
        assert np.asarray(found) == pytest.approx(value * scale, rel=1e-5)


def adamw_by_hand(value, gradients, rates, settings, decay):
    """Algorithm 2 of Loshchilov and Hutter 2019 in float64."""
    value, m, v = value.astype(np.float64), 0.0, 0.0
    for t, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        m = settings.beta1 * m + (1 - settings.beta1) * gradient
        v = settings.beta2 * v + (1 - settings.beta2) * gradient**2
        m_hat, v_hat = m / (1 - settings.beta1**t), v / (1 - settings.beta2**t)
        value = value - rate * decay * value - rate * m_hat / (np.sqrt(v_hat) + settings.epsilon)
    return value


@pytest.mark.parametrize("scale", [1.0, 1e-8], ids=["plain gradients", "gradients as small as epsilon"])
def test_adamw_moves_as_the_paper_says(framework, scale):
    rng, settings = np.random.default_rng(5), Train(weight_decay=0.1, epsilon=1e-8)
    starts = {"dense.weight": rng.normal(size=(3, 5)), "dense.bias": rng.normal(size=5)}
    gradients = {name: rng.normal(size=(7, *value.shape)) * scale for name, value in starts.items()}
    rates = np.linspace(1e-3, 1e-2, 7)
    if framework == "torch":
        import torch

        module = torch.nn.Module()
        module.dense = torch.nn.Linear(5, 3)
        module.dense.weight.data = torch.tensor(starts["dense.weight"], dtype=torch.float32)
        module.dense.bias = torch.nn.Parameter(torch.tensor(starts["dense.bias"], dtype=torch.float32))
        optimizer = optimizer_module(framework).AdamW(module, settings)
        for step, rate in enumerate(rates):
            for name, weight in module.named_parameters():
                weight.grad = torch.tensor(gradients[name][step], dtype=torch.float32)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
        found = {name: weight.detach().numpy() for name, weight in module.named_parameters()}
    else:
        import tensorflow as tf

        variables = {name: tf.Variable(value.astype(np.float32), name=name) for name, value in starts.items()}
        optimizer = optimizer_module(framework).AdamW(settings, rates)
        for step in range(len(rates)):
            pairs = [(tf.constant(gradients[n][step], tf.float32), v) for n, v in variables.items()]
            optimizer.apply_gradients(pairs)
        found = {name: variable.numpy() for name, variable in variables.items()}
    for name, value in starts.items():
        decay = 0.1 if name == "dense.weight" else 0.0
        expected = adamw_by_hand(value, gradients[name], rates, settings, decay)
        assert found[name] - value == pytest.approx(expected - value, rel=2e-4, abs=3e-7), name


def test_decay_spares_biases_and_layer_norms():
    assert decays("encoder.dense.weight", 2) and decays("tf_bert/dense/kernel", 2)
    spared = [("dense.bias", 1), ("LayerNorm.weight", 1), ("h/attn/c_attn/bias", 2)]
    assert not any(decays(name, rank) for name, rank in spared)


@pytest.mark.parametrize("family", CONFIGS)
def test_accumulation_changes_memory_not_the_update(framework, family):
    updates = [with_targets(batch(rows=7, seed=s), seed=s) for s in range(3)]
    whole, seen = trained(framework, family, Train(batch_size=8), updates, **NO_DROPOUT[family])
    parts, seen_parts = trained(
        framework, family, Train(batch_size=8, gradient_accumulation=4), updates, **NO_DROPOUT[family]
    )
    assert [u.loss for u in seen] == pytest.approx([u.loss for u in seen_parts], rel=1e-5)
    assert [u.grad_norm for u in seen] == pytest.approx([u.grad_norm for u in seen_parts], rel=1e-4)
    start = random_weights({n: v.shape for n, v in whole.items()}, CONFIGS[family], 0)
    moved = np.sqrt(
        sum(((whole[n] - start[n]) ** 2).sum() for n in whole if "key.bias" not in n and "c_attn.bias" not in n)
    )
    apart = np.sqrt(
        sum(((whole[n] - parts[n]) ** 2).sum() for n in whole if "key.bias" not in n and "c_attn.bias" not in n)
    )
    assert apart / moved < 1e-3


@pytest.mark.parametrize(
    ("num_rows", "count", "sizes"), [(8, 4, [2] * 4), (7, 2, [3, 4]), (3, 4, [0, 1, 1, 1]), (5, 1, [5])]
)
def test_micro_batches_have_every_row_once_and_similar_sizes(framework, num_rows, count, sizes):
    rows = {"input_ids": np.arange(num_rows * 2).reshape(num_rows, 2), "labels": np.arange(num_rows)}
    pieces = [train_module(framework).micro_batch(rows, i, count) for i in range(count)]
    assert [len(piece["labels"]) for piece in pieces] == sizes
    assert np.concatenate([piece["input_ids"] for piece in pieces]).tolist() == rows["input_ids"].tolist()


def test_more_parts_than_rows_is_no_fault(framework):
    updates = [with_targets(batch(rows=3))]
    one, _ = trained(framework, "bert", Train(batch_size=8), updates, **NO_DROPOUT["bert"])
    many, seen = trained(framework, "bert", Train(batch_size=8, gradient_accumulation=8), updates, **NO_DROPOUT["bert"])
    assert np.isfinite(seen[0].loss)
    assert one["classifier.weight"] == pytest.approx(many["classifier.weight"], abs=1e-6)


@pytest.fixture
def short_memory(framework, monkeypatch):
    """Memory runs out where more than `most_rows` go through the model in training."""
    module, state = train_module(framework), {"most_rows": 2}
    real = module.forward

    def fail(num_rows):
        if num_rows > state["most_rows"]:
            raise MemoryError
        return np.int32(0)

    def torch_forward(model, inputs):
        import torch

        if model.training and len(inputs["input_ids"]) > state["most_rows"]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return real(model, inputs)

    def tensorflow_forward(model, inputs, training):
        import tensorflow as tf

        if training:
            with tf.control_dependencies([tf.numpy_function(fail, [tf.shape(inputs["input_ids"])[0]], tf.int32)]):
                inputs = {key: tf.identity(value) for key, value in inputs.items()}
        return real(model, inputs, training)

    monkeypatch.setattr(module, "forward", torch_forward if framework == "torch" else tensorflow_forward)
    return state


def test_an_update_for_which_memory_is_short_is_split_and_stays_the_same(framework, short_memory):
    updates = [with_targets(batch(rows=7, seed=s), seed=s) for s in range(4)]
    wanted, _ = trained(framework, "bert", Train(batch_size=8, gradient_accumulation=4), updates, **NO_DROPOUT["bert"])
    found, seen = trained(framework, "bert", Train(batch_size=8), updates, **NO_DROPOUT["bert"])
    assert [update.micro_batches for update in seen] == [4] * 4
    assert [update.step for update in seen] == [1, 2, 3, 4]
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


def test_a_model_too_large_for_one_example_ends_with_one_message(framework, short_memory):
    short_memory["most_rows"] = 0
    with pytest.raises(RunFailure, match="one example"):
        trained(framework, "bert", Train(batch_size=8), [with_targets(batch(rows=3))], **NO_DROPOUT["bert"])


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("attention", ["stock", "handwritten"])
def test_frozen_weights_stay_and_the_others_move(framework, family, attention):
    patterns = {"bert": ("bert.embeddings.*", "*.attention.self.query.*"), "gpt2": ("transformer.w?e.*", "*.c_attn.*")}
    backend, model = built(framework, family)
    before = backend.get_weights(model)
    frozen = backend.freeze(model, patterns[family])
    if attention == "handwritten":
        backend.swap_attention(model, attention)
    learner = backend.Learner(model, Train(weight_decay=0.1), np.full(2, 1e-3))
    learner.fit([[with_targets(batch())] * 2], lambda update: None, lambda epoch: False)
    if attention == "handwritten":
        backend.restore_attention(model)
    after = backend.get_weights(model)
    assert {name for name in before if (before[name] == after[name]).all()} == set(frozen)
    assert frozen


def test_a_freeze_pattern_without_match_is_refused(framework):
    backend, model = built(framework, "bert")
    with pytest.raises(UserError, match='"bert.embedings.*" matches no weight'):
        backend.freeze(model, ["bert.embedings.*"])
    with pytest.raises(UserError, match="leaves nothing to train"):
        backend.freeze(model, ["*"])


def test_snapshots_bring_back_the_weights(framework):
    backend, model = built(framework, "bert")
    learner = backend.Learner(model, Train(), np.full(1, 1e-2))
    kept, before = learner.copy_weights(), backend.get_weights(model)
    learner.fit([[with_targets(batch())]], lambda update: None, lambda epoch: False)
    assert not (backend.get_weights(model)["classifier.weight"] == before["classifier.weight"]).all()
    learner.restore_weights(kept)
    assert all((value == before[name]).all() for name, value in backend.get_weights(model).items())


def test_stopping_early_ends_the_training(framework):
    backend, model = built(framework, "bert")
    learner, seen = backend.Learner(model, Train(), np.full(6, 1e-3)), []
    learner.fit([[with_targets(batch())] * 2] * 3, seen.append, lambda epoch: epoch == 2)
    assert [update.step for update in seen] == [1, 2, 3, 4]


def test_bf16_trains_fp32_weights(framework):
    updates = [with_targets(batch())] * 3
    exact, seen = trained(framework, "bert", Train(), updates, **NO_DROPOUT["bert"])
    rough, seen_rough = trained(framework, "bert", Train(precision="bf16"), updates, **NO_DROPOUT["bert"])
    losses, rough_losses = [u.loss for u in seen], [u.loss for u in seen_rough]
    assert losses != rough_losses
    assert losses == pytest.approx(rough_losses, abs=0.02)
    assert rough["classifier.weight"].dtype == np.float32


def test_dropout_works_in_training_only_and_follows_the_seed(framework):
    updates = [with_targets(batch())] * 2
    losses = [tuple(u.loss for u in trained(framework, "bert", Train(), updates, seed=0)[1]) for _ in range(2)]
    still = tuple(u.loss for u in trained(framework, "bert", Train(), updates, **NO_DROPOUT["bert"])[1])
    assert losses[0] == losses[1] != still


@pytest.fixture
def saved(tmp_path):
    """Saves weights as a checkpoint with the embedded tokenizer and returns its recipe."""

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


def test_a_model_of_either_framework_loads_in_the_other(framework, small, tmp_path):
    experiment, backend = prepare(small), load_backend(framework)
    model, _ = start(experiment, backend, seed=2)
    learner = backend.Learner(model, small.train, np.full(2, 1e-3))
    plan = experiment.training_plan(0, 0)[:2]
    learner.fit([experiment.features(plan, 0, 0)], lambda update: None, lambda epoch: False)
    expected = logits_as_built(backend, model, experiment.probe())
    save_checkpoint(tmp_path / "m", backend.get_weights(model), experiment.config, experiment.tokenizer, "card")
    assert load_file(tmp_path / "m" / "model.safetensors").keys() == backend.weight_shapes(model).keys()
    if framework == "tensorflow":
        plain, info = transformers.AutoModelForSequenceClassification.from_pretrained(
            tmp_path / "m", output_loading_info=True
        )
        assert not any(info.values()), info
        found = logits_as_built(load_backend("torch"), plain, experiment.probe())
    else:
        again = prepare(small.override({"checkpoint": str(tmp_path / "m")}))
        other = load_backend("tensorflow")
        found = logits_as_built(other, start(again, other, seed=0)[0], experiment.probe())
    assert np.abs(found - expected).max() <= 1e-5


def untied_gpt2(framework, config, weights=None, seed=3):
    """A GPT-2 language model with an output matrix of its own, through our loader."""
    backend = load_backend(framework)
    model = backend.build_model("AutoModelForCausalLM", config, "fp32", seed)
    shapes = backend.weight_shapes(model)
    backend.set_weights(model, random_weights(shapes, config, seed) if weights is None else weights)
    return backend, model


def test_an_untied_output_matrix_is_applied_in_both_frameworks():
    config = transformers.GPT2Config.from_dict(CONFIGS["gpt2"].to_dict() | {"tie_word_embeddings": False})
    (torch_backend, ours), (tf_backend, theirs) = (untied_gpt2(framework, config) for framework in FRAMEWORKS)
    assert torch_backend.weight_shapes(ours) == tf_backend.weight_shapes(theirs)
    logits = [logits_as_built(torch_backend, ours, batch()), logits_as_built(tf_backend, theirs, batch())]
    real = batch()["attention_mask"].astype(bool)
    assert np.abs(logits[0] - logits[1])[real].max() <= 1e-5
    weights = torch_backend.get_weights(ours)
    assert not np.allclose(weights["lm_head.weight"], weights["transformer.wte.weight"])


@pytest.mark.parametrize("attention", ["stock", "handwritten"])
def test_the_real_sorter_sorts(framework, attention, shared):
    """minGPT's sorter, a real GPT-2 with an untied output; without it, a tiny one must do what stock PyTorch does."""
    if shared is None:
        config = transformers.GPT2Config.from_dict(
            CONFIGS["gpt2"].to_dict() | {"tie_word_embeddings": False, "vocab_size": 3, "n_positions": 11}
        )
        reference = untied_gpt2("torch", config)[1]
        weights = load_backend("torch").get_weights(reference)
    else:
        folder = shared / "checkpoints" / "mingpt_sort_gpt2"
        config = transformers.GPT2Config.from_pretrained(folder)
        weights, reference = load_file(folder / "model.safetensors"), None
    backend, model = untied_gpt2(framework, config, weights)
    if attention == "handwritten":
        assert backend.swap_attention(model, attention) == config.n_layer
    prompts = np.random.default_rng(29).integers(0, 3, (200, 6)).astype(np.int32)
    settings = dict(max_new_tokens=6 if reference is None else 5, do_sample=False, eos_token_id=None, pad_token_id=0)

    def generated(model, framework):
        if framework == "torch":
            model.eval()
        ids, mask = tensor(framework, prompts), tensor(framework, np.ones_like(prompts))
        return np.asarray(model.generate(ids, attention_mask=mask, **settings))[:, 6:]

    expected = np.sort(prompts, axis=1) if reference is None else generated(reference, "torch")
    assert (generated(model, framework) == expected).all(axis=1).sum() == 200
