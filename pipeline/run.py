"""One recipe, one framework, one attention, one seed -> one run directory."""

from __future__ import annotations

import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import batches, checkpoint, data, hub, metrics, rundir
from pipeline.backend import Backend, Learner, Update, load_backend, set_environment
from pipeline.batches import Features
from pipeline.errors import UserError
from pipeline.parity import Proof, refuse_attention, swap_with_proof
from pipeline.progress import Progress
from pipeline.recipe import Recipe, load_shipped, recipe_names
from pipeline.rundir import Run
from pipeline.schedule import learning_rates
from pipeline.tasks import load_task

PROBE_ROWS = 8


@dataclass(frozen=True)
class Experiment:
    """A recipe with everything that it names loaded and checked, before any framework is."""

    recipe: Recipe
    task: Any
    config: Any
    tokenizer: Any
    examples: dict[str, Any]
    fingerprint: str
    metric_names: tuple[str, ...]

    def batch(self, split: str, rows: np.ndarray, width: int) -> Features:
        """Inputs of the model for these rows of a split."""
        return self.task.collate(self.examples[split], rows, width, self.tokenizer.pad_token_id)

    def training_plan(self, epoch: int, seed: int) -> list[batches.Batch]:
        """The updates of an epoch, counted from 0."""
        train = self.recipe.train
        multiple = self.recipe.data.pad_to_multiple_of
        return batches.training_batches(self.examples["train"].lengths, train.batch_size, seed, epoch, multiple)

    def updates(self, plan: list[batches.Batch]) -> Iterator[Features]:
        """Each update's global batch: inputs and targets."""
        for batch in plan:
            targets = self.task.targets(self.examples["train"], batch.rows)
            yield self.batch("train", batch.rows, batch.width) | targets

    def probe(self) -> Features:
        """The first validation rows in file order, a fixed question put to every model."""
        rows = np.arange(min(PROBE_ROWS, len(self.examples["validation"].lengths)))
        return self.batch("validation", rows, int(self.examples["validation"].lengths[rows].max()))


def prepare(recipe: Recipe, attention: str = "stock", allow_hub_code: bool = False) -> Experiment:
    """Load and check everything that the recipe names. Raises UserError with all that is wrong at once."""
    task, problems = load_task(recipe), []
    hub.go_offline_if_unreachable(recipe)

    def attempt(load: Callable, *args: Any) -> Any:
        try:
            return load(*args)
        except UserError as error:
            problems.append(str(error))

    config = attempt(checkpoint.load_config, recipe)
    tokenizer = attempt(checkpoint.load_tokenizer, recipe) if config is not None else None
    if config is not None:
        attempt(refuse_attention, recipe, config, attention)
    splits = attempt(data.read_splits, recipe, task.required, task.optional)
    if config is not None and tokenizer is not None:
        problems += [f"recipe {recipe.name}: {text}" for text in checkpoint.fit_problems(recipe, config, tokenizer)]
    if splits is not None:
        attempt(task.learn_labels, splits, dict(getattr(config, "label2id", None) or {}))
    names = recipe.metrics or task.default_metrics
    found = metrics.metric_problems(recipe, names, len(task.labels), allow_hub_code)
    problems += [f"recipe {recipe.name}: {text}" for text in found]
    if problems:
        raise UserError("\n".join(problems))
    for key, value in task.config_changes().items():
        setattr(config, key, value)
    config.pad_token_id = tokenizer.pad_token_id
    examples = {split: task.encode(rows, tokenizer) for split, rows in splits.items()}
    return Experiment(recipe, task, config, tokenizer, examples, data.fingerprint(splits), names)


def start(experiment: Experiment, backend: Backend, seed: int) -> Any:
    """The model of step 0: built, every weight set, frozen where the recipe says so. Raises UserError."""
    recipe, config = experiment.recipe, experiment.config
    model = backend.build_model(experiment.task.auto_class, config, recipe.train.precision, seed)
    shapes = backend.weight_shapes(model)
    if recipe.weights == "random":
        weights = checkpoint.random_weights(shapes, config, seed)
    else:
        found = checkpoint.read_weights(recipe)
        weights = checkpoint.complete_weights(recipe, found, shapes, model.base_model_prefix, config, seed)
    backend.set_weights(model, weights)
    backend.freeze(model, recipe.train.freeze)
    return model


def start_swapped(experiment: Experiment, backend: Backend, seed: int, attention: str) -> tuple[Any, Proof]:
    """The model of step 0 with the attention that the run asks for, and the proof that it is in place."""
    proof = Proof()
    if attention != "stock" and experiment.recipe.train.precision != "fp32":
        # The proof compares in fp32, which a model with bf16 layers cannot compute.
        exact = replace(experiment, recipe=experiment.recipe.override({"train.precision": "fp32"}))
        _, proof = start_swapped(exact, backend, seed, attention)
    model = start(experiment, backend, seed)
    if attention != "stock" and proof.sites:
        backend.swap_attention(model, attention)
    elif attention != "stock":
        proof = swap_with_proof(backend, model, attention, experiment.probe())
    return model, proof


