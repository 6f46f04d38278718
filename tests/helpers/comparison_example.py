"""The results of a small comparison as an example: three variants, one failed run, and texts that mean harm."""

import math

from pipeline.comparison import results as r
from pipeline.comparison.records import costs, predictions, sameness, scores
from pipeline.runs.record import EnvironmentRecord, TrainRecord

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
# For each true class, negative and positive, how often each is predicted.
CONFUSIONS = {
    "torch/stock": ((135, 15), (12, 138)),
    "torch/handwritten": ((135, 15), (12, 138)),
    "tensorflow/stock": ((88, 12), (7, 93)),
}
COSTS = {
    "total_seconds": ("s", False, 0.12),
    "examples_per_second": ("examples/s", True, 1.0),
    "steady_examples_per_second": ("examples/s", True, 1.1),
    "tokens_per_second": ("tokens/s", True, 18.0),
    "first_step_seconds": ("s", False, 0.01),
    "startup_seconds": ("s", False, 0.02),
    "train_seconds": ("s", False, 0.1),
    "peak_memory_bytes": ("bytes", False, 2.0**21),
}
T_975 = 4.303  # Student's t for the 95% interval of three values, from a table
STEPS = list(range(1, 11))
LOG = "Traceback (most recent call last):\n  \x1b[31mResourceExhaustedError\x1b[0m: <script>alert('log')</script>\n"
HOSTILE = 'The <script>alert("x")</script> room\x00 was \x1b[2Jnot clean\u202e. `*_|'


def example() -> r.Results:
    """Complete results without a headline."""
    return r.Results(
        created="2026-11-24T06:40:00+00:00",
        command=["python", "-m", "pipeline", "compare", "sentiment_bert"],
        recipe="sentiment_bert",
        task="sequence-classification",
        checkpoint="bert",
        weights="pretrained",
        data=r.DataSummary(
            source="json",
            fingerprint="05eaf211d0dac4b2",
            splits={"train": {"rows": 320, "truncated": 0}, "validation": {"rows": 100, "truncated": 1}},
        ),
        margin=r.RecipeMargin(value=0.01, kind="absolute"),
        variants=[_variant(name) for name in VARIANTS],
        runs=[_run(name, seed) for seed in range(3) for name in VARIANTS],
        settings={
            "checkpoint": "bert", "weights": "pretrained", "data.max_length": 64, "train.epochs": 2,
            "train.learning_rate": 3e-5, "train.weight_decay": 0.01, "train.lora": None,
        },
        recipe_differences=[
            r.RecipeDifference(
                key="train.weight_decay",
                values={label: 0.1 if "flow" in label else 0.01 for label in _completed()},
            )
        ],
        metrics={"accuracy": _metric(SCORES, 1, False), "loss": _metric(LOSSES, None, True)},
        comparisons=[_equal_pair("torch/stock", "torch/handwritten"), _short_pair("torch/stock", "tensorflow/stock")],
        sameness=_sameness(),
        predictions={name: _predictions(*counts) for name, counts in CONFUSIONS.items()},
        disagreements=_disagreements(),
        costs=[_cost(name, *facts) for name, facts in COSTS.items()],
        time=_compared("total_seconds"),
        speed=_compared("steady_examples_per_second"),
        memory=_compared("peak_memory_bytes"),
        break_even=[],
        machines=[_machine(cores) for cores in (2, 4)],
        attention_maps=[
            r.AttentionMap(
                variant="torch/handwritten", seed=0, text=HOSTILE, tokens=["[CLS]", "<script>", "[SEP]"],
                weights=[[[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.0, 0.0, 1.0]]] * 2] * 2,
            )
        ],
        problems=[],
    )  # fmt: skip


def _completed():
    return [f"{name} seed {seed}" for seed in range(3) for name in VARIANTS if SCORES[name][seed] is not None]


def _variant(name):
    framework, attention = name.split("/")
    failed = SCORES[name].count(None)
    return r.Variant(
        name=name, framework=framework, attention=attention, seeds=[0, 1, 2], completed=3 - failed, failed=failed
    )


def _run(name, seed):
    framework, attention = name.split("/")
    failed = SCORES[name][seed] is None
    return r.RunSummary(
        variant=name,
        framework=framework,
        attention=attention,
        seed=seed,
        path=f"runs/sentiment_bert/{framework}-{attention}-seed{seed}",
        status="failed" if failed else "completed",
        log_tail=LOG if failed else None,
        metrics={} if failed else {"accuracy": SCORES[name][seed], "loss": LOSSES[name][seed]},
        train=None if failed else _train(SPEEDS[name] + seed),
        startup_seconds=None if failed else 5.2,
        attention_sites=None if failed else 2 * (attention == "handwritten"),
        attention_max_difference=None if failed else 3e-8 * (attention == "handwritten"),
        environment=None if failed else _environment(framework),
    )


def _train(speed):
    return TrainRecord(
        steps=10, seconds=2.0, examples_per_second=speed, tokens_per_second=18 * speed, padding_fraction=0.02,
        first_step_seconds=0.4, peak_memory_bytes=851443712,
    )  # fmt: skip


