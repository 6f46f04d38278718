"""The proof that no work is lost: a run killed again and again ends bit-identical to one that never stopped.

One run is left alone. Another is killed with SIGKILL at moments drawn from a seed, in start-up, training, evaluation
and saving, and each time goes on with --resume. Then everything that they leave is compared.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.recipe.loading import load_shipped
from pipeline.recipe.schema import Recipe
from pipeline.runs.directory import RunDirectory
from pipeline.runs.record import StepRecord
from pipeline.training.callbacks import TrainingCallback
from pipeline.utils.environment import configure_process
from pipeline.utils.errors import RunFailure, UserError
from pipeline.utils.hashing import sha256_of_file

PHASES = ("training", "saving", "evaluation", "start-up")
# Before one was seen: how long a checkpoint takes.
SAVING_SECONDS = 0.05
# Checkpoints of a run whose recipe asks for none.
CHECKPOINTS = 20


@dataclass(frozen=True)
class Moment:
    """When to kill: in which phase, not before which update, and after what part of the phase's usual time."""

    phase: str
    update: int
    part: float


@dataclass
class Part:
    """What one process of a run told until it ended or was killed: where it took up the run, its last update."""

    resumed_at: int | None = None
    update: int = 0
    phase: str = "start-up"
    killed: Moment | None = None


@dataclass(frozen=True)
class Report:
    """The kills and the comparison."""

    title: str
    kills: int
    parts: list[Part]
    same: dict[str, bool]

    @property
    def passed(self) -> bool:
        """Whether every kill fell and the killed run ended as the other one."""
        return all(self.same.values()) and sum(part.killed is not None for part in self.parts) == self.kills

    def as_text(self) -> str:
        """A line for each kill, one for each thing compared, and a verdict."""
        lines, killed = [self.title], [part for part in self.parts if part.killed]
        reached = 0
        for i, part in enumerate(killed):
            reached = max(part.update, reached if part.resumed_at is None else part.resumed_at)
            onward = next(after.resumed_at for after in self.parts[i + 1 :] if after.resumed_at is not None)
            told = f"killed in {part.phase} after update {reached}"
            lines.append(f"  {i + 1:>2}  {told:<42} went on from {onward}, {reached - onward} done again")
            reached = onward
        lines += [f"  {name:<46} {'identical' if same else 'DIFFERENT'}" for name, same in self.same.items()]
        verdict = "the same to the bit" if all(self.same.values()) else "NOT the same"
        if len(killed) < self.kills:
            verdict += f", but the run ended before {self.kills} kills had fallen; give it more rows, or fewer KILLS"
        return "\n".join([*lines, f"killed {len(killed)} times: {verdict}"])


