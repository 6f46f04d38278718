"""The kill test: a run that is killed again and again must end identical to the bit to one that never stopped.

One run is left alone. Another is killed at moments drawn from a seed, in start-up, training, evaluation, saving and
while its results are written, and each time resumes from its newest training checkpoint. Then everything that the two
leave is compared. Of a run in several processes, any of them or the one that started them is killed, and all have to
end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.recipe.schema import Recipe
from pipeline.runs.directory import Run, RunDirectory
from pipeline.runs.record import StepRecord
from pipeline.training.callbacks import TrainingCallback
from pipeline.training.signals import StopOnSignal
from pipeline.utils.errors import RunFailure, Stopped
from pipeline.utils.files import scratch_folder
from pipeline.utils.hashing import sha256_of_file
from pipeline.utils.processes import Child, EndedBySignal, ProcessError, is_running
from pipeline.utils.text import count

# "final save" is writing the run directory, which appears at its end.
PHASES = ("training", "saving", "evaluation", "start-up", "final save")
# Which signals end a run: it cannot handle the first way; it saves itself after the second, but not after the third.
WAYS = {
    "SIGKILL": (signal.SIGKILL,),
    "SIGTERM": (signal.SIGTERM,),
    "double SIGINT": (signal.SIGINT, signal.SIGINT),
}
# How long saving a training checkpoint is taken to last until one has been timed.
SAVING_SECONDS = 0.05
# How many training checkpoints a run saves if its recipe asks for none.
NUM_CHECKPOINTS = 20
# How long a run has to end after a signal that it can handle.
GRACE_SECONDS = 60.0


@dataclass(frozen=True)
class Moment:
    """When to kill: in which phase, not before which step, after which fraction of the phase's usual time; and how.

    `rank` is that of the process to kill; None is the only one, or the one that started the others.
    """

    phase: str
    step: int
    fraction: float
    way: str = "SIGKILL"
    rank: int | None = None


@dataclass
class Segment:
    """What one process of a run reported until it ended or was killed."""

    resumed_at: int | None = None
    last_step: int = 0
    phase: str = "start-up"
    killed_in: str | None = None
    killed: str = ""
    seconds_to_end: float = 0.0


@dataclass(frozen=True)
class Kill:
    """Which process was killed, in which phase, after which step; where the run was resumed, None if it was over.

    `seconds` is how long all processes of the run then took to end.
    """

    killed: str
    phase: str
    step: int
    resumed_at: int | None
    seconds: float


@dataclass(frozen=True)
class KillTestReport:
    """The processes of the killed run, and whether each thing that it left is identical to the other run's."""

    title: str
    num_kills: int
    segments: list[Segment]
    identical: dict[str, bool]

    @property
    def passed(self) -> bool:
        """Whether the run was killed as often as planned and everything is identical."""
        return all(self.identical.values()) and len(self.kills()) == self.num_kills

    def as_text(self) -> str:
        """A line for each kill, one for each thing compared, and a verdict."""
        lines = [self.title]
        for number, kill in enumerate(self.kills(), start=1):
            killed = f"killed{kill.killed} in {kill.phase} after step {kill.step}"
            after = "its results were complete"
            if kill.resumed_at is not None:
                after = f"resumed after step {kill.resumed_at}, {kill.step - kill.resumed_at} repeated"
            if kill.killed:
                after += f"; all had ended after {kill.seconds:.1f} s"
            lines.append(f"  {number:>2}  {killed:<42} {after}")
        lines += [f"  {name:<46} {'identical' if same else 'DIFFERENT'}" for name, same in self.identical.items()]
        verdict = "identical to the bit" if all(self.identical.values()) else "NOT identical"
        if len(self.kills()) < self.num_kills:
            verdict += f", but the run ended before it was killed {self.num_kills} times; use more rows or fewer kills"
        return "\n".join([*lines, f"killed {len(self.kills())} times: {verdict}"])

    def kills(self) -> list[Kill]:
        """Each kill: where it fell, and where the run was resumed after it."""
        kills, reached = [], 0
        for number, segment in enumerate(self.segments, start=1):
            reached = max(segment.last_step, reached if segment.resumed_at is None else segment.resumed_at)
            later = (after.resumed_at for after in self.segments[number:])
            resumed_at = next((step for step in later if step is not None), None)
            if segment.killed_in is not None:
                kills.append(Kill(segment.killed, segment.killed_in, reached, resumed_at, segment.seconds_to_end))
                reached = reached if resumed_at is None else resumed_at
        return kills


