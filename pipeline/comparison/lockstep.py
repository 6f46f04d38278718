"""The same training steps in both frameworks, compared one by one: are they the same experiment?

Each framework runs in a process of its own and returns a trace. The loss alone misses much (dropping a weight decay of
0.01 moves it by 3e-5 in 50 steps), so gradient norms and every trained parameter are compared too.

Differences in rounding grow during training, and from some step on no two trainings are equal. So PyTorch also trains
from starts that are off by one rounding, the controls. What the frameworks may differ by is CONTROL_FACTOR times the
largest difference between a control and PyTorch, or a fixed bound if that is larger. In the same way each framework in
several processes is compared with itself in one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.backend import FRAMEWORKS
from pipeline.comparison.traces import (
    EARLY_STEPS,
    Distance,
    Trace,
    distance,
    record,
    record_in_ranks,
    record_with_controls,
)
from pipeline.distributed.launcher import Launch
from pipeline.models.attention import STOCK
from pipeline.recipe.schema import Recipe
from pipeline.runs.machine import merged_versions
from pipeline.utils import processes
from pipeline.utils.errors import UserError
from pipeline.utils.text import factor

# What rounding makes of the same loss, relative to the loss, or to 1 where that is larger.
ROUNDING = 1e-6
# How many controls are trained at first, and how many before two trainings are called different experiments. The step
# at which rounding begins to grow is a matter of chance: 20, 22, 45 and 56 in four controls of dates_t5. Three controls
# in which it begins late would make a correct pair in which it begins early look like another experiment.
FIRST_CONTROLS, MOST_CONTROLS = 3, 8
MOST_PROCESSES = 64
# The frameworks may differ by this times as much as the control that differs most.
CONTROL_FACTOR = 3.0


@dataclass(frozen=True)
class Bounds:
    """The largest differences that count as the same experiment whatever the controls do.

    They lie between those of correct pairs and of faults, measured over 50 steps of sentiment_bert, dates_t5 and
    stories_gpt2, and of dates_t5 from random weights. After three steps the parameters of correct pairs differ by 6e-6
    to 2e-4, and without a weight decay of 0.01 by 2e-3 to 2e-2.
    """

    logits: float = 1e-4
    early_loss: float = 1e-5
    early_parameters: float = 5e-4
    loss: float = 1e-3
    grad_norm: float = 1e-3
    parameters: float = 1e-3


@dataclass(frozen=True)
class LockstepReport:
    """The largest differences between two traces, what they may be, and the parameter that differs most.

    `control` has the largest differences that the controls have from PyTorch, and is empty without controls.
    """

    recipe: str
    steps: int
    dropout: float  # the largest rate of the model; the masks are the same in both frameworks
    differences: dict[str, float]
    bounds: Bounds
    worst_parameter: str
    loss_by_step: NDArray  # relative to the loss, or to 1 where that is larger, [steps]
    control: dict[str, float]
    control_loss_by_step: NDArray  # of the control that differs most at the step, [steps]; [0] without controls
    num_controls: int
    fingerprints: dict[str, str]
    versions: dict[str, str]  # of packages of which they have different ones, as "5 (torch), 4 (tensorflow)"

    @property
    def allowed(self) -> dict[str, float]:
        """How large each difference may be: the bound, or CONTROL_FACTOR times the controls' if that is larger.

        The logits are compared before the first step, when rounding has not grown, so only their bound counts.
        """
        grown = {name: CONTROL_FACTOR * value for name, value in self.control.items() if name != "logits"}
        return {name: max(bound, grown.get(name, 0.0)) for name, bound in asdict(self.bounds).items()}

    @property
    def same(self) -> bool:
        """Whether every difference is within what is allowed; NaN is not."""
        return all(value <= self.allowed[name] for name, value in self.differences.items())

    @property
    def first_step_over_rounding(self) -> int | None:
        """The first step, from 1, at which the losses of the frameworks differ by more than ROUNDING."""
        return _first_over_rounding(self.loss_by_step)

    @property
    def control_first_step_over_rounding(self) -> int | None:
        """The first step, from 1, at which the loss of a control differs by more than ROUNDING."""
        return _first_over_rounding(self.control_loss_by_step)

    @property
    def share_of_control(self) -> float | None:
        """How far the frameworks' parameters are apart at the end, over how far the controls' are from PyTorch's."""
        return self.differences["parameters"] / self.control["parameters"] if self.control.get("parameters") else None

    def as_text(self) -> str:
        """A line for each difference, what rounding explains of it, and the conclusion."""
        masks = "same dropout masks" if self.dropout else "no dropout"
        lines = [f"{self.recipe}: {self.steps} steps in PyTorch and TensorFlow, same start, same batches, {masks}"]
        for name, value in self.differences.items():
            mark = "ok" if value <= self.allowed[name] else "OVER"
            note = f"  ({self.worst_parameter})" if name == "parameters" and self.worst_parameter else ""
            control = f"  control {self.control[name]:.1e}" if self.control else ""
            lines.append(f"  {_TITLES[name]:<44} {value:.1e}{control}  allowed {self.allowed[name]:.0e}  {mark}{note}")
        lines.append(f"losses equal within {ROUNDING:.0e}: {self._equal_steps(self.loss_by_step)}")
        if self.control:
            lines[-1] += f"; of PyTorch and its control: {self._equal_steps(self.control_loss_by_step)}"
        if self.share_of_control is not None:
            lines.append(
                f"the parameters of PyTorch and TensorFlow differ {factor(self.share_of_control)} times as much as "
                "those of two PyTorch trainings whose first weights differ by one rounding"
            )
        lines += _told_apart(self.versions)
        lines.append("the same experiment" if self.same else "NOT the same experiment")
        return "\n".join(lines)

    def _equal_steps(self, losses: NDArray) -> str:
        over = _first_over_rounding(losses)
        return f"the first {self.steps if over is None else over - 1} of {self.steps} steps"

    def __str__(self) -> str:
        return self.as_text()


