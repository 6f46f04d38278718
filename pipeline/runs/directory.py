"""The run directory: where it is, whether it may be written, and that it appears whole or not at all."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.recipe.loading import load_shipped
from pipeline.recipe.schema import Recipe
from pipeline.utils.errors import UserError
from pipeline.utils.files import refuse_locked


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
    refuse_locked(folder)


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
