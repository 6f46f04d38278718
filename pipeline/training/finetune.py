"""Fine-tuning: one recipe, one framework, one attention and one seed make one run directory."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors import SafetensorError

from pipeline.backend import Backend, Group, framework_problem, load_backend
from pipeline.distributed.channel import Channel
from pipeline.distributed.launcher import RankDied
from pipeline.distributed.ranks import Ranks
from pipeline.metrics.scoring import load_metrics
from pipeline.models import checkpoint
from pipeline.models.attention import STOCK, attention_name
from pipeline.models.building import Start
from pipeline.models.lora import merged, save_adapter
from pipeline.recipe.loading import LoadedRecipe, RecipeSource
from pipeline.recipe.schema import Recipe
from pipeline.runs.directory import Run, RunDirectory, load_run
from pipeline.runs.machine import describe_environment
from pipeline.runs.model_card import model_card
from pipeline.runs.model_files import records_of
from pipeline.runs.record import EnvironmentRecord, RunIdentity
from pipeline.training.callbacks import TrainingCallback, following
from pipeline.training.checkpoints import TrainingCheckpoint, TrainingCheckpoints, refuse_foreign
from pipeline.training.experiment import prepare, start
from pipeline.training.processes import Event, EventSender, RunInProcesses
from pipeline.training.signals import StopOnSignal, StopRequest
from pipeline.training.trackers.tracking import tracked
from pipeline.training.trainer import CONTINUE, Trainer, run_failure
from pipeline.utils.environment import preserved_random_state, seconds_since_launch
from pipeline.utils.errors import PipelineError, Stopped, UserError
from pipeline.utils.files import reason, write_json
from pipeline.utils.text import count

MOST_SEED = 2**32 - 1


@preserved_random_state()
def finetune(
    recipe: RecipeSource,
    framework: str = "torch",
    attention: str | type = STOCK,
    seed: int = 0,
    out: str | os.PathLike | None = None,
    *,
    overwrite: bool = False,
    resume: bool = False,
    processes: int = 1,
    restarts: int = 0,
    change_processes: bool = False,
    debug_eager: bool = False,
    score_test: bool = True,
    allow_hub_code: bool = False,
    allow_pickle: bool = False,
    stop: StopRequest | None = None,
    callback: TrainingCallback | None = None,
    quiet: bool = False,
) -> Run:
    """Fine-tune a recipe and return its run directory, `out` or runs/<recipe>/<framework>-<attention>-seed<seed>.

    `recipe` is a recipe, a name in recipes/ or a path; `attention` is "stock", "handwritten", or a class of your own,
    as such or as "module:Class"; with "handwritten-model" the whole of a Marian model is written by hand.

    A finished run of the same recipe is returned as it is unless `overwrite`. `resume` continues from the newest valid
    training checkpoint of an unfinished run, to the bit as if it had never stopped, or starts from the beginning if
    there is none. With `change_processes` it may continue in another number of processes, which changes the rest of the
    training by rounding.

    With `processes` above 1 as many processes are started, which share the threads of this one and train together: the
    same experiment, but for rounding. They import the pipeline and not the caller's script, which needs no guard. If
    one of them dies, all end; with `restarts` they start again so many times and resume. A process that a launcher such
    as torchrun has started is one of those that train together.

    With `debug_eager` each operation runs by itself in either framework, so that a `breakpoint()` in an attention stops
    in every step and sees numbers; slower, and the same but for rounding. Without `score_test` the test split is not
    scored: whoever searches for settings must not choose by it.

    With `stop` a run can be asked to save itself and end: `StopRequest()` by its `requested`, `StopOnSignal()` by
    SIGINT and SIGTERM; without it no signal is handled. `callback` follows the run; without one, its progress is
    printed, unless `quiet`. The directory appears when everything in it is written. Until then history.jsonl grows by a
    line per step in `.<name>.partial-<process id>-<machine>/` beside it.

    Raises UserError before the first step for wrong input, RunFailure if a run cannot continue, and Stopped.

    >>> run = finetune("sentiment_bert", framework="tensorflow", seed=1)  # doctest: +SKIP
    >>> run.metrics["accuracy"], run.path  # doctest: +SKIP
    """
    arguments = _Arguments(
        recipe, framework, attention, seed, out, overwrite, resume, change_processes, debug_eager, score_test,
        allow_hub_code, allow_pickle,
    )  # fmt: skip
    stop = stop or StopRequest()
    with following(arguments.title, callback, quiet, has_bar=not debug_eager) as callback:
        if processes != 1 or restarts != 0:
            return _launch(arguments, processes, restarts, stop, callback)
        with Channel.join(Ranks.from_environment()).together() as channel:
            _refuse_arguments(arguments)
            return _finetune(channel, arguments, stop, callback)


@dataclass(frozen=True)
class _Arguments:
    """What `finetune` was called with, all that the processes of a run need to know."""

    recipe: RecipeSource
    framework: str
    attention: str | type
    seed: int
    out: str | os.PathLike | None
    overwrite: bool
    resume: bool
    change_processes: bool
    debug_eager: bool
    score_test: bool
    allow_hub_code: bool
    allow_pickle: bool

    @property
    def title(self) -> str:
        """The run in a few words, such as "sentiment_bert torch/stock seed 0"."""
        source = self.recipe.recipe if isinstance(self.recipe, LoadedRecipe) else self.recipe
        name = source.name if isinstance(source, Recipe) else Path(str(source)).stem
        attention = self.attention if isinstance(self.attention, str) else getattr(self.attention, "__name__", "")
        return f"{name} {self.framework}/{attention} seed {self.seed}"

    def loaded(self) -> tuple[LoadedRecipe, RunIdentity, RunDirectory]:
        """The recipe, what the run is called, and where it is written. Raises UserError."""
        loaded, attention = LoadedRecipe.of(self.recipe), attention_name(self.attention)
        identity = RunIdentity(recipe=loaded.recipe.name, framework=self.framework, attention=attention, seed=self.seed)
        default = RunDirectory.default(loaded.recipe, loaded.original, self.framework, attention, self.seed)
        return loaded, identity, default if self.out is None else RunDirectory.at(self.out)


def _launch(arguments: _Arguments, processes: int, restarts: int, stop: StopRequest, callback: TrainingCallback) -> Run:
    """`finetune` in processes that are started here, again and again if one dies. Raises what `finetune` raises."""
    _refuse_launch(processes, restarts)
    _refuse_arguments(arguments)
    loaded, identity, directory = arguments.loaded()
    _refuse_execution(arguments, loaded.recipe, processes)
    checkpoints = TrainingCheckpoints(directory.checkpoints_folder, loaded.recipe.train.keep_checkpoints)
    finished = directory.finished_run(loaded.recipe, identity, arguments.overwrite)
    if finished is not None:
        _remove_left_behind(checkpoints, finished)
        callback.on_run_found(finished)
        return finished
    arguments = replace(arguments, recipe=loaded, attention=identity.attention)
    ranks = RunInProcesses(processes, arguments.framework, callback, stop)
    for restart in range(restarts + 1):
        try:
            # A run that has begun has deleted the checkpoints of one before it, and wants its own back.
            again = replace(arguments, resume=arguments.resume or ranks.has_begun)
            return ranks.call(_finetune_rank, again, sys.argv)
        except KeyboardInterrupt as error:
            if not stop.requested:
                raise
            raise _stopped(checkpoints) from error
        except RankDied as error:
            if restart == restarts or stop.requested:
                raise run_failure(str(error), checkpoints) from error
            callback.on_restart(restart + 1, restarts, str(error))
    raise AssertionError("the last start returns or raises")


def _finetune_rank(send: Callable[[Event], None], arguments: _Arguments, command: list[str]) -> Run:
    """`finetune` in one of the processes that `_launch` starts."""
    sys.argv = command  # which the run records
    with Channel.join(Ranks.from_environment()).together() as channel:
        return _finetune(channel, arguments, StopOnSignal(), EventSender(send))


def _finetune(channel: Channel, arguments: _Arguments, stop: StopRequest, callback: TrainingCallback) -> Run:
    """`finetune` at one of the ranks of a channel."""
    launched, is_first = time.perf_counter(), channel.is_first
    callback = callback if is_first else TrainingCallback()
    loaded, identity, directory = arguments.loaded()
    recipe, attention, seed = loaded.recipe, identity.attention, arguments.seed
    overwrite, resume = arguments.overwrite, arguments.resume
    finished = channel.first(directory.finished_run, recipe, identity, overwrite)
    checkpoints = TrainingCheckpoints(directory.checkpoints_folder, recipe.train.keep_checkpoints)
    if finished is not None:
        if is_first:
            _remove_left_behind(checkpoints, finished)
        callback.on_run_found(finished)
        return finished
    _refuse_execution(arguments, recipe, channel.size)
    saved, notes = channel.first(_saved_state, directory, checkpoints, recipe, identity, resume, overwrite)
    _refuse_other_size(channel.size, saved, arguments.change_processes)
    experiment = prepare(recipe, attention, arguments.allow_hub_code, arguments.allow_pickle)
    if not arguments.score_test:
        experiment.examples.pop("test", None)
    backend = load_backend(arguments.framework)
    scorers = load_metrics(experiment.metric_names)
    with (
        backend.threads(_threads_of(saved)),
        backend.deterministic(recipe.train.deterministic),
        backend.preserved_generators(),
        backend.eager_execution(arguments.debug_eager),
        _joined(backend, channel, stop) as group,
    ):
        started = start(experiment, backend, seed, attention)
        callback.on_start(started.sources)
        with directory.locked() if is_first else contextlib.nullcontext():
            trainer = Trainer(
                experiment, backend, started.model, identity, scorers, callback, checkpoints, stop, channel, group
            )
            if resume:
                trainer.resume(saved, notes)
            elif is_first:
                checkpoints.remove()
            trainer.agree()
            environment = describe_environment(
                backend.versions(), time.perf_counter() - launched, channel.size, seconds_since_launch()
            )
            is_tracked = is_first and bool(recipe.train.trackers)
            with tracked(trainer, directory) if is_tracked else contextlib.nullcontext() as tracking:
                with (
                    _failures_explained(trainer, directory),
                    directory.staged() if is_first else contextlib.nullcontext() as staging,
                ):
                    _write_run(staging, trainer, backend, started, environment)
                run = channel.first(_completed, directory, checkpoints)
                if tracking is not None:
                    tracking.add_run(run)
    callback.on_run_end(run)
    return run


@contextlib.contextmanager
def _joined(backend: Backend, channel: Channel, stop: StopRequest) -> Iterator[Group | None]:
    """The framework's connections between several ranks; None for a process alone."""
    if channel.size == 1:
        yield None
        return
    group = backend.Group(channel, lambda: stop.requested)
    try:
        yield group
    except PipelineError:
        group.leave()
        raise
    # After any other error a rank may be gone, and answer no goodbye.
    group.leave()


