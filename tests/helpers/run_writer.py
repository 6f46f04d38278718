"""Writes run directories as a finetune would leave them, without training: what a comparison reads, and no more."""

import json

import numpy as np

from pipeline.data.batches import digest, training_batches
from pipeline.models.optimization import learning_rates
from pipeline.recipe.loading import load_recipe

NUM_TRAIN, NUM_VALIDATION = 101, 40
LENGTHS = np.random.default_rng(3).integers(5, 31, NUM_TRAIN)
NAMES = np.array(["negative", "positive"])
SECONDS = {"torch": 0.1, "tensorflow": 0.2}


def write_run(
    folder, framework="torch", attention="stock", seed=0, settings=None, order=None, lengths=LENGTHS, wrong=4,
    probe_off=0.0, first_step_extra=0.1, environment=None, report=None, epochs_done=1, loss_off=(0.0, 0.0, 0.0, 0.0),
):  # fmt: skip
    """A finished run; returns its directory.

    `loss_off` is added to the losses of the first steps; `order` is the seed whose batches it was trained on,
    `wrong` how many of its predictions are, `probe_off` what is
    added to the logits before training; `settings`, `environment` and `report` change what is recorded.
    """
    folder.mkdir(parents=True)
    resolved = load_recipe("sentiment_bert", {"train.epochs": 1} | (settings or {}))
    plan_seed = seed if order is None else order
    plans = [
        training_batches(lengths, resolved.train.batch_size, plan_seed, epoch, "packed") for epoch in range(epochs_done)
    ]
    history = _history(plans, lengths, resolved, SECONDS[framework], first_step_extra)
    for line, off in zip(history, loss_off, strict=False):
        line["loss"] += off
    predictions = _predictions(seed, wrong)
    right = np.mean([line["prediction"] == line["reference"] for line in predictions])
    seconds = history[-1]["seconds"]
    metrics = {
        "recipe": resolved.name, "framework": framework, "attention": attention, "seed": seed, "status": "completed",
        "metrics": {"accuracy": float(right), "loss": 0.3 + 0.01 * seed}, "kept_epoch": 1,
        "evaluations": [{"epoch": 1, "accuracy": float(right), "loss": 0.3}],
        "train": {
            "steps": len(history), "seconds": seconds, "examples_per_second": NUM_TRAIN / seconds,
            "tokens_per_second": float(lengths.sum() / seconds), "padding_fraction": 0.02,
            "first_step_seconds": history[0]["seconds"], "peak_memory_bytes": int(6e8 + 1e6 * seed), "resumed_at": [],
        },
        "batches": [digest(plan) for plan in plans],
        "data": {
            "fingerprint": "0123456789abcdef", "train": {"rows": NUM_TRAIN, "truncated": 0},
            "validation": {"rows": NUM_VALIDATION, "truncated": 0},
        },
        "checkpoint_fingerprint": "fedcba9876543210", "attention_sites": 2 * (attention != "stock"),
        "attention_max_difference": probe_off,
    }  # fmt: skip
    machine = {
        "versions": {"python": "3.11.7", "numpy": "2.4.6"}, "framework": {framework: "2.0", "threads": "2"},
        "processor": "A Processor", "cores": 2, "threads": "2", "platform": "Linux", "command": ["finetune"],
        "startup_seconds": 5.0,
        "launch_seconds": 8.0,
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(resolved.to_yaml(), encoding="utf-8")
    recorded = {key: value for key, value in (metrics | (report or {})).items() if value is not None}
    (folder / "metrics.json").write_text(json.dumps(recorded), encoding="utf-8")
    (folder / "environment.json").write_text(json.dumps(machine | (environment or {})), encoding="utf-8")
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(json.dumps({"id2label": dict(enumerate(NAMES))}), encoding="utf-8")
    for name, lines in (("history", history), ("predictions", predictions)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    # What the frameworks' rounding leaves between the same model's logits.
    rounding = np.random.default_rng([seed, len(framework)]).normal(0, 1e-8, (8, 2))
    before = np.random.default_rng(seed).normal(0, 0.1, (8, 2)) + rounding + probe_off
    np.savez(folder / "probe.npz", logits_before=before.astype(np.float32), logits_after=before + 1)
    return folder


def _history(plans, lengths, recipe, seconds, first_step_extra):
    plan = [batch for plan in plans for batch in plan]
    rates = learning_rates(recipe.train, len(plans[0]) * recipe.train.epochs)
    return [
        {
            "step": step + 1, "epoch": step // len(plans[0]) + 1, "loss": 0.7 - 0.05 * step,
            "learning_rate": float(rates[step]), "grad_norm": 1.0 / (step + 1),
            "examples": len(batch.rows), "tokens": int(lengths[batch.rows].sum()),
            "seconds": first_step_extra + seconds * step,
        }
        for step, batch in enumerate(plan)
    ]  # fmt: skip


def _predictions(seed, wrong):
    reference = np.arange(NUM_VALIDATION) % 2
    prediction = reference.copy()
    prediction[np.random.default_rng([seed, 5]).permutation(NUM_VALIDATION)[:wrong]] ^= 1
    return [
        {"index": i, "prediction": NAMES[p], "reference": NAMES[r], "score": 0.9}
        for i, (p, r) in enumerate(zip(prediction, reference, strict=True))
    ]
