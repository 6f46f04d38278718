"""One recipe, one framework, one attention, one seed -> one run directory."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from pipeline.backend import Backend, load_backend
from pipeline.metrics.scoring import load_metrics
from pipeline.models import checkpoint
from pipeline.recipe.loading import LoadedRecipe
from pipeline.recipe.schema import Recipe
from pipeline.runs.directory import Run, RunDirectory, load_run
from pipeline.runs.machine import describe_environment
from pipeline.runs.model_card import model_card
from pipeline.runs.record import RunIdentity, RunRecord
from pipeline.training.callbacks import TrainingCallback
from pipeline.training.checkpoints import TrainingCheckpoint, TrainingCheckpoints, reason, refuse_foreign
from pipeline.training.experiment import Experiment, prepare, start
from pipeline.training.signals import StopRequest
from pipeline.training.trainer import Training
from pipeline.utils.environment import preserved_random_state
from pipeline.utils.errors import RunFailure, Stopped, UserError
from pipeline.utils.files import write_json


@preserved_random_state()
def finetune(
    recipe: Recipe,
    framework: str = "torch",
    attention: str = "stock",
    seed: int = 0,
    out: str | os.PathLike | None = None,
    *,
    overwrite: bool = False,
    resume: bool = False,
    allow_hub_code: bool = False,
    allow_pickle: bool = False,
    stop: StopRequest | None = None,
    callback: TrainingCallback | None = None,
) -> Run:
    """Fine-tune a recipe and return its run directory, `out` or runs/<recipe>/<framework>-<attention>-seed<seed>.

    A finished run of the same recipe is returned as it is unless `overwrite`. `resume` continues from the newest valid
    training checkpoint of an unfinished run, to the bit as if it had never stopped, or starts from the beginning if
    there is none. With `stop` a run can be asked to save itself and end: `StopRequest()` by its `requested`,
    `StopOnSignal()` by SIGINT and SIGTERM; without it no signal is handled.

    Raises UserError before the first step for anything that is wrong with the input, RunFailure if a run cannot
    continue, and Stopped if it was asked to stop.
    """
    launched = time.perf_counter()
    if seed < 0 or seed >= 2**32:
        raise UserError(f"seed is {seed}, want a whole number from 0 to 2^32 - 1")
    if resume and overwrite:
        raise UserError("--resume goes on with a run and --overwrite drops it; give one of them")
    callback, stop = callback or TrainingCallback(), stop or StopRequest()
    if out is None:
        directory = RunDirectory.default(recipe, LoadedRecipe.of(recipe).original, framework, attention, seed)
    else:
        directory = RunDirectory(Path(out))
    identity = RunIdentity(recipe=recipe.name, framework=framework, attention=attention, seed=seed)
    finished = directory.finished_run(recipe, identity, overwrite)
    if finished is not None:
        callback.on_run_found(finished)
        return finished
    directory.refuse_if_taken()
    snapshots = TrainingCheckpoints(directory.checkpoints_folder, recipe.train.keep_checkpoints)
    begin_from = _begin_from(snapshots, recipe, identity, resume, overwrite)
    experiment = prepare(recipe, attention, allow_hub_code, allow_pickle)
    backend = load_backend(framework)
    scorers = load_metrics(experiment.metric_names)
    model, proof = start(experiment, backend, seed, attention)
    with directory.locked():
        training = Training(experiment, backend, model, identity, scorers, callback, snapshots, stop)
        if resume:
            training.resume(*begin_from)
        else:
            snapshots.remove()
        environment = describe_environment(backend.versions(), time.perf_counter() - launched)
        with _last_words(training, directory), directory.staged() as staging:
            staging.recipe_file.write_text(recipe.to_yaml(), encoding="utf-8")
            write_json(staging.environment_file, environment.model_dump())
            with stop.listening(callback.on_stop_requested):
                training.train()
                report = training.write(staging)
                report |= {"attention_sites": proof.sites, "attention_max_difference": proof.max_difference}
                _write_model(experiment, backend, model, identity, report, staging)
            record = RunRecord.model_validate(identity.model_dump() | report)
            write_json(staging.metrics_file, record.model_dump())
        snapshots.remove()
    run = load_run(directory.path)
    callback.on_run_end(run)
    return run


def _begin_from(
    snapshots: TrainingCheckpoints, recipe: Recipe, identity: RunIdentity, resume: bool, overwrite: bool
) -> tuple[TrainingCheckpoint | None, list[str]]:
    """The checkpoint to go on from, and what is said of those passed over. Raises UserError."""
    if not resume:
        if snapshots.names() and not overwrite:
            raise UserError(
                f"{snapshots.folder} holds checkpoints of an unfinished run; go on with --resume (RESUME=1), or begin "
                "anew with --overwrite (OVERWRITE=1), which drops them"
            )
        return None, []
    newest, passed_over = snapshots.newest()
    if newest is not None:
        refuse_foreign(newest, identity.model_dump(), recipe.experiment())
    return newest, passed_over


@contextlib.contextmanager
def _last_words(training: Training, directory: RunDirectory) -> Iterator[None]:
    """Say what is left of a run that is stopped, cannot be written or lost a file. Raises Stopped, RunFailure."""
    try:
        yield
    except KeyboardInterrupt as error:
        if not training.stop.requested:  # the caller's own interruption
            raise
        found, _ = training.snapshots.newest()
        kept = f"; {found.path} is there; --resume (RESUME=1) goes on from it" if found else "; nothing was written"
        raise Stopped(f"stopped{kept}") from error
    except (OSError, SafetensorError) as error:
        raise RunFailure(f"{_cause(error, directory)}. {training.rescued()}") from error


def _cause(error: Exception, directory: RunDirectory) -> str:
    """What failed: writing the run, or something that it reads."""
    file = getattr(error, "filename", None)
    if not isinstance(file, str):
        file = None
    if file is None or directory.owns(Path(file)):
        return f"{directory.path} cannot be written: {reason(error)}"
    return f"{file} failed: {reason(error)}"


def _write_model(
    experiment: Experiment, backend: Backend, model: Any, identity: RunIdentity, report: dict, staging: RunDirectory
) -> None:
    """Write the trained model as a stock checkpoint."""
    backend.restore_attention(model)
    config = experiment.config
    config.architectures = [type(model).__name__.removeprefix("TF").removeprefix("Untied")]
    weights = backend.get_weights(model)
    card = model_card(experiment.recipe, experiment.task.auto_class, identity, report["metrics"])
    checkpoint.save_checkpoint(staging.model_folder, weights, config, experiment.tokenizer, card)
