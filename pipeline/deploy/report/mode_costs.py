"""Measures a run's model in its framework: as predict uses it, and in each mode of execution, eager or a graph."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.backend import Backend, Model
from pipeline.deploy.proof import TOLERANCE
from pipeline.deploy.report.export_costs import Measured, call_milliseconds, measure_process
from pipeline.deploy.report.results import ModeCost, ShapeCost, Spread, Work
from pipeline.deploy.runtimes import Arrays
from pipeline.recipe.schema import Train
from pipeline.runs.directory import load_run
from pipeline.runs.prediction import open_run
from pipeline.utils.errors import PipelineError, ProofError
from pipeline.utils.files import temporary_files_vanish
from pipeline.utils.text import shorten

Function = Callable[[Arrays], NDArray]
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
    with temporary_files_vanish("deployment"):
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
    costs = {mode: ModeCost(framework=backend.name, work=work, mode=mode) for mode in backend.MODES}
    functions: dict[str, Function] = {}
    expected: list[NDArray] = []
    for mode in backend.MODES:
        send(f"{backend.name}, {work}: {mode}")
        try:
            if mode in plan.left_out:
                raise ProofError(plan.left_out[mode])
            started = processor_seconds()
            function = backend.execution(model, mode, batches[-1], settings)
            function(batches[-1])
            found: dict[str, object] = {"first_call_seconds": processor_seconds() - started}
            outputs = [function(batch) for batch in batches]
            expected = expected or outputs
            if settings is None:
                found["largest_difference"] = _difference(outputs, expected)
            functions[mode] = function
        except Exception as error:  # a framework or a compiler raises what it likes, and the report says it
            found = {"problem": cause(error)}
        costs[mode] = costs[mode].model_copy(update=found)
    if EAGER in functions:
        shapes = [interleaved(functions, batch, plan) for batch in batches]
        for mode in functions:
            costs[mode] = costs[mode].model_copy(update={"shapes": [shape[mode] for shape in shapes]})
    return list(costs.values())


def _difference(outputs: Sequence[NDArray], expected: Sequence[NDArray]) -> float:
    """The largest difference of logits from eager's. Raises ProofError if it is more than rounding."""
    largest = max(float(np.abs(own - eager).max()) for own, eager in zip(outputs, expected, strict=True))
    if not largest <= TOLERANCE:
        raise ProofError(
            f"its logits differ from eager's by up to {largest:.2g}, but at most {TOLERANCE:g} is rounding"
        )
    return largest


def interleaved(functions: Mapping[str, Function], batch: Arrays, plan: Plan) -> dict[str, ShapeCost]:
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


def processor_seconds() -> float:
    """Processor time of this process and of those it has started, such as a compiler."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def cause(error: Exception) -> str:
    """What an error says, on one line: its first lines say more than its last."""
    name = "" if isinstance(error, PipelineError) else f"{type(error).__name__}: "
    return shorten(" ".join(f"{name}{error}".split()), MOST_CHARACTERS)
