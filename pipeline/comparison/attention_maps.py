"""The attention weights of one text in each framework of a comparison, to be drawn side by side.

Of models that write a text from another they are those of the cross-attention, which align the two texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.comparison.control import runs_with_controls
from pipeline.comparison.results import AttentionMap, MapDistance, Problem
from pipeline.comparison.run_set import ComparedRun
from pipeline.models.attention import is_ours
from pipeline.runs.attention_maps import AttentionMaps, maps_of_run
from pipeline.tasks.base import load_task
from pipeline.utils import processes
from pipeline.utils.errors import PipelineError
from pipeline.utils.text import last_line


def maps_of_frameworks(runs: list[ComparedRun], text: str) -> tuple[list[AttentionMap], list[Problem]]:
    """One text through each framework's first run with hand-written attention or model, in a process of its own."""
    maps: dict[str, AttentionMap] = {}
    problems: list[Problem] = []
    for run in runs:
        if not is_ours(run.attention) or run.framework in maps:
            continue
        try:
            (found,) = _maps_of_runs([run], text)
        except (PipelineError, processes.ProcessError) as error:
            problems.append(Problem(code="attention_map_failed", run=run.label, error=last_line(error)))
            continue
        maps[run.framework] = AttentionMap(
            variant=run.variant,
            seed=run.seed,
            text=text,
            tokens=found.tokens,
            weights=np.round(found.weights.astype(np.float64), 3).tolist(),
            written=found.written,
        )
    return list(maps.values()), problems


def maps_from_control(
    runs: list[ComparedRun], controls: Sequence[ComparedRun], text: str
) -> tuple[list[MapDistance], list[Problem]]:
    """How far one run's maps are from its control's, layer by layer.

    Empty without a control, or where the two write texts of their own that differ.
    """
    pairs = runs_with_controls(runs, controls)
    if not pairs:
        return [], []
    run, control = pairs[0]
    try:
        ours, moved = _maps_of_runs([run, control], text)
    except (PipelineError, processes.ProcessError) as error:
        return [], [Problem(code="control_failed", run=run.label, error=last_line(error))]
    if ours.written != moved.written:
        return [], []
    apart = np.abs(ours.weights.astype(np.float64) - moved.weights)
    return [MapDistance(largest=float(layer.max()), mean=float(layer.mean())) for layer in apart], []


def _maps_of_runs(runs: list[ComparedRun], text: str) -> list[AttentionMaps]:
    """The maps of runs of one framework and task, in a process of its own."""
    first = runs[0]
    is_cross = "encoder-decoder" in load_task(first.recipe).architectures
    paths = [run.path for run in runs]
    return processes.call(maps_of_paths, paths, text, first.framework, is_cross, framework=first.framework)


def maps_of_paths(paths: list[Path], text: str, framework: str, is_cross: bool) -> list[AttentionMaps]:
    """The maps of each run's model, in this process."""
    return [maps_of_run(path, text, framework, is_cross) for path in paths]