def _environment(framework):
    return EnvironmentRecord(
        versions={"python": "3.11.7", "transformers": "4.57.6"}, framework={framework: "2.0"},
        processor="A Processor (R)", cores=2 if framework == "torch" else 4, threads="2", platform="Linux",
        command=["finetune"],
    )  # fmt: skip


def _machine(cores):
    return costs.Machine(
        runs=[label for label in _completed() if ("flow" in label) == (cores == 4)], processor="A Processor (R)",
        cores=cores, threads={"tensorflow" if cores == 4 else "torch": "2"}, platform="Linux",
        versions={"python": ["3.11.7"], "transformers": ["4.57.6"]},
    )  # fmt: skip


def _metric(by_variant, scale, lower_is_better):
    variants = {}
    for name, by_seed in by_variant.items():
        values = {seed: value for seed, value in enumerate(by_seed) if value is not None}
        mean = math.fsum(values.values()) / len(values)
        deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in values.values()) / (len(values) - 1))
        half = T_975 * deviation / math.sqrt(len(values)) if len(values) == 3 else None
        low, high = (None, None) if half is None else (mean - half, mean + half)
        variants[name] = scores.MetricSummary(n=len(values), mean=mean, sd=deviation, low=low, high=high, values=values)
    return scores.Metric(lower_is_better=lower_is_better, scale=scale, variants=variants)


def _equal_pair(first, second):
    """Three seeds without any difference."""
    comparison = scores.MetricComparison(
        margin=scores.Margin(value=0.01, unit="points", unit_size=0.01),
        seeds=scores.SeedDifference(n=3, mean_difference=0.0, low=0.0, high=0.0),
        equivalence=scores.Equivalence(low=0.0, high=0.0, p=0.0, equivalent=True, basis="seeds"),
        bootstrap=scores.ExampleDifference(difference=0.0, low=-0.03, high=0.03, resamples=10000, num_examples=100),
        verdict=scores.Verdict(code="equivalent", identical="scores", depends_on_examples=True),
    )
    return _pair(first, second, comparison)


def _short_pair(first, second):
    """Two seeds, from which nothing can be concluded."""
    comparison = scores.MetricComparison(
        margin=scores.Margin(value=0.01, unit="points", unit_size=0.01),
        seeds=scores.SeedDifference(n=2, mean_difference=0.005, low=None, high=None),
        equivalence=scores.Equivalence(low=None, high=None, p=None, equivalent=None, basis=None),
        bootstrap=scores.ExampleDifference(difference=0.005, low=-0.025, high=0.035, resamples=10000, num_examples=100),
        verdict=scores.Verdict(code="too_few_seeds"),
    )
    return _pair(first, second, comparison)


def _pair(first, second, comparison):
    agreement = scores.Agreement(
        num_predictions=200, agree=0.97, kappa=0.94, mcnemar_p=0.69, first_only_right=4, second_only_right=2
    )
    metrics = {"accuracy": comparison, "loss": comparison.model_copy(update={"bootstrap": None})}
    return scores.PairComparison(first=first, second=second, metrics=metrics, agreement=agreement)


def _sameness():
    pairs = [
        {"first": "torch/stock", "second": second, "seed": 0} for second in ("torch/handwritten", "tensorflow/stock")
    ]
    epochs = [
        sameness.Evaluation(epoch=1, metrics={"accuracy": 0.8, "loss": 0.4}, seconds=1.0),
        sameness.Evaluation(epoch=2, metrics={"accuracy": 0.9, "loss": 0.3}, seconds=2.0),
    ]
    return sameness.Sameness(
        probe=[
            sameness.ProbeDifference(
                **pair, max_difference=3e-8, tolerance=1e-4, same_shape=True, within_tolerance=True
            )
            for pair in pairs
        ],
        batches=[
            sameness.BatchDifference(**pairs[0], same=True, first_different_step=None, basis="rows"),
            sameness.BatchDifference(**pairs[1], same=False, first_different_step=3, basis="sizes"),
        ],
        batch_sizes_vary=True,
        optimization=[
            sameness.OptimizationDifference(**pair, learning_rate_max_difference=0.0, grad_norm_median_ratio=1.01)
            for pair in pairs
        ],
        lockstep=[lockstep_example()],
        curves={name: _curve() for name in VARIANTS},
        evaluations={
            name: {seed: epochs for seed in range(3) if SCORES[name][seed] is not None} for name in VARIANTS
        },
    )  # fmt: skip