def drill(recipe: Recipe, framework: str, kills: int = 5, attention: str = "stock", seed: int = 0) -> Report:
    """Run the recipe undisturbed and killed `kills` times, and compare. Raises UserError, RunFailure."""
    with tempfile.TemporaryDirectory(prefix="drill-") as temporary:
        folder = Path(temporary)
        started = Watch()
        start(recipe, framework, attention, seed, folder / "undisturbed", started)
        seconds = dict(started.seconds)
        every = recipe.train.save_every or max(1, started.num_updates // CHECKPOINTS)
        often = recipe.override({"train.save_every": every})
        parts = []
        for moment in [*moments(kills, seed, started.num_updates, recipe.train.epochs), None]:
            watch = Watch(moment, seconds)
            start(often, framework, attention, seed, folder / "killed", watch)
            parts.append(watch.part)
            seconds |= watch.seconds
            if watch.part.killed is None:
                break
        title = f"{recipe.name} {framework}/{attention} seed {seed}: {started.num_updates} updates in "
        title += f"{recipe.train.epochs} epochs, a checkpoint every {every}"
        return Report(title, kills, parts, compare(folder / "undisturbed", folder / "killed"))


def moments(kills: int, seed: int, num_updates: int, num_epochs: int) -> list[Moment]:
    """Moments spread over the phases and the length of the run, in the order in which a run meets them."""
    rng, found = np.random.default_rng([seed, kills]), []
    for i in range(kills):
        phase = PHASES[i % len(PHASES)]
        # Each in its own stretch of the run, so that they do not crowd.
        update = max(1, int((i + rng.random()) / kills * 0.95 * num_updates))
        if phase == "evaluation":  # the end of its epoch
            per_epoch = num_updates // num_epochs
            update = -(-update // per_epoch) * per_epoch
        found.append(Moment(phase, update, float(rng.random())))
    return sorted(found, key=lambda moment: moment.update)


def compare(first: Path, second: Path) -> dict[str, bool]:
    """Whether each thing that two runs of one recipe leave is the same; seconds are left out."""
    ours, theirs = outcome(first), outcome(second)
    return {name: ours[name] == theirs[name] for name in ours}


def outcome(folder: Path) -> dict[str, Any]:
    """All of a finished run that must not depend on whether it was ever stopped."""
    directory = RunDirectory(folder)
    record, probe = directory.record().model_dump(), directory.probe()
    return {
        "model weights": sha256_of_file(directory.weights_file),
        "predictions": directory.predictions_file.read_bytes(),
        "history but its seconds": [step.model_dump(exclude={"seconds"}) for step in directory.history()],
        "probe logits": [probe.before.tobytes(), probe.after.tobytes()],
        "metrics": {k: record.get(k) for k in ("metrics", "evaluations", "kept_epoch", "test", "data")},
    }


class Watch:
    """Follows a run in another process, tells when to kill it, and takes the time of each phase."""

    def __init__(self, moment: Moment | None = None, seconds: dict[str, float] | None = None):
        self.moment, self.usual, self.part = moment, seconds or {}, Part()
        self.seconds: dict[str, float] = {}
        self.began, self.since = time.monotonic(), time.monotonic()
        self.kill_at = float("inf")
        self.num_updates = 0
        if moment and moment.phase == "start-up":
            self.kill_at = self.began + moment.part * self.usual["start-up"]

    def __call__(self, event: str, value: Any) -> None:
        """Hear one event of the run."""
        now = time.monotonic()
        phase = {"update": "training", "evaluating": "evaluation", "saving": "saving"}.get(event)
        ends = {"started": "start-up", "update": "training", "evaluated": "evaluation", "saved": "saving"}
        if over := ends.get(event):
            self.seconds[over] = now - (self.began if over == "start-up" else self.since)
            self.part.phase = "training"
        self.part.phase = phase or self.part.phase
        self.since = now
        if event == "resumed":
            self.part.resumed_at = value
        elif event == "started":
            self.num_updates = value
        elif event == "update":
            self.part.update = value
        moment = self.moment
        if moment and phase == moment.phase and max(self.part.update, self.part.resumed_at or 0) >= moment.update:
            self.kill_at = min(self.kill_at, now + moment.part * self.usual.get(phase, SAVING_SECONDS))


def start(recipe: Recipe, framework: str, attention: str, seed: int, out: Path, watch: Watch) -> None:
    """Run, or go on with, a recipe in a process of its own until it ends or the watch's moment has come."""
    file = out.with_suffix(".yaml")
    file.write_text(recipe.to_yaml(), encoding="utf-8")
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_run, args=(str(file), framework, attention, seed, str(out), there))
    process.start()
    there.close()
    failure: Exception | None = None
    try:
        while True:
            left = watch.kill_at - time.monotonic()
            if left <= 0:
                process.kill()
                watch.part.killed = watch.moment
                return
            if here.poll(min(left, 1.0)):
                event, value = here.recv()
                if event == "failed":
                    failure = value
                watch(event, value)
    except EOFError:
        process.join()
        if failure is not None:
            raise failure from None
        if process.exitcode:
            raise RunFailure(f"the run's process ended with {process.exitcode}") from None
    finally:
        process.kill()
        process.join()


def _run(file: str, framework: str, attention: str, seed: int, out: str, pipe: Any) -> None:
    """One process of a run."""
    configure_process(framework)
    try:
        from pipeline.training.finetune import finetune

        recipe = load_shipped(file)
        finetune(recipe, framework, attention, seed, out, resume=True, callback=_Telling(pipe.send))
    except (UserError, RunFailure) as error:
        pipe.send(("failed", error))


class _Telling(TrainingCallback):
    """Tells another process each event of a run."""

    def __init__(self, send: Callable[[tuple[str, Any]], None]):
        self.send = send

    def on_train_begin(self, num_updates: int, num_epochs: int) -> None:
        self.send(("started", num_updates))

    def on_resume(self, step: int, notes: list[str]) -> None:
        self.send(("resumed", step))

    def on_step_end(self, record: StepRecord) -> None:
        self.send(("update", record.step))

    def on_evaluate_begin(self, epoch: int) -> None:
        self.send(("evaluating", epoch))

    def on_evaluate_end(self, epoch: int, metrics: dict[str, float]) -> None:
        self.send(("evaluated", epoch))

    def on_save_begin(self, step: int) -> None:
        self.send(("saving", step))

    def on_save_end(self, step: int) -> None:
        self.send(("saved", step))
