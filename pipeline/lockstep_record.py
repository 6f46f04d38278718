"""The lock-step of a comparison, kept beside its runs: the same recipe is stepped through once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline import isolated
from pipeline.errors import ProofError, UserError
from pipeline.outcomes import Outcome
from pipeline.recipe import Recipe
from pipeline.rundir import write_json

LOCKSTEP_UPDATES = 50
Notes = list[dict[str, str]]


def lockstep_records(
    recipe: Recipe, attentions: Sequence[str], seed: int, folder: Path, steps: int, again: bool
) -> tuple[list[dict[str, Any]], Notes]:
    """Both frameworks update by update with each attention; a notice where that could not be done."""
    records, notes = [], []
    for attention in attentions:
        path = _path(folder, recipe, attention, steps, seed)
        # A class of one's own may have changed since.
        found = None if again or ":" in attention else _read(path)
        if found is None:
            try:
                found = isolated.call(take_steps, recipe, steps, attention, seed)
            except (UserError, ProofError, isolated.ProcessError) as error:
                last = str(error).strip().rpartition("\n")[2]
                sentence = f"the lock-step with {attention} attention could not be taken: {last}"
                notes.append({"state": "unknown", "sentence": sentence})
                continue
            folder.mkdir(parents=True, exist_ok=True)
            write_json(path, found)
        records.append(found)
    return records, notes


def take_steps(recipe: Recipe, steps: int, attention: str, seed: int) -> dict[str, Any]:
    """What lockstep finds, as a comparison's results have it; called in a process of its own."""
    from pipeline import lockstep

    found = lockstep.compare_frameworks(recipe, steps, attention, seed)
    return {
        "attention": attention,
        "steps": found.steps,
        "differences": found.differences,
        "bounds": asdict(found.bounds),
        "same": found.same,
        "loss_by_step": [float(f"{value:.4g}") for value in found.loss_by_step],
        "worst_parameter": found.worst_parameter,
    }


def recorded_locksteps(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    """Those that lie beside finished runs of both frameworks and are of their recipe, one for each attention."""
    found: dict[str, dict[str, Any]] = {}
    if len({run.framework for run in outcomes}) < 2:
        return []
    for run in outcomes:
        if run.attention not in found:
            record = _read(_path(run.path.parent, run.recipe, run.attention, LOCKSTEP_UPDATES, run.seed))
            found |= {} if record is None else {run.attention: record}
    return list(found.values())


def _path(folder: Path, recipe: Recipe, attention: str, steps: int, seed: int) -> Path:
    name = f"lockstep-{recipe.digest()}-{attention.replace(':', '.')}-{steps}-seed{seed}.json"
    return folder / name


def _read(path: Path) -> dict[str, Any] | None:
    """A record, or None where there is none or a half-written one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
