"""The figures of a deployment report: processor time of each format, and what each graph gains over eager execution."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from pipeline.deploy.report.content import in_words, shape_name
from pipeline.deploy.report.results import DeploymentResults, Spread
from pipeline.reporting.drawing import svg
from pipeline.reporting.drawing.picture import Picture
from pipeline.reporting.drawing.plots import Style, dots, new_figure
from pipeline.reporting.formatting import FRAMEWORK_NAMES
from pipeline.utils.drawing import plain_texts


def pictures(results: DeploymentResults) -> list[Picture]:
    """Every figure that the results have data for."""
    with plain_texts():
        return [*_formats(results), *_modes(results)]


def _formats(results: DeploymentResults) -> Iterator[Picture]:
    for number, shape in enumerate(results.shapes):
        rows = {each.title: each.cost.milliseconds[number] for each in results.formats if each.cost is not None}
        if rows:
            answer = "a forward pass" if results.writes_texts else "an answer"
            title = f"Processor time of {answer} for {shape_name(shape)}"
            yield _picture(f"formats-{number + 1}", "formats", title, "milliseconds, one thread", rows)


def _modes(results: DeploymentResults) -> Iterator[Picture]:
    for work, number in (("inference", 0), ("training step", -1)):
        rows = {
            f"{FRAMEWORK_NAMES[cost.framework]}, {cost.mode}": cost.shapes[number].gain
            for cost in results.modes
            if cost.work == work and cost.shapes and cost.mode != "eager"
        }
        if rows:
            title = f"Graphs beside eager: {work} with {shape_name(results.shapes[number])}"
            yield _picture(work.replace(" ", "-"), "modes", title, "times as fast as eager", rows, at=1.0)


def _picture(
    name: str, section: str, title: str, unit: str, rows: dict[str, Spread], at: float | None = None
) -> Picture:
    """A row for each name, with its median and range, and a line at a value that means something."""
    figure, (axis,) = new_figure(height=0.8 + 0.34 * len(rows))
    if at is not None:
        axis.axvline(at, color=svg.INK, linewidth=0.7)
    colors = _colors(list(rows))
    dots(axis, _points(rows), colors)
    axis.set_xlabel(unit)
    axis.set_xlim(0, 1.06 * max(spread.high for spread in rows.values()))
    said = "; ".join(f"{row} {in_words(spread)}" for row, spread in rows.items())
    return Picture(name, section, title, "The median, and the range of all measurements.", f"{unit}: {said}.", figure)


def _points(rows: dict[str, Spread]) -> Iterable[tuple[str, float, float, float, list[float]]]:
    return [(name, spread.median, spread.low, spread.high, []) for name, spread in rows.items()]


def _colors(names: Sequence[str]) -> dict[str, Style]:
    """A color for each framework or runtime, which is the first word of a name."""
    firsts = list(dict.fromkeys(name.split()[0] for name in names))
    return {name: Style(svg.SERIES[firsts.index(name.split()[0]) % len(svg.SERIES)], "-", "o") for name in names}
