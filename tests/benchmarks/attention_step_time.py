"""Compares the time of a training step with the hand-written attention and with that of the library.

    python -m tests.benchmarks.attention_step_time torch|tensorflow [rounds] [dropout]

BERT of 4 layers, width 256, batch size 32, length 128, fp32, AdamW. The variants take turns, in an order that changes
every round; medians over rounds are printed. On a busy machine the figures mean nothing, so its load is printed too.
"""

import os
import statistics
import sys
import time

import numpy as np

from pipeline.backend import load_backend
from pipeline.models.dropout import token_keys
from pipeline.utils.environment import configure_process

BATCH, LENGTH, WARMUP_ROUNDS = 32, 128, 2


def example_batch():
    """Token ids and mask [B, T] with up to fifteen padded positions a row, and labels [B]."""
    rng = np.random.default_rng(0)
    mask = (np.arange(LENGTH) < LENGTH - np.arange(BATCH)[:, None] % 16).astype(np.int32)
    return {
        "input_ids": rng.integers(5, 8000, (BATCH, LENGTH)).astype(np.int32),
        "attention_mask": mask,
        "labels": rng.integers(0, 2, BATCH).astype(np.int32),
        "loss_weights": np.full(BATCH, 1 / BATCH, np.float32),
        "dropout_keys": token_keys(0, 0, np.arange(BATCH)[:, None], np.arange(LENGTH)[None]),
    }


def variant(framework, name, dropout):
    """A function that takes one training step with the named attention."""
    import transformers

    from pipeline.recipe.schema import Train

    config = transformers.BertConfig(
        vocab_size=8000, hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024,
        hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
    )  # fmt: skip
    backend = load_backend(framework)
    model = backend.build_model("AutoModelForSequenceClassification", config, "fp32", seed=0)
    if framework == "torch":
        model.init_weights()
        model.set_attn_implementation("eager" if name == "eager" else "sdpa")
        model.train()
    if name == "handwritten":
        backend.swap_attention(model, name)
    rounds = 10_000
    learner, batch = backend.Learner(model, Train(learning_rate=5e-4), np.full(rounds, 5e-4)), example_batch()
    if framework == "torch":
        return lambda: float(learner.train_step(batch, 0)[0])
    import tensorflow as tf

    step = tf.function(learner.train_step)
    inputs = {key: tf.constant(value) for key, value in batch.items()}
    return lambda: float(step(inputs)["loss"])


def main(framework, rounds=12, dropout=0.1):
    """Measure every variant; print medians and ratios."""
    names = ["sdpa", "eager", "handwritten"] if framework == "torch" else ["stock", "handwritten"]
    steps = {name: variant(framework, name, dropout) for name in names}
    seconds = {name: [] for name in names}
    for i in range(rounds + WARMUP_ROUNDS):
        for name in names if i % 2 else names[::-1]:
            began = time.perf_counter()
            steps[name]()
            if i >= WARMUP_ROUNDS:
                seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    shown = ", ".join(f"{name} {median * 1000:.0f} ms" for name, median in medians.items())
    print(f"{framework}, dropout {dropout}: {shown} (load {os.getloadavg()[0]:.1f})")
    for name in names[:-1]:
        ratios = [ours / theirs for ours, theirs in zip(seconds["handwritten"], seconds[name], strict=True)]
        low, high = np.percentile(ratios, [25, 75])
        print(f"  handwritten / {name}: {statistics.median(ratios):.3f} (middle half {low:.3f} to {high:.3f})")


if __name__ == "__main__":
    arguments = sys.argv[1:]
    configure_process(arguments[0])
    main(arguments[0], *(kind(value) for kind, value in zip((int, float), arguments[1:], strict=False)))