_TITLES = {
    "logits": "initial logits, largest difference",
    "early_loss": f"loss of the first {EARLY_STEPS} steps",
    "early_parameters": f"parameters after {EARLY_STEPS} steps, relative to change",
    "loss": "loss, largest difference of a step",
    "grad_norm": "gradient norm, largest relative difference",
    "parameters": "parameters at the end, relative to change",
}


def compare_frameworks(
    recipe: Recipe,
    steps: int = 50,
    attention: str = STOCK,
    seed: int = 0,
    bounds: Bounds | None = None,
    dropout: bool = True,
) -> LockstepReport:
    """Take `steps` training steps of the recipe in each framework, in a fresh process each, and compare.

    Without `dropout`, or if the recipe's frameworks draw their own masks, all dropout rates are 0. More controls are
    trained if the frameworks differ by more than the first ones do.
    """
    bounds = bounds or Bounds()
    names = tuple(FRAMEWORKS)

    def with_controls(directions: range) -> tuple[Trace, list[Distance]]:
        arguments = (recipe, names[0], steps, attention, seed, dropout, directions)
        return processes.call(record_with_controls, *arguments, framework=names[0])

    first, controls = with_controls(range(FIRST_CONTROLS))
    theirs = _without_parts_of_pytorch(recipe)
    second = processes.call(record, theirs, names[1], steps, attention, seed, dropout, framework=names[1])
    report = compare_traces(recipe.name, first, second, controls, bounds)
    if report.same or not report.differences["logits"] <= bounds.logits:
        return report
    controls += with_controls(range(FIRST_CONTROLS, MOST_CONTROLS))[1]
    return compare_traces(recipe.name, first, second, controls, bounds)


def _without_parts_of_pytorch(recipe: Recipe) -> Recipe:
    """The recipe for the other framework, which holds all weights whole and has one implementation of attention."""
    return recipe.override({"train": {"sharding": None, "attention_implementation": None}})


def compare_traces(
    name: str, first: Trace, second: Trace, controls: Sequence[Distance] = (), bounds: Bounds | None = None
) -> LockstepReport:
    """The largest differences of two traces beside those of the controls from the first one."""
    apart, theirs = distance(first, second), second.versions
    both = merged_versions(dict(zip(FRAMEWORKS, (first.versions, theirs), strict=True)))
    of_controls = [control.largest for control in controls]
    return LockstepReport(
        recipe=name,
        steps=len(first.loss),
        dropout=first.dropout,
        differences=apart.largest,
        bounds=bounds or Bounds(),
        worst_parameter=apart.worst_parameter,
        loss_by_step=apart.loss,
        control={key: max(each[key] for each in of_controls) for key in apart.largest} if controls else {},
        control_loss_by_step=np.max([control.loss for control in controls], axis=0) if controls else np.zeros(0),
        num_controls=len(controls),
        fingerprints=first.fingerprints,
        versions={name: both[name] for name, version in first.versions.items() if theirs.get(name, version) != version},
    )


def _told_apart(versions: Mapping[str, str]) -> list[str]:
    """A line that names these versions, none if there are none."""
    return [f"versions: {'; '.join(f'{name} {text}' for name, text in versions.items())}"] if versions else []


