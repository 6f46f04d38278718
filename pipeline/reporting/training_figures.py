"""The figures of how training went: losses, learning rates, gradient norms, validation scores, quality against time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pipeline.comparison.records.sameness import Curve, Evaluation
from pipeline.comparison.records.scores import Metric
from pipeline.comparison.results import Results
from pipeline.reporting.drawing import svg
from pipeline.reporting.drawing.picture import Picture
from pipeline.reporting.drawing.plots import (
    bands,
    legend,
    metric_label,
    new_figure,
    points_with_tips,
    scientific,
    steps_axis,
    styles,
    tips,
    widen,
)
from pipeline.reporting.formatting import score
from pipeline.utils.text import visible

SECTION = "training"
MAX_TIPS = 24  # places along a curve that say their numbers
# By variant, for each epoch the seconds of training until its end and the score after it, of every seed.
ByEpoch = Mapping[str, Mapping[int, list[tuple[float | None, float]]]]


def training_pictures(results: Results) -> Iterable[Picture]:
    """Every figure of the trainings that the results have data for."""
    yield from _curve(
        results, "loss", "Training loss",
        "training loss", "Bold: the mean over seeds, smoothed. Behind it: each step, from lowest to highest seed.",
    )  # fmt: skip
    note = "One line if all are the same."
    yield from _curve(results, "learning-rate", "Learning rate applied", "learning rate", note)
    yield from _curve(results, "gradient-norm", "Gradient norm before clipping", "global L2 norm", "Mean over seeds.")
    for name, metric in list(results.metrics.items())[:1]:
        scores = {
            variant: by_epoch
            for variant, seeds in results.sameness.evaluations.items()
            if (by_epoch := _by_epoch(seeds, name))
        }
        yield from _validation(results, name, metric, scores)
        yield from _quality_against_time(results, name, metric, scores)


def _curve(results: Results, name: str, title: str, label: str, caption: str) -> Iterable[Picture]:
    look = styles(results)
    drawn = {variant: curve for variant, curve in results.sameness.curves.items() if _numbers(_values(curve, name))}
    if not drawn:
        return
    figure, (axis,) = new_figure()
    for variant, curve in drawn.items():
        band = (curve.loss_low, curve.loss_high) if name == "loss" else None
        if name == "loss" and curve.loss_smooth:
            style = look[variant]
            raw = axis.plot(curve.step, _gaps(curve.loss_mean), color=style.color, linewidth=0.5, alpha=0.45)
            svg.mark(raw[0], style.number)
        bands(axis, curve.step, _values(curve, name), band, look[variant], visible(variant))
    steps = next(iter(drawn.values())).step
    if len(steps) > 1 and all(curve.step == steps for curve in drawn.values()):
        places = _evenly(len(steps), MAX_TIPS)
        tips(axis, [steps[place] for place in places], [_tip(drawn, name, place) for place in places])
    axis.set_ylabel(label)
    if name != "loss":
        axis.set_ylim(bottom=0)
    scientific(axis)
    steps_axis(axis)
    legend(figure)
    last = "; ".join(f"{variant} {_numbers(_values(curve, name))[-1]:.4g}" for variant, curve in drawn.items())
    yield Picture(name, SECTION, title, caption, f"At the last step: {last}.", figure)


def _values(curve: Curve, name: str) -> list[float | None]:
    """The line of a curve; of the loss the smoothed one, where there is one."""
    loss = curve.loss_smooth or curve.loss_mean
    return {"loss": loss, "learning-rate": curve.learning_rate, "gradient-norm": curve.grad_norm}[name]


def _tip(curves: Mapping[str, Curve], name: str, place: int) -> str:
    """The numbers of all variants at one place."""
    step = next(iter(curves.values())).step[place]
    numbers = {variant: _values(curve, name)[place] for variant, curve in curves.items()}
    shown = ", ".join(f"{variant} {number:.4g}" for variant, number in numbers.items() if number is not None)
    return f"step {step}: {shown}"


def _validation(results: Results, name: str, metric: Metric, scores: ByEpoch) -> Iterable[Picture]:
    """The score after each epoch; nothing if there was only one."""
    look = styles(results)
    lines = {variant: by_epoch for variant, by_epoch in scores.items() if len(by_epoch) > 1}
    if not lines:
        return
    figure, (axis,) = new_figure()
    for variant, by_epoch in lines.items():
        values = {epoch: [value for _, value in rows] for epoch, rows in by_epoch.items()}
        means = {epoch: sum(each) / len(each) for epoch, each in values.items()}
        band = ([min(each) for each in values.values()], [max(each) for each in values.values()])
        bands(axis, list(means), list(means.values()), band, look[variant], visible(variant))
        marked = [(e, mean, f"{variant}, epoch {e}: {score(mean, metric.scale)}") for e, mean in means.items()]
        points_with_tips(axis, marked, look[variant], size=4)
    epochs = list(next(iter(lines.values())))
    axis.set_xticks(epochs if len(epochs) <= 10 else axis.get_xticks())
    axis.set(xlabel="epoch", ylabel=metric_label(name, metric))
    legend(figure)
    yield Picture(
        "evaluations", SECTION, f"{name} on the validation split after each epoch",
        "Line: mean over seeds. Band: lowest to highest seed.", f"Variants: {', '.join(lines)}.", figure,
    )  # fmt: skip


def _quality_against_time(results: Results, name: str, metric: Metric, scores: ByEpoch) -> Iterable[Picture]:
    """The score over the seconds of training: a line through the epochs, and the end of each seed."""
    look = styles(results)
    known = {
        variant: {epoch: timed for epoch, rows in by_epoch.items() if (timed := _timed(rows))}
        for variant, by_epoch in scores.items()
    }
    known = {variant: by_epoch for variant, by_epoch in known.items() if by_epoch}
    if not known:
        return
    figure, (axis,) = new_figure()
    ends = []
    for variant, by_epoch in known.items():
        means = {epoch: _mean_point(rows) for epoch, rows in by_epoch.items()}
        line = [
            (seconds, value, f"{variant}, epoch {epoch}: {score(value, metric.scale)} after {seconds:,.1f} s")
            for epoch, (seconds, value) in means.items()
        ]
        drawn = axis.plot(
            [x for x, _, _ in line], [y for _, y, _ in line], color=look[variant].color,
            linestyle=look[variant].dash, marker=look[variant].marker, markersize=4, label=visible(variant),
        )  # fmt: skip
        svg.mark(drawn[0], look[variant].number)
        points_with_tips(axis, line, look[variant], size=4)
        *_, last = by_epoch.values()
        singles = [(x, y, f"{variant}: {score(y, metric.scale)} after {x:,.1f} s") for x, y in last]
        points_with_tips(axis, singles, look[variant], is_hollow=True)
        ends.append(f"{variant} {score(line[-1][1], metric.scale)} after {line[-1][0]:,.1f} s")
    axis.set_xlim(left=0)
    widen(axis, "y")
    axis.set(xlabel="seconds of training", ylabel=metric_label(name, metric))
    legend(figure)
    yield Picture(
        "quality-time", SECTION, f"{name} against the time of training, means over seeds",
        "Filled: the mean over seeds after each epoch, without the time of evaluations. Hollow: each seed at the end.",
        f"At the end: {'; '.join(ends)}.", figure,
    )  # fmt: skip


def _timed(rows: Iterable[tuple[float | None, float]]) -> list[tuple[float, float]]:
    return [(seconds, value) for seconds, value in rows if seconds is not None]


def _mean_point(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    seconds, values = zip(*points, strict=True)
    return sum(seconds) / len(points), sum(values) / len(points)


def _by_epoch(seeds: Mapping[int, list[Evaluation]], metric: str) -> dict[int, list[tuple[float | None, float]]]:
    """Time and score of all seeds after each epoch, in the order of epochs."""
    by_epoch: dict[int, list[tuple[float | None, float]]] = {}
    for evaluation in (evaluation for rows in seeds.values() for evaluation in rows):
        value = evaluation.metrics.get(metric)
        if value is not None:
            by_epoch.setdefault(evaluation.epoch, []).append((evaluation.seconds, value))
    return {epoch: by_epoch[epoch] for epoch in sorted(by_epoch)}


def _evenly(count: int, most: int) -> list[int]:
    """At most so many indices, evenly from the first to the last."""
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


def _numbers(values: Iterable[float | None]) -> list[float]:
    return [number for number in values if number is not None]


def _gaps(values: Iterable[float | None]) -> list[float]:
    return [float("nan") if number is None else number for number in values]