def check(
    recipe: Recipe, framework: str = "torch", attention: str = "stock", allow_hub_code: bool = False
) -> Experiment:
    """Do all that a run does before its first step, and write nothing. Raises UserError."""
    experiment = prepare(recipe, attention, allow_hub_code)
    start_swapped(experiment, load_backend(framework), 0, attention)
    return experiment


def finetune(
    recipe: Recipe,
    framework: str = "torch",
    attention: str = "stock",
    seed: int = 0,
    out: str | os.PathLike | None = None,
    *,
    overwrite: bool = False,
    allow_hub_code: bool = False,
    shipped: Recipe | None = None,
    progress: Progress | None = None,
) -> Run:
    """Fine-tune a recipe and return its run directory, `out` or runs/<recipe>/<framework>-<attention>-seed<seed>.

    A finished run of the same recipe is returned as it is unless `overwrite`. `shipped` is the recipe before
    overrides, from which the default directory's name is made; by default the one of that name in recipes/.
    Raises UserError before the first step for anything that is wrong with the input.
    """
    set_environment()
    launched = time.perf_counter()
    if seed < 0 or seed >= 2**32:
        raise UserError(f"seed is {seed}, want a whole number from 0 to 2^32 - 1")
    if shipped is None:
        shipped = load_shipped(recipe.name) if recipe.name in recipe_names() else recipe
    progress = progress or Progress()
    folder = Path(out) if out is not None else rundir.default_folder(recipe, shipped, framework, attention, seed)
    identity = {"recipe": recipe.name, "framework": framework, "attention": attention, "seed": seed}
    finished = rundir.finished(folder, recipe, identity, overwrite)
    if finished is not None:
        progress.already_done(finished)
        return finished
    experiment = prepare(recipe, attention, allow_hub_code)
    backend = load_backend(framework)
    scorers = metrics.load_metrics(experiment.metric_names)
    model, proof = start_swapped(experiment, backend, seed, attention)
    with rundir.staged(folder) as staging:
        (staging / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
        environment = _environment(backend) | {"startup_seconds": round(time.perf_counter() - launched, 3)}
        _write_json(staging / "environment.json", environment)
        training = Training(experiment, backend, model, seed, scorers, progress)
        report = training.run(staging)
        report |= {"attention_sites": proof.sites, "attention_max_difference": proof.max_difference}
        backend.restore_attention(model)
        config = experiment.config
        config.architectures = [type(model).__name__.removeprefix("TF")]
        weights = backend.get_weights(model)
        card = rundir.model_card(recipe, identity, report["metrics"])
        checkpoint.save_checkpoint(staging / "model", weights, config, experiment.tokenizer, card)
        _write_json(staging / "metrics.json", identity | {"status": "completed"} | report)
    run = Run.load(folder)
    progress.finished(run)
    return run


class Training:
    """The course of one run: updates, evaluations, the kept weights, and what they leave in the run directory."""

    def __init__(
        self, experiment: Experiment, backend: Backend, model: Any, seed: int, scorers: dict, progress: Progress
    ):
        self.experiment, self.scorers, self.progress = experiment, scorers, progress
        train = experiment.recipe.train
        self.plans = [experiment.training_plan(epoch, seed) for epoch in range(train.epochs)]
        self.plan = [batch for plan in self.plans for batch in plan]
        self.rates = learning_rates(train, len(self.plan))
        self.learner: Learner = backend.Learner(model, train, self.rates)
        self.clock = Clock()
        self.history: list[dict[str, Any]] = []
        self.evaluations: list[Evaluation] = []
        self.best: Evaluation | None = None
        self.best_weights: list | None = None

    def run(self, staging: Path) -> dict[str, Any]:
        """Train, score and write history, predictions and probe; returns the body of metrics.json."""
        experiment, probe = self.experiment, self.experiment.probe()
        before = next(self.learner.predict([probe]))
        self.progress.started(len(self.plan), len(self.plans))
        self.clock.start()
        self.learner.fit([experiment.updates(plan) for plan in self.plans], self.on_update, self.on_epoch)
        self.progress.trained()
        kept = self.evaluations[-1]
        if experiment.recipe.train.keep == "best":
            kept = self.best
            self.learner.restore(self.best_weights)
        np.savez(staging / "probe.npz", logits_before=before, logits_after=next(self.learner.predict([probe])))
        _write_lines(staging / "history.jsonl", self.history)
        _write_lines(staging / "predictions.jsonl", kept.rows(experiment, "validation"))
        report = {"metrics": kept.metrics, "kept_epoch": kept.epoch}
        if "test" in experiment.examples:
            report["test"] = self.evaluate("test", kept.epoch).metrics
        report["evaluations"] = [{"epoch": e.epoch, **e.metrics} for e in self.evaluations]
        return report | self._costs()

    def on_update(self, update: Update) -> None:
        """Note one optimiser update."""
        batch = self.plan[update.step - 1]
        line = {
            "step": update.step,
            "epoch": (update.step - 1) // len(self.plans[0]) + 1,
            "loss": update.loss,
            "learning_rate": float(self.rates[update.step - 1]),
            "grad_norm": update.grad_norm,
            "examples": len(batch.rows),
            "tokens": int(self.experiment.examples["train"].lengths[batch.rows].sum()),
            "seconds": round(self.clock.seconds(), 6),
        }
        self.history.append(line)
        self.progress.update(line)

    def on_epoch(self, epoch: int) -> bool:
        """Score validation after an epoch; returns True where early stopping ends the training."""
        self.clock.pause()
        evaluation = self.evaluate("validation", epoch)
        self.evaluations.append(evaluation)
        train = self.experiment.recipe.train
        wanted = train.keep_metric or self.experiment.metric_names[0]
        if self.best is None or _better(evaluation.metrics[wanted], self.best.metrics[wanted], wanted):
            self.best = evaluation
            self.best_weights = self.learner.snapshot() if train.keep == "best" else None
        stop = train.early_stopping is not None and epoch - self.best.epoch >= train.early_stopping
        self.progress.evaluated(epoch, evaluation.metrics)
        self.clock.start()
        return stop

    def evaluate(self, split: str, epoch: int) -> Evaluation:
        """Score a split; predictions are streamed into the metrics, logits are not kept."""
        experiment, recipe = self.experiment, self.experiment.recipe
        examples = experiment.examples[split]
        size = 2 * recipe.train.batch_size // recipe.train.gradient_accumulation
        plan = batches.evaluation_batches(examples.lengths, size, recipe.data.pad_to_multiple_of)
        predicted = np.zeros(len(examples.lengths), dtype=np.int64)
        scores = np.zeros(len(examples.lengths))
        total = 0.0
        outputs = self.learner.predict(experiment.batch(split, batch.rows, batch.width) for batch in plan)
        for batch, logits in zip(plan, outputs, strict=True):
            predicted[batch.rows], scores[batch.rows] = experiment.task.decode(logits)
            total += float(experiment.task.losses(logits, examples, batch.rows).sum())
            for scorer in self.scorers.values():
                scorer.add_batch(predictions=predicted[batch.rows], references=examples.labels[batch.rows])
        values = {}
        for scorer in self.scorers.values():
            values |= {key: float(value) for key, value in scorer.compute().items()}
        return Evaluation(epoch, values | {"loss": total / len(predicted)}, predicted, scores)

    def _costs(self) -> dict[str, Any]:
        seconds = self.history[-1]["seconds"]
        done = self.plan[: len(self.history)]
        examples = self.experiment.examples
        return {
            "train": {
                "steps": len(self.history),
                "seconds": seconds,
                "examples_per_second": sum(line["examples"] for line in self.history) / seconds,
                "tokens_per_second": sum(line["tokens"] for line in self.history) / seconds,
                "padding_fraction": batches.padding_fraction(examples["train"].lengths, done),
                "first_step_seconds": self.history[0]["seconds"],
                "peak_memory_bytes": peak_memory_bytes(),
            },
            "data": {"fingerprint": self.experiment.fingerprint}
            | {split: {"rows": len(e.lengths), "truncated": e.truncated} for split, e in examples.items()},
            "checkpoint_fingerprint": checkpoint.checkpoint_fingerprint(self.experiment.recipe),
        }


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a split after an epoch, with each example's prediction [N] and its score [N]."""

    epoch: int
    metrics: dict[str, float]
    predicted: np.ndarray
    scores: np.ndarray

    def rows(self, experiment: Experiment, split: str) -> Iterator[dict[str, Any]]:
        """The lines of predictions.jsonl."""
        labels = experiment.examples[split].labels
        for index, (predicted, score, label) in enumerate(zip(self.predicted, self.scores, labels, strict=True)):
            yield {"index": index} | experiment.task.describe(predicted, score, label)


class Clock:
    """Training time: runs from `start`, stands still between `pause` and the next `start`."""

    def __init__(self) -> None:
        self.total, self.since = 0.0, None

    def start(self) -> None:
        self.since = time.perf_counter()

    def pause(self) -> None:
        self.total, self.since = self.seconds(), None

    def seconds(self) -> float:
        return self.total + (0.0 if self.since is None else time.perf_counter() - self.since)


def peak_memory_bytes() -> int:
    """The most memory that this process has held at once."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _better(value: float, than: float, metric: str) -> bool:
    return value < than if metric in metrics.LOWER_IS_BETTER else value > than


def _environment(backend: Backend) -> dict[str, Any]:
    packages = ("transformers", "tokenizers", "datasets", "evaluate", "safetensors", "numpy", "accelerate")
    framework = backend.versions()
    return {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "framework": framework,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": framework["threads"],
        "platform": platform.platform(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def _processor() -> str:
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_lines(path: Path, rows: Any) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