def _first_over_rounding(losses: NDArray) -> int | None:
    over = np.flatnonzero(~(losses <= ROUNDING))
    return int(over[0]) + 1 if len(over) else None


@dataclass(frozen=True)
class ProcessLockstepReport:
    """How far each pair of traces is apart; the keys are such as ("torch 1", "torch 2")."""

    recipe: str
    steps: int
    pairs: dict[tuple[str, str], LockstepReport]

    @property
    def same(self) -> bool:
        """Whether all pairs are the same experiment."""
        return all(report.same for report in self.pairs.values())

    def as_text(self) -> str:
        """A line for each pair and the conclusion."""
        dropout = max(report.dropout for report in self.pairs.values())
        masks = "same dropout masks" if dropout else "no dropout"
        lines = [
            f"{self.recipe}: {self.steps} steps by numbers of processes, same start, same batches, {masks}",
            f"  {'':<31} {'loss':>8} {'gradient norm':>14} {'parameters':>11}",
        ]
        for (first, second), report in self.pairs.items():
            apart, mark = report.differences, "ok" if report.same else f"OVER {', '.join(_over(report))}"
            loss, norm, parameters = (apart[name] for name in ("loss", "grad_norm", "parameters"))
            lines.append(f"  {f'{first} and {second}':<31} {loss:>8.1e} {norm:>14.1e} {parameters:>11.1e}  {mark}")
        allowed = next(iter(self.pairs.values())).allowed
        lines.append(
            f"  {'allowed':<31} {allowed['loss']:>8.1e} {allowed['grad_norm']:>14.1e} {allowed['parameters']:>11.1e}"
        )
        lines += _told_apart(dict(item for report in self.pairs.values() for item in report.versions.items()))
        lines.append("the same experiment" if self.same else "NOT the same experiment")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.as_text()


def _over(report: LockstepReport) -> list[str]:
    return [name for name, value in report.differences.items() if not value <= report.allowed[name]]


def compare_processes(
    recipe: Recipe,
    counts: Sequence[int],
    steps: int = 50,
    attention: str = STOCK,
    seed: int = 0,
    bounds: Bounds | None = None,
    dropout: bool = True,
) -> ProcessLockstepReport:
    """Take `steps` training steps with each number of processes in each framework, and compare.

    One process is compared too, whether `counts` name it or not. If the recipe shards the weights, PyTorch does, and
    the other framework holds them whole. Raises UserError for numbers that cannot be.
    """
    counts = sorted({1, *counts})
    if not 1 <= counts[0] <= counts[-1] <= MOST_PROCESSES or len(counts) < 2:
        raise UserError(
            f"processes are {' '.join(map(str, counts))}, but must be whole numbers from 1 to {MOST_PROCESSES}, one of "
            "them 2 or more",
            arguments=("processes",),
        )
    arguments = (steps, attention, seed, dropout)
    reference, *others = FRAMEWORKS
    theirs = _without_parts_of_pytorch(recipe)
    recipes = {framework: recipe if framework == reference else theirs for framework in FRAMEWORKS}
    alone, controls = processes.call(
        record_with_controls, recipe, reference, *arguments, range(FIRST_CONTROLS), framework=reference
    )
    traces = {(reference, 1): alone} | {
        (framework, 1): processes.call(record, recipes[framework], framework, *arguments, framework=framework)
        for framework in others
    }
    for framework in FRAMEWORKS:
        for count in counts[1:]:
            call = (recipes[framework], framework, *arguments)
            launch = Launch(record_in_ranks, call, count, framework, on_event=lambda event: None)
            traces[framework, count] = launch.run(lambda: False)
    report = _report(recipe.name, steps, counts, traces, controls, bounds or Bounds())
    if report.same:
        return report
    directions = range(FIRST_CONTROLS, MOST_CONTROLS)
    controls += processes.call(record_with_controls, recipe, reference, *arguments, directions, framework=reference)[1]
    return _report(recipe.name, steps, counts, traces, controls, bounds or Bounds())


def _report(
    name: str,
    steps: int,
    counts: Sequence[int],
    traces: dict[tuple[str, int], Trace],
    controls: Sequence[Distance],
    bounds: Bounds,
) -> ProcessLockstepReport:
    pairs = [((framework, 1), (framework, count)) for framework in FRAMEWORKS for count in counts[1:]]
    pairs += [((first, count), (second, count)) for first, second in [tuple(FRAMEWORKS)] for count in counts]
    return ProcessLockstepReport(
        name,
        steps,
        {
            (" ".join(map(str, a)), " ".join(map(str, b))): compare_traces(name, traces[a], traces[b], controls, bounds)
            for a, b in pairs
        },
    )