def _completed(directory: RunDirectory, checkpoints: TrainingCheckpoints) -> Run:
    """The run, now that everything is written; its training checkpoints are no longer needed."""
    checkpoints.remove()
    return load_run(directory.path)


def seed_problem(seed: object) -> str | None:
    """What is wrong with a seed."""
    if isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed <= MOST_SEED:
        return None
    return f"seed is {seed!r}, but must be a whole number from 0 to 2^32 - 1"


def _refuse_arguments(arguments: _Arguments) -> None:
    if problem := framework_problem(arguments.framework):
        raise UserError(problem, arguments=("framework",))
    if problem := seed_problem(arguments.seed):
        raise UserError(problem, arguments=("seed",))
    if arguments.resume and arguments.overwrite:
        raise UserError(
            "resume=True continues an unfinished run and overwrite=True deletes it; give one of them",
            arguments=("resume", "overwrite"),
        )


def _refuse_execution(arguments: _Arguments, recipe: Recipe, processes: int) -> None:
    """Raise UserError for ways to run the steps that do not fit together.

    Of several processes none has the terminal for a debugger, compiled steps cannot exchange weights, and masks of a
    framework's own would be other ones at each rank.
    """
    if processes > 1 and recipe.train.dropout_masks == "framework" and recipe.train.dropout != 0.0:
        raise UserError(
            f"recipe {recipe.name}: train.dropout_masks is framework, so each of the {processes} processes would draw "
            "masks of its own, and the training would depend on their number; set it to shared, or train in one process"
        )
    if processes > 1 and recipe.train.sharding is not None and recipe.train.compile:
        raise UserError(
            f"recipe {recipe.name}: train.compile is true and train.sharding is {recipe.train.sharding}, but compiled "
            "steps cannot exchange weights while they compute; leave one of them out"
        )
    if arguments.debug_eager and recipe.train.compile:
        raise UserError(
            f"recipe {recipe.name}: train.compile is true, but debug_eager=True runs each operation by itself and "
            "compiles nothing; leave one of them out",
            arguments=("debug_eager",),
        )
    if arguments.debug_eager and processes > 1:
        raise UserError(
            f"debug_eager=True is for one process, in which a debugger can stop, but {processes} train together; debug "
            "in one process, which takes the same steps",
            arguments=("debug_eager", "processes"),
        )


