"""A run as a notebook shows it: its scores as a table, and the loss and the validation score as curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from itertools import accumulate

from pipeline.runs.record import EvaluationRecord, Metrics, RunRecord, StepRecord
from pipeline.utils.text import count, visible

WIDTH, HEIGHT, MARGIN = 480, 150, 24
# Points of a curve; more would not be seen.
MOST_POINTS = 400
# How much of the smoothed loss each step replaces.
SMOOTHING = 0.1


def run_html(record: RunRecord, history: Sequence[StepRecord], path: str) -> str:
    """The table and the curve of a run as HTML that takes the notebook's own colors."""
    train = record.train
    splits: dict[str, Metrics] = {"validation": record.metrics} | ({"test": record.test} if record.test else {})
    names = "".join(f"<th>{escape(visible(name))}</th>" for name in record.metrics)
    rows = "".join(
        f"<tr><th>{split}</th>{''.join(f'<td>{_shown(values.get(name))}</td>' for name in record.metrics)}</tr>"
        for split, values in splits.items()
    )
    took = f"{count(train.steps, 'step')}, {train.seconds:.1f} s, {train.examples_per_second:.0f} examples/s"
    return (
        f"<p><b>{escape(visible(record.identity.label))}</b>: {took}<br><code>{escape(visible(path))}</code></p>"
        f"<table><thead><tr><th></th>{names}</tr></thead><tbody>{rows}</tbody></table>"
        f"{_curves(history, record.evaluations)}"
    )


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def smoothed(losses: Sequence[float]) -> list[float]:
    """The exponential moving average of the losses."""
    return list(accumulate(losses, lambda before, loss: before + SMOOTHING * (loss - before)))


def _curves(history: Sequence[StepRecord], evaluations: Sequence[EvaluationRecord]) -> str:
    """The loss of each step, faint, its moving average, and the validation loss after each epoch, as one SVG."""
    if len(history) < 2:
        return ""
    every = math.ceil(len(history) / MOST_POINTS)
    losses = [record.loss for record in history]
    last_steps = {record.epoch: record.step for record in history}
    validation = [
        (last_steps[each.epoch], loss)
        for each in evaluations
        if (loss := each.metrics.get("loss")) is not None and each.epoch in last_steps
    ]
    low = min(*losses, *(loss for _, loss in validation))
    high = max(*losses, *(loss for _, loss in validation))

    def point(step: int, loss: float) -> tuple[float, float]:
        x = MARGIN + (WIDTH - 2 * MARGIN) * (step - 1) / (len(history) - 1)
        y = MARGIN + (HEIGHT - 2 * MARGIN) * (high - loss) / ((high - low) or 1.0)
        return round(x, 1), round(y, 1)

    def line(values: Sequence[float], style: str) -> str:
        points = " ".join(f"{x},{y}" for x, y in (point(i + 1, values[i]) for i in range(0, len(values), every)))
        return f'<polyline points="{points}" fill="none" {style}/>'

    dots = "".join(
        f'<circle cx="{x}" cy="{y}" r="3.5" fill="#d55e00"><title>validation loss {loss:.4f} after step {step}</title>'
        "</circle>"
        for step, loss in validation
        for x, y in (point(step, loss),)
    )
    text = 'fill="currentColor" font-size="11" font-family="sans-serif"'
    steps = count(len(history), "step")
    raw = line(losses, 'stroke="#0072b2" stroke-opacity="0.35" stroke-width="1"')
    smooth = line(smoothed(losses), 'stroke="#0072b2" stroke-width="2"')
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img" aria-label="The loss of each step">'
        f"{raw}{smooth}{dots}"
        f'<text x="{MARGIN}" y="14" {text}>loss {high:.3g} to {low:.3g}; dots: validation</text>'
        f'<text x="{WIDTH - MARGIN}" y="{HEIGHT - 4}" text-anchor="end" {text}>{steps}</text></svg>'
    )
