"""The run directory: where it is, whether it may be written, and that it appears whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.recipe.loading import load_shipped
from pipeline.recipe.schema import Recipe
from pipeline.utils.errors import UserError


@dataclass(frozen=True)
class Run:
    """A finished run: its directory and what metrics.json says."""

    path: Path
    report: dict[str, Any]

    @classmethod
    def load(cls, path: str | os.PathLike) -> Run:
        """Read a finished run's directory. Raises UserError if it is not one."""
        try:
            return cls(Path(path), json.loads((Path(path) / "metrics.json").read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is not a finished run: {error}") from error

    @property
    def metrics(self) -> dict[str, float | None]:
        """Validation metrics by name; None for one that is undefined."""
        return self.report["metrics"]


def default_folder(recipe: Recipe, shipped: Recipe, framework: str, attention: str, seed: int) -> Path:
    """runs/<recipe>/<framework>-<attention>-seed<seed>, with the recipe's digest where it is not the shipped one."""
    suffix = "" if recipe.experiment() == shipped.experiment() else f"-{recipe.digest()}"
    return Path("runs") / recipe.name / f"{framework}-{attention.replace(':', '.')}-seed{seed}{suffix}"


def finished(folder: Path, recipe: Recipe, identity: dict[str, Any], overwrite: bool) -> Run | None:
    """The finished run of the same recipe in `folder`, or None where a new one may be written.

    Raises UserError where the folder holds something else; `overwrite` replaces runs only, never other files.
    """
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise UserError(f"--out {folder} is a file; name a folder for the run")
    names = {entry.name for entry in folder.iterdir()}
    if not names:
        return None
    if not {"recipe.yaml", "metrics.json"} <= names:
        raise UserError(f"--out {folder} holds something that is not a run; name another folder")
    if overwrite:
        return None
    run = Run.load(folder)
    same_recipe = load_shipped(folder / "recipe.yaml").experiment() == recipe.experiment()
    different = [key for key, value in identity.items() if run.report.get(key) != value]
    if same_recipe and not different:
        return run
    raise UserError(
        f"--out {folder} holds a run of another {' and '.join(different) or 'setting of the recipe'}; "
        "name another folder, or replace it with --overwrite"
    )


def refuse_taken(folder: Path) -> None:
    """Raise UserError at once, before anything is loaded, where the folder cannot be written or another run does."""
    there = next(parent for parent in folder.absolute().parents if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UserError(f"--out {folder} cannot be written: {there} is no folder that can be written to")
    if _lock_file(folder).exists():
        with locked(folder):
            pass


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep every other process out of a run's folder; the lock dies with its process, however that ends.

    Raises UserError where another process has it.
    """
    path = _lock_file(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"--out {folder} cannot be written: {error.strerror}") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its last holder may have removed the file between the two calls.
            is_ours = path.exists() and os.path.samestat(os.fstat(handle), path.stat())
        except BlockingIOError:
            is_ours = False
        if not is_ours:
            holder = os.pread(handle, 20, 0).decode() or "just starting"
            raise UserError(
                f"--out {folder} is being written by another process ({holder}); wait for it, stop it, or name "
                "another folder"
            )
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        os.ftruncate(handle, len(str(os.getpid())))
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(handle)


def _lock_file(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.lock"


@contextlib.contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` to write into; it takes the name when the block ends well, and vanishes when not."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for abandoned in sorted(folder.parent.glob(f".{folder.name}.*partial-*"), reverse=True):
            if _is_alive(int(abandoned.name.rpartition("-")[2])):
                continue  # else it was left by a run that was killed
            if ".replaced." in abandoned.name and not folder.exists():
                abandoned.rename(folder)
            else:
                shutil.rmtree(abandoned)
        staging = folder.parent / f".{folder.name}.partial-{os.getpid()}"
        staging.mkdir()
    except OSError as error:
        raise UserError(f"--out {folder} cannot be written: {error.strerror}") from error
    try:
        yield staging
        if folder.exists():
            replaced = folder.parent / f".{folder.name}.replaced.partial-{os.getpid()}"
            folder.rename(replaced)
            staging.rename(folder)
            shutil.rmtree(replaced)
        else:
            staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def model_card(recipe: Recipe, auto_class: str, identity: dict[str, Any], metrics: dict[str, float]) -> str:
    """The model's README: what it is, from what, how well it does."""
    scores = "\n".join(f"| {name} | {value:.4f} |" for name, value in metrics.items())
    base = Path(recipe.checkpoint).name if os.path.isabs(recipe.checkpoint) else recipe.checkpoint
    start = "random weights of the architecture of" if recipe.weights == "random" else "the pretrained checkpoint"
    source = recipe.data.path + (f" ({recipe.data.name})" if recipe.data.name else "")
    return f"""# {recipe.name}

A model for {recipe.task}, fine-tuned from {start} `{base}` on {source} in {identity["framework"]} with
{identity["attention"]} attention, seed {identity["seed"]}. It loads with
`{auto_class}.from_pretrained` in PyTorch.

| validation metric | value |
|---|---|
{scores}

Training: {recipe.train.epochs} epochs, batch size {recipe.train.batch_size}, learning rate
{recipe.train.learning_rate:g} ({recipe.train.schedule}), precision {recipe.train.precision}. The whole recipe is
`recipe.yaml` in the run's directory.
"""


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write one JSON object, readable by people."""
    path.write_text(json.dumps(finite(content), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_lines(path: Path, rows: Any) -> None:
    """Write one JSON object a line."""
    with open(path, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(finite(row), ensure_ascii=False) + "\n")


def finite(value: Any) -> Any:
    """The value with null for the numbers that JSON does not have: an undefined metric, an overflown perplexity."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
