"""The run directory: its place, the names of its files, whether it may be written, and readers for what it holds."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.recipe.loading import load_resolved
from pipeline.recipe.schema import Recipe
from pipeline.runs.model_files import refuse_altered
from pipeline.runs.notebook import run_html
from pipeline.runs.record import EnvironmentRecord, Metrics, RunIdentity, RunRecord, StepRecord, parse_record
from pipeline.utils.errors import UserError
from pipeline.utils.files import (
    JsonObject,
    is_beside,
    locked,
    read_json_lines,
    refuse_locked,
    staged_folder,
    written_beside,
)
from pipeline.utils.text import count, one_line

RECIPE, METRICS, HISTORY, PREDICTIONS = "recipe.yaml", "metrics.json", "history.jsonl", "predictions.jsonl"
PROBE, ENVIRONMENT, MODEL = "probe.npz", "environment.json", "model"
# Ends the name of the folder beside a run in which TensorBoard finds it.
TENSORBOARD = ".tensorboard"
# Of a run that trained updates of low rank.
ADAPTER = "adapter"
# Only while a run trains.
PROGRESS = "progress.json"
# Everything that a finished run holds.
CONTENTS = frozenset({RECIPE, METRICS, HISTORY, PREDICTIONS, PROBE, ENVIRONMENT, MODEL})
# What may be drawn of it later.
ATTENTION_MAPS = "attention.png"
# Everything that may be in its model/.
MODEL_CONTENTS = frozenset({
    "README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt",
    "spiece.model", "source.spm", "target.spm", "tokenizer.model", "chat_template.jinja",
})  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A finished run: its directory and its record, which is the content of metrics.json.

    >>> run = load_run("runs/sentiment_bert/torch-stock-seed0")  # doctest: +SKIP
    >>> run.metrics["accuracy"]  # doctest: +SKIP
    0.913
    """

    path: Path
    record: RunRecord

    @property
    def metrics(self) -> Metrics:
        """Validation metrics by name; None for one that is undefined."""
        return self.record.metrics

    @property
    def directory(self) -> RunDirectory:
        """The files of the run."""
        return RunDirectory(self.path)

    def __repr__(self) -> str:
        scores = ", ".join(f"{name} {'undefined' if v is None else f'{v:.4g}'}" for name, v in self.metrics.items())
        return f"<Run {self.record.identity.label}: {scores}; {self.path}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: the scores, and the loss of each step as a curve."""
        history: list[StepRecord] = []
        with contextlib.suppress(UserError, OSError):  # a run whose history is gone still has its scores
            history = self.directory.history()
        return run_html(self.record, history, str(self.path))


@dataclass(frozen=True)
class ProbeLogits:
    """Logits of the first validation rows in file order before and after training, as `Experiment.probe_logits`."""

    before: NDArray[np.float32]
    after: NDArray[np.float32]


