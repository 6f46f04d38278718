"""Measures a run's model in its framework: as predict uses it, and in each mode of execution, eager or a graph."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from pipeline.backend import Backend, Model
from pipeline.deploy.report.export_costs import Measured, call_milliseconds, measure_process
from pipeline.deploy.report.results import ModeCost, ShapeCost, Spread, Work
from pipeline.deploy.runtimes import Arrays
from pipeline.recipe.schema import Train
from pipeline.runs.directory import load_run
from pipeline.runs.prediction import open_run
from pipeline.utils.text import shorten

# The mode that the others are compared with.
EAGER = "eager"
# Of an error's message.
MOST_CHARACTERS = 240


class Plan(NamedTuple):
    """How often modes are measured, and which are left out, with the reason."""

    repeats: int
    seconds: float
    left_out: Mapping[str, str]


def measure_run(path: str, batches: Sequence[Arrays], seconds: float) -> Measured:
    """What a run needs in its framework in this process, which is fresh."""
    return measure_process(lambda: open_run(load_run(path)).predictor().logits, batches, seconds)


def mode_costs(
    send: Callable[[str], None], path: str, framework: str, batches: Sequence[Arrays], plan: Plan
) -> list[ModeCost]:
    """Every mode of a framework, for inference and for a training step; `send` is told what is being measured.

    `batches` have token ids and masks [B, T]. Graphs are traced with the last, which has several rows.
    """
    run = load_run(path)
    trained = open_run(run, framework)
    costs = []
    for work in ("inference", "training step"):
        settings = run.directory.recipe().train if work == "training step" else None
        costs += _costs_of_work(send, trained.backend, trained.model, work, settings, batches, plan)
    return costs


def _costs_of_work(
    send: Callable[[str], None],
    backend: Backend,
    model: Model,
    work: Work,
    settings: Train | None,
    batches: Sequence[Arrays],
    plan: Plan,
) -> list[ModeCost]:
    """The modes for one kind of work: each is made and called, then all are measured in turns."""
    functions: dict[str, Callable[[Arrays], None]] = {}
    first_calls: dict[str, float] = {}
    problems = {mode: plan.left_out[mode] for mode in backend.MODES if mode in plan.left_out}
    for mode in backend.MODES:
        if mode in problems:
            continue
        send(f"{backend.name}, {work}: {mode}")
        started = _processor_seconds()
        try:
            function = backend.execution(model, mode, batches[-1], settings)
            function(batches[-1])
            first_calls[mode] = _processor_seconds() - started
            for batch in batches:
                function(batch)
        except Exception as error:  # a framework or a compiler raises what it likes, and the report says it
            problems[mode] = _cause(error)
            continue
        functions[mode] = function
    shapes = [_interleaved(functions, batch, plan) for batch in batches] if EAGER in functions else []
    return [
        ModeCost(
            framework=backend.name,
            work=work,
            mode=mode,
            problem=problems.get(mode),
            first_call_seconds=first_calls.get(mode) if mode in functions else None,
            shapes=[shape[mode] for shape in shapes if mode in shape],
        )
        for mode in backend.MODES
    ]


def _interleaved(functions: Mapping[str, Callable[[Arrays], None]], batch: Arrays, plan: Plan) -> dict[str, ShapeCost]:
    """Each function's time on a batch; in each repeat all are measured, so that what changes meanwhile meets all."""
    times: dict[str, list[float]] = {mode: [] for mode in functions}
    for _ in range(plan.repeats):
        for mode, function in functions.items():
            times[mode].append(call_milliseconds(function, batch, plan.seconds))
    return {
        mode: ShapeCost(
            milliseconds=Spread.of(found),
            gain=Spread.of([eager / own for eager, own in zip(times[EAGER], found, strict=True)]),
        )
        for mode, found in times.items()
    }


def _processor_seconds() -> float:
    """Processor time of this process and of those it has started, such as a compiler."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _cause(error: Exception) -> str:
    """What an error says, on one line: its first lines say more than its last."""
    return shorten(" ".join(f"{type(error).__name__}: {error}".split()), MOST_CHARACTERS)
