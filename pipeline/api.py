"""Many runs -> one comparison, in numbers and a report: made here from a recipe, or of runs made anywhere."""

from __future__ import annotations

import datetime
import html as escaping
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.comparison import run_matrix as runner
from pipeline.comparison.assembly import assemble
from pipeline.comparison.lockstep_records import LOCKSTEP_UPDATES, fingerprints, lockstep_records, recorded_locksteps
from pipeline.comparison.run_matrix import ComparisonCallback
from pipeline.comparison.run_set import named, read_outcome, refuse_incomparable
from pipeline.recipe.loading import LoadedRecipe
from pipeline.recipe.schema import Recipe
from pipeline.reporting import writer as report
from pipeline.utils.errors import UserError
from pipeline.utils.files import json_safe

if TYPE_CHECKING:
    import pandas

FRAMEWORKS, ATTENTIONS, SEEDS = ("torch", "tensorflow"), ("stock", "handwritten"), (0, 1, 2)


@dataclass(frozen=True)
class Comparison:
    """A comparison: its results (what results.json holds) and the folder of its report."""

    results: dict[str, Any]
    path: Path

    @property
    def runs(self) -> pandas.DataFrame:
        """A row for each run: who, with which seed, how it went, each metric and each cost."""
        import pandas

        keys = ("variant", "framework", "attention", "seed", "status", "path")
        rows = [
            {key: run[key] for key in keys} | run["metrics"] | {f"train_{k}": v for k, v in run["train"].items()}
            for run in self.results["runs"]
        ]
        return pandas.DataFrame(rows)

    @property
    def verdicts(self) -> pandas.DataFrame:
        """A row for each pair of variants and metric: the difference, its interval and what can be said."""
        import pandas

        rows = [
            {"first": pair["first"], "second": pair["second"], "metric": metric}
            | {key: found["seeds"][key] for key in ("mean_difference", "low", "high")}
            | {"equivalent": found["equivalence"]["equivalent"], **found["verdict"]}
            for pair in self.results["comparisons"]
            for metric, found in pair["metrics"].items()
        ]
        return pandas.DataFrame(rows)

    def to_html(self) -> str:
        """The whole report as one page."""
        return report.html(self.results)

    def _repr_html_(self) -> str:
        """What a notebook shows: the first screen and the verdicts."""
        headline = self.results["headline"]
        said = [headline[key] for key in ("same", "speed", "memory")] + headline["notices"]
        lines = "".join(f"<li>{escaping.escape(each['sentence'])}</li>" for each in said)
        return f"<ul>{lines}</ul>{self.verdicts.to_html(escape=True, index=False)}"


def compare(
    recipe: Recipe,
    frameworks: Sequence[str] = FRAMEWORKS,
    attentions: Sequence[str] = ATTENTIONS,
    seeds: Sequence[int] = SEEDS,
    out: str | os.PathLike | None = None,
    *,
    rerun: bool = False,
    allow_hub_code: bool = False,
    callback: ComparisonCallback | None = None,
) -> Comparison:
    """Run a recipe with every framework, attention and seed, and compare; the report is `out` or reports/<recipe>.

    Each run has a process of its own, one after the other; finished runs are taken as they are unless `rerun`, and one
    that fails is shown as failed. Raises UserError before the first run for anything that is wrong with
    the input.
    """
    return compare_loaded(
        LoadedRecipe.of(recipe), frameworks, attentions, seeds, out, rerun=rerun, allow_hub_code=allow_hub_code,
        callback=callback,
    )  # fmt: skip


def compare_loaded(
    loaded: LoadedRecipe,
    frameworks: Sequence[str],
    attentions: Sequence[str],
    seeds: Sequence[int],
    out: str | os.PathLike | None = None,
    *,
    rerun: bool = False,
    allow_hub_code: bool = False,
    callback: ComparisonCallback | None = None,
) -> Comparison:
    """`compare` for a recipe of which it is known how it was loaded, so that its runs are named and started alike."""
    recipe, callback = loaded.recipe, callback or ComparisonCallback()
    folder = Path(out) if out is not None else Path("reports") / recipe.name
    report.refuse_unless_report(folder)
    planned = runner.plan(recipe, loaded.original, frameworks, attentions, seeds, rerun)
    callback.on_check_begin(planned)
    runner.check(planned, recipe, allow_hub_code)
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="twinstep-") as scratch:
        arguments = loaded.arguments
        if arguments is None:
            written = Path(scratch) / "recipe.yaml"
            written.write_text(recipe.to_yaml(), encoding="utf-8")
            arguments = [str(written)]
        if allow_hub_code:
            arguments = [*arguments, "--allow-hub-code"]
        for run in planned:
            callback.on_run_begin(run)
            begun = time.perf_counter()
            outcomes.append(runner.execute(run, recipe, arguments))
            callback.on_run_end(run, outcomes[-1], 0.0 if run.done else time.perf_counter() - begun)
    order = {(f, a): i for i, (f, a) in enumerate((f, a) for f in frameworks for a in attentions)}
    outcomes.sort(key=lambda run: (order[run.framework, run.attention], run.seed))
    if completed := [run for run in outcomes if run.completed]:
        refuse_incomparable(
            completed, "\nSome were made earlier, from other data or another checkpoint: repeat them with rerun=True"
        )
    locksteps, notes = [], []
    if len(frameworks) > 1 and completed:
        callback.on_lockstep_begin(LOCKSTEP_UPDATES)
        beside, of = planned[0].folder.parent, fingerprints(completed[0])
        locksteps, notes = lockstep_records(recipe, attentions, seeds[0], beside, LOCKSTEP_UPDATES, rerun, of)
    callback.on_report_begin()
    return _written(named(outcomes), recipe.margin, locksteps, notes, folder)


def compare_runs(paths: Iterable[str | os.PathLike], out: str | os.PathLike | None = None) -> Comparison:
    """Compare finished runs, made on any machine at any time; the report is `out` or reports/<recipe>.

    Raises UserError where a directory is no run, or where task, checkpoint, data or metrics differ.
    """
    paths = [Path(path) for path in paths]
    if len(paths) < 2:
        raise UserError("report wants two or more run directories")
    outcomes = named(read_outcome(path) for path in paths)
    refuse_incomparable(outcomes)
    recipe = outcomes[0].recipe
    folder = Path(out) if out is not None else Path("reports") / recipe.name
    report.refuse_unless_report(folder)
    return _written(outcomes, recipe.margin, recorded_locksteps(outcomes), [], folder)


def _written(outcomes: list, margin: float, locksteps: list, notes: list, folder: Path) -> Comparison:
    results = assemble(outcomes, margin, locksteps, notes)
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    results = json_safe({"schema": 1, "created": created, "command": _command()} | results)
    report.write_report(results, folder)
    return Comparison(results, folder)


def _command() -> list[str]:
    program = Path(sys.argv[0]).name if sys.argv[0] else "python"
    return ["python", "-m", "pipeline", *sys.argv[1:]] if program == "__main__.py" else [program, *sys.argv[1:]]
