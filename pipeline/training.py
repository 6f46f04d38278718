"""The course of one run: updates, evaluations, the kept weights, and what they leave in the run directory."""

from __future__ import annotations

import math
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
from pipeline.tasks import Judgement


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
        self.learner: Learner = backend.Learner(model, train, self.rates, experiment.task.loss)
        self.seed, self.clock = seed, Clock()
        self.history: list[dict[str, Any]] = []
        self.scores: list[dict[str, Any]] = []
        self.last: Evaluation | None = None
        self.best: Evaluation | None = None
        self.best_weights: list | None = None

    def run(self, staging: Path) -> dict[str, Any]:
        """Train, score and write history, predictions and probe; returns the body of metrics.json."""
        experiment, probe = self.experiment, self.experiment.probe()
        before = self.learner.logits(probe)
        self.progress.started(len(self.plan), len(self.plans))
        self.clock.start()
        epochs = [experiment.updates(plan, epoch, self.seed) for epoch, plan in enumerate(self.plans)]
        self.learner.fit(epochs, self.on_update, self.on_epoch)
        self.progress.trained()
        kept = self.last
        if experiment.recipe.train.keep == "best":
            kept = self.best
            self.learner.restore(self.best_weights)
        before, after = (experiment.probe_logits(each) for each in (before, self.learner.logits(probe)))
        np.savez(staging / "probe.npz", logits_before=before, logits_after=after)
        write_lines(staging / "history.jsonl", self.history)
        write_lines(staging / "predictions.jsonl", kept.lines())
        report = {"metrics": kept.metrics, "kept_epoch": kept.epoch}
        if "test" in experiment.examples:
            report["test"] = self.evaluate("test", kept.epoch).metrics
        return report | {"evaluations": self.scores} | self._costs()

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
        self.last = evaluation
        self.scores.append({"epoch": epoch, **evaluation.metrics})
        self.progress.evaluated(epoch, evaluation.metrics)
        train = self.experiment.recipe.train
        if train.keep == "last" and train.early_stopping is None:
            self.clock.start()
            return False
        wanted = train.keep_metric or self.experiment.metric_names[0]
        if self.best is None or _better(evaluation.metrics[wanted], self.best.metrics[wanted], wanted):
            self.best = evaluation
            self.best_weights = self.learner.snapshot() if train.keep == "best" else None
        stop = train.early_stopping is not None and epoch - self.best.epoch >= train.early_stopping
        self.clock.start()
        return stop

    def evaluate(self, split: str, epoch: int) -> Evaluation:
        """Score a split batch by batch; what is kept of each is small, logits are not."""
        task, recipe, examples = self.experiment.task, self.experiment.recipe, self.experiment.examples[split]
        size = 2 * recipe.train.batch_size // recipe.train.gradient_accumulation
        found: list[Any] = [None] * len(examples.lengths)
        for batch in batches.evaluation_batches(examples.lengths, size, recipe.data.pad_to_multiple_of):
            inputs, targets = task.inputs(examples, batch), task.targets(examples, batch)
            judged = task.judge(task.outputs(self.learner, inputs, targets), examples, batch.rows)
            for row, judgement in zip(batch.rows, judged, strict=True):
                found[row] = judgement
        judgements = task.conclude(examples, found)
        loss = sum(j.loss for j in judgements) / sum(j.num_targets for j in judgements)
        return Evaluation(epoch, metrics.compute(self.scorers, judgements) | {"loss": loss}, judgements)

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
            "data": {"fingerprint": self.experiment.fingerprint} | {split: e.counts for split, e in examples.items()},
            "checkpoint_fingerprint": checkpoint.checkpoint_fingerprint(self.experiment.recipe),
        }


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a split after an epoch, and what each example contributes to them."""

    epoch: int
    metrics: dict[str, float]
    judgements: list[Judgement]

    def lines(self) -> Iterator[dict[str, Any]]:
        """The lines of predictions.jsonl."""
        for index, judgement in enumerate(self.judgements):
            yield {"index": index} | judgement.line


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
    status = Path("/proc/self/status")
    # Counted from this program's start; getrusage counts what the process was before it became this program, too.
    lines = status.read_text().splitlines() if status.exists() else []
    for line in (line for line in lines if line.startswith("VmHWM")):
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _better(value: float, than: float, metric: str) -> bool:
    return math.isnan(than) or (value < than if metric in metrics.LOWER_IS_BETTER else value > than)
