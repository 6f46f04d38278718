"""What `watch` shows: the loss of a run as a chart in the terminal, its scores and how far it is."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipeline.runs.following import FollowedRun
from pipeline.utils.text import escape_controls

SECONDS_BETWEEN_LOOKS = 0.5
# Lines of the chart, and of the table of scores.
_HEIGHT, _MOST_EPOCHS, _MOST_METRICS = 12, 8, 6
# The dots of a braille character by column and row; each is a bit of its code.
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
_BLANK_BRAILLE = 0x2800


def watch(path: Path, console: Console | None = None, seconds: float = SECONDS_BETWEEN_LOOKS) -> bool:
    """Show a run until it ends; returns whether it is complete. Raises UserError if there is no run.

    On a terminal the picture is drawn anew; elsewhere each look that finds something new prints lines, and the picture
    comes at the end.
    """
    console = console or Console(highlight=False)
    run = FollowedRun(path)
    run.read()
    if run.state == "training" and console.is_terminal:
        with Live(picture(run, console), console=console, auto_refresh=False, transient=True) as live:
            for _ in _looks(run, seconds):
                live.update(picture(run, console), refresh=True)
    elif run.state == "training":
        _print_lines(run, console, seconds)
    console.print(picture(run, console))
    if run.state == "ended":
        text = f"{path} ended before it was complete; RESUME=1 continues it"
        console.print(Text(escape_controls(text)), soft_wrap=True)
    return run.state == "finished"


def _looks(run: FollowedRun, seconds: float) -> Iterator[None]:
    """Read a run again and again, until it has ended for two looks: a complete run is renamed between two of them."""
    num_ended = 0
    while run.state != "finished" and num_ended < 2:
        yield
        time.sleep(seconds)
        run.read()
        num_ended = num_ended + 1 if run.state == "ended" else 0


def _print_lines(run: FollowedRun, console: Console, seconds: float) -> None:
    num_steps = num_evaluations = 0
    for _ in _looks(run, seconds):
        if len(run.steps) > num_steps:
            num_steps = len(run.steps)
            console.print(_numbers(run), soft_wrap=True)
        for record in run.evaluations[num_evaluations:]:
            scores = "  ".join(f"{name} {_score(value)}" for name, value in record.metrics.items())
            console.print(Text(escape_controls(f"epoch {record.epoch}: {scores}")), soft_wrap=True)
        num_evaluations = len(run.evaluations)


def picture(run: FollowedRun, console: Console) -> Group:
    """The run as it is known: numbers, the chart of the loss, and the scores after each epoch."""
    title = Text(escape_controls(os.path.relpath(run.directory.path)), style="bold")
    parts: list[Text | Table] = [title, _numbers(run)]
    losses = [line["loss"] for line in run.steps.lines()]
    if losses:
        parts += map(Text, _labelled_chart(losses, console.width, "utf" in console.encoding.lower()))
    return Group(*parts, *_scores(run))


def _numbers(run: FollowedRun) -> Text:
    """Where the run is, and its last step."""
    if not run.steps:
        return Text("before the first step")
    last = run.steps[-1]
    words = [
        f"step {last.step}{f'/{run.num_steps}' if run.num_steps else ''}",
        f"epoch {last.epoch}{f'/{run.num_epochs}' if run.num_epochs else ''}",
        f"loss {last.loss:.4f}", f"learning rate {last.learning_rate:.2e}", f"gradient norm {last.grad_norm:.3g}",
        *_speed(run),
    ]  # fmt: skip
    return Text("  ".join(words))


def _speed(run: FollowedRun) -> Iterator[str]:
    """Examples per second and the time that is left, from the last hundred steps."""
    recent = run.steps[-min(len(run.steps), 100) :]
    seconds = recent[-1].seconds - recent[0].seconds
    if seconds <= 0:
        return
    yield f"{sum(step.examples for step in recent[1:]) / seconds:,.0f} examples/s"
    if run.state == "training" and run.num_steps:
        yield f"{seconds / (len(recent) - 1) * (run.num_steps - recent[-1].step):.0f} s left"
    else:
        yield f"{recent[-1].seconds:.1f} s"


def _scores(run: FollowedRun) -> list[Table]:
    if not run.evaluations:
        return []
    names = list(run.evaluations[-1].metrics)[:_MOST_METRICS]
    table = Table("epoch", *(escape_controls(name) for name in names), box=None, padding=(0, 2, 0, 0))
    for record in run.evaluations[-_MOST_EPOCHS:]:
        table.add_row(str(record.epoch), *(_score(record.metrics.get(name)) for name in names))
    return [table]


def _score(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def _labelled_chart(values: Sequence[float], width: int, unicode: bool) -> list[str]:
    """The chart of the loss with its range at the left and the steps below."""
    low, high = min(values), max(values)
    labels = [f"{high:.4g}", *[""] * (_HEIGHT - 2), f"{low:.4g}"]
    margin = max(map(len, labels))
    lines = chart(values, max(10, width - margin - 3), _HEIGHT, unicode)
    bar = "│" if unicode else "|"
    labelled = [f"{label:>{margin}} {bar}{line}" for label, line in zip(labels, lines, strict=True)]
    return [*labelled, f"{'':>{margin}}  step 1 to {len(values)}: loss"]


def chart(values: Sequence[float], width: int, height: int, unicode: bool = True) -> list[str]:
    """A line through the values as `height` lines of at most `width` characters, drawn with braille dots or stars.

    Where there are more values than columns, a column shows their mean.
    """
    columns, rows = (2, 4) if unicode else (1, 1)
    means = _means(values, width * columns)
    low, high = min(means), max(means)
    top = height * rows - 1
    levels = [round((high - value) / (high - low) * top) if high > low else top // 2 for value in means]
    cells = [[0] * -(-len(means) // columns) for _ in range(height)]
    for x, (before, level) in enumerate(pairwise([levels[0], *levels])):
        # From where the column before ended, so that the line has no gaps.
        first, last = sorted((level, before + (level > before) - (level < before)))
        for y in range(first, last + 1) if before != level else (level,):
            cells[y // rows][x // columns] |= _DOTS[x % columns][y % rows]
    if unicode:
        return ["".join(chr(_BLANK_BRAILLE + cell) if cell else " " for cell in row).rstrip() for row in cells]
    return ["".join("*" if cell else " " for cell in row).rstrip() for row in cells]


def _means(values: Sequence[float], most: int) -> list[float]:
    """At most so many means of equally long stretches of the values."""
    size = len(values) / min(len(values), most)
    bounds = [round(i * size) for i in range(min(len(values), most) + 1)]
    return [sum(values[a:b]) / (b - a) for a, b in pairwise(bounds)]
