"""How every figure looks: size, colors, lines, and the few kinds of plot that the report has."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from pipeline.comparison.records.scores import Metric
from pipeline.comparison.results import Results
from pipeline.reporting.drawing import svg
from pipeline.reporting.formatting import MINUS
from pipeline.utils.text import shorten, visible

WIDTH = 5.0  # inches; as wide as a phone, so that the letters stay legible there
ROW_LABEL_LENGTH, LEGEND_LENGTH = 26, 23  # characters of a line
MOST_LINES = 5  # of a variant's settings
LEAST_SPAN = 0.005  # of an axis, as a part of its largest number: numbers that are closer are written alike
_DASHES = ("-", (0, (5, 2)), (0, (1.2, 1.4)), (0, (6, 2, 1.2, 2)), (0, (3, 1)), (0, (8, 3)))
_MARKERS = "osD^vP"


@dataclass(frozen=True)
class Style:
    """A variant's color, dashes and marker: no two variants are told apart by color alone."""

    color: str
    dash: str | tuple[float, tuple[float, ...]]
    marker: str
    number: int = 0
    """The variant's number on the page, from 1, by which it can be hidden; 0 for what is no variant."""


def styles(results: Results) -> dict[str, Style]:
    """A color for each framework, or each variant of the only one; dashes and marker for each variant."""
    frameworks = list(dict.fromkeys(variant.framework for variant in results.variants))
    return {
        variant.name: Style(
            svg.SERIES[(frameworks.index(variant.framework) if len(frameworks) > 1 else number) % len(svg.SERIES)],
            _DASHES[number % len(_DASHES)],
            _MARKERS[number % len(_MARKERS)],
            number + 1,
        )
        for number, variant in enumerate(results.variants)
    }


def new_figure(height: float = 3.0, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of the report's width, and its axes, row by row."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained", facecolor="none")
    axes: list[Axes] = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes:
        axis.set_facecolor("none")
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set(color=svg.LINE, linewidth=0.8)
        axis.tick_params(colors=svg.INK, labelsize=10, width=0.8, length=3, color=svg.LINE)
        axis.xaxis.label.set(color=svg.INK, size=10.5)
        axis.yaxis.label.set(color=svg.INK, size=10.5)
        axis.grid(color=svg.LINE, linewidth=0.5, alpha=0.6)
        axis.set_axisbelow(True)
    return figure, axes


def bands(
    axis: Axes, x: Sequence, middle: Sequence, band: tuple | None, style: Style, label: str, marker: bool = False
) -> None:
    """A curve, with a band from lowest to highest if there is one; a missing number leaves a gap."""
    points = style.marker if marker else None
    line = {"color": style.color, "linestyle": style.dash, "linewidth": 1.5, "marker": points, "markersize": 4}
    drawn = axis.plot(x, _gaps(middle), label=label, **line)
    svg.mark(drawn[0], style.number)
    if band:
        area = axis.fill_between(x, _gaps(band[0]), _gaps(band[1]), color=style.color, alpha=0.14, linewidth=0)
        svg.mark(area, style.number)


def tips(axis: Axes, x: Sequence[float], texts: Sequence[str]) -> None:
    """Unseen strips over the whole height, each as wide as up to its neighbors, that say a text under the pointer."""
    edges = [x[0], *((a + b) / 2 for a, b in pairwise(x)), x[-1]]
    for (low, high), text in zip(pairwise(edges), texts, strict=True):
        strip = axis.axvspan(low, high, facecolor="#000000", alpha=0, linewidth=0)
        svg.mark(strip, tip=text)


def points_with_tips(
    axis: Axes, points: Iterable[tuple[float, float, str]], style: Style, *, is_hollow: bool = False, size: float = 6
) -> None:
    """Single points (x, y, tip) in the look of a variant."""
    fill = {"markerfacecolor": "none", "markeredgecolor": style.color, "markersize": 4.5, "alpha": 0.8}
    look = fill if is_hollow else {"color": style.color, "markersize": size}
    for x, y, tip in points:
        drawn = axis.plot([x], [y], "o" if is_hollow else style.marker, linestyle="none", **look)
        svg.mark(drawn[0], style.number, tip)


def dots(
    axis: Axes, rows: Iterable[tuple[str, float, float | None, float | None, list[float]]], look: dict[str, Style],
    written: Callable[[float], str] = lambda number: f"{number:.4g}",
) -> None:  # fmt: skip
    """A row for each name, first on top: the middle, the interval around it, and single values hollow.

    Under the pointer each says its number as `written` writes it.
    """
    rows = list(rows)
    for y, (name, middle, low, high, singles) in enumerate(rows):
        style = look[name]
        if low is not None and high is not None:
            line = axis.plot([low, high], [y, y], color=style.color, linewidth=1.6, solid_capstyle="butt")
            svg.mark(line[0], style.number, f"{name}: {written(low)} to {written(high)}")
        alone = [(single, y, f"{name}: {written(single)}") for single in singles]
        points_with_tips(axis, alone, style, is_hollow=True)
        points_with_tips(axis, [(middle, y, f"{name}: {written(middle)}")], style)
        _row_label(axis, y, name)
    axis.set_yticks([])
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.grid(axis="y", visible=False)
    axis.spines["left"].set_visible(False)
    axis.xaxis.set_major_locator(MaxNLocator(5))


def height_of_rows(names: Iterable[str]) -> float:
    """Inches that the rows of `dots` with these names need, with the axis below them."""
    num_lines = [len(in_lines(name, ROW_LABEL_LENGTH)) for name in names]
    return 0.8 + (0.19 + 0.15 * max(num_lines)) * len(num_lines)


def _row_label(axis: Axes, y: int, name: str) -> None:
    """A name left of its row; each of its lines is set by itself, so that all end at the axis."""
    lines = in_lines(name, ROW_LABEL_LENGTH)
    for number, line in enumerate(lines):
        offset = 11 * ((len(lines) - 1) / 2 - number)
        axis.annotate(
            line, (0, y), (-8, offset), ("axes fraction", "data"), "offset points",
            ha="right", va="center", color=svg.INK, fontsize=10,
        )  # fmt: skip


def in_lines(name: str, length: int) -> list[str]:
    """A variant, or a pair of them, in lines of at most `length` characters.

    Framework and attention have a line each if one is too short for both. Settings take as many lines as they need, up
    to MOST_LINES, since variants differ in them; those that both of a pair have are written once.
    """
    first, sign, second = visible(name).partition(f" {MINUS} ")
    (variant, settings), (other, others) = map(_with_settings, (first, second))
    if not sign:
        return [*_in_two(variant, length), *_wrapped(settings, length)]
    shared = [] if settings == others else _wrapped(settings, length)
    # The sign stands behind the last line of the first.
    *lines, last = [*_in_two(variant, length - 2), *shared]
    return [*lines, f"{last} {MINUS}", *_in_two(other, length), *_wrapped(others, length)]


def _in_two(variant: str, length: int) -> list[str]:
    framework, slash, attention = variant.partition("/")
    if len(variant) <= length or not slash:
        return [shorten(variant, length)]
    return [shorten(framework + slash, length), shorten(attention, length)]


def _with_settings(name: str) -> tuple[str, str]:
    """The name of a variant, and its settings in parentheses."""
    variant, space, settings = name.partition(" (")
    return (variant, f"({settings}") if space and "=" in settings else (name, "")


def _wrapped(settings: str, length: int) -> list[str]:
    """Settings in lines, those in the middle left out if there are too many."""
    lines = textwrap.wrap(settings, length - 2)
    return lines if len(lines) <= MOST_LINES else [*lines[: MOST_LINES - 2], "…", lines[-1]]


def heat_map(
    axis: Axes, weights: list[list[float]], brightest: float, tokens: tuple[list[str], list[str]] | None
) -> None:
    """Attention weights as an image, queries down and keys across, labeled with the `tokens` of both."""
    axis.imshow(weights, cmap="viridis", vmin=0, vmax=brightest, interpolation="none", aspect="equal")
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)
    if tokens is None:
        axis.set_xticks([])
        axis.set_yticks([])
        return
    queries, keys = tokens
    size = 9 if max(len(queries), len(keys)) <= 20 else 6
    axis.set_xticks(range(len(keys)), keys, rotation=90, fontsize=size)
    axis.set_yticks(range(len(queries)), queries, fontsize=size)
    bar = axis.figure.colorbar(axis.images[0], ax=axis, shrink=0.7, pad=0.02)
    bar.set_label("attention weight", color=svg.INK, size=10)
    bar.ax.tick_params(colors=svg.INK, labelsize=9, width=0.8, length=3)
    bar.outline.set_visible(False)


