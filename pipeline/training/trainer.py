"""The course of one run: updates, evaluations, the kept weights, and what they leave in the run directory."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from pipeline.backend import Backend, Learner, StepReport
from pipeline.data import batches
from pipeline.metrics.scoring import compute_metrics
from pipeline.metrics.specs import lower_is_better
from pipeline.models import checkpoint
from pipeline.models.schedule import learning_rates
from pipeline.runs.directory import RunDirectory
from pipeline.runs.machine import peak_memory_bytes
from pipeline.runs.record import RunIdentity
from pipeline.training.callbacks import TrainingCallback
from pipeline.training.checkpoints import TrainingCheckpoint, TrainingCheckpoints
from pipeline.training.experiment import Experiment
from pipeline.training.signals import StopRequest
from pipeline.utils.errors import RunFailure, Stopped, UserError
from pipeline.utils.files import write_json_lines


class Training:
    """The course of one run: updates, evaluations, the kept weights, and what they leave in the run directory."""

    def __init__(
        self,
        experiment: Experiment,
        backend: Backend,
        model: Any,
        identity: RunIdentity,
        scorers: dict,
        callback: TrainingCallback,
        snapshots: TrainingCheckpoints,
        stop: StopRequest,
    ):
        self.experiment, self.scorers, self.callback = experiment, scorers, callback
        train, self.seed = experiment.recipe.train, identity.seed
        self.plans = [experiment.training_plan(epoch, self.seed) for epoch in range(train.epochs)]
        self.plan = [batch for plan in self.plans for batch in plan]
        self.rates = learning_rates(train, len(self.plan))
        self.learner: Learner = backend.Learner(model, train, self.rates, experiment.task.loss)
        self.identity, self.versions = identity, backend.versions()
        self.clock, self.stop, self.snapshots = Clock(), stop, snapshots
        self.course = Course(parts=train.gradient_accumulation)
        self.best_weights: list | None = None
        self.fingerprints = {
            "data": experiment.fingerprint,
            "checkpoint": checkpoint.checkpoint_fingerprint(experiment.recipe, experiment.allow_pickle),
        }
        self.logits_before = self.learner.logits(experiment.probe())

    def train(self) -> None:
        """All updates and evaluations that remain. Raises Stopped and RunFailure."""
        course, per_epoch = self.course, len(self.plans[0])
        self.callback.on_train_begin(len(self.plan), len(self.plans))
        self.clock.start()
        step, epochs_done = len(course.history), len(course.scores)
        if step == (epochs_done + 1) * per_epoch:  # saved between the last update of an epoch and its evaluation
            self.on_epoch(epochs_done + 1)
            epochs_done += 1
        if not course.is_over:
            done = [max(0, step - epoch * per_epoch) for epoch in range(len(self.plans))]
            epochs = [
                self.experiment.updates(self.plans[epoch][done[epoch] :], epoch, self.seed)
                for epoch in range(epochs_done, len(self.plans))
            ]
            self.learner.fit(epochs, self.on_step, self.on_epoch, (step, epochs_done))
        self.clock.pause()
        self.callback.on_train_end()
        self.stop_if_asked()

    def write(self, staging: RunDirectory) -> dict[str, Any]:
        """Write history, predictions and probe of the kept weights; returns the body of metrics.json."""
        experiment, course = self.experiment, self.course
        kept = course.last
        if experiment.recipe.train.keep == "best":
            kept = course.best
            self.learner.restore_weights(self.best_weights)
        logits = (self.logits_before, self.learner.logits(experiment.probe()))
        before, after = (experiment.probe_logits(each) for each in logits)
        staging.write_probe(before, after)
        write_json_lines(staging.history_file, course.history)
        write_json_lines(staging.predictions_file, kept.rows)
        report = {"metrics": kept.metrics, "kept_epoch": kept.epoch}
        if "test" in experiment.examples:
            report["test"] = self.evaluate("test", kept.epoch).metrics
        return report | {"evaluations": course.scores} | self._costs()

    def on_step(self, update: StepReport) -> None:
        """Note one optimiser update, and save it where that is due or asked for."""
        batch = self.plan[update.step - 1]
        for what, value in (("loss", update.loss), ("gradient norm", update.grad_norm)):
            if not math.isfinite(value):
                raise RunFailure(self._diverged(update.step, f"the {what} of update {update.step} is {value}"))
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
        if update.parts != self.course.parts:
            self.callback.on_memory_split(update.step, update.parts)
        self.course.history.append(line)
        self.course.parts = update.parts
        self.callback.on_step_end(line)
        self.stop_if_asked()
        every = self.experiment.recipe.train.save_every
        if every is not None and update.step % every == 0:
            self.save()

    def on_epoch(self, epoch: int) -> bool:
        """Score validation after an epoch; returns True where early stopping ends the training."""
        with self.clock.paused():
            self.callback.on_evaluate_begin(epoch)
            evaluation = self.evaluate("validation", epoch)
            course, train = self.course, self.experiment.recipe.train
            course.last = evaluation
            course.scores.append({"epoch": epoch, **evaluation.metrics})
            self.callback.on_evaluate_end(epoch, evaluation.metrics)
            if train.keep == "best" or train.early_stopping is not None:
                wanted = train.keep_metric or self.experiment.metric_names[0]
                if course.best is None or _better(evaluation.metrics[wanted], course.best.metrics[wanted], wanted):
                    course.best = evaluation
                    self.best_weights = self.learner.copy_weights() if train.keep == "best" else None
            patience = train.early_stopping
            stops = patience is not None and epoch - course.best.epoch >= patience
            course.is_over = stops or epoch == len(self.plans)
            if train.save_every is not None:
                self.save()
        return stops

    def save(self) -> str:
        """Write a checkpoint of the present state; returns its path. Raises RunFailure."""
        course = self.course
        step = len(course.history)
        with self.clock.paused():
            self.callback.on_save_begin(step)
            arrays = self.learner.state()
            assert arrays["step"] == step, (arrays["step"], step)  # else the updates are reported late
            if not all(np.isfinite(value).all() for key, value in arrays.items() if key.startswith("weights.")):
                raise RunFailure(self._diverged(step, f"weights are no longer finite after update {step}"))
            if course.is_over:  # what only a next update would need is left out
                arrays = {key: value for key, value in arrays.items() if key.startswith("weights.")}
            arrays |= {f"best.{i}": value for i, value in enumerate(self.best_weights or ())}
            rest = course.as_json() | {
                "step": step,
                "identity": self.identity.model_dump(),
                "experiment": self.experiment.recipe.experiment(),
                "fingerprints": self.fingerprints,
                "versions": self.versions,
                "seconds": self.clock.total,
                "peak_memory_bytes": max(course.peak_memory_bytes, peak_memory_bytes()),
            }
            evaluated = "-evaluated" if len(course.scores) * len(self.plans[0]) == step else ""
            name = f"step-{step:08d}{evaluated}"
            self.snapshots.save(name, arrays, rest)
            self.callback.on_save_end(step)
        return str(self.snapshots.folder / name)

    def resume(self, snapshot: TrainingCheckpoint | None, passed_over: list[str]) -> None:
        """Take up the course of a checkpoint of this very run. Raises UserError where the data are others."""
        if snapshot is None:
            self.callback.on_resume(0, passed_over)
            return
        rest, notes = snapshot.rest, list(passed_over)
        for what, now in self.fingerprints.items():
            if rest["fingerprints"][what] != now:
                raise UserError(
                    f"the {what} changed since {snapshot.path} was written (fingerprint {rest['fingerprints'][what]}, "
                    f"now {now}); bring the old {what} back, or begin anew with --overwrite"
                )
        notes += [
            f"{key} was {rest['versions'].get(key)} and is {value}: the end may differ in the last digits"
            for key, value in self.versions.items()
            if rest["versions"].get(key) != value
        ]
        arrays = snapshot.arrays()
        self.course, self.clock.total = Course.from_json(rest), rest["seconds"]
        self.best_weights = _listed(arrays, "best") or None
        if self.course.is_over:
            self.learner.restore_weights(_listed(arrays, "weights"))
        else:
            self.learner.load_state(arrays)
        self.course.resumed_at.append(snapshot.step)
        self.callback.on_resume(snapshot.step, notes)

    def stop_if_asked(self) -> None:
        """Save and raise Stopped where somebody has asked the run to stop."""
        if self.stop.requested:
            where = self.save()
            raise Stopped(f"stopped; {where} is saved; --resume (RESUME=1) goes on from there")

    def rescued(self) -> str:
        """After a file failed: what is left of the run, saved now where that can be done."""
        found, _ = self.snapshots.newest()
        if found is None and self.course.is_over:
            try:
                return f"{self.save()} is saved: mend that, then --resume (RESUME=1) goes on from there"
            except RunFailure:
                return "There is no checkpoint, and none could be written; train.save_every makes them on the way"
        if found is None:
            return "There is no checkpoint; train.save_every makes them on the way"
        return f"{found.path} is whole: mend that, then --resume (RESUME=1) goes on from there"

    def _diverged(self, step: int, what: str) -> str:
        found, _ = self.snapshots.newest()
        kept = f"The last good checkpoint is {found.path}" if found else "There is no checkpoint before it"
        rows = ", ".join(str(row) for row in self.plan[step - 1].rows + 1)
        train = self.experiment.recipe.train
        return (
            f"{what}, so the run stops. Its batch had the training examples {rows} (from 1). Lower train.learning_rate "
            f"({train.learning_rate:g}), lengthen train.warmup_ratio ({train.warmup_ratio:g}) or lower "
            f"train.max_grad_norm ({train.max_grad_norm}); if that does not help, look at these examples. {kept}"
        )

    def evaluate(self, split: str, epoch: int) -> Evaluation:
        """Score a split batch by batch; what is kept of each is small, logits are not."""
        task, recipe, examples = self.experiment.task, self.experiment.recipe, self.experiment.examples[split]
        size = max(1, 2 * recipe.train.batch_size // self.course.parts)
        found: list[Any] = [None] * len(examples.lengths)
        for batch in batches.evaluation_batches(examples.lengths, size, recipe.data.pad_to_multiple_of):
            self.stop_if_asked()
            inputs, targets = task.inputs(examples, batch), task.targets(examples, batch)
            judged = task.score_batch(task.outputs(self.learner, inputs, targets), examples, batch.rows)
            for row, example in zip(batch.rows, judged, strict=True):
                found[row] = example
        scored = task.aggregate(examples, found)
        rows = [{"index": index} | example.line for index, example in enumerate(scored)]
        return Evaluation(epoch, compute_metrics(self.scorers, scored), rows)

    def _costs(self) -> dict[str, Any]:
        history = self.course.history
        seconds, done = history[-1]["seconds"], self.plan[: len(history)]
        examples = self.experiment.examples
        return {
            "train": {
                "steps": len(history),
                "seconds": seconds,
                "examples_per_second": sum(line["examples"] for line in history) / seconds,
                "tokens_per_second": sum(line["tokens"] for line in history) / seconds,
                "padding_fraction": batches.padding_fraction(examples["train"].lengths, done),
                "first_step_seconds": history[0]["seconds"],
                "peak_memory_bytes": max(self.course.peak_memory_bytes, peak_memory_bytes()),
                "resumed_at": self.course.resumed_at,
                "gradient_accumulation": self.course.parts,
            },
            "batches": [batches.digest(plan) for plan in self.plans[: len(self.course.scores)]],
            "data": {"fingerprint": self.experiment.fingerprint} | {split: e.counts for split, e in examples.items()},
            "checkpoint_fingerprint": self.fingerprints["checkpoint"],
        }


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a split after an epoch, and the lines of predictions.jsonl."""

    epoch: int
    metrics: dict[str, float]
    rows: list[dict[str, Any]]


