"""The lock-step of a comparison, kept beside its runs: the same recipe on the same things is stepped through once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.comparison.run_set import Outcome
from pipeline.recipe.schema import Recipe
from pipeline.utils import processes
from pipeline.utils.errors import ProofError, UserError
from pipeline.utils.files import write_json

LOCKSTEP_UPDATES = 50
Notes = list[dict[str, str]]


def lockstep_records(
    recipe: Recipe, attentions: Sequence[str], seed: int, folder: Path, steps: int, again: bool, of: dict[str, str]
) -> tuple[list[dict[str, Any]], Notes]:
    """Both frameworks update by update with each attention; a notice where that could not be done.

    `of` are the runs' `fingerprints`: a lock-step on other data or another checkpoint is none of them.
    """
    records, notes = [], []
    for attention in attentions:
        path = _path(folder, recipe, attention, steps, seed)
        # A class of one's own may have changed since.
        found = None if again or ":" in attention else _read(path, of)
        if found is None:
            try:
                found = processes.call(take_steps, recipe, steps, attention, seed)
            except (UserError, ProofError, processes.ProcessError) as error:
                last = str(error).strip().rpartition("\n")[2]
                sentence = f"the lock-step with {attention} attention could not be taken: {last}"
                notes.append({"state": "unknown", "sentence": sentence})
                continue
            found, seen = found["found"], found["of"]
            if seen != of:
                sentence = "the data or the checkpoint changed since the runs, so a lock-step says nothing of them"
                return [], [{"state": "unknown", "sentence": f"{sentence}; repeat them with rerun=True"}]
            write_json(path, {"of": seen, "found": found})
        records.append(found)
    return records, notes


def take_steps(recipe: Recipe, steps: int, attention: str, seed: int) -> dict[str, Any]:
    """What lockstep finds, as a comparison's results have it, and of what; called in a process of its own."""
    from pipeline.comparison import lockstep

    found = lockstep.compare_frameworks(recipe, steps, attention, seed)
    record = {
        "attention": attention,
        "steps": found.steps,
        "differences": found.differences,
        "bounds": asdict(found.bounds),
        "same": found.same,
        "loss_by_step": [float(f"{value:.4g}") for value in found.loss_by_step],
        "worst_parameter": found.worst_parameter,
    }
    return {"of": found.fingerprints, "found": record}


def recorded_locksteps(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    """Those that lie beside finished runs of both frameworks and are of their recipe, one for each attention."""
    found: dict[str, dict[str, Any]] = {}
    if len({run.framework for run in outcomes}) < 2:
        return []
    for run in outcomes:
        if run.attention not in found:
            path = _path(run.path.parent, run.recipe, run.attention, LOCKSTEP_UPDATES, run.seed)
            record = _read(path, fingerprints(run))
            found |= {} if record is None else {run.attention: record}
    return list(found.values())


def fingerprints(run: Outcome) -> dict[str, str]:
    """Of the data and the checkpoint that a finished run had."""
    return {"data": run.report["data"]["fingerprint"], "checkpoint": run.report.get("checkpoint_fingerprint") or ""}


def _path(folder: Path, recipe: Recipe, attention: str, steps: int, seed: int) -> Path:
    name = f"lockstep-{recipe.digest()}-{attention.replace(':', '.')}-{steps}-seed{seed}.json"
    return folder / name


def _read(path: Path, of: dict[str, str]) -> dict[str, Any] | None:
    """A record of these things, or None where there is none or a half-written one."""
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return written["found"] if written.get("of") == of else None
