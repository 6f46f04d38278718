"""What a tracker offers, whichever it is, and what it is told: the run, points of its curves, and files."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal, Protocol

from pipeline.utils.files import JsonObject

# How a run ended: it is complete, or it can be resumed, or it failed.
Outcome = Literal["finished", "stopped", "failed"]


@dataclass(frozen=True)
class TrackedRun:
    """A run as trackers know it.

    `id` stays the same when the run is resumed, so that each tracker continues its own run. `group` is the recipe's
    name, and `folder` is for a tracker that writes files of its own.
    """

    id: str
    name: str
    group: str
    folder: Path
    hyperparameters: Mapping[str, str | int | float | bool]


@dataclass(frozen=True)
class Point:
    """The values after a step: of the step itself ("train"), or scores of a split ("validation", "test")."""

    kind: str
    step: int
    values: Mapping[str, float]

    def named(self) -> dict[str, float]:
        """The values under the names that trackers show, such as "validation/accuracy"."""
        return {f"{self.kind}/{name}": value for name, value in self.values.items()}


class Tracker(Protocol):
    """One tracker of one run. Making it opens the run; it may raise anything, which ends the tracking alone."""

    def last_step(self, name: str) -> int:
        """The last step of which the tracker has a value of this name, such as "train/loss"; 0 if it has none."""
        ...

    def log(self, points: Sequence[Point]) -> None:
        """Keep some points, in the order of their steps."""
        ...

    def add_files(self, files: Sequence[Path]) -> None:
        """Keep files, pictures as pictures."""
        ...

    def close(self, outcome: Outcome) -> None:
        """End the tracking, with everything written."""
        ...


def client(module: str) -> ModuleType:
    """The client library of a tracker. Raises ImportError that says how it is installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        if error.name is not None and error.name.partition(".")[0] == package:
            raise ImportError(f"{package} is not installed; pip install '.[trackers]'") from error
        raise


def flattened(values: JsonObject, prefix: str = "") -> dict[str, str | int | float | bool]:
    """The settings of a recipe by dotted key; lists as text, and without those that are not set.

    >>> flattened({"train": {"epochs": 3, "freeze": ["a", "b"], "dropout": None}})
    {'train.epochs': 3, 'train.freeze': 'a, b'}
    """
    flat: dict[str, str | int | float | bool] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flattened(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            flat |= {f"{prefix}{key}": ", ".join(map(str, value))} if value else {}
        elif value is not None:
            flat[f"{prefix}{key}"] = value
    return flat
