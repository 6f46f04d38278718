"""What a small comparison's results are: three variants, one run failed, texts that mean harm."""

import math

SEEDS = ("0", "1", "2")
VARIANTS = ("torch/stock", "torch/handwritten", "tensorflow/stock")
SCORES = {
    "torch/stock": [0.9, 0.92, 0.91],
    "torch/handwritten": [0.9, 0.92, 0.91],
    "tensorflow/stock": [0.88, 0.93, None],
}
LOSSES = {
    "torch/stock": [0.31, 0.29, 0.3],
    "torch/handwritten": [0.31, 0.29, 0.3],
    "tensorflow/stock": [0.35, 0.27, None],
}
SPEEDS = {"torch/stock": 312.0, "torch/handwritten": 309.0, "tensorflow/stock": 160.0}
LOG = "Traceback (most recent call last):\n  \x1b[31mResourceExhaustedError\x1b[0m: <script>alert('log')</script>\n"
HOSTILE = 'The <script>alert("x")</script> room\x00 was \x1b[2Jnot clean\u202e. `*_|'


def example():
    """A complete results dict of the schema."""
    return {
        "schema": 1,
        "created": "2026-11-24T06:40:00+00:00",
        "command": ["python", "-m", "pipeline", "compare", "sentiment_bert"],
        "recipe": "sentiment_bert",
        "task": "sequence-classification",
        "checkpoint": "bert",
        "weights": "pretrained",
        "data": {
            "source": "json",
            "fingerprint": "05eaf211d0dac4b2",
            "splits": {"train": {"rows": 320, "truncated": 0}, "validation": {"rows": 100, "truncated": 1}},
        },
        "margin": {"value": 0.01, "kind": "absolute"},
        "headline": {
            "same": {"state": "unknown", "sentence": "The same start and batches; accuracy is not settled."},
            "speed": {"state": "good", "sentence": "torch/stock was the fastest: 312 examples/s."},
            "memory": {"state": "good", "sentence": "torch/stock took the least: 812 MiB."},
            "notices": [
                {"state": "bad", "sentence": "tensorflow/stock seed 2 failed; the end of its log is below."},
                {"state": "bad", "sentence": "train.weight_decay differs: 0.01 or 0.1."},
                {"state": "unknown", "sentence": "The runs were made on different machines."},
            ],
        },
        "variants": [
            {
                "name": name,
                "framework": name.split("/")[0],
                "attention": name.split("/")[1],
                "seeds": [0, 1, 2],
                "completed": sum(score is not None for score in SCORES[name]),
                "failed": SCORES[name].count(None),
            }
            for name in VARIANTS
        ],
        "runs": [_run(name, seed) for seed in range(3) for name in VARIANTS],
        "recipe_differences": [
            {
                "key": "train.weight_decay",
                "values": {f"{name} seed {seed}": 0.1 if "flow" in name else 0.01 for seed, name in _completed()},
            }
        ],
        "metrics": {"accuracy": _metric(SCORES, 1, False), "loss": _metric(LOSSES, None, True)},
        "comparisons": [
            _comparison("torch/stock", "torch/handwritten", 0.0),
            _comparison("torch/stock", "tensorflow/stock", 0.005),
        ],
        "sameness": _sameness(),
        "disagreements": [
            {
                "index": 7,
                "seed": 0,
                "fields": {"text": HOSTILE},
                "reference": "negative",
                "predictions": dict(zip(VARIANTS, ("negative", "negative", "positive"), strict=True)),
            },
            {
                "index": 11,
                "seed": 0,
                "fields": {},
                "reference": ["O", "B-<b>"],
                "predictions": dict(zip(VARIANTS, (["O", "O"], ["O", "O"], ["O", "B-<b>"]), strict=True)),
            },
        ],
        "cost": [
            _cost("examples_per_second", "Training speed", "examples/s", True, 1.0),
            _cost("steady_examples_per_second", "Training speed after the first update", "examples/s", True, 1.1),
            _cost("tokens_per_second", "Training speed in tokens", "tokens/s", True, 18.0),
            _cost("first_step_seconds", "First update", "s", False, 0.01),
            _cost("startup_seconds", "Start-up", "s", False, 0.02),
            _cost("train_seconds", "Training", "s", False, 0.1),
            _cost("peak_memory_bytes", "Peak memory of the process", "bytes", False, 2.0**21),
        ],
        "machine": [
            {
                "runs": [f"{name} seed {seed}" for seed, name in _completed() if ("flow" in name) == other],
                "processor": "A Processor (R)",
                "cores": 2 + 2 * other,
                "threads": "2",
                "platform": "Linux",
                "versions": {"python": "3.11.7", "transformers": "4.57.6"},
            }
            for other in (False, True)
        ],
        "attention_maps": [
            {
                "variant": "torch/handwritten",
                "seed": 0,
                "text": HOSTILE,
                "tokens": ["[CLS]", "<script>", "[SEP]"],
                "weights": [[[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.0, 0.0, 1.0]]] * 2] * 2,
            }
        ],
    }


def _completed():
    return [(seed, name) for seed in range(3) for name in VARIANTS if SCORES[name][seed] is not None]


