"""Training checkpoints: saving the state of a run that is under way, verifying it, and finding the newest valid one.

`<run>.checkpoints/step-00000120/` holds `state.safetensors` and `state.json`, described in `pipeline.training.state`,
and `manifest.json` with the size and SHA-256 of both. Nothing is pickled: a checkpoint cannot run code.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, cast

from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from pipeline.models.safetensors_files import write_safetensors
from pipeline.recipe.overrides import resolve_paths
from pipeline.recipe.schema import VALUES_BEFORE_KEYS, Recipe, validated
from pipeline.runs.record import RunIdentity
from pipeline.training.state import ARRAYS_FILE, STATE_FILE, WEIGHTS, Arrays, SavedState
from pipeline.utils.errors import RunFailure, UserError
from pipeline.utils.files import JsonObject, is_beside, reason, remedy, staged_folder
from pipeline.utils.hashing import file_fault, sha256_of_file
from pipeline.utils.text import flatten, one_line

FORMAT = 1
# What reading a checkpoint raises that was damaged, by chance or by hand.
_DAMAGE = (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError)
_NAME = re.compile(r"step-\d{8,}(-evaluated)?")
MANIFEST_FILE = "manifest.json"


class ManifestEntry(TypedDict):
    """What the manifest says of a file."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class TrainingCheckpoint:
    """A valid training checkpoint: its folder and all of its state that is not an array."""

    path: Path
    state: SavedState

    @property
    def step(self) -> int:
        """The optimizer steps that were done."""
        return self.state.step

    def arrays(self) -> Arrays:
        """Weights, optimizer state and random generators by name; see `pipeline.training.state`."""
        return load_file(self.path / ARRAYS_FILE)


class TrainingCheckpoints:
    """The training checkpoints of a run, in a folder of their own; the last `keep` are kept."""

    def __init__(self, folder: Path, keep: int):
        self.folder, self.keep = folder, keep

    def names(self) -> list[str]:
        """The checkpoints by name, the newest first, valid or not."""
        if not self.folder.is_dir():
            return []
        folders = (entry for entry in self.folder.iterdir() if entry.is_dir() and not entry.is_symlink())
        return sorted((folder.name for folder in folders if _NAME.fullmatch(folder.name)), reverse=True)

    def newest(self, before: TrainingCheckpoint | None = None) -> tuple[TrainingCheckpoint | None, list[str]]:
        """The newest valid checkpoint, `before` another if given, and a sentence for each newer one that is skipped."""
        skipped = []
        for name in self.names():
            path = self.folder / name
            if before is not None and name >= before.path.name:
                continue
            try:
                return TrainingCheckpoint(path, _verified(path)), skipped
            except _DAMAGE as error:
                skipped.append(skipped_note(path, error))
        return None, skipped

    def save(self, name: str, arrays: Arrays, state: SavedState) -> Path:
        """Write a checkpoint whole or not at all, drop those that are no longer kept; returns its folder.

        Raises RunFailure if it cannot be written.
        """
        path = self.folder / name
        try:
            _remove_partial(self.folder)
            if path.is_symlink():  # never replace what it leads to
                path.unlink()
            # An older checkpoint of this name is damaged, or the run has come back to its step; it is replaced.
            with staged_folder(path, durable=True) as partial:
                write_safetensors(partial / ARRAYS_FILE, arrays)
                with open(partial / STATE_FILE, "w", encoding="utf-8") as file:
                    file.writelines(state.content())
                files = {each: _size_and_digest(partial / each) for each in (ARRAYS_FILE, STATE_FILE)}
                manifest = json.dumps({"format": FORMAT, "files": files}, indent=2)
                (partial / MANIFEST_FILE).write_text(manifest, encoding="utf-8")
            self._drop_others(name)
        except (OSError, SafetensorError) as error:
            newest, _ = self.newest()
            last = f"the newest valid one is {newest.path}" if newest else "there is none before it"
            raise RunFailure(
                f"the training checkpoint {path} cannot be written: {reason(error)}; {last}. {remedy(error)}, then "
                "continue with resume=True",
                arguments=("resume",),
            ) from error
        finally:
            self._remove_if_empty()
        return path

    def remove(self) -> None:
        """Delete all checkpoints."""
        if self.folder.is_dir():
            _remove_partial(self.folder)
            for name in self.names():
                shutil.rmtree(self.folder / name)
            self._remove_if_empty()

    def _drop_others(self, written: str) -> None:
        """Keep the last ones up to the one just written; later ones belong to a training that was abandoned."""
        names = self.names()
        for name in [*names[: names.index(written)], *names[names.index(written) + self.keep :]]:
            shutil.rmtree(self.folder / name)

    def _remove_if_empty(self) -> None:
        # An empty folder would say that there is something to resume from.
        with contextlib.suppress(OSError):
            self.folder.rmdir()


