"""Gradient checkpointing in both frameworks: the same loss and gradients, with fewer activations kept."""

import numpy as np
import pytest
import torch

from pipeline import UserError, finetune, load_recipe
from pipeline.backend import load_backend
from tests.helpers.families import recipe_of
from tests.helpers.interruption import assert_same_outcome, kill_at, read_lines
from tests.helpers.packed_batches import learner_of, loss_and_gradients, with_dropout_keys

# Every family, and every kind of layer: the library's, with a hand-written attention, and hand-written.
LAYERS = [
    ("bert tokens", "stock"), ("bert masked", "handwritten"), ("gpt2 causal", "handwritten"), ("gpt2 classes", "stock"),
    ("t5", "stock"), ("t5", "handwritten"), ("marian", "handwritten-model"), ("marian", "handwritten"),
    ("marian", "stock"), ("distilbert tokens", "stock"), ("roberta tokens", "stock"),
]  # fmt: skip


def both(framework, head, attention, packed, **train):
    """(loss, gradients) without and with gradient checkpointing, of the same batch with dropout."""
    batch = with_dropout_keys(head)[packed]
    sides = []
    for value in (False, True):
        learner = learner_of(framework, head, attention, dropout=0.1, gradient_checkpointing=value, **train)
        sides.append(loss_and_gradients(framework, learner, batch))
    return sides


def assert_same(plain, checkpointed, **tolerance):
    assert checkpointed[0] == pytest.approx(plain[0], rel=1e-6)
    assert checkpointed[1].keys() == plain[1].keys()
    scale = max(np.abs(gradient).max() for gradient in plain[1].values())
    for name, gradient in plain[1].items():
        np.testing.assert_allclose(checkpointed[1][name], gradient, err_msg=name, rtol=0, atol=tolerance["to"] * scale)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("head", "attention"), LAYERS)
def test_in_pytorch_loss_and_gradients_have_the_same_bits(head, attention, packed):
    """In padded rows some processors round a GPT-2 differently."""
    assert_same(*both("torch", head, attention, packed), to=0 if packed else 1e-6)


@pytest.mark.parametrize(
    ("head", "attention"),
    [pytest.param(*each, marks=() if each in LAYERS[:8:2] else pytest.mark.heavy) for each in LAYERS],
)
def test_in_tensorflow_loss_and_gradients_are_the_same(head, attention):
    assert_same(*both("tensorflow", head, attention, True), to=1e-6)


# How often each layer's attention is computed for a step on packed rows. Where the head reads some of the tokens only,
# the parts of the last layer are called one by one.
CALLS = {"gpt2 causal": [2, 2], "bert tokens": [2, 1], "distilbert tokens": [2, 1], "roberta tokens": [2, 1]}


@pytest.mark.parametrize(
    "head", [pytest.param(head, marks=pytest.mark.heavy if "roberta" in head else ()) for head in CALLS]
)
def test_each_layer_is_computed_again_in_training_only(framework, head):
    learner = learner_of(framework, head, "handwritten", dropout=0.1, gradient_checkpointing=True)
    backend, batch = load_backend(framework), with_dropout_keys(head)[1]
    before = backend.attention_calls(learner.model)
    loss_and_gradients(framework, learner, batch)
    after = backend.attention_calls(learner.model)
    assert [now - old for now, old in zip(after, before, strict=True)] == CALLS[head]
    before = backend.attention_calls(learner.model)
    learner.logits({name: value for name, value in batch.items() if name not in ("labels", "loss_weights")})
    assert [after - old for after, old in zip(backend.attention_calls(learner.model), before, strict=True)] == [1, 1]


@pytest.mark.parametrize("head", ["gpt2 causal", "t5", "marian"])
def test_in_pytorch_fewer_values_wait_for_the_backward_pass(head):
    kept = []
    for value in (False, True):
        learner = learner_of("torch", head, dropout=0.1, gradient_checkpointing=value)
        weights, found = {weight.data_ptr() for weight in learner.model.parameters()}, {}

        def keep(tensor, weights=weights, found=found):
            if tensor.data_ptr() not in weights:
                found[tensor.data_ptr()] = tensor
            return tensor

        learner.model.train()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            learner.loss(learner.tensors(with_dropout_keys(head)[1]))
        kept.append(sum(tensor.nbytes for tensor in found.values()))
    assert kept[1] < 0.5 * kept[0], kept


SETTINGS = {
    "bf16": {"precision": "bf16"},
    "masks of the framework": {"dropout_masks": "framework"},
    "micro-batches": {"gradient_accumulation": 3},
    "micro-batches of the framework's masks": {"gradient_accumulation": 3, "dropout_masks": "framework"},
}


def steps(framework, head, **train):
    """The losses and gradient norms of two steps, as a training takes them."""
    learner, reports = learner_of(framework, head, steps=2, dropout=0.1, batch_size=6, **train), []
    learner.fit([[with_dropout_keys(head)[1]] * 2], reports.append, lambda epoch: True)
    return [(report.loss, report.grad_norm) for report in reports]


@pytest.mark.parametrize("settings", SETTINGS)
def test_in_pytorch_steps_are_the_same_with_other_settings(settings):
    plain, checkpointed = (
        steps("torch", "gpt2 causal", gradient_checkpointing=value, **SETTINGS[settings]) for value in (False, True)
    )
    assert checkpointed == plain and plain[0] != plain[1]


def test_compiled_steps_are_not_checkpointed():
    with pytest.raises(UserError, match="gradient_checkpointing computes layers again, and compile would"):
        load_recipe("sentiment_bert", {"train.gradient_checkpointing": True, "train.compile": True})


CHANGES = {
    "train.gradient_checkpointing": True, "train.dropout": 0.1, "train.save_every": 1, "train.lora.rank": 2,
}  # fmt: skip


def test_a_resumed_run_ends_with_the_same_bits(tmp_path):
    recipe = recipe_of("causal rows", tmp_path, changes=CHANGES | {"train.dropout_masks": "framework"})
    whole = finetune(recipe, out=tmp_path / "whole", quiet=True)
    kill_at(("step", 2), recipe, framework="torch", out=tmp_path / "killed")
    assert_same_outcome(whole.path, finetune(recipe, out=tmp_path / "killed", resume=True, quiet=True).path)


@pytest.mark.heavy
@pytest.mark.parametrize(("framework", "sharding"), [("torch", None), ("torch", "fsdp"), ("tensorflow", None)])
def test_two_processes_train_as_one_does_with_updates_of_low_rank_too(framework, sharding, tmp_path):
    changes = CHANGES | {"train.save_every": None, "train.sharding": sharding, "train.learning_rate": 5e-3}
    recipe = recipe_of("single-label", tmp_path, changes=changes)
    runs = [finetune(recipe, framework, out=tmp_path / f"{n}", processes=n, quiet=True) for n in (1, 2)]
    losses = [[line["loss"] for line in read_lines(run.path / "history.jsonl")] for run in runs]
    assert len(losses[0]) == 3 and losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert (runs[1].path / "adapter").is_dir()
