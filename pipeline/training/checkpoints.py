"""Checkpoints of a run on its way: written whole beside the run's folder, checked by their hashes when they are read.

`<run>.checkpoints/step-00000120/` holds `state.safetensors` (arrays), `state.json` (all else) and `manifest.json`
(sizes and SHA-256 of both). Nothing is pickled: a checkpoint cannot run code.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from pipeline.utils.errors import RunFailure, UserError
from pipeline.utils.files import staged_folder
from pipeline.utils.hashing import sha256_of_file
from pipeline.utils.text import flatten, one_line

FORMAT = 1
_ARRAYS, _REST, _MANIFEST = "state.safetensors", "state.json", "manifest.json"


@dataclass(frozen=True)
class TrainingCheckpoint:
    """One whole checkpoint: its folder and all of it that is no array."""

    path: Path
    rest: dict[str, Any]

    @property
    def step(self) -> int:
        """The updates that were done."""
        return self.rest["step"]

    def arrays(self) -> dict[str, NDArray]:
        """Weights, the optimiser's state and random generators by name."""
        return load_file(self.path / _ARRAYS)


class TrainingCheckpoints:
    """The training checkpoints of a run, in a folder of their own, of which the last `keep` are kept."""

    def __init__(self, folder: Path, keep: int):
        self.folder, self.keep = folder, keep

    def names(self) -> list[str]:
        """Checkpoints by name, the newest first, whole or not."""
        if not self.folder.is_dir():
            return []
        return sorted((entry.name for entry in self.folder.iterdir() if entry.name.startswith("step-")), reverse=True)

    def newest(self) -> tuple[TrainingCheckpoint | None, list[str]]:
        """The newest whole checkpoint, and a sentence for each that had to be passed over."""
        passed_over = []
        for name in self.names():
            path = self.folder / name
            try:
                return TrainingCheckpoint(path, _checked(path)), passed_over
            except (OSError, ValueError, KeyError, TypeError) as error:
                passed_over.append(f"checkpoint {path} is passed over: {error}")
        return None, passed_over

    def save(self, name: str, arrays: dict[str, NDArray], rest: dict[str, Any]) -> None:
        """Write a checkpoint whole or not at all, then drop those that are no longer kept. Raises RunFailure."""
        try:
            _clear(self.folder)
            # A checkpoint of that name is torn or given up, and its step is reached anew.
            with staged_folder(self.folder / name, durable=True) as partial:
                save_file(arrays, partial / _ARRAYS)
                (partial / _REST).write_text(json.dumps(rest), encoding="utf-8")
                files = {file: _print_of(partial / file) for file in (_ARRAYS, _REST)}
                manifest = json.dumps({"format": FORMAT, "files": files}, indent=2)
                (partial / _MANIFEST).write_text(manifest, encoding="utf-8")
            self._drop(name)
        except (OSError, SafetensorError) as error:
            found, _ = self.newest()
            last = f"the last whole one is {found.path}" if found else "there is none before it"
            raise RunFailure(
                f"the checkpoint {self.folder / name} cannot be written: {reason(error)}; {last}. Make room, "
                "then go on with --resume (RESUME=1)"
            ) from error
        finally:
            with contextlib.suppress(OSError):  # an empty folder would say that there is something to go on from
                self.folder.rmdir()

    def _drop(self, written: str) -> None:
        """Keep the last ones up to the one just written; later ones belong to a course that was given up."""
        names = self.names()
        for name in [*names[: names.index(written)], *names[names.index(written) + self.keep :]]:
            shutil.rmtree(self.folder / name)

    def remove(self) -> None:
        """Take all checkpoints away."""
        if self.folder.is_dir():
            _clear(self.folder)
            for name in self.names():
                shutil.rmtree(self.folder / name)
            with contextlib.suppress(OSError):  # it stays where somebody else keeps something in it
                self.folder.rmdir()


def refuse_foreign(snapshot: TrainingCheckpoint, identity: dict[str, Any], experiment: dict[str, Any]) -> None:
    """Raise UserError naming what a checkpoint belongs to where it is not this very run."""
    there = flatten({**snapshot.rest["identity"], "recipe's setting": snapshot.rest["experiment"]}, " ")
    here = flatten({**identity, "recipe's setting": experiment}, " ")
    different = [key for key in here | there if here.get(key) != there.get(key)]
    if different:
        told = "; ".join(
            f"{key} {json.dumps(there.get(key))}, not {json.dumps(here.get(key))}" for key in different[:5]
        )
        raise UserError(
            f"{snapshot.path.parent} holds checkpoints of another run: {told}. Name another folder with --out, or "
            "begin anew with --overwrite (OVERWRITE=1), which drops them"
        )


def reason(error: BaseException) -> str:
    """Why a file could not be written, in the system's words."""
    return one_line(getattr(error, "strerror", None) or error)


def _checked(path: Path) -> dict[str, Any]:
    """All but the arrays of a checkpoint whose files are as they were written. Raises ValueError, OSError, KeyError."""
    try:
        manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError("it has no manifest") from None
    except ValueError:
        raise ValueError("its manifest is torn") from None
    if manifest.get("format") != FORMAT:
        raise ValueError(f"its format is {manifest.get('format')}, want {FORMAT}")
    for file in (_ARRAYS, _REST):
        wanted, size = manifest["files"][file], os.path.getsize(path / file)
        if size != wanted["bytes"]:
            raise ValueError(f"{file} is torn ({size} bytes, want {wanted['bytes']})")
        if _print_of(path / file) != wanted:
            raise ValueError(f"{file} was altered (its SHA-256 is not that of the manifest)")
    return json.loads((path / _REST).read_text(encoding="utf-8"))


def _print_of(path: Path) -> dict[str, Any]:
    return {"bytes": os.path.getsize(path), "sha256": sha256_of_file(path)}


def _clear(folder: Path) -> None:
    """Take away what a killed process left half-written."""
    for abandoned in folder.glob(".step-*.partial*"):
        shutil.rmtree(abandoned)
