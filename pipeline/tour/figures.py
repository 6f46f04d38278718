"""The pictures of the tour: where the decoder looks, where a step's time goes, lock-step, deployment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from pipeline.deploy.report.content import FRAMEWORK_NAMES
from pipeline.deploy.report.figures import pictures as deployment_pictures
from pipeline.reporting.drawing import svg
from pipeline.reporting.drawing.picture import Picture
from pipeline.reporting.drawing.plots import heat_map, legend, new_figure
from pipeline.reporting.figures import lockstep
from pipeline.reporting.formatting import measured
from pipeline.tour.results import StepCost, TourResults
from pipeline.utils.drawing import plain_texts

# Where the pictures of a deployment report stand in the tour.
_SECTIONS = {"formats": "deployment", "modes": "graphs"}
# Kinds beyond the six colors are told apart by their patterns.
_HATCHES = ("",) * len(svg.SERIES) + ("////", "....", "")


def pictures(results: TourResults) -> list[Picture]:
    """Every picture that the results have data for."""
    with plain_texts():
        drawn = [*_cross_attention(results), *_steps(results.steps)]
        drawn += [replace(each, section=_SECTIONS[each.section]) for each in deployment_pictures(results.deployment)]
        return [*drawn, *lockstep([results.lockstep], "sameness")]


def _cross_attention(results: TourResults) -> Iterator[Picture]:
    for stage in results.sentence.stages:
        if stage.name == "cross-attention":
            weights = stage.shown["torch"]
            figure, (axis,) = new_figure(height=3.6)
            heat_map(axis, weights, max(map(max, weights)), (stage.rows, stage.columns))
            said = "; ".join(
                f"{row} looks at {stage.columns[int(np.argmax(found))]}"
                for row, found in zip(stage.rows, weights, strict=True)
            )
            yield Picture(
                "cross-attention", "sentence", "Where the decoder looks, first head",
                "A row for each word written so far. Bright: what it reads, to choose the word that comes after it.",
                f"Most weight: {said}.", figure,
            )  # fmt: skip


def _steps(costs: list[StepCost]) -> Iterator[Picture]:
    """A bar for each model and framework, cut into the kinds of its operators."""
    if not costs:
        return
    kinds = list(costs[0].milliseconds_by_kind)
    figure, (axis,) = new_figure(height=1.6 + 0.42 * len(costs))
    left = np.zeros(len(costs))
    for number, kind in enumerate(kinds):
        widths = np.array([cost.milliseconds_by_kind[kind] for cost in costs])
        color = svg.SERIES[number] if number < len(svg.SERIES) else svg.LINE
        axis.barh(
            range(len(costs)), widths, left=left, height=0.62, color=color, label=kind, hatch=_HATCHES[number],
            edgecolor="white", linewidth=0.4,
        )  # fmt: skip
        left += widths
    axis.set_yticks(
        range(len(costs)), [f"{cost.model}\n{FRAMEWORK_NAMES[cost.framework]}" for cost in costs], fontsize=9
    )
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.set_xlabel("milliseconds of a training step")
    legend(figure)
    yield Picture(
        "steps", "performance", "Where the time of a training step goes",
        "Processor time of one thread, by kind of operator. Between operators: Python, the runtime, reading batches.",
        "; ".join(f"{_title(cost)}: {_largest(cost)}" for cost in costs) + ".", figure,
    )  # fmt: skip


def _title(cost: StepCost) -> str:
    return f"{cost.model} in {FRAMEWORK_NAMES[cost.framework]}"


def _largest(cost: StepCost) -> str:
    """The two kinds that take most."""
    found = sorted(cost.milliseconds_by_kind.items(), key=lambda pair: -pair[1])[:2]
    return ", ".join(f"{kind} {measured(number, '')[0]} ms" for kind, number in found)
