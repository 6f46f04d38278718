"""Runs as a comparison sees them: read from their directories, named by variant, refused where they do not compare."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.recipe.schema import Recipe
from pipeline.runs.directory import RunDirectory
from pipeline.utils.errors import UserError
from pipeline.utils.text import flatten

# Where things lie is no part of an experiment, and its fingerprints say whether they are the same things.
PLACES = ("checkpoint", "data.files.train", "data.files.validation", "data.files.test")
# Read by the comparison, not by the run.
NOT_OF_A_RUN = ("name", "margin")


@dataclass(frozen=True)
class Outcome:
    """What one run left; of a failed one, the end of its log."""

    framework: str
    attention: str
    seed: int
    path: Path
    recipe: Recipe
    variant: str = ""
    report: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    predictions: list[dict[str, Any]] = field(default_factory=list)
    probe: NDArray | None = None
    log_tail: str | None = None

    @property
    def completed(self) -> bool:
        return self.log_tail is None

    @property
    def label(self) -> str:
        return f"{self.variant} seed {self.seed}"

    @property
    def metrics(self) -> dict[str, float | None]:
        return self.report.get("metrics", {})

    @property
    def batches(self) -> list[str]:
        """A digest of the rows of every update for each epoch; none of runs made before there were any."""
        return self.report.get("batches", [])

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The recipe's settings by dotted key, without places and what no run reads."""
        flat = flatten(self.recipe.model_dump(mode="json"))
        return {key: value for key, value in flat.items() if key not in (*PLACES, *NOT_OF_A_RUN)}

    def column(self, name: str) -> NDArray[np.float64]:
        """A column of history.jsonl."""
        return np.array([line.get(name) for line in self.history], dtype=np.float64)


def read_outcome(path: str | os.PathLike) -> Outcome:
    """A finished run's directory. Raises UserError where it is none, or cannot be read."""
    path = Path(path)
    directory = RunDirectory(path)
    record = directory.record()
    try:
        return Outcome(
            record.framework, record.attention, record.seed, path, directory.recipe(),
            report=record.model_dump(),
            environment=directory.environment().model_dump(),
            history=[step.model_dump() for step in directory.history()],
            predictions=directory.predictions(),
            probe=directory.probe().before,
        )  # fmt: skip
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} is not a whole run: {type(error).__name__}: {error}") from error


def named(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """The runs with their variants' names: framework/attention, and where those have runs of several recipes the
    settings that tell them apart. Raises UserError where two runs would be the same one."""
    outcomes = list(outcomes)
    groups = defaultdict(list)
    for outcome in outcomes:
        groups[f"{outcome.framework}/{outcome.attention}"].append(outcome)
    found = []
    for outcome in outcomes:
        name = f"{outcome.framework}/{outcome.attention}"
        keys = differing_keys(groups[name])
        suffix = "".join(f" {key}={_short(outcome.settings.get(key))}" for key in keys)
        found.append(replace(outcome, variant=name + suffix))
    by_label: dict[str, Outcome] = {}
    for outcome in found:
        other = by_label.setdefault(outcome.label, outcome)
        if other is not outcome:
            raise UserError(f"{other.path} and {outcome.path} are both {outcome.label}; give one of them")
    return found


def differing_keys(outcomes: Iterable[Outcome]) -> list[str]:
    """The settings that are not the same in all of the runs, in the recipe's order."""
    outcomes = list(outcomes)
    keys = dict.fromkeys(key for outcome in outcomes for key in outcome.settings)
    return [key for key in keys if len({json.dumps(outcome.settings.get(key)) for outcome in outcomes}) > 1]


def refuse_incomparable(outcomes: list[Outcome], remedy: str = "") -> None:
    """Raise UserError, naming runs and values and the remedy, where tasks, checkpoints, data or metrics differ."""
    kinds = {
        "task": lambda run: run.recipe.task,
        "checkpoint": lambda run: run.report.get("checkpoint_fingerprint") or f"{run.recipe.weights} weights",
        "data": lambda run: run.report["data"]["fingerprint"],
        "metrics": lambda run: ", ".join(dict.fromkeys(name.partition(".")[0] for name in run.metrics)),
    }
    first, problems = outcomes[0], []
    for name, of in kinds.items():
        for other in outcomes[1:]:
            if of(other) != of(first):
                problems.append(f"{name}: {first.path} has {of(first)}, but {other.path} has {of(other)}")
                break
    if problems:
        raise UserError("these runs do not compare:\n" + "\n".join(problems) + remedy)


def variants(outcomes: Iterable[Outcome]) -> dict[str, list[Outcome]]:
    """The runs of each variant, in the order of their first ones."""
    found: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.variant, []).append(outcome)
    return found


def pairs(outcomes: Iterable[Outcome]) -> list[tuple[str, str]]:
    """The variants to hold against each other: those that differ in one thing only, so that what is found has one
    cause; a variant that has no such partner is held against the first."""
    parts = {
        name: (runs[0].framework, runs[0].attention, name.partition(" ")[2])
        for name, runs in variants(outcomes).items()
    }
    chosen = [
        (a, b) for a, b in combinations(parts, 2) if sum(x != y for x, y in zip(parts[a], parts[b], strict=True)) == 1
    ]
    first, *others = parts
    alone = [name for name in others if not any(name in pair for pair in chosen)]
    return chosen + [(first, name) for name in alone]


def shared_seeds(outcomes: Iterable[Outcome], first: str, second: str) -> list[tuple[Outcome, Outcome]]:
    """The completed runs of both variants, seed by seed."""
    runs = {(run.variant, run.seed): run for run in outcomes if run.completed}
    seeds = sorted({seed for _, seed in runs})
    return [(runs[first, s], runs[second, s]) for s in seeds if (first, s) in runs and (second, s) in runs]


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
