"""The state of a training: what has been done so far, the time it took, and what a training checkpoint holds of it.

A training checkpoint has two files. `state.json` is a `SavedState`. `state.safetensors` holds arrays under these names:

    weights.0, weights.1, ...   the model's weights, in the framework's own order
    optimizer.*                 the optimizer's moments and counts
    random.*                    the states of the random generators; none if dropout masks are shared
    step, parts                 steps done, and micro-batches per step
    best.0, best.1, ...         the weights of the best epoch so far, in the order of `weights`; only for `keep: best`

All but `best` are the framework's, from `Learner.state`. When the training is over and only its results are still to be
written, the weights alone are kept of them.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import time
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from pipeline.runs.history import Steps, StepsField
from pipeline.runs.record import EvaluationRecord, Record, RunIdentity
from pipeline.utils.files import JsonObject

Arrays = dict[str, NDArray]
WEIGHTS, BEST = "weights", "best"
_MOMENT = re.compile(r"optimizer\.\d+\.\w+")
ARRAYS_FILE, STATE_FILE = "state.safetensors", "state.json"


def numbered(name: str, arrays: Sequence[NDArray]) -> Arrays:
    """The arrays as "name.0", "name.1", ..."""
    return {f"{name}.{i}": array for i, array in enumerate(arrays)}


def in_order(name: str, arrays: Arrays) -> list[NDArray]:
    """The arrays "name.0", "name.1", ..., in this order."""
    return [arrays[f"{name}.{i}"] for i in range(len(starting_with(name, arrays)))]


def starting_with(name: str, arrays: Arrays) -> Arrays:
    """The arrays whose names start with "name."."""
    return {key: array for key, array in arrays.items() if key.startswith(f"{name}.")}


def are_finite(arrays: Arrays) -> bool:
    """Whether no array has a NaN or an infinity."""
    return all(np.isfinite(array).all() for array in arrays.values())


def refuse_other_arrays(arrays: Arrays, current: Arrays, is_over: bool) -> None:
    """Raise ValueError if a training checkpoint's arrays are not those of a model, which is in the state `current`.

    Only a framework knows the moments of an optimizer that has not taken a step, so not all of these are in `current`.
    """
    weights = starting_with(WEIGHTS, current)
    wanted = dict(weights if is_over else current)
    if starting_with(BEST, arrays):
        wanted |= numbered(BEST, in_order(WEIGHTS, weights))
    for name, array in wanted.items():
        if name not in arrays:
            raise ValueError(f"{ARRAYS_FILE} has no {name}")
        if (found := _described(arrays[name])) != _described(array):
            raise ValueError(f"{ARRAYS_FILE} has {name} as {found}, but the model's is {_described(array)}")
    has_moments = bool(starting_with("optimizer", wanted))
    for name in arrays:
        if name not in wanted and (has_moments or is_over or not _MOMENT.fullmatch(name)):
            raise ValueError(f"{ARRAYS_FILE} has {name}, but the model has nothing of that name")


def _described(array: NDArray) -> str:
    return f"{array.dtype} {list(array.shape)}"


class Evaluation(Record):
    """The scores of a split after an epoch, and its lines of predictions.jsonl."""

    epoch: int
    metrics: dict[str, float]
    rows: list[dict[str, object]]

    def is_better_than(self, other: Evaluation | None, metric: str, lower_is_better: bool) -> bool:
        """Whether the metric is better than in an earlier evaluation; anything is better than none or NaN."""
        if other is None or math.isnan(other.metrics[metric]):
            return True
        value, earlier = self.metrics[metric], other.metrics[metric]
        return value < earlier if lower_is_better else value > earlier


class TrainingState(BaseModel):
    """What a run has done so far, all but its arrays."""

    # The aliases are the names in state.json, which older versions read and wrote.
    model_config = ConfigDict(strict=True, populate_by_name=True)

    history: StepsField = Field(default_factory=Steps)
    evaluations: list[EvaluationRecord] = Field(
        default_factory=list, validation_alias="scores", serialization_alias="scores"
    )
    last: Evaluation | None = None
    best: Evaluation | None = None
    is_over: bool = False
    resumed_at: list[int] = Field(default_factory=list)
    peak_memory_bytes: int = 0
    compilations: int = 0
    attention_implementation: str | None = None
    micro_batches: int = Field(1, validation_alias="parts", serialization_alias="parts")
    tracking_id: str = ""
    """By which trackers know the run; empty if it has none."""

    @property
    def steps_done(self) -> int:
        """Optimizer steps done."""
        return len(self.history)

    @property
    def epochs_done(self) -> int:
        """Epochs whose evaluation is done, too."""
        return len(self.evaluations)

    def refuse_other_plan(self, num_steps: int, num_epochs: int) -> None:
        """Raise ValueError if this cannot be the state of a training of so many steps and epochs."""
        numbers = [line["step"] for line in self.history.lines()]
        if numbers != list(range(1, len(numbers) + 1)) or len(numbers) > num_steps:
            raise ValueError(f"{STATE_FILE} has the history of other steps than 1 to {num_steps} at most")
        whole_epochs = len(numbers) * num_epochs // num_steps
        if [record.epoch for record in self.evaluations] != list(range(1, self.epochs_done + 1)) or (
            self.epochs_done not in (whole_epochs, whole_epochs - 1)
        ):
            raise ValueError(f"{STATE_FILE} has the evaluations of other epochs than its steps")


class SavedState(TrainingState):
    """The content of state.json: the training's state, and what tells whether a run may resume from it."""

    step: int
    """Optimizer steps done."""
    identity: RunIdentity
    experiment: JsonObject
    """What decides the outcome of the recipe: `Recipe.experiment`."""
    fingerprints: dict[str, str | None]
    """Of the data and of the pretrained weights."""
    versions: dict[str, str]
    """Of the framework."""
    seconds: float
    """Training time so far."""
    processes: int = 1
    """The processes that trained together."""

    def content(self) -> Iterator[str]:
        """The text of state.json, a step of the history at a time.

        As one text, and as the objects that it is made of, the history takes eleven times the memory that it has here.
        """
        yield '{"history": ['
        for number, line in enumerate(self.history.lines()):
            yield (", " if number else "") + json.dumps(line)
        # JSON with NaN, which an undefined metric needs to come back as it was.
        yield "], " + json.dumps(self.model_dump(by_alias=True, exclude={"history"})).removeprefix("{")

    def training_state(self) -> TrainingState:
        """The state with which the training resumes."""
        return TrainingState(**{name: getattr(self, name) for name in TrainingState.model_fields})


class Clock:
    """Training time: runs from `start`, stands still between `pause` and the next `start`."""

    def __init__(self, total_seconds: float = 0.0):
        self.total_seconds = total_seconds
        self._running_since: float | None = None

    def start(self) -> None:
        """Let the time run."""
        self._running_since = time.perf_counter()

    def pause(self) -> None:
        """Stop the time until the next `start`."""
        self.total_seconds, self._running_since = self.seconds(), None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What the block takes does not count as training time."""
        was_running = self._running_since is not None
        self.pause()
        yield
        if was_running:
            self.start()

    def seconds(self) -> float:
        """Training time until now."""
        running = 0.0 if self._running_since is None else time.perf_counter() - self._running_since
        return self.total_seconds + running
