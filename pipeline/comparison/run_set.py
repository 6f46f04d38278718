"""The runs of a comparison: read from their directories, named by variant, refused if they cannot be compared."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.recipe.schema import Recipe
from pipeline.runs.directory import RunDirectory
from pipeline.runs.model_files import refuse_altered
from pipeline.runs.record import EnvironmentRecord, RunRecord, StepRecord
from pipeline.runs.validation import refuse_unlike_a_run
from pipeline.utils.errors import UserError
from pipeline.utils.files import JsonObject
from pipeline.utils.text import flatten

# Where files lie is not part of an experiment; fingerprints say whether they are the same files.
LOCATIONS = ("checkpoint", "data.files.train", "data.files.validation", "data.files.test")
# Settings that the comparison reads, not the run.
NOT_READ_BY_RUNS = ("name", "margin")


@dataclass(frozen=True)
class ComparedRun:
    """One run of a comparison: what it left in its directory, or the end of its log if it failed."""

    framework: str
    attention: str
    seed: int
    path: Path
    recipe: Recipe
    variant: str = ""
    record: RunRecord | None = None
    environment: EnvironmentRecord | None = None
    history: list[StepRecord] = field(default_factory=list)
    predictions: list[JsonObject] = field(default_factory=list)
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
        return self.record.metrics if self.record else {}

    @property
    def completed_record(self) -> RunRecord:
        """The record of a completed run; a failed one has none."""
        assert self.record is not None, f"{self.label} failed"
        return self.record

    @property
    def batches(self) -> list[str]:
        """A digest of each epoch's batches; empty for runs of a version that did not record them."""
        return self.record.batches if self.record else []

    @property
    def predicts(self) -> bool:
        """Whether there is one prediction for each example; language models have none."""
        return bool(self.predictions) and "prediction" in self.predictions[0]

    @cached_property
    def settings(self) -> JsonObject:
        """The recipe's settings by dotted key, without locations and without what no run reads; LoRA's are one text."""
        values, lora = self.recipe.model_dump(mode="json"), self.recipe.train.lora
        values["train"]["lora"] = None if lora is None else str(lora)
        flat = flatten(values)
        return {key: value for key, value in flat.items() if key not in (*LOCATIONS, *NOT_READ_BY_RUNS)}

    def column(self, name: str) -> NDArray[np.float64]:
        """A column of history.jsonl, [steps]."""
        return np.array([getattr(step, name) for step in self.history], dtype=np.float64)

    def sizes(self) -> NDArray[np.float64]:
        """The numbers of examples and tokens of each step, [steps, 2]."""
        return np.stack([self.column("examples"), self.column("tokens")], axis=1)


def read_run(path: str | os.PathLike[str]) -> ComparedRun:
    """Read a finished run's directory. Raises UserError if it is not one or cannot be read."""
    directory = RunDirectory(Path(path))
    record = directory.record()
    try:
        history, predictions, probe = directory.history(), directory.predictions(), directory.probe()
        refuse_unlike_a_run(directory, record, history, predictions, probe)
        refuse_altered(directory.model_folder, record.model_files, thorough=False)
        return ComparedRun(
            record.framework, record.attention, record.seed, directory.path, directory.recipe(),
            record=record,
            environment=directory.environment(),
            history=history,
            predictions=predictions,
            probe=probe.before,
        )  # fmt: skip
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} is not a complete run: {type(error).__name__}: {error}") from error


def with_variants(runs: Iterable[ComparedRun]) -> list[ComparedRun]:
    """The runs with the names of their variants.

    A variant is framework/attention; if that has runs of several recipes, also the settings that tell these apart, as
    few as do. Raises UserError if two runs would have the same variant and seed.
    """
    runs = list(runs)
    groups = defaultdict(list)
    for run in runs:
        groups[f"{run.framework}/{run.attention}"].append(run)
    named = []
    for run in runs:
        name = f"{run.framework}/{run.attention}"
        settings = _told_apart(run, groups[name])
        named.append(replace(run, variant=f"{name} ({', '.join(settings)})" if settings else name))
    by_label: dict[str, ComparedRun] = {}
    for run in named:
        other = by_label.setdefault(run.label, run)
        if other is not run:
            raise UserError(f"{other.path} and {run.path} are both {run.label}; give only one of them")
    return named


