"""Tiny BERT and GPT-2 classifiers with random weights, built and trained through a framework's backend."""

import importlib

import numpy as np
import transformers

from pipeline.backend import load_backend
from pipeline.models.dropout import token_keys
from pipeline.models.initialization import random_weights

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


NO_DROPOUT = {
    "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
}


def framework_module(framework, name):
    """The module of this name in the framework's folder."""
    return importlib.import_module(f"pipeline.{'pytorch' if framework == 'torch' else framework}.{name}")


def tensor(framework, value):
    """An array in the framework."""
    if framework == "torch":
        import torch

        return torch.tensor(value)
    import tensorflow as tf

    return tf.constant(value)


def loss_and_gradient(framework, logits, labels, weights, *settings):
    """The loss of logits, and its gradient, as the framework's training step has them."""
    logits, labels, weights = (tensor(framework, value) for value in (logits, labels, weights))
    weighted_loss = framework_module(framework, "loss").weighted_loss
    if framework == "tensorflow":
        loss, gradient = weighted_loss(logits, labels, weights, *settings)
        return float(loss), gradient.numpy()
    logits.requires_grad_()
    loss = weighted_loss(logits * 1, labels, weights, *settings)
    loss.backward()
    return loss.item(), logits.grad.numpy()


def built(framework, family, seed=0, precision="fp32", **changes):
    """(backend, model): a sequence classifier with random weights; `changes` are settings of its config."""
    config = CONFIGS[family].__class__.from_dict(CONFIGS[family].to_dict() | changes)
    backend = load_backend(framework)
    model = backend.build_model(AUTO_CLASS, config, precision, seed)
    backend.set_weights(model, random_weights(backend.weight_shapes(model), config, seed))
    return backend, model


def batch(rows=7, width=11, seed=0):
    """Token ids and mask of rows with different lengths."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, width + 1, rows)
    mask = (np.arange(width) < lengths[:, None]).astype(np.int32)
    return {"input_ids": rng.integers(1, 101, (rows, width)).astype(np.int32) * mask, "attention_mask": mask}


def with_targets(features, seed=0):
    """A batch with labels and weights of the rows, and the keys from which their dropout masks are computed."""
    rng = np.random.default_rng(seed)
    rows = len(features["input_ids"])
    weights = rng.uniform(0.5, 2, rows)
    labels = rng.integers(0, 5, rows).astype(np.int32)
    positions = np.arange(features["input_ids"].shape[1])[None]
    return features | {
        "labels": labels,
        "loss_weights": (weights / weights.sum()).astype(np.float32),
        "dropout_keys": token_keys(seed, 0, np.arange(rows)[:, None], positions),
    }


def trained(framework, family, settings, batches, seed=0, **changes):
    """The weights of a classifier after a step on each batch, and the reports of the steps."""
    backend, model = built(framework, family, seed, settings.precision, **changes)
    backend.freeze(model, settings.freeze)
    learner, reports = backend.Learner(model, settings, np.full(len(batches), 1e-3)), []
    learner.fit([batches], reports.append, lambda epoch: False)
    return backend.get_weights(model), reports


def logits_as_built(backend, model, inputs):
    """The logits of a model that is not optimized."""
    return backend.Predictor(model, optimize=False).logits(inputs)