def skipped_note(path: Path, error: Exception) -> str:
    """The sentence for a checkpoint that cannot be used."""
    return f"training checkpoint {path} is not valid and is skipped: {one_line(error)}"


def refuse_foreign(checkpoint: TrainingCheckpoint, identity: RunIdentity, recipe: Recipe) -> None:
    """Raise UserError naming what differs if a checkpoint belongs to another run, or an older version wrote it."""
    _refuse_older(checkpoint)
    saved = _comparable(checkpoint.state.identity, _experiment(checkpoint.state))
    current = _comparable(identity, recipe.experiment())
    different = [key for key in current | saved if current.get(key) != saved.get(key)]
    if different:
        listed = "; ".join(
            f"{key} is {json.dumps(saved.get(key))}, not {json.dumps(current.get(key))}" for key in different[:5]
        )
        raise UserError(
            f"{checkpoint.path.parent} holds training checkpoints of another run: {listed}. Choose another folder with "
            "out, or start from the beginning with overwrite=True, which deletes them",
            arguments=("out", "overwrite"),
        )


def _refuse_older(checkpoint: TrainingCheckpoint) -> None:
    """Raise UserError if a checkpoint is of a version that trained in another way, and had no keys that say how."""
    missing = [
        f"{section}.{key}"
        for section, before in VALUES_BEFORE_KEYS.items()
        for key in before
        if key not in cast(JsonObject, checkpoint.state.experiment.get(section, {}))
    ]
    if missing:
        raise UserError(
            f"an older version, which had no {' and no '.join(missing)}, wrote the training checkpoints in "
            f"{checkpoint.path.parent}. It put batches together and drew dropout in another way, so this version "
            "cannot continue that training. Start from the beginning with overwrite=True, which deletes them, or "
            "choose another folder with out",
            arguments=("overwrite", "out"),
        )


def refuse_changed_inputs(checkpoint: TrainingCheckpoint, fingerprints: dict[str, str | None]) -> None:
    """Raise UserError if the data or the pretrained model changed since a checkpoint was written.

    Older versions did not record all fingerprints, and one that is None is not known.
    """
    for name, current in fingerprints.items():
        saved = checkpoint.state.fingerprints.get(name, current)
        if saved != current and None not in (saved, current):
            raise UserError(
                f"the {name} changed since {checkpoint.path} was written (its fingerprint was {saved} and is now "
                f"{current}); restore the old {name}, or start from the beginning with overwrite=True",
                arguments=("overwrite",),
            )


def _comparable(identity: RunIdentity, experiment: JsonObject) -> JsonObject:
    return identity.model_dump() | {f"recipe's {key}": value for key, value in flatten(experiment).items()}


def _experiment(state: SavedState) -> JsonObject:
    """The saved experiment as this version writes it: defaults for newer keys, current spellings and folder names."""
    values = resolve_paths({**copy.deepcopy(state.experiment)}, Path(os.sep))  # its paths are absolute
    try:
        return validated(values, state.identity.recipe).experiment()
    except UserError:
        return state.experiment


def _verified(path: Path) -> SavedState:
    """The state of a checkpoint whose files are as they were written and belong together. Raises what is in _DAMAGE."""
    try:
        manifest = json.loads((path / MANIFEST_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError("it has no manifest") from None
    except ValueError:
        raise ValueError("its manifest is cut off") from None
    if not isinstance(manifest, dict):
        raise ValueError("its manifest is not an object")
    if manifest.get("format") != FORMAT:
        raise ValueError(f"its format is {manifest.get('format')}, but this version reads {FORMAT}")
    for file in (ARRAYS_FILE, STATE_FILE):
        expected = ManifestEntry(**manifest["files"][file])
        if fault := file_fault(path / file, expected["bytes"], expected["sha256"]):
            raise ValueError(f"{file} {fault}")
    state = SavedState.model_validate(json.loads((path / STATE_FILE).read_text(encoding="utf-8")))
    with safe_open(path / ARRAYS_FILE, framework="numpy") as file:
        is_whole = f"{WEIGHTS}.0" in file.keys() and (state.last is not None or not state.is_over)  # noqa: SIM118
        if not is_whole or not (state.is_over or int(file.get_tensor("step")) == state.steps_done):
            raise ValueError("its files do not belong together")
    return state


def _size_and_digest(path: Path) -> ManifestEntry:
    return ManifestEntry(bytes=os.path.getsize(path), sha256=sha256_of_file(path))


def _remove_partial(folder: Path) -> None:
    """Remove what a killed process left half-written."""
    for abandoned in folder.glob(".step-*.partial-*"):
        if is_beside(abandoned.name, folder / abandoned.name[1:].partition(".")[0]):
            shutil.rmtree(abandoned)