def _told_apart(run: ComparedRun, group: list[ComparedRun]) -> list[str]:
    """The settings by which the recipe of a run differs from those of its group, as in "lora=rank 8, alpha 16"."""
    keys = differing_keys(group)
    # LoRA first: its runs usually have another learning rate, too.
    ordered = sorted(keys, key=lambda key: key != "train.lora")
    chosen: list[str] = []
    for key in ordered:
        if _num_recipes(group, [*chosen, key]) > _num_recipes(group, chosen):
            chosen.append(key)
    short = {key: key.rpartition(".")[2] for key in keys}
    names = {key: key if list(short.values()).count(short[key]) > 1 else short[key] for key in chosen}
    return [f"{names[key]}={_as_text(run.settings.get(key))}" for key in keys if key in chosen]


def _num_recipes(runs: list[ComparedRun], keys: list[str]) -> int:
    """How many combinations of values of these settings the runs have."""
    return len({json.dumps([run.settings.get(key) for key in keys]) for run in runs})


def differing_keys(runs: Iterable[ComparedRun]) -> list[str]:
    """The settings that are not the same in all of the runs, in the recipe's order."""
    runs = list(runs)
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    return [key for key in keys if len({json.dumps(run.settings.get(key)) for run in runs}) > 1]


def refuse_incomparable(runs: list[ComparedRun], remedy: str = "", arguments: tuple[str, ...] = ()) -> None:
    """Raise UserError, naming runs and values and the remedy, if tasks, checkpoints, data or metrics differ."""
    properties: dict[str, Callable[[ComparedRun], str]] = {
        "task": lambda run: run.recipe.task,
        "checkpoint": lambda run: run.completed_record.checkpoint_fingerprint or f"{run.recipe.weights} weights",
        "data": lambda run: run.completed_record.data.fingerprint,
        "metrics": lambda run: ", ".join(dict.fromkeys(name.partition(".")[0] for name in run.metrics)),
    }
    first, problems = runs[0], []
    for name, value_of in properties.items():
        for other in runs[1:]:
            if value_of(other) != value_of(first):
                problems.append(f"{name}: {first.path} has {value_of(first)}, but {other.path} has {value_of(other)}")
                break
    if problems:
        raise UserError("these runs cannot be compared:\n" + "\n".join(problems) + remedy, arguments=arguments)


def by_variant(runs: Iterable[ComparedRun]) -> dict[str, list[ComparedRun]]:
    """The runs of each variant, in the order of their first runs."""
    groups: dict[str, list[ComparedRun]] = {}
    for run in runs:
        groups.setdefault(run.variant, []).append(run)
    return groups


def variant_pairs(runs: Iterable[ComparedRun]) -> list[tuple[str, str]]:
    """The pairs of variants to compare: those that differ in one thing only, so that a difference has one cause.

    A variant without such a partner is compared with the first one.
    """
    properties = {
        name: (group[0].framework, group[0].attention, name.removeprefix(f"{group[0].framework}/{group[0].attention}"))
        for name, group in by_variant(runs).items()
    }
    pairs = [
        (a, b)
        for a, b in combinations(properties, 2)
        if sum(x != y for x, y in zip(properties[a], properties[b], strict=True)) == 1
    ]
    first, *others = properties
    alone = [name for name in others if not any(name in pair for pair in pairs)]
    return pairs + [(first, name) for name in alone]


def runs_of_shared_seeds(runs: Iterable[ComparedRun], first: str, second: str) -> list[tuple[ComparedRun, ComparedRun]]:
    """The completed runs of two variants, seed by seed."""
    completed = {(run.variant, run.seed): run for run in runs if run.completed}
    seeds = sorted({seed for _, seed in completed})
    return [
        (completed[first, seed], completed[second, seed])
        for seed in seeds
        if (first, seed) in completed and (second, seed) in completed
    ]


def _as_text(value: object) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)
