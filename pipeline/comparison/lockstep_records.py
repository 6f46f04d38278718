"""Lock-step results kept beside the runs of a comparison: the same recipe on the same data is stepped through once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from numpy.typing import NDArray

from pipeline.comparison import lockstep
from pipeline.comparison.records.sameness import LockstepResult
from pipeline.comparison.results import Problem
from pipeline.comparison.run_set import ComparedRun
from pipeline.recipe.schema import Recipe
from pipeline.utils import processes
from pipeline.utils.errors import PipelineError
from pipeline.utils.files import write_json
from pipeline.utils.text import last_line

LOCKSTEP_STEPS = 50

Fingerprints = dict[str, str]


def take_or_read(
    recipe: Recipe, attentions: Sequence[str], seed: int, folder: Path, steps: int, rerun: bool, expected: Fingerprints
) -> tuple[list[LockstepResult], list[Problem]]:
    """Both frameworks step by step with each attention, or what is recorded of it in `folder`.

    `expected` are the `fingerprints` of the runs: a lock-step on other data or another checkpoint says nothing about
    them. A lock-step that fails is a problem, not an error.
    """
    results, problems = [], []
    for attention in attentions:
        path = _path(folder, recipe, attention, steps, seed)
        # A class of the user's own may have changed since.
        result = None if rerun or ":" in attention else _read(path, expected)
        if result is None or not result.num_controls:  # those of older versions have no control
            try:
                report = lockstep.compare_frameworks(recipe, steps, attention, seed)
            except (PipelineError, processes.ProcessError) as error:
                problems.append(Problem(code="lockstep_failed", attention=attention, error=last_line(error)))
                continue
            if report.fingerprints != expected:
                return [], [Problem(code="lockstep_outdated")]
            result = as_result(report, attention)
            # The seed is in the file's name. The keys are those of files written by earlier versions.
            write_json(path, {"of": report.fingerprints, "found": result.model_dump(mode="json")})
        results.append(result.model_copy(update={"seed": seed}))
    return results, problems


def recorded(runs: list[ComparedRun]) -> list[LockstepResult]:
    """The results that lie beside finished runs of both frameworks and are of their recipe, one for each attention."""
    results: dict[str, LockstepResult] = {}
    if len({run.framework for run in runs}) < 2:
        return []
    for run in runs:
        if run.attention not in results:
            path = _path(run.path.parent, run.recipe, run.attention, LOCKSTEP_STEPS, run.seed)
            result = _read(path, fingerprints(run))
            if result is not None:
                results[run.attention] = result.model_copy(update={"seed": run.seed})
    return list(results.values())


def fingerprints(run: ComparedRun) -> Fingerprints:
    """Those of the data and the checkpoint of a finished run."""
    record = run.completed_record
    return {"data": record.data.fingerprint, "checkpoint": record.checkpoint_fingerprint or ""}


def as_result(report: lockstep.LockstepReport, attention: str) -> LockstepResult:
    """What a report holds of a lock-step."""
    return LockstepResult.model_validate({
        "attention": attention,
        "steps": report.steps,
        "dropout": report.dropout,
        "differences": report.differences,
        "control": report.control,
        "num_controls": report.num_controls,
        "bounds": report.allowed,
        "same": report.same,
        "loss_by_step": _rounded(report.loss_by_step),
        "control_loss_by_step": _rounded(report.control_loss_by_step),
        "first_step_over_rounding": report.first_step_over_rounding,
        "control_first_step_over_rounding": report.control_first_step_over_rounding,
        "worst_parameter": report.worst_parameter,
    })  # fmt: skip


def _rounded(values: NDArray) -> list[float]:
    return [float(f"{value:.4g}") for value in values]


def _path(folder: Path, recipe: Recipe, attention: str, steps: int, seed: int) -> Path:
    name = f"lockstep-{recipe.digest()}-{attention.replace(':', '.')}-{steps}-seed{seed}.json"
    return folder / name


def _read(path: Path, expected: Fingerprints) -> LockstepResult | None:
    """A recorded result of these data and this checkpoint; None if there is none, or only half of one."""
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
        return LockstepResult.model_validate(written["found"]) if written.get("of") == expected else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