@dataclass(frozen=True)
class RunDirectory:
    """The directory of a run, there or not yet: the only place that knows its files' names.

    A run is written in a hidden folder beside it, which takes the directory's name when everything is there. While it
    trains, `history.jsonl` grows in that folder, `.<name>.partial-<process id>-<machine>/`, by a line per step.
    """

    path: Path

    @classmethod
    def default(cls, recipe: Recipe, original: Recipe, framework: str, attention: str, seed: int) -> RunDirectory:
        """runs/<recipe>/<framework>-<attention>-seed<seed>, with its digest if overrides changed the original."""
        variant = f"{framework}-{attention.replace(':', '.')}"
        return cls(Path("runs") / recipe.name / f"{variant}-seed{seed}{recipe.suffix(original)}")

    @classmethod
    def at(cls, path: str | os.PathLike) -> RunDirectory:
        """The directory of this path; of a path such as ".", which has no name to put files beside, the whole path."""
        return cls(Path(path) if Path(path).name not in ("", "..") else Path(path).resolve())

    @property
    def recipe_file(self) -> Path:
        """The resolved recipe as YAML."""
        return self.path / RECIPE

    @property
    def metrics_file(self) -> Path:
        """The run's record as JSON, written last."""
        return self.path / METRICS

    @property
    def history_file(self) -> Path:
        """A JSON line for each optimizer step."""
        return self.path / HISTORY

    @property
    def predictions_file(self) -> Path:
        """A JSON line for each validation example."""
        return self.path / PREDICTIONS

    @property
    def probe_file(self) -> Path:
        """The probe's logits as NumPy arrays."""
        return self.path / PROBE

    @property
    def environment_file(self) -> Path:
        """Versions, processor and command as JSON."""
        return self.path / ENVIRONMENT

    @property
    def progress_file(self) -> Path:
        """How far the training is, and its scores so far, while it goes on."""
        return self.path / PROGRESS

    @property
    def model_folder(self) -> Path:
        """The trained model as a stock Hugging Face checkpoint."""
        return self.path / MODEL

    @property
    def weights_file(self) -> Path:
        """The trained model's weights."""
        return self.model_folder / "model.safetensors"

    @property
    def adapter_folder(self) -> Path:
        """The trained updates of `train.lora` and the head, as peft reads them."""
        return self.path / ADAPTER

    @property
    def checkpoints_folder(self) -> Path:
        """The training checkpoints of an unfinished run, beside the directory."""
        return self.path.with_name(f"{self.path.name}.checkpoints")

    @property
    def tensorboard_folder(self) -> Path:
        """The curves of a run that TensorBoard tracks, beside the directory."""
        return self.path.with_name(f"{self.path.name}{TENSORBOARD}")

    def contents(self) -> set[str]:
        """The names of the files and folders in the directory; none if it does not exist."""
        return {entry.name for entry in self.path.iterdir()} if self.path.is_dir() else set()

    def foreign(self) -> list[str]:
        """What lies in the directory, or in its model/, and is of no run; these files must not be lost."""
        model = self.model_folder
        in_model = {entry.name for entry in model.iterdir()} if model.is_dir() and not model.is_symlink() else set()
        strange = self.contents() - CONTENTS - {ADAPTER, ATTENTION_MAPS}
        return sorted(strange | {f"{MODEL}/{name}" for name in in_model - MODEL_CONTENTS})

    def refuse_foreign_files(self) -> None:
        """Raise UserError if replacing the run would delete files that are not its own."""
        if foreign := self.foreign():
            more = f" and {count(len(foreign) - 5, 'other')}" if len(foreign) > 5 else ""
            raise UserError(
                f"{self.path} also holds what no run writes: {', '.join(foreign[:5])}{more}. Replacing the run would "
                "delete it; move it away, or choose another folder with out",
                arguments=("out",),
            )

    @property
    def is_finished(self) -> bool:
        """Whether a finished run lies here."""
        return {RECIPE, METRICS} <= self.contents()

    @property
    def is_unfinished(self) -> bool:
        """Whether remains of a run lie here and nothing else: no metrics.json that can be read as JSON."""
        if not self.contents() or self.foreign():
            return False
        try:
            json.loads(self.metrics_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return True
        return False

    def owns(self, path: Path) -> bool:
        """Whether a path lies in the directory or in what is written beside it, such as its training checkpoints."""
        beside, path = self.path.absolute().parent, path.absolute()
        first = path.relative_to(beside).parts[0] if path.is_relative_to(beside) and path != beside else ""
        beside_it = (self.checkpoints_folder.name, self.tensorboard_folder.name)
        return first in (self.path.name, *beside_it) or is_beside(first, self.path)

    def finished_run(self, recipe: Recipe, identity: RunIdentity, overwrite: bool) -> Run | None:
        """The finished run of the same recipe and identity, or None if a new one may be written here.

        Raises UserError if something else lies here, or beside the files of a run; `overwrite` replaces only those.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is a file; choose a folder for the run with out", arguments=("out",))
        if not self.contents():
            return None
        if not self.is_finished:
            message = f"{self.path} holds something that is not a run; choose another folder with out"
            raise UserError(message, arguments=("out",))
        if overwrite:
            self.refuse_foreign_files()
            return None
        try:
            different = self.differences(recipe, identity)
            if not different:
                return load_run(self.path)
            problem = f"{self.path} holds a run of another {' and '.join(different)}"
        except UserError as error:  # it is damaged
            problem = str(error)
        remedy = "choose another folder with out, or replace that run with overwrite=True"
        raise UserError(f"{problem}; {remedy}", arguments=("out", "overwrite"))

    def differences(self, recipe: Recipe, identity: RunIdentity) -> list[str]:
        """In what the finished run here is another one than that of a recipe and an identity; empty if it is the same.

        Raises UserError if its files cannot be read.
        """
        own = self.record().identity
        different = [name for name, value in identity.model_dump().items() if getattr(own, name) != value]
        if not different and self.recipe().experiment() != recipe.experiment():
            different.append("setting of the recipe")
        return different

    def refuse_if_taken(self) -> None:
        """Raise UserError, before anything is loaded, if the directory cannot be written or another process does."""
        parent = next(folder for folder in self.path.absolute().parents if folder.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise UserError(
                f"{self.path} cannot be written: {parent} is not a folder that can be written to", arguments=("out",)
            )
        refuse_locked(self.path)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process out. Raises UserError if another process writes the run."""
        with locked(self.path):
            yield

    @contextlib.contextmanager
    def staged(self) -> Iterator[RunDirectory]:
        """A hidden directory to write into, which replaces this one when the block ends well. Raises OSError.

        Files of others that have come into this one meanwhile stay.
        """
        with staged_folder(self.path, own=CONTENTS | {ADAPTER}) as folder:
            yield RunDirectory(folder)

    def in_progress(self) -> RunDirectory | None:
        """The hidden directory into which a process writes the run at this moment, the newest if there are several."""
        folders = [folder for folder in written_beside(self.path) if (folder / HISTORY).exists()]
        return RunDirectory(max(folders, key=lambda folder: folder.stat().st_mtime)) if folders else None

    def recipe(self) -> Recipe:
        """The resolved recipe. Raises UserError."""
        return load_resolved(self.recipe_file)

    def record(self) -> RunRecord:
        """The content of metrics.json. Raises UserError if there is none or it is not valid."""
        try:
            text = self.metrics_file.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise UserError(f"{self.path} is not a finished run: it has no {METRICS}") from error
        except (OSError, ValueError) as error:
            raise UserError(f"{self.path} is not a finished run: {error}") from error
        return parse_record(RunRecord, text, str(self.metrics_file))

    def environment(self) -> EnvironmentRecord:
        """The content of environment.json. Raises UserError, OSError."""
        text = self.environment_file.read_text(encoding="utf-8")
        return parse_record(EnvironmentRecord, text, str(self.environment_file))

    def history(self) -> list[StepRecord]:
        """The optimizer steps. Raises UserError, OSError."""
        text = self.history_file.read_text(encoding="utf-8")
        lines = enumerate(text.splitlines(), start=1)
        return [parse_record(StepRecord, line, f"{self.history_file} line {number}") for number, line in lines]

    def predictions(self) -> list[JsonObject]:
        """A dict for each validation example: `index`, `prediction`, `reference` and what its task adds.

        Raises UserError, OSError.
        """
        try:
            return read_json_lines(self.predictions_file)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{self.predictions_file} cannot be read: {one_line(error)}") from error

    def probe(self) -> ProbeLogits:
        """The probe's logits. Raises UserError, FileNotFoundError."""
        try:
            with np.load(self.probe_file) as arrays:
                return ProbeLogits(arrays["logits_before"], arrays["logits_after"])
        except FileNotFoundError:
            raise
        except Exception as error:  # a damaged archive raises errors of zipfile, of zlib, of struct and of NumPy
            raise UserError(f"{self.probe_file} cannot be read: {one_line(error)}") from error

    def write_probe(self, before: NDArray, after: NDArray) -> None:
        """Write the probe's logits."""
        np.savez(self.probe_file, logits_before=before, logits_after=after)


def load_run(path: str | os.PathLike) -> Run:
    """A finished run, read from its directory.

    Raises UserError if there is none, if its metrics.json is not valid, or if a file of its model was altered.

    >>> load_run("runs/sentiment_bert/torch-stock-seed0").metrics["accuracy"]  # doctest: +SKIP
    0.913
    """
    directory = RunDirectory(Path(path))
    record = directory.record()
    refuse_altered(directory.model_folder, record.model_files, thorough=False)
    return Run(Path(path), record)