def kill_test(
    recipe: Recipe,
    framework: str = "torch",
    num_kills: int = 5,
    attention: str = "stock",
    seed: int = 0,
    kills: Sequence[tuple[str, str]] | None = None,
    processes: int = 1,
) -> KillTestReport:
    """Train the recipe undisturbed, train it again killed `num_kills` times, and compare. Raises UserError, RunFailure.

    Both runs are written to a temporary folder. `kills` has a phase and a way for each kill; by default the phases take
    turns, and all are killed by SIGKILL. With several `processes`, which of them is killed is drawn from the seed.
    """
    if kills is None:
        kills = [(PHASES[i % len(PHASES)], "SIGKILL") for i in range(num_kills)]
    recipe = recipe.override({"train.trackers": ()})  # these runs are thrown away
    with scratch_folder("kill-test") as temporary:
        undisturbed, killed = temporary / "undisturbed", temporary / "killed"
        reference = Watch()
        train_watched(recipe, framework, attention, seed, undisturbed, reference, processes)
        seconds = dict(reference.seconds)
        steps_per_epoch, num_steps = reference.num_steps // recipe.train.epochs, reference.segment.last_step
        save_every = recipe.train.save_every or max(1, num_steps // NUM_CHECKPOINTS)
        saving = recipe.override({"train.save_every": save_every})
        segments = []
        for moment in [*kill_moments(kills, seed, num_steps, steps_per_epoch, processes), None]:
            watch = Watch(moment, seconds)
            train_watched(saving, framework, attention, seed, killed, watch, processes)
            segments.append(watch.segment)
            seconds |= watch.seconds
            if watch.segment.killed_in is None:
                break
        title = f"{recipe.name} {framework}/{attention} seed {seed}: {count(num_steps, 'step')} in "
        title += f"{count(num_steps // steps_per_epoch, 'epoch')}, a training checkpoint every {save_every}"
        title += f", {processes} processes" if processes > 1 else ""
        return KillTestReport(title, len(kills), segments, compare_runs(undisturbed, killed))


def kill_moments(
    kills: Sequence[tuple[str, str]], seed: int, num_steps: int, steps_per_epoch: int, processes: int = 1
) -> list[Moment]:
    """Moments spread over the length of the run, in the order in which a run reaches them.

    `kills` has a phase and a way for each; `num_steps` is how many steps the run takes.
    """
    rng, moments = np.random.default_rng([seed, len(kills)]), []
    for i, (phase, way) in enumerate(kills):
        # Each in its own stretch of the run, so that they do not crowd.
        step, fraction = max(1, int((i + rng.random()) / len(kills) * 0.95 * num_steps)), float(rng.random())
        if phase == "evaluation":  # the end of its epoch
            step = -(-step // steps_per_epoch) * steps_per_epoch
        if phase == "final save":  # in its first half, since nothing comes after it
            step, fraction = num_steps, fraction / 2
        # Any of them, or the process that started them.
        drawn = None if processes == 1 else int(rng.integers(-1, processes))
        moments.append(Moment(phase, step, fraction, way, None if drawn == -1 else drawn))
    return sorted(moments, key=lambda moment: (moment.step, moment.phase == "final save"))


def compare_runs(first: Path, second: Path) -> dict[str, bool]:
    """Whether each thing that two runs of one recipe leave is identical; measured seconds are left out."""
    ours, theirs = _contents(first), _contents(second)
    return {name: ours[name] == theirs[name] for name in ours}


def _contents(folder: Path) -> dict[str, object]:
    """All of a finished run that must not depend on whether it was ever stopped."""
    directory = RunDirectory(folder)
    record, probe = directory.record().model_dump(), directory.probe()
    return {
        "model weights": sha256_of_file(directory.weights_file),
        "predictions": directory.predictions_file.read_bytes(),
        "history except its seconds": [step.model_dump(exclude={"seconds"}) for step in directory.history()],
        "probe logits": [probe.before.tobytes(), probe.after.tobytes()],
        "metrics": {k: record.get(k) for k in ("metrics", "evaluations", "kept_epoch", "test", "data")},
    }


_BEGINS = {"step": "training", "evaluating": "evaluation", "saving": "saving", "writing": "final save"}
_ENDS = {
    "started": "start-up", "step": "training", "evaluated": "evaluation", "saved": "saving", "written": "final save",
}  # fmt: skip


class Watch:
    """Follows a run in another process, decides when to kill it, and takes the time of each phase."""

    def __init__(self, moment: Moment | None = None, usual_seconds: dict[str, float] | None = None):
        self.moment, self.usual_seconds, self.segment = moment, usual_seconds or {}, Segment()
        self.seconds: dict[str, float] = {}
        self.began = self.since = time.monotonic()
        self.kill_at = float("inf")
        self.num_steps = 0
        self.pids: list[int] = []
        if moment and moment.phase == "start-up":
            self.kill_at = self.began + moment.fraction * self.usual_seconds["start-up"]

    def on_event(self, event: str, value: int) -> None:
        """Note one event of the run."""
        now = time.monotonic()
        begins, ends = _BEGINS.get(event), _ENDS.get(event)
        if ends:
            self.seconds[ends] = now - (self.began if ends == "start-up" else self.since)
            self.segment.phase = "training"
        self.segment.phase = begins or self.segment.phase
        self.since = now
        if event == "resumed":
            self.segment.resumed_at = value
        elif event == "started":
            self.num_steps = value
        elif event == "step":
            self.segment.last_step = value
        moment, reached = self.moment, max(self.segment.last_step, self.segment.resumed_at or 0)
        if moment and begins == moment.phase and reached >= moment.step:
            delay = moment.fraction * self.usual_seconds.get(moment.phase, SAVING_SECONDS)
            self.kill_at = min(self.kill_at, now + delay)


def train_watched(
    recipe: Recipe, framework: str, attention: str, seed: int, out: Path, watch: Watch, processes: int = 1
) -> None:
    """Train in a process of its own, resuming if there is something to resume, until it ends or the watch kills it."""
    arguments = (recipe, framework, attention, seed, out, processes)
    with Child(_train, *arguments, framework=framework, sends_events=True) as child:
        while not child.has_ended:
            seconds_left = watch.kill_at - time.monotonic()
            if seconds_left <= 0 and watch.moment is not None:
                phase = watch.segment.phase
                if _end(child, watch, watch.moment):
                    watch.segment.killed_in = phase
                return
            event = child.next_event(max(0.0, min(seconds_left, 1.0)))
            _note(event, watch)
        child.result()


def _note(event: object, watch: Watch) -> None:
    if isinstance(event, list):  # of a run in several processes
        watch.pids = event
    elif isinstance(event, tuple):
        watch.on_event(*event)


def _end(child: Child[None], watch: Watch, moment: Moment) -> bool:
    """End a run in the way of a moment; returns whether that was before its own end."""
    began, rank = time.monotonic(), moment.rank if watch.pids else None
    for i, number in enumerate(WAYS[moment.way]):
        if i > 0:  # in the middle of the saving that the first one began
            time.sleep(moment.fraction * watch.usual_seconds.get("saving", SAVING_SECONDS))
        if rank is None:
            child.send_signal(number)
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(watch.pids[rank], number)
    if watch.pids:
        watch.segment.killed = " the launcher" if rank is None else f" rank {rank}"
    until = time.monotonic() + GRACE_SECONDS
    while not child.has_ended:
        if time.monotonic() > until:
            raise RunFailure(f"the run did not end within {GRACE_SECONDS:.0f} seconds after {moment.way}")
        _note(child.next_event(1.0), watch)
    while any(map(is_running, watch.pids)):
        if time.monotonic() > until:
            raise RunFailure(f"processes of the run still run {GRACE_SECONDS:.0f} seconds after {moment.way}")
        time.sleep(0.02)
    watch.segment.seconds_to_end = time.monotonic() - began
    try:
        child.result()
    except Stopped:
        return True
    except (EndedBySignal, ProcessError) as error:
        was_killed = isinstance(error, EndedBySignal) and error.number in WAYS[moment.way]
        if was_killed or "KeyboardInterrupt" in str(error):  # the latter before or after it listens
            return True
        raise
    except RunFailure as error:
        if rank is None or f"rank {rank} of " not in str(error):
            raise
        return True
    return False


def _train(
    send: Callable[[tuple[str, int] | list[int]], None], recipe: Recipe, framework: str, attention: str, seed: int,
    out: Path, processes: int,
) -> None:  # fmt: skip
    from pipeline.training.finetune import finetune

    # A process in the background may have been told to ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    finetune(
        recipe, framework, attention, seed, out, resume=True, processes=processes, stop=StopOnSignal(),
        callback=_EventSender(send),
    )  # fmt: skip


class _EventSender(TrainingCallback):
    """Sends each event of a run to another process."""

    def __init__(self, send: Callable[[tuple[str, int] | list[int]], None]):
        self.send = send

    def on_launch(self, pids: list[int]) -> None:
        self.send(pids)

    def on_train_begin(self, num_steps: int, num_epochs: int) -> None:
        self.send(("started", num_steps))

    def on_resume(self, step: int, notes: list[str]) -> None:
        self.send(("resumed", step))

    def on_step_end(self, record: StepRecord) -> None:
        self.send(("step", record.step))

    def on_evaluate_begin(self, epoch: int) -> None:
        self.send(("evaluating", epoch))

    def on_evaluate_end(self, epoch: int, metrics: dict[str, float]) -> None:
        self.send(("evaluated", epoch))

    def on_save_begin(self, step: int) -> None:
        self.send(("saving", step))

    def on_save_end(self, step: int) -> None:
        self.send(("saved", step))

    def on_train_end(self) -> None:
        self.send(("writing", 0))

    def on_run_end(self, run: Run) -> None:
        self.send(("written", 0))
