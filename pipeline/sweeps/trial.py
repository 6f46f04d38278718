"""One trial of a sweep, in a process of its own: a run that reports its score after each epoch and may end early."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.distributed.channel import Channel
from pipeline.distributed.ranks import Ranks
from pipeline.metrics.scoring import load_metrics
from pipeline.recipe.schema import Recipe
from pipeline.runs.directory import load_run
from pipeline.runs.prediction import open_run, prediction_recipe
from pipeline.runs.record import Metrics
from pipeline.sweeps.callbacks import Progress
from pipeline.sweeps.study import Study, StudyFile
from pipeline.training import first_step
from pipeline.training.callbacks import TrainingCallback
from pipeline.training.evaluation import evaluate
from pipeline.training.experiment import prepare
from pipeline.training.finetune import finetune
from pipeline.training.signals import StopOnSignal, StopRequest
from pipeline.utils.errors import RunFailure, Stopped, UserError


@dataclass(frozen=True)
class RunPlan:
    """How the runs of a sweep are made, whatever their values."""

    framework: str
    attention: str
    seed: int
    allow_hub_code: bool
    allow_pickle: bool


@dataclass(frozen=True)
class Outcome:
    """How a trial ended: with a score, or pruned, or, with neither, interrupted by a signal."""

    score: float | None = None
    is_pruned: bool = False


class Pruner(TrainingCallback):
    """Reports the scores of a trial, and asks the run to stop once it is pruned."""

    def __init__(self, send: Callable[[Progress], None], study: Study, number: int, metric: str, stop: StopRequest):
        self.send, self.study, self.number, self.metric, self.stop = send, study, number, metric, stop
        self.num_epochs = 0
        self.has_pruned = False

    def on_train_begin(self, num_steps: int, num_epochs: int) -> None:
        self.num_epochs = num_epochs

    def on_evaluate_end(self, epoch: int, metrics: dict[str, float]) -> None:
        score = metrics[self.metric]
        self.send(Progress(self.number, epoch, self.num_epochs, score))
        is_poor = self.study.report(self.number, epoch, score)
        if is_poor and epoch < self.num_epochs:  # after the last epoch nothing is left to save
            self.has_pruned = self.stop.requested = True


def run_trial(
    send: Callable[[Progress], None], recipe: Recipe, plan: RunPlan, folder: Path, file: StudyFile, number: int,
    metric: str,
) -> Outcome:  # fmt: skip
    """Train a trial, or continue it from its training checkpoint, or read it if it is finished.

    A pruned trial ends as a run that was asked to stop: with a training checkpoint. Raises UserError and RunFailure.
    """
    stop = StopOnSignal()
    pruner = Pruner(send, file.open(), number, metric, stop)
    try:
        run = finetune(
            recipe, plan.framework, plan.attention, plan.seed, folder, resume=True, score_test=False,
            allow_hub_code=plan.allow_hub_code, allow_pickle=plan.allow_pickle, stop=stop, callback=pruner,
        )  # fmt: skip
    except Stopped:
        return Outcome(is_pruned=pruner.has_pruned)
    score = run.metrics[metric]
    if score is None or not math.isfinite(score):
        raise RunFailure(f"{metric} is undefined on the validation split")
    return Outcome(score)


def check_recipe(recipe: Recipe, plan: RunPlan) -> tuple[str, ...]:
    """Do all that a run does up to one step; returns the names of its metrics. Raises UserError and RunFailure."""
    experiment, _, _ = first_step.check(recipe, plan.framework, plan.attention, plan.allow_hub_code, plan.allow_pickle)
    return experiment.metric_names


def score_on_test(folder: Path, plan: RunPlan) -> Metrics:
    """The scores of a finished run on the test split of its recipe, in fp32. Raises UserError."""
    run = load_run(folder)
    recipe = prediction_recipe(run.directory.recipe(), run.directory.model_folder)
    experiment = prepare(recipe, allow_hub_code=plan.allow_hub_code)
    if experiment.fingerprint != run.record.data.fingerprint:
        raise UserError(f"{folder}: its data have changed since it was trained; bring them back, or repeat the sweep")
    found = evaluate(
        experiment, open_run(run).predictor(), load_metrics(experiment.metric_names), "test", 1,
        2 * recipe.train.batch_size, Channel(Ranks()), lambda: None,
    )  # fmt: skip
    return {name: value if math.isfinite(value) else None for name, value in found.metrics.items()}
