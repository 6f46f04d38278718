"""The course of one run: updates, evaluations, the kept weights, and what they leave in the run directory."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import batches, checkpoint, metrics
from pipeline.backend import Backend, Learner, Update
from pipeline.experiment import Experiment
from pipeline.progress import Progress
from pipeline.rundir import write_lines
from pipeline.schedule import learning_rates


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
        write_lines(staging / "history.jsonl", self.history)
        write_lines(staging / "predictions.jsonl", kept.rows(experiment, "validation"))
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