@dataclass
class Course:
    """What a run has done so far, all but its arrays."""

    history: list[dict[str, Any]] = field(default_factory=list)
    scores: list[dict[str, Any]] = field(default_factory=list)
    last: Evaluation | None = None
    best: Evaluation | None = None
    is_over: bool = False
    resumed_at: list[int] = field(default_factory=list)
    peak_memory_bytes: int = 0
    parts: int = 1

    def as_json(self) -> dict[str, Any]:
        """The course as JSON; a last evaluation that the next will replace is left out."""
        return asdict(self) | ({} if self.is_over else {"last": None})

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Course:
        """The course that `as_json` gave; other keys are passed by."""
        values = {each.name: found[each.name] for each in fields(cls)}
        for key in ("last", "best"):
            values[key] = None if values[key] is None else Evaluation(**values[key])
        return cls(**values)


class Clock:
    """Training time: runs from `start`, stands still between `pause` and the next `start`."""

    def __init__(self) -> None:
        self.total, self.since = 0.0, None

    def start(self) -> None:
        self.since = time.perf_counter()

    def pause(self) -> None:
        self.total, self.since = self.seconds(), None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What the block takes is no training time."""
        was_running = self.since is not None
        self.pause()
        yield
        if was_running:
            self.start()

    def seconds(self) -> float:
        return self.total + (0.0 if self.since is None else time.perf_counter() - self.since)


def _listed(arrays: dict[str, Any], name: str) -> list[Any]:
    """The arrays "name.0", "name.1", ..."""
    return [arrays[f"{name}.{i}"] for i in range(sum(key.startswith(f"{name}.") for key in arrays))]


def _better(value: float, than: float, metric: str) -> bool:
    return math.isnan(than) or (value < than if lower_is_better(metric) else value > than)