def _run(name, seed):
    framework, attention = name.split("/")
    run = {
        "variant": name,
        "framework": framework,
        "attention": attention,
        "seed": seed,
        "path": f"runs/sentiment_bert/{framework}-{attention}-seed{seed}",
        "status": "completed",
        "log_tail": None,
        "metrics": {"accuracy": SCORES[name][seed], "loss": LOSSES[name][seed]},
        "train": {
            "steps": 10,
            "seconds": 2.0,
            "examples_per_second": SPEEDS[name] + seed,
            "tokens_per_second": 18 * SPEEDS[name],
            "padding_fraction": 0.02,
            "first_step_seconds": 0.4,
            "peak_memory_bytes": 851443712,
        },
        "startup_seconds": 5.2,
        "attention_sites": 2 if attention == "handwritten" else 0,
        "attention_max_difference": 3e-8 if attention == "handwritten" else 0.0,
        "environment": {"processor": "A Processor (R)", "cores": 2, "threads": "2", "platform": "Linux"},
    }
    if SCORES[name][seed] is None:
        run |= {"status": "failed", "log_tail": LOG, "metrics": {}, "train": {}, "environment": {}}
        run |= {"startup_seconds": None, "attention_sites": None, "attention_max_difference": None}
    return run


def _metric(scores, scale, lower_is_better):
    variants = {}
    for name, found in scores.items():
        values = {seed: value for seed, value in zip(SEEDS, found, strict=True) if value is not None}
        mean = math.fsum(values.values()) / len(values)
        deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in values.values()) / (len(values) - 1))
        half = {2: 12.706, 3: 4.303}[len(values)] * deviation / math.sqrt(len(values))
        variants[name] = {
            "n": len(values), "mean": mean, "sd": deviation, "low": mean - half, "high": mean + half, "values": values,
        }  # fmt: skip
    return {"lower_is_better": lower_is_better, "scale": scale, "variants": variants}


def _comparison(first, second, difference):
    settled = difference == 0
    good = {"state": "good", "sentence": "equivalent within 1 point over 3 seeds (90% interval 0.0 to 0.0)"}
    unknown = {"state": "unknown", "sentence": "not shown to be equivalent: 2 seeds are too few"}
    found = {
        "seeds": {
            "n": 3 if settled else 2,
            "mean_difference": difference,
            "low": difference if settled else -0.18,
            "high": difference if settled else 0.2,
        },
        "equivalence": {
            "margin": 0.01,
            "low": difference if settled else -0.09,
            "high": difference if settled else 0.1,
            "p": 0.0 if settled else 0.43,
            "equivalent": True if settled else None,
            "basis": "seeds",
        },
        "bootstrap": {
            "difference": difference, "low": difference - 0.03, "high": difference + 0.03, "resamples": 10000,
            "n_examples": 100,
        },
        "verdict": good if settled else unknown,
    }  # fmt: skip
    loss = found | {"bootstrap": None}
    agreement = {"n": 200, "agree": 0.97, "kappa": 0.94, "mcnemar_p": 0.69}
    agreement |= {"first_only_right": 4, "second_only_right": 2}
    metrics = {"accuracy": found, "loss": loss}
    return {"first": first, "second": second, "metrics": metrics, "agreement": agreement}


def _sameness():
    pairs = [("torch/stock", "torch/handwritten", 0), ("torch/stock", "tensorflow/stock", 0)]
    named = [{"first": first, "second": second, "seed": seed} for first, second, seed in pairs]
    steps = list(range(1, 11))
    losses = [0.7 - 0.03 * step for step in steps]
    curve = {
        "step": steps,
        "loss_mean": losses,
        "loss_low": [loss - 0.02 for loss in losses],
        "loss_high": [loss + 0.02 for loss in losses],
        "grad_norm": [1.0 / step for step in steps],
        "learning_rate": [1e-4 * step for step in steps],
    }
    lockstep = {
        "attention": "stock",
        "steps": 10,
        "differences": {"logits": 3e-8, "loss": 8e-7, "grad_norm": 1e-5, "parameters": 7e-5},
        "bounds": {"logits": 1e-4, "loss": 1e-3, "grad_norm": 1e-3, "parameters": 1e-3},
        "same": True,
        "loss_by_step": [1e-7 * step for step in steps],
        "worst_parameter": "bert.embeddings.position_embeddings.weight",
    }
    epochs = [{"epoch": 1, "accuracy": 0.8, "loss": 0.4}, {"epoch": 2, "accuracy": 0.9, "loss": 0.3}]
    return {
        "probe": [each | {"max_difference": 3e-8, "tolerance": 1e-4, "ok": True} for each in named],
        "batches": [
            named[0] | {"same": True, "first_different_step": None, "basis": "rows"},
            named[1] | {"same": False, "first_different_step": 3, "basis": "sizes"},
        ],
        "optimisation": [
            each | {"learning_rate_max_difference": 0.0, "grad_norm_median_ratio": 1.01} for each in named
        ],
        "lockstep": [lockstep],
        "curves": {name: curve for name in VARIANTS},
        "evaluations": {
            name: {str(seed): epochs for seed, other in _completed() if other == name} for name in VARIANTS
        },
    }


def _cost(name, title, unit, higher_is_better, factor):
    medians = {variant: factor * speed for variant, speed in SPEEDS.items()}
    first = medians["torch/stock"]
    variants = {
        variant: {"median": median, "low": 0.98 * median, "high": 1.02 * median, "ratio": median / first}
        for variant, median in medians.items()
    }
    return {
        "name": name, "title": title, "unit": unit, "higher_is_better": higher_is_better, "variants": variants,
    }  # fmt: skip
