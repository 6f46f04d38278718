"""The figures of what predictions show: confusion matrices, calibration, thresholds, lengths, positions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes

from pipeline.comparison.records.predictions import Bin, ClassDetails, Operating
from pipeline.comparison.results import Results
from pipeline.reporting.details.sentences import curves_shown, errors_by_class
from pipeline.reporting.drawing import svg
from pipeline.reporting.drawing.picture import Picture
from pipeline.reporting.drawing.plots import Style, legend, new_figure, points_with_tips, styles
from pipeline.reporting.formatting import value
from pipeline.utils.text import shorten, visible

MAX_CELLS = 12  # classes on a side of a matrix; more would not be legible
MAX_MATRICES = 4
SECTION = "predictions"
Line = Sequence[tuple[float, float, str]]  # x, y, and what is said under the pointer
Grid = dict[str, dict[str, Line]]  # by class and variant


def prediction_pictures(results: Results) -> Iterable[Picture]:
    """Every figure that the predictions of the task give."""
    classes = {name: each.classes for name, each in results.predictions.items() if each.classes}
    if classes:
        yield from _matrices(classes)
        yield from _calibration(results, classes)
        yield from _thresholds(results, classes)
        yield from _operating(results, classes)
        yield from _curves(results, classes)
    yield from _numbers(results)
    yield from _positions(results)


def _matrices(classes: dict[str, ClassDetails]) -> Iterable[Picture]:
    for number, (variant, details) in enumerate(list(classes.items())[:MAX_MATRICES], start=1):
        counts = details.confusion
        if counts is None or len(counts) > MAX_CELLS:
            continue
        names = [shorten(visible(value(each.name)), 14) for each in details.classes]
        figure, (axis,) = new_figure(height=1.3 + 0.34 * max(3, len(names)))
        for true, row in enumerate(counts):
            for predicted, count in enumerate(row):
                _cell(axis, (predicted, true), count, sum(row), (names[predicted], names[true]))
        axis.set_xlim(-0.5, len(names) - 0.5)
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.grid(visible=False)
        axis.set_xticks(range(len(names)), names, rotation=90 if len(names) > 3 else 0)
        axis.set_yticks(range(len(names)), names)
        axis.set(xlabel="predicted", ylabel="true")
        right = sum(counts[i][i] for i in range(len(counts)))
        total = sum(map(sum, counts))
        yield Picture(
            f"confusion-{number}", SECTION, f"{variant}: true and predicted classes",
            "Predictions over all seeds; the stronger the color, the larger the share of the true class.",
            f"{right:,} of {total:,} predictions are on the diagonal.", figure,
        )  # fmt: skip


def _cell(axis: Axes, place: tuple[int, int], count: int, row_total: int, names: tuple[str, str]) -> None:
    """One cell: its shade is the share of its row, its number the count."""
    x, y = place
    share = count / row_total if row_total else 0.0
    # At most so dark that the number stays legible in the color of the text.
    (shade,) = axis.fill([x - 0.5, x + 0.5, x + 0.5, x - 0.5], [y - 0.5, y - 0.5, y + 0.5, y + 0.5],
                         facecolor=svg.SERIES[1], alpha=0.5 * share, edgecolor=svg.LINE, linewidth=0.5)  # fmt: skip
    svg.mark(shade, tip=f"true {names[1]}, predicted {names[0]}: {count:,} ({share:.1%})")
    axis.annotate(f"{count:,}", (x, y), ha="center", va="center", fontsize=9, color=svg.INK)


def _calibration(results: Results, classes: dict[str, ClassDetails]) -> Iterable[Picture]:
    lines: dict[str, Line] = {
        variant: _reliability(variant, details.calibration.bins, "right") if details.calibration else []
        for variant, details in classes.items()
    }
    errors = "; ".join(
        f"{variant} {details.calibration.error:.3f}" for variant, details in classes.items() if details.calibration
    )
    yield from _lines(
        results, lines, "calibration", "Are predictions as often right as their probability says?",
        "On the diagonal they are; below it the model is too sure. Ten ranges of probability.",
        f"Expected calibration error: {errors}.", ("mean probability", "share that is right"), has_diagonal=True,
    )  # fmt: skip


def _thresholds(results: Results, classes: dict[str, ClassDetails]) -> Iterable[Picture]:
    lines: dict[str, Line] = {
        variant: [
            (each.kept, each.right, f"{variant}, probability of at least {each.at_least:g}: {each.kept:.1%} taken, "
             f"{each.right:.1%} of these right")
            for each in details.thresholds
            if each.right is not None
        ]
        for variant, details in classes.items()
    }  # fmt: skip
    taken = "; ".join(
        f"{variant} {each.right:.1%} of {each.kept:.1%}"
        for variant, details in classes.items()
        for each in details.thresholds
        if each.at_least == 0.9 and each.right is not None
    )
    yield from _lines(
        results, lines, "thresholds", "Right, if only sure predictions are taken",
        "From the right: all predictions, then those with a probability of at least 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, "
        "0.99.",
        f"With a probability of at least 0.9, right: {taken}." if taken else "",
        ("share of predictions taken", "share of these that is right"),
    )  # fmt: skip


def _reliability(whose: str, bins: Sequence[Bin], what: str) -> Line:
    """The mean probability of each range, and the share of its predictions that are `what`."""
    return [
        (each.probability, each.right, f"{whose}: probability {each.probability:.3f}, {what} {each.right:.1%} of "
         f"{each.count:,}")
        for each in bins
        if each.probability is not None and each.right is not None
    ]  # fmt: skip


def _operating(results: Results, classes: dict[str, ClassDetails]) -> Iterable[Picture]:
    lines: dict[str, Line] = {
        variant: _precision_and_recall(variant, details.operating) for variant, details in classes.items()
    }
    positive = next((value(details.positive) for details in classes.values() if details.positive), "")
    at_half = "; ".join(
        f"{variant} precision {each.precision:.3f}, recall {each.recall:.3f}"
        for variant, details in classes.items()
        for each in details.classes
        if each.name == details.positive and each.precision is not None and each.recall is not None
    )
    yield from _lines(
        results, lines, "precision-recall", f"Precision and recall of “{positive}”",
        "Each point is a threshold on its probability.", f"As predicted: {at_half}.", ("recall", "precision"),
    )  # fmt: skip


def _precision_and_recall(whose: str, points: Sequence[Operating]) -> Line:
    """Recall and precision at each threshold."""
    return [
        (each.recall, each.precision, f"{whose}, from a probability of {each.at_least:.3f} on: precision "
         f"{each.precision:.1%}, recall {each.recall:.1%}")
        for each in points
        if each.precision is not None
    ]  # fmt: skip


def _curves(results: Results, classes: dict[str, ClassDetails]) -> Iterable[Picture]:
    """Each class or label against the rest, in a plot of its own."""
    reliability: Grid = defaultdict(dict)
    operating: Grid = defaultdict(dict)
    for variant, details in classes.items():
        for curves in details.curves:
            name = value(curves.name)
            bins = curves.calibration.bins if curves.calibration else []
            reliability[name][variant] = _reliability(f"{variant}, {name}", bins, "true")
            operating[name][variant] = _precision_and_recall(f"{variant}, {name}", curves.operating)
    if not operating:
        return
    errors = "; ".join(
        f"{value(name)}: {', '.join(f'{variant} {error:.3f}' for variant, error in of_variants.items())}"
        for name, of_variants in errors_by_class(classes).items()
    )
    which = curves_shown(classes)
    yield _grid(
        results, reliability, "calibration-by-class", "Class by class: is it as often true as its probability says?",
        f"On the diagonal it is; below it the model is too sure of the class.{which}",
        f"Expected calibration error of {errors}.", ("mean probability", "share that is true"), has_diagonal=True,
    )  # fmt: skip
    yield _grid(
        results, operating, "precision-recall-by-class", "Class by class: precision and recall",
        f"Each point is a threshold on the probability of the class.{which}",
        f"Variants: {', '.join(classes)}. Classes: {', '.join(operating)}.", ("recall", "precision"),
    )  # fmt: skip


def _grid(
    results: Results, lines: Grid, name: str, title: str, caption: str, description: str, labels: tuple[str, str],
    *, has_diagonal: bool = False,
) -> Picture:  # fmt: skip
    """A plot of shares for each class, two in a row, with a line for each variant."""
    look, rows = styles(results), (len(lines) + 1) // 2
    figure, axes = new_figure(0.6 + 1.75 * rows, rows, 2)
    in_legend: set[str] = set()
    for axis, (of_class, of_variants) in zip(axes, lines.items(), strict=False):
        if has_diagonal:
            axis.plot([0, 1], [0, 1], color=svg.INK, linewidth=0.8, linestyle=(0, (6, 3)))
        for variant, line in of_variants.items():
            _line(axis, line, look[variant], "" if variant in in_legend else variant)
            in_legend.add(variant)
        axis.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.06), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
        axis.set_title(shorten(visible(of_class), 22), fontsize=10, color=svg.INK)
    for axis in axes[len(lines) :]:
        axis.set_visible(False)
    figure.supxlabel(labels[0], color=svg.INK, size=10.5)
    figure.supylabel(labels[1], color=svg.INK, size=10.5)
    legend(figure)
    return Picture(name, SECTION, title, caption, description, figure)


def _numbers(results: Results) -> Iterable[Picture]:
    lines: dict[str, Line] = {
        variant: [
            (band.true, band.predicted, f"{variant}, {band.low:.4g} to {band.high:.4g}: true {band.true:.4g}, "
             f"predicted {band.predicted:.4g} on average")
            for band in each.numbers.bands
        ]
        for variant, each in results.predictions.items()
        if each.numbers
    }  # fmt: skip
    bias = "; ".join(
        f"{variant} {each.numbers.bias:+.3g}" for variant, each in results.predictions.items() if each.numbers
    )
    yield from _lines(
        results, lines, "numbers", "Predicted and true numbers",
        "The examples in five groups of equal size, by their true number; on the diagonal both are the same.",
        f"Mean of predicted minus true: {bias}.", ("mean, true", "mean, predicted"), has_diagonal=True,
    )  # fmt: skip


def _positions(results: Results) -> Iterable[Picture]:
    lines: dict[str, Line] = {
        variant: [
            (band.first, band.loss, f"{variant}, positions {band.first} to {band.last}: {band.loss:.3f} nats a token")
            for band in each.tokens.positions
        ]
        for variant, each in results.predictions.items()
        if each.tokens
    }
    lasts = "; ".join(f"{variant} {line[-1][1]:.3f}" for variant, line in lines.items() if line)
    yield from _lines(
        results, lines, "positions", "Loss by the position of the token in its row",
        "The more a model has read, the better it should foresee what comes.",
        f"At the last positions: {lasts}.", ("first position", "nats a token"), is_logarithmic=True,
    )  # fmt: skip


def _lines(
    results: Results, lines: dict[str, Line], name: str, title: str, caption: str, description: str,
    labels: tuple[str, str], *, has_diagonal: bool = False, is_logarithmic: bool = False,
) -> Iterable[Picture]:  # fmt: skip
    """A line with points for each variant, or its only point; nothing if no variant has two points."""
    look = styles(results)
    drawn = {variant: line for variant, line in lines.items() if line}
    if not any(len(line) > 1 for line in drawn.values()):
        return
    figure, (axis,) = new_figure(height=3.4)
    if has_diagonal:
        ends = [x for line in drawn.values() for x, _, _ in line]
        axis.plot([min(ends), max(ends)], [min(ends), max(ends)], color=svg.INK, linewidth=0.8, linestyle=(0, (6, 3)))
    for variant, line in drawn.items():
        _line(axis, line, look[variant], variant)
    if is_logarithmic:
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axis.set(xlabel=labels[0], ylabel=labels[1])
    legend(figure)
    yield Picture(name, SECTION, title, caption, description, figure)


def _line(axis: Axes, line: Line, style: Style, variant: str) -> None:
    (drawn,) = axis.plot(
        [x for x, _, _ in line], [y for _, y, _ in line], color=style.color, linestyle=style.dash, linewidth=1.5,
        label=visible(variant),
    )  # fmt: skip
    svg.mark(drawn, style.number)
    points_with_tips(axis, line, style, size=4)