def _refuse_launch(processes: int, restarts: int) -> None:
    for name, value, least in (("processes", processes, 1), ("restarts", restarts, 0)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UserError(f"{name} is {value!r}, but must be a whole number from {least}", arguments=(name,))
    ranks = Ranks.from_environment()
    if ranks.size > 1:
        raise UserError(
            f"the environment says that this is process {ranks.rank} of {ranks.size} that train together (WORLD_SIZE "
            f"or TF_CONFIG), so it must not start {processes} of its own; leave processes and restarts to the launcher "
            "that started this one, or unset these variables",
            arguments=("processes", "restarts"),
        )


def _refuse_other_size(size: int, saved: TrainingCheckpoint | None, change_processes: bool) -> None:
    """Raise UserError for another number of processes than before."""
    before = size if saved is None else saved.state.processes
    if saved is not None and size != before and not change_processes:
        raise UserError(
            f"{count(before, 'process')} trained this run until {saved.path} was written, and now there "
            f"{'is' if size == 1 else 'are'} {size}. Batches and dropout masks stay the same, but sums are rounded in "
            f"another way. Start {before} again to get the same bits, or allow it with change_processes=True",
            arguments=("change_processes",),
        )


def _saved_state(
    directory: RunDirectory, checkpoints: TrainingCheckpoints, recipe: Recipe, identity: RunIdentity, resume: bool,
    overwrite: bool,
) -> tuple[TrainingCheckpoint | None, list[str]]:  # fmt: skip
    """The training checkpoint to resume from, and a note for each that is skipped.

    Raises UserError, also if the directory cannot be written.
    """
    directory.refuse_if_taken()
    if resume:
        newest, skipped = checkpoints.newest()
        if newest is not None:
            refuse_foreign(newest, identity, recipe)
        return newest, skipped
    if checkpoints.names() and not overwrite:
        raise UserError(
            f"{checkpoints.folder} holds training checkpoints of an unfinished run; continue it with resume=True, or "
            "start from the beginning with overwrite=True, which deletes them",
            arguments=("resume", "overwrite"),
        )
    return None, []


def _remove_left_behind(checkpoints: TrainingCheckpoints, run: Run) -> None:
    """Remove the training checkpoints of a run that was killed after it was complete and before it removed them."""
    newest, _ = checkpoints.newest()
    if newest is not None and newest.state.is_over and newest.state.evaluations == run.record.evaluations:
        with contextlib.suppress(UserError, OSError), run.directory.locked():  # another process may train here
            checkpoints.remove()


def _threads_of(saved: TrainingCheckpoint | None) -> int | None:
    """How many threads a run had before it was interrupted: the same bits need the same number."""
    number = "" if saved is None else saved.state.versions.get("threads", "")
    return int(number) if number.isdecimal() else None


def _write_run(
    staging: RunDirectory | None,
    trainer: Trainer,
    backend: Backend,
    started: Start,
    environment: EnvironmentRecord,
) -> None:
    """Train, and write everything that the run directory holds; its record comes last.

    Ranks other than the first train without a directory.
    """
    recipe = trainer.experiment.recipe
    if staging is not None:
        staging.recipe_file.write_text(recipe.to_yaml(), encoding="utf-8")
        write_json(staging.environment_file, environment.model_dump())
    with trainer.stop.listening(trainer.callback.on_stop_requested):
        trainer.train(staging)
        record = trainer.finish(staging, started)
        model = started.model
        backend.restore_attention(model)
        if staging is None:
            return
        experiment, config = trainer.experiment, trainer.experiment.config
        config.architectures = [backend.architecture(model)]
        card = model_card(recipe, experiment.task.auto_class, config, record.identity, record.metrics)
        weights, lora = backend.get_weights(model), recipe.train.lora
        if lora is not None:
            save_adapter(
                staging.adapter_folder, weights, lora, config, started.sources.new, recipe.checkpoint,
                experiment.task.auto_class,
            )  # fmt: skip
            weights = merged(weights, lora, config)
        checkpoint.save_checkpoint(staging.model_folder, weights, config, experiment.tokenizer, card)
        record = record.model_copy(update={"model_files": records_of(staging.model_folder)})
        staging.progress_file.unlink(missing_ok=True)
    write_json(staging.metrics_file, record.model_dump())


@contextlib.contextmanager
def _failures_explained(trainer: Trainer, directory: RunDirectory) -> Iterator[None]:
    """Say what is left of a run that is interrupted, cannot be written or loses a file. Raises Stopped, RunFailure."""
    try:
        yield
    except KeyboardInterrupt as error:
        if not trainer.stop.requested:  # the caller's own interruption
            raise
        raise _stopped(trainer.checkpoints) from error
    except (OSError, SafetensorError) as error:
        raise trainer.failure(_cause(error, directory)) from error


def _stopped(checkpoints: TrainingCheckpoints) -> Stopped:
    """The error for a run that was stopped before it could save itself."""
    newest, _ = checkpoints.newest()
    if newest is None:
        return Stopped("stopped; nothing was written")
    return Stopped(f"stopped; the training checkpoint {newest.path} is saved; {CONTINUE}", arguments=("resume",))


def _cause(error: Exception, directory: RunDirectory) -> str:
    """What failed: writing the run, or something that it reads."""
    file = getattr(error, "filename", None)
    if not isinstance(file, str) or directory.owns(Path(file)):
        return f"{directory.path} cannot be written: {reason(error)}"
    return f"{file} failed: {reason(error)}"