def metric_label(name: str, metric: Metric) -> str:
    """'accuracy (higher is better)'."""
    return f"{visible(name)} ({'lower' if metric.lower_is_better else 'higher'} is better)"


def widen(axis: Axes, which: Literal["x", "y"]) -> None:
    """Widen an axis of nearly equal numbers until its ticks are numbers as the tables write them."""
    low, high = getattr(axis, f"get_{which}lim")()
    short = LEAST_SPAN * max(abs(low), abs(high)) - (high - low)
    if short > 0:
        getattr(axis, f"set_{which}lim")(low - short / 2, high + short / 2)


def steps_axis(axis: Axes) -> None:
    """Whole optimizer steps along x."""
    axis.set_xlabel("optimizer step")
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def scientific(axis: Axes) -> None:
    """Ticks as short as possible: 0.5, 2e-05."""
    axis.yaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))


def legend(figure: Figure) -> None:
    """Above the plot, in two columns, so that it hides nothing."""
    drawn = figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=10, handlelength=2.6)
    for text in drawn.get_texts():
        text.set(color=svg.INK, text="\n".join(in_lines(text.get_text(), LEGEND_LENGTH)))
    named = [artist for axis in figure.axes for artist in axis.get_legend_handles_labels()[0]]
    for artist, handle, text in zip(named, drawn.legend_handles, drawn.get_texts(), strict=True):
        gid = artist.get_gid() if isinstance(artist, Artist) else None  # bars come as a container of theirs
        if handle is not None and gid:  # an entry is hidden with what it names
            handle.set_gid(gid)
            text.set_gid(gid)
    lines = sum(text.get_text().count("\n") + 1 for text in drawn.get_texts())
    figure.set_figheight(figure.get_figheight() + 0.2 * max(0, math.ceil(lines / 2) - 2))


def _gaps(values: Iterable[float | None]) -> list[float]:
    return [math.nan if number is None else number for number in values]
