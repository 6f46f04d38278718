"""The attention weights of one text in each framework of a comparison, to be drawn side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.comparison.results import AttentionMap, Problem
from pipeline.comparison.run_set import ComparedRun
from pipeline.runs.attention_maps import maps_of_run
from pipeline.utils import processes
from pipeline.utils.errors import PipelineError
from pipeline.utils.text import last_line


def maps_of_frameworks(runs: list[ComparedRun], text: str) -> tuple[list[AttentionMap], list[Problem]]:
    """One text through each framework's first run with hand-written attention, in a process of its own."""
    maps: dict[str, AttentionMap] = {}
    problems: list[Problem] = []
    for run in runs:
        if run.attention != "handwritten" or run.framework in maps:
            continue
        try:
            weights, tokens = processes.call(weights_and_tokens, run.path, text, run.framework, framework=run.framework)
        except (PipelineError, processes.ProcessError) as error:
            problems.append(Problem(code="attention_map_failed", run=run.label, error=last_line(error)))
            continue
        maps[run.framework] = AttentionMap(
            variant=run.variant,
            seed=run.seed,
            text=text,
            tokens=tokens,
            weights=np.round(weights.astype(np.float64), 3).tolist(),
        )
    return list(maps.values()), problems


def weights_and_tokens(path: Path, text: str, framework: str) -> tuple[NDArray[np.float32], list[str]]:
    """The attention weights and the tokens of a text; called in a process of its own."""
    maps = maps_of_run(path, text, framework)
    return maps.weights, maps.tokens
