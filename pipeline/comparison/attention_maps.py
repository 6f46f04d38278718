"""The attention weights of one text in each framework of a comparison, to be drawn side by side.

Of models that write a text from another they are those of the cross-attention, which align the two texts.
"""

from __future__ import annotations

import numpy as np

from pipeline.comparison.results import AttentionMap, Problem
from pipeline.comparison.run_set import ComparedRun
from pipeline.models.attention import is_ours
from pipeline.runs.attention_maps import maps_of_run
from pipeline.tasks.base import load_task
from pipeline.utils import processes
from pipeline.utils.errors import PipelineError
from pipeline.utils.text import last_line


def maps_of_frameworks(runs: list[ComparedRun], text: str) -> tuple[list[AttentionMap], list[Problem]]:
    """One text through each framework's first run with hand-written attention or model, in a process of its own."""
    maps: dict[str, AttentionMap] = {}
    problems: list[Problem] = []
    for run in runs:
        is_cross = "encoder-decoder" in load_task(run.recipe).architectures
        if not is_ours(run.attention) or run.framework in maps:
            continue
        try:
            found = processes.call(maps_of_run, run.path, text, run.framework, is_cross, framework=run.framework)
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
