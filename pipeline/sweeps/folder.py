"""The folder of a sweep: the names of what it holds."""

from __future__ import annotations

from pathlib import Path

RECIPE, SETTINGS, STUDY, RUNS, REPORT, BEST = (
    "recipe.yaml", "settings.json", "study.db", "trials", "report", "best.yaml",
)  # fmt: skip
# Everything that may be in it; SQLite writes the last one while it works.
CONTENTS = frozenset({RECIPE, SETTINGS, STUDY, RUNS, REPORT, BEST, f"{STUDY}-journal"})


def run_folder(folder: Path, number: int) -> Path:
    """The run directory of a trial."""
    return folder / RUNS / f"{number:04d}"
