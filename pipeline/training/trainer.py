"""Trainer: the steps, evaluations and training checkpoints of one run, and the results that it leaves."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.backend import Backend, Group, Learner, Model, StepReport
from pipeline.data import batches
from pipeline.data.batches import Features, rows_of, share
from pipeline.distributed.channel import Channel
from pipeline.metrics.loss import LOSS
from pipeline.metrics.specs import lower_is_better
from pipeline.models import checkpoint
from pipeline.models.building import Start
from pipeline.models.optimization import learning_rates
from pipeline.runs.directory import RunDirectory
from pipeline.runs.history import HistoryFile, Progress
from pipeline.runs.machine import peak_memory_bytes
from pipeline.runs.record import EvaluationRecord, RunIdentity, RunRecord, StepRecord
from pipeline.training.agreement import digest, refuse_disagreement, refuse_drift
from pipeline.training.callbacks import TrainingCallback
from pipeline.training.checkpoints import (
    TrainingCheckpoint,
    TrainingCheckpoints,
    refuse_changed_inputs,
    refuse_foreign,
    skipped_note,
)
from pipeline.training.evaluation import evaluate
from pipeline.training.experiment import Experiment
from pipeline.training.results import data_record, train_record, weights_record
from pipeline.training.signals import StopRequest
from pipeline.training.state import (
    BEST,
    WEIGHTS,
    Arrays,
    Clock,
    Evaluation,
    SavedState,
    TrainingState,
    are_finite,
    in_order,
    numbered,
    refuse_other_arrays,
    starting_with,
)
from pipeline.utils.errors import RunFailure, Stopped
from pipeline.utils.files import write_json_lines

if TYPE_CHECKING:
    from evaluate import EvaluationModule

CONTINUE = "resume=True continues from there"


class Trainer:
    """Trains one run. The framework's learner takes the steps; what happens around them is the same for both.

    The order of calls: `resume` if the run continues an interrupted one, `agree`, `train`, `finish`. Of several ranks
    each has a trainer, all of which do the same; only rank 0 writes.
    """

    def __init__(
        self,
        experiment: Experiment,
        backend: Backend,
        model: Model,
        identity: RunIdentity,
        scorers: Mapping[str, EvaluationModule],
        callback: TrainingCallback,
        checkpoints: TrainingCheckpoints,
        stop: StopRequest,
        channel: Channel,
        group: Group | None = None,
    ):
        self.experiment, self.scorers, self.identity = experiment, scorers, identity
        self.callback, self.checkpoints, self.stop, self.channel = callback, checkpoints, stop, channel
        train = experiment.recipe.train
        self.epoch_plans = experiment.training_plans(identity.seed)
        self.num_steps = sum(map(len, self.epoch_plans))
        self.learning_rates = learning_rates(train, self.num_steps)
        # Before a learner may leave this rank no more than a part of them.
        self.weights_digest = digest(backend.get_weights(model)) if channel.size > 1 else ""
        self.learner: Learner = backend.Learner(model, train, self.learning_rates, experiment.task.loss, group)
        self.versions = backend.versions()
        self.fingerprints = {
            "data": experiment.fingerprint,
            "checkpoint": checkpoint.checkpoint_fingerprint(experiment.recipe, experiment.allow_pickle),
            **experiment.model_fingerprints(),
        }
        self.clock = Clock()
        self.state = TrainingState(micro_batches=train.gradient_accumulation)
        self.compilations_before = 0
        self.best_weights: list[NDArray] | None = None
        self.history_file: HistoryFile | None = None
        self.logits_before = self.learner.logits(experiment.probe())

    # --- resuming

    def resume(self, saved: TrainingCheckpoint | None, notes: list[str]) -> None:
        """Continue from a training checkpoint of this very run, or from the beginning if there is none.

        If its arrays do not fit the model, an older one is used. `notes` are passed on to the callback. Raises
        UserError if data or pretrained weights have changed since.
        """
        while saved is not None and (fault := self._load(saved)) is not None:
            older, skipped = self.checkpoints.newest(before=saved)
            notes = [*notes, skipped_note(saved.path, fault), *skipped]
            saved = older
        if saved is None:
            self.callback.on_resume(0, notes)
            return
        changed = [
            f"{name} was {saved.state.versions.get(name)} and is now {value}: the results may differ in the last digits"
            for name, value in self.versions.items()
            if saved.state.versions.get(name) != value
        ]
        self.state.resumed_at.append(saved.step)
        self.callback.on_resume(saved.step, notes + changed)

    def _load(self, saved: TrainingCheckpoint) -> Exception | None:
        """Take over what a training checkpoint holds; if it does not fit the model, change nothing and return why not.

        Raises UserError if data or pretrained weights have changed since, or if it belongs to another run.
        """
        refuse_foreign(saved, self.identity, self.experiment.recipe)
        refuse_changed_inputs(saved, self.fingerprints)
        before = self.learner.state()
        try:
            arrays = saved.arrays()
            saved.state.refuse_other_plan(self.num_steps, len(self.epoch_plans))
            refuse_other_arrays(arrays, before, saved.state.is_over)
            if saved.state.is_over:
                self.learner.restore_weights(in_order(WEIGHTS, arrays))
            else:
                self.learner.load_state(arrays)
        except Exception as error:  # each framework has its own for what does not fit
            self.learner.load_state(before)
            return error
        self.state, self.clock.total_seconds = saved.state.training_state(), saved.state.seconds
        self.best_weights = in_order(BEST, arrays) or None
        self.weights_digest = digest(arrays)
        return None

    def agree(self) -> None:
        """Raise UserError, with who differs in what, if the ranks would not train the same run."""
        if self.channel.size > 1:
            refuse_disagreement(
                self.channel, self.experiment.recipe, self.identity, self.versions, self.fingerprints, self.epoch_plans,
                self.state.steps_done, self.weights_digest,
            )  # fmt: skip

    # --- training

    def train(self, staging: RunDirectory | None) -> None:
        """Take all steps and make all evaluations that remain; each step is a line of history.jsonl at once.

        `staging` is where the run is written, None at all ranks but the first. Raises Stopped and RunFailure.
        """
        self.callback.on_train_begin(self.num_steps, len(self.epoch_plans))
        with HistoryFile(staging, self.state.history) as self.history_file:
            self._show_progress()
            self.clock.start()
            per_epoch, state = len(self.epoch_plans[0]), self.state
            if state.steps_done == (state.epochs_done + 1) * per_epoch:
                # The checkpoint was written between the last step of an epoch and its evaluation.
                self.on_epoch(state.epochs_done + 1)
            if not state.is_over:
                start, self.compilations_before = (state.steps_done, state.epochs_done), state.compilations
                self.learner.fit(self._remaining_epochs(), self.on_step, self.on_epoch, start, self._example())
            self.clock.pause()
        self.callback.on_train_end()
        self.stop_if_asked_anywhere()

    def _remaining_epochs(self) -> list[Iterable[Features]]:
        """This rank's share of each batch that remains, by epoch; an interrupted epoch begins with its next step."""
        per_epoch, seed = len(self.epoch_plans[0]), self.identity.seed
        remaining = []
        for epoch in range(self.state.epochs_done, len(self.epoch_plans)):
            done = max(0, self.state.steps_done - epoch * per_epoch)
            plan, first_step = self.epoch_plans[epoch][done:], epoch * per_epoch + done
            features = self.experiment.features(plan, epoch, seed, first_step)
            remaining.append(share(batch, self.channel.ranks) for batch in features)
        return remaining

    def _example(self) -> Features | None:
        """This rank's share of the very first batch, for which steps are compiled also if the run is resumed later."""
        if not self.experiment.recipe.train.compile:
            return None
        (first,) = self.experiment.features(self.epoch_plans[0][:1], 0, self.identity.seed, 0)
        return share(first, self.channel.ranks)

    def _rows(self, step: int) -> NDArray[np.int64]:
        """The rows of the training split that a step is taken on; steps count from 1."""
        epoch, index = divmod(step - 1, len(self.epoch_plans[0]))
        return next(rows_of(self.epoch_plans[epoch][index : index + 1]))

    def on_step(self, report: StepReport) -> None:
        """Record one optimizer step, and save a training checkpoint if one is due or asked for."""
        for what, value in (("loss", report.loss), ("gradient norm", report.grad_norm)):
            if not math.isfinite(value):
                raise RunFailure(self._diverged(report.step, f"the {what} of step {report.step} is {value}"))
        rows = self._rows(report.step)
        record = StepRecord(
            step=report.step,
            epoch=(report.step - 1) // len(self.epoch_plans[0]) + 1,
            loss=report.loss,
            learning_rate=float(self.learning_rates[report.step - 1]),
            grad_norm=report.grad_norm,
            examples=len(rows),
            tokens=int(self.experiment.examples["train"].lengths[rows].sum()),
            seconds=round(self.clock.seconds(), 6),
        )
        if report.micro_batches != self.state.micro_batches:
            self.callback.on_memory_split(report.step, report.micro_batches)
        self.state.history.append(record)
        self.state.micro_batches = report.micro_batches
        self.state.compilations = self.compilations_before + report.compilations
        self.state.attention_implementation = report.attention_implementation
        if self.history_file is not None:
            self.history_file.append(record)
        self.callback.on_step_end(record)
        self._stop_if(self.stop.requested if self.channel.size == 1 else report.stop_asked)
        save_every = self.experiment.recipe.train.save_every
        if save_every is not None and report.step % save_every == 0:
            self.save()

    def on_epoch(self, epoch: int) -> bool:
        """Score the validation split after an epoch; returns True if early stopping ends the training."""
        train = self.experiment.recipe.train
        with self.clock.paused():
            if self.channel.size > 1:
                refuse_drift(self.channel, self.learner.copy_weights(), epoch)
            self.callback.on_evaluate_begin(epoch)
            evaluation = self.evaluate("validation", epoch)
            self._refuse_loss("validation", evaluation)
            self.state.last = evaluation
            self.state.evaluations.append(EvaluationRecord.model_validate({"epoch": epoch} | evaluation.metrics))
            self._show_progress()
            self.callback.on_evaluate_end(epoch, evaluation.metrics)
            if train.keep == "best" or train.early_stopping is not None:
                self._keep_if_best(evaluation)
            patience, best = train.early_stopping, self.state.best
            stops_early = patience is not None and best is not None and epoch - best.epoch >= patience
            self.state.is_over = stops_early or epoch == len(self.epoch_plans)
            if train.save_every is not None:
                self.save()
        return stops_early

    def _show_progress(self) -> None:
        if self.history_file is not None:
            num_steps, num_epochs = self.num_steps, len(self.epoch_plans)
            self.history_file.show_progress(
                Progress(steps=num_steps, epochs=num_epochs, evaluations=self.state.evaluations)
            )

    def _keep_if_best(self, evaluation: Evaluation) -> None:
        train = self.experiment.recipe.train
        metric = train.keep_metric or self.experiment.metric_names[0]
        if evaluation.is_better_than(self.state.best, metric, lower_is_better(metric)):
            self.state.best = evaluation
            self.best_weights = self.learner.copy_weights() if train.keep == "best" else None

    def _refuse_loss(self, split: str, evaluation: Evaluation) -> None:
        """Raise RunFailure if the loss of an evaluation is not finite: the step before it may have been the last."""
        loss = evaluation.metrics[LOSS]
        if not math.isfinite(loss):
            step = self.state.steps_done
            raise RunFailure(self._diverged(step, f"the {split} loss after step {step} is {loss}"))

    def evaluate(self, split: str, epoch: int) -> Evaluation:
        """Score a split with the current weights."""
        batch_size = max(1, 2 * self.experiment.recipe.train.batch_size // self.state.micro_batches)
        return evaluate(
            self.experiment, self.learner, self.scorers, split, epoch, batch_size, self.channel,
            self.stop_if_asked_anywhere,
        )  # fmt: skip

    # --- saving and stopping

    def save(self) -> Path:
        """Write a training checkpoint of the current state; returns its folder. Raises RunFailure.

        Of several ranks, rank 0 writes it, and the others wait for it.
        """
        with self.clock.paused():
            return self.channel.first(self._save, self._arrays())

    def _arrays(self) -> Arrays:
        """What a training checkpoint holds of the learner: all of its state, or when training is over the weights."""
        if self.state.is_over:
            return numbered(WEIGHTS, self.learner.copy_weights())
        arrays, step = self.learner.state(), self.state.steps_done
        assert arrays["step"] == step, (arrays["step"], step)  # else the learner reports its steps late
        return arrays

    def _save(self, arrays: Arrays) -> Path:
        state, step = self.state, self.state.steps_done
        with self.clock.paused():
            self.callback.on_save_begin(step)
            if not are_finite(starting_with(WEIGHTS, arrays)):
                raise RunFailure(self._diverged(step, f"weights are no longer finite after step {step}"))
            arrays = arrays | numbered(BEST, self.best_weights or ())
            is_evaluated = state.epochs_done * len(self.epoch_plans[0]) == step
            name = f"step-{step:08d}{'-evaluated' if is_evaluated else ''}"
            path = self.checkpoints.save(name, arrays, self._saved_state())
            self.callback.on_save_end(step)
        return path

    def _saved_state(self) -> SavedState:
        state = {name: getattr(self.state, name) for name in TrainingState.model_fields}
        if not self.state.is_over:  # the next evaluation will replace it
            state["last"] = None
        state["peak_memory_bytes"] = max(self.state.peak_memory_bytes, peak_memory_bytes())
        return SavedState(
            **state,
            step=self.state.steps_done,
            identity=self.identity,
            experiment=self.experiment.recipe.experiment(),
            fingerprints=self.fingerprints,
            versions=self.versions,
            seconds=self.clock.total_seconds,
            processes=self.channel.size,
        )

    def stop_if_asked_anywhere(self) -> None:
        """Save a training checkpoint and raise Stopped if the run was asked to stop, at whichever rank."""
        self._stop_if(self.channel.any(self.stop.requested))

    def _stop_if(self, stop_asked: bool) -> None:
        if stop_asked:
            path = self.save()
            raise Stopped(f"stopped; the training checkpoint {path} is saved; {CONTINUE}", arguments=("resume",))

    def failure(self, cause: str) -> RunFailure:
        """The error for a file that failed: its cause and what is left of the run, saved now if that is possible."""
        newest, _ = self.checkpoints.newest()
        if newest is None and self.state.is_over and self.channel.is_first:
            with contextlib.suppress(RunFailure):
                self._save(self._arrays())
        return run_failure(cause, self.checkpoints)

    def _diverged(self, step: int, what: str) -> str:
        """The message for a run whose numbers are no longer finite."""
        newest, _ = self.checkpoints.newest()
        saved = f"The last training checkpoint is {newest.path}" if newest else "There is no training checkpoint"
        rows = ", ".join(str(row) for row in self._rows(step) + 1)
        train = self.experiment.recipe.train
        return (
            f"{what}, so the run stops. Its batch holds the training examples {rows} (counted from 1). Lower "
            f"train.learning_rate ({train.learning_rate:g}), raise train.warmup_ratio ({train.warmup_ratio:g}) or "
            f"lower train.max_grad_norm ({train.max_grad_norm}); if that does not help, look at these examples. {saved}"
        )

    # --- results

    def finish(self, staging: RunDirectory | None, started: Start) -> RunRecord:
        """Put the kept weights into the model, write history, predictions and probe; returns the run's record.

        Raises RunFailure if the weights or the test loss are not finite. Ranks other than the first write nothing.
        """
        kept = self._keep_weights()
        before, after = (
            self.experiment.probe_logits(logits)
            for logits in (self.logits_before, self.learner.logits(self.experiment.probe()))
        )
        if staging is not None:
            staging.write_probe(before, after)
            write_json_lines(staging.history_file, self.state.history.lines())
            write_json_lines(staging.predictions_file, kept.rows)
        test = self.evaluate("test", kept.epoch) if "test" in self.experiment.examples else None
        if test is not None:
            self._refuse_loss("test", test)
        return RunRecord(
            **self.identity.model_dump(),
            metrics=dict(kept.metrics),
            kept_epoch=kept.epoch,
            test=dict(test.metrics) if test else None,
            evaluations=self.state.evaluations,
            train=train_record(self.experiment, self.state, self.epoch_plans, self.channel.size, started),
            batches=[batches.digest(plan) for plan in self.epoch_plans[: self.state.epochs_done]],
            data=data_record(self.experiment),
            checkpoint_fingerprint=self.fingerprints["checkpoint"],
            weights=weights_record(started.sources),
            attention_sites=started.proof.sites,
            attention_max_difference=started.proof.max_difference,
        )

    def _keep_weights(self) -> Evaluation:
        """Put the weights that the recipe keeps into the model; returns their evaluation."""
        kept = self.state.last
        if self.experiment.recipe.train.keep == "best":
            kept = self.state.best
            assert self.best_weights is not None
            self.learner.restore_weights(self.best_weights)
        assert kept is not None
        if not are_finite(numbered(WEIGHTS, self.learner.copy_weights())):
            step = kept.epoch * len(self.epoch_plans[0])
            raise RunFailure(self._diverged(step, f"weights are not finite after step {step}"))
        return kept


def run_failure(cause: str, checkpoints: TrainingCheckpoints) -> RunFailure:
    """The error for a run that ends before it is done: its cause, and what is saved of it."""
    newest, _ = checkpoints.newest()
    if newest is None:
        return RunFailure(f"{cause}. There is no training checkpoint; train.save_every makes them during training")
    message = f"{cause}. The training checkpoint {newest.path} is saved: correct the cause, then {CONTINUE}"
    return RunFailure(message, arguments=("resume",))