def lockstep_example() -> sameness.LockstepResult:
    """A lock-step of ten steps within its bounds."""
    return sameness.LockstepResult(
        attention="stock",
        steps=10,
        dropout=0.1,
        differences={
            "logits": 3e-8, "early_loss": 3e-7, "early_parameters": 2e-5, "loss": 1e-6, "grad_norm": 1e-5,
            "parameters": 4e-4,
        },
        control={
            "logits": 4e-8, "early_loss": 1e-7, "early_parameters": 3e-5, "loss": 2e-6, "grad_norm": 2e-5,
            "parameters": 1e-3,
        },
        num_controls=3,
        bounds={
            "logits": 1e-4, "early_loss": 1e-5, "early_parameters": 5e-4, "loss": 1e-3, "grad_norm": 1e-3,
            "parameters": 3e-3,
        },
        same=True,
        loss_by_step=[1e-7 * step for step in STEPS],
        control_loss_by_step=[2e-7 * step for step in STEPS],
        first_step_over_rounding=None,
        control_first_step_over_rounding=6,
        worst_parameter="bert.embeddings.position_embeddings.weight",
    )  # fmt: skip


def _curve():
    losses = [0.7 - 0.03 * step for step in STEPS]
    return sameness.Curve(
        step=STEPS,
        loss_mean=losses,
        loss_low=[loss - 0.02 for loss in losses],
        loss_high=[loss + 0.02 for loss in losses],
        loss_smooth=losses,
        grad_norm=[1.0 / step for step in STEPS],
        learning_rate=[1e-4 * step for step in STEPS],
    )


def _predictions(negative, positive):
    """Of two classes: for each true one, how often each is predicted; wrong ones are less sure than right ones."""
    names, counts = ("negative", "positive"), (negative, positive)
    wrong, total = negative[1] + positive[0], sum(negative) + sum(positive)
    right = (total - wrong) / total
    bins = [predictions.Bin(low=i / 10, high=(i + 1) / 10, count=0, probability=None, right=None) for i in range(10)]
    bins[6] = predictions.Bin(low=0.6, high=0.7, count=2 * wrong, probability=0.65, right=0.5)
    rest = total - 2 * wrong
    bins[9] = predictions.Bin(low=0.9, high=1.0, count=rest, probability=0.95, right=1.0)
    calibration = predictions.Calibration(
        bins=bins,
        error=(2 * wrong * 0.15 + rest * 0.05) / total,
        probability=(2 * wrong * 0.65 + rest * 0.95) / total,
        right=right,
    )
    operating = [
        predictions.Operating(at_least=0.05, precision=sum(positive) / total, recall=1.0),
        predictions.Operating(at_least=0.95, precision=1.0, recall=0.6),
    ]
    return predictions.PredictionDetails(
        num_predictions=total,
        classes=predictions.ClassDetails(
            classes=[
                predictions.ClassCounts(
                    name=name, right=counts[i][i], predicted=negative[i] + positive[i], true=sum(counts[i])
                )
                for i, name in enumerate(names)
            ],
            confusion=[list(row) for row in counts],
            calibration=calibration,
            thresholds=[
                predictions.Threshold(at_least=0.0, kept=1.0, right=right),
                predictions.Threshold(at_least=0.9, kept=rest / total, right=1.0),
            ],
            positive="positive",
            operating=operating,
            curves=[
                predictions.ClassCurves(name=name, calibration=calibration, operating=operating)
                for name in (*names, "a third class, of a long name")
            ],
        ),
    )


def _disagreements():
    answers = zip(VARIANTS, ("negative", "negative", "positive"), strict=True)
    tags = zip(VARIANTS, (["O", "O"], ["O", "O"], ["O", "B-<b>"]), strict=True)
    return [
        r.Disagreement(
            index=7, seed=0, fields={"text": HOSTILE}, reference="negative", predictions=dict(answers)
        ),
        r.Disagreement(index=11, seed=0, fields={}, reference=["O", "B-<b>"], predictions=dict(tags)),
    ]  # fmt: skip


def _cost(name, unit, higher_is_better, factor):
    summaries = {
        variant: costs.CostSummary(
            median=factor * speed, low=0.98 * factor * speed, high=1.02 * factor * speed,
            ratio=speed / SPEEDS["torch/stock"],
        )
        for variant, speed in SPEEDS.items()
    }  # fmt: skip
    return costs.Cost(name=name, unit=unit, higher_is_better=higher_is_better, variants=summaries)


def _compared(cost):
    """The pairs of frameworks and of attentions, on two machines."""
    _, higher_is_better, factor = COSTS[cost]

    def pair(second, differ_in):
        medians = (factor * SPEEDS["torch/stock"], factor * SPEEDS[second])
        larger = "torch/stock" if medians[0] > medians[1] else second
        smaller = second if larger == "torch/stock" else "torch/stock"
        return costs.CostPair(
            first="torch/stock", second=second, differ_in=differ_in, first_median=medians[0], second_median=medians[1],
            better=larger if higher_is_better else smaller, factor=max(medians) / min(medians),
            overlapping=differ_in == "attention", fewest_runs=2, is_shown=differ_in == "framework",
        )  # fmt: skip

    return costs.CostComparison(
        cost=cost,
        higher_is_better=higher_is_better,
        is_same_machine=False,
        pairs=[pair("tensorflow/stock", "framework"), pair("torch/handwritten", "attention")],
    )
