"""The figures of a comparison's report: SVG that takes the page's colors, and the same as PNG."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from matplotlib.axes import Axes

from pipeline.comparison.records.costs import Cost
from pipeline.comparison.records.sameness import LockstepResult
from pipeline.comparison.records.scores import Equivalence
from pipeline.comparison.results import AttentionMap, Results
from pipeline.metrics.specs import ends, is_constant
from pipeline.models.attention import described
from pipeline.reporting.details.figures import prediction_pictures
from pipeline.reporting.drawing import svg
from pipeline.reporting.drawing.picture import Picture
from pipeline.reporting.drawing.plots import (
    Style,
    dots,
    heat_map,
    height_of_rows,
    legend,
    metric_label,
    new_figure,
    scientific,
    steps_axis,
    styles,
    widen,
)
from pipeline.reporting.formatting import measured, pair_name, score, small
from pipeline.reporting.tables import COST_TITLES, main_metrics
from pipeline.reporting.training_figures import training_pictures
from pipeline.utils.drawing import plain_texts
from pipeline.utils.text import shorten, visible

MAX_TOKENS = 40  # of an attention map; the labels of more would not be legible
MAX_METRICS = 4
MAX_MAPS = 6  # on a side of the grid of layers and heads


def pictures(results: Results) -> list[Picture]:
    """Every figure that the results have data for, in the order of the report."""
    with plain_texts():
        return [
            *_scores(results),
            *_equivalence(results),
            *lockstep(results.sameness.lockstep),
            *prediction_pictures(results),
            *training_pictures(results),
            *_costs(results),
            *_attention(results),
        ]


def _scores(results: Results) -> Iterable[Picture]:
    look = styles(results)
    for number, name in enumerate(_drawn_metrics(results), start=1):
        metric = results.metrics[name]
        rows = {
            variant: (summary.mean, summary.low, summary.high, _numbers(summary.values.values()))
            for variant, summary in metric.variants.items()
            if summary.mean is not None
        }
        if not rows:
            continue
        figure, (axis,) = new_figure(height=height_of_rows(rows))
        dots(axis, [(variant, *row) for variant, row in rows.items()], look, partial(score, scale=metric.scale))
        widen(axis, "x")
        _keep_in_range(axis, name)
        axis.set_xlabel(metric_label(name, metric))
        has_intervals = any(low is not None for _, low, _, _ in rows.values())
        means = "; ".join(f"{variant} {score(row[0], metric.scale)}" for variant, row in rows.items())
        yield Picture(
            f"scores-{number}", "scores", f"{name} by variant",
            f"Filled: the mean{' with its 95% interval' if has_intervals else ''}. Hollow: each seed.",
            f"Means: {means}.", figure,
        )  # fmt: skip


def _drawn_metrics(results: Results) -> list[str]:
    """The first main metrics that depend on the model."""
    return [name for name in main_metrics(results) if not is_constant(name)][:MAX_METRICS]


def _keep_in_range(axis: Axes, metric: str) -> None:
    """Let the axis end where the range of the metric does, but for the half of a point that stands there."""
    lowest, highest = ends(metric)
    low, high = axis.get_xlim()
    edge = 0.03 * (high - low)
    axis.set_xlim(max(low, lowest - edge), min(high, highest + edge))


def _equivalence(results: Results) -> Iterable[Picture]:
    for number, name in enumerate(_drawn_metrics(results), start=1):
        metric = results.metrics[name]
        margin, rows = _tested_pairs(results, name)
        if margin is None or not rows:
            continue
        figure, (axis,) = new_figure(height=height_of_rows(pair for pair, *_ in rows))
        axis.axvspan(-margin, margin, color=svg.GOOD, alpha=0.13, linewidth=0)
        axis.axvline(0, color=svg.INK, linewidth=0.7)
        plain = {pair: Style(svg.INK, "-", "o") for pair, _, _ in rows}
        shown = [(pair, middle, tested.low, tested.high, []) for pair, middle, tested in rows]
        dots(axis, shown, plain, partial(score, scale=metric.scale, signed=True))
        axis.set_xlabel(f"difference in {visible(name)}, first minus second")
        equivalent = sum(bool(tested.equivalent) for _, _, tested in rows)
        yield Picture(
            f"equivalence-{number}", "verdicts", f"Difference in {name} against the margin",
            "The 90% interval; equivalent if it lies wholly inside the shaded margin.",
            f"Margin ±{score(margin, metric.scale)}. {equivalent} of {len(rows)} pairs are equivalent.", figure,
        )  # fmt: skip


def _tested_pairs(results: Results, metric: str) -> tuple[float | None, list[tuple[str, float, Equivalence]]]:
    """The margin, and each pair that has an interval with its mean difference."""
    margin, rows = None, []
    for pair in results.comparisons:
        if metric not in pair.metrics:
            continue
        comparison = pair.metrics[metric]
        middle, tested = comparison.seeds.mean_difference, comparison.equivalence
        if middle is None or None in (tested.low, tested.high, comparison.margin.value):
            continue
        margin = comparison.margin.value if margin is None else margin
        rows.append((pair_name(pair), middle, tested))
    return margin, rows


# Fewer points than these are marked in a line.
FEW_POINTS = 20


def lockstep(results: Iterable[LockstepResult], section: str = "sameness") -> Iterable[Picture]:
    """The differences in loss, step by step, beside those of the control."""
    stepped = [result for result in results if result.loss_by_step]
    if not stepped:
        return
    figure, (axis,) = new_figure()
    dashes, any_points = ("-", (0, (4, 2)), (0, (1, 1.2)), "-."), False
    for result, dash, color in zip(stepped, dashes, svg.SERIES, strict=False):
        # A logarithm has no place for steps with exactly the same loss.
        points = [(step, distance) for step, distance in enumerate(result.loss_by_step, start=1) if distance]
        any_points = any_points or bool(points)
        label = visible(described(result.attention))
        mark = "." if len(points) < FEW_POINTS else ""  # a step between two without a point draws no line
        axis.plot(
            *(zip(*points, strict=True) if points else ([], [])), linestyle=dash, marker=mark, color=color, label=label
        )
    control = [(step, distance) for step, distance in enumerate(stepped[0].control_loss_by_step, start=1) if distance]
    if control:
        axis.plot(*zip(*control, strict=True), color=svg.INK, linewidth=0.8, label="two PyTorch trainings")
    bound = max(result.bounds["loss"] for result in stepped)
    axis.axhline(bound, color=svg.INK, linewidth=1, linestyle=(0, (6, 3)))
    axis.annotate(
        f"allowed {bound:.0e}", (1, bound), (-2, 3), ("axes fraction", "data"), "offset points", ha="right", va="bottom"
    )
    axis.set_yscale("log")
    scientific(axis)
    axis.set_ylim(top=bound * 8, bottom=None if any_points else bound / 1e6)
    axis.set_ylabel("relative difference in loss")
    steps_axis(axis)
    legend(figure)
    largest = "; ".join(f"{result.attention} {small(result.differences['loss'])}" for result in stepped)
    yield Picture(
        "lockstep", section, "Loss of PyTorch and TensorFlow, step by step",
        "How much the two losses differ, on a logarithmic scale, beside those of two PyTorch trainings whose first "
        "weights differ by one rounding; steps without any difference have no point.",
        f"Largest difference: {largest}. Allowed: {bound:.0e}.", figure,
    )  # fmt: skip


def _costs(results: Results) -> Iterable[Picture]:
    drawn = ("examples_per_second", "peak_memory_bytes")
    for cost in sorted((cost for cost in results.costs if cost.name in drawn), key=lambda cost: drawn.index(cost.name)):
        if any(summary.median is not None for summary in cost.variants.values()):
            yield _cost(results, cost)


def _cost(results: Results, cost: Cost) -> Picture:
    divisor, unit = (2**20, "MiB") if cost.unit == "bytes" else (1, cost.unit)
    rows = [
        (variant, row.median / divisor, _divided(row.low, divisor), _divided(row.high, divisor), [])
        for variant, row in cost.variants.items()
        if row.median is not None
    ]
    figure, (axis,) = new_figure(height=height_of_rows(variant for variant, *_ in rows))
    dots(axis, rows, styles(results))
    axis.set_xlim(left=0)
    title = COST_TITLES[cost.name]
    axis.set_xlabel(f"{title} ({visible(unit)})")
    medians = "; ".join(
        " ".join((variant, *measured(row.median, cost.unit)))
        for variant, row in cost.variants.items()
        if row.median is not None
    )
    return Picture(
        cost.name.replace("_", "-"), "cost", title,
        "Point: median. Line: lowest to highest seed.", f"Medians: {medians}.", figure,
    )  # fmt: skip


def _attention(results: Results) -> Iterable[Picture]:
    maps = results.attention_maps
    last_layers = [_mean_of_heads(each.weights[-1]) for each in maps]
    brightest = max((max(map(max, layer)) for layer in last_layers), default=1)
    for number, (each, last_layer) in enumerate(zip(maps, last_layers, strict=True), start=1):
        figure, (axis,) = new_figure(height=4.25)
        heat_map(axis, _cropped(last_layer), brightest, (_labels(each.queries), _labels(each.tokens)))
        what = "the token that attends" if each.written is None else "the token that the model wrote"
        yield Picture(
            f"attention-{number}", "attention", f"{each.variant}: layer {len(each.weights)}, mean of its heads",
            f"Rows: {what}. Columns: the token attended to." + _cropping_note(each),
            _strongest_links(last_layer, each), figure,
        )  # fmt: skip
    brightest = max((max(map(max, head)) for each in maps for layer in each.weights for head in layer), default=1)
    for number, each in enumerate(maps, start=1):
        yield _head_by_head(number, each, brightest)


def _head_by_head(number: int, attention: AttentionMap, brightest: float) -> Picture:
    num_layers, num_heads = len(attention.weights), len(attention.weights[0])
    layers, heads = _evenly_spaced(num_layers), _evenly_spaced(num_heads)
    figure, axes = new_figure(0.5 + 4.4 / len(heads) * len(layers), len(layers), len(heads))
    places = [(layer, head) for layer in layers for head in heads]
    for axis, (layer, head) in zip(axes, places, strict=True):
        heat_map(axis, _cropped(attention.weights[layer][head]), brightest, None)
        axis.set_title(f"{layer + 1}.{head + 1}", fontsize=8, pad=2)
    shown = f"{len(layers)} of {num_layers} layers, {len(heads)} of {num_heads} heads"
    return Picture(
        f"attention-heads-{number}", "attention", f"{attention.variant}: head by head",
        f"Titled layer.head; dark 0, bright {brightest:.2f}; {shown}." + _cropping_note(attention),
        f"Heat maps: {shown}.", figure,
    )  # fmt: skip


def _strongest_links(layer: list[list[float]], attention: AttentionMap) -> str:
    """The map in words: the token that each token attends to most."""
    queries, keys = attention.queries[:MAX_TOKENS], attention.tokens[:MAX_TOKENS]
    most = [max(range(len(keys)), key=row.__getitem__) for row in layer[: len(queries)]]
    links = "; ".join(f"{token} → {keys[key]}" for token, key in zip(queries, most, strict=True))
    return f"Attends most to: {links}."


def _labels(tokens: list[str]) -> list[str]:
    return [shorten(visible(token), 14) for token in tokens[:MAX_TOKENS]]


def _mean_of_heads(heads: list[list[list[float]]]) -> list[list[float]]:
    return [[sum(cells) / len(cells) for cells in zip(*rows, strict=True)] for rows in zip(*heads, strict=True)]


def _cropped(weights: list[list[float]]) -> list[list[float]]:
    """The weights among the first MAX_TOKENS tokens."""
    return [row[:MAX_TOKENS] for row in weights[:MAX_TOKENS]]


def _cropping_note(attention: AttentionMap) -> str:
    total = max(len(attention.tokens), len(attention.queries))
    return f" The first {MAX_TOKENS} of {total} tokens." if total > MAX_TOKENS else ""


def _evenly_spaced(count: int) -> list[int]:
    """At most MAX_MAPS indices, evenly from the first to the last."""
    if count <= MAX_MAPS:
        return list(range(count))
    return [round(i * (count - 1) / (MAX_MAPS - 1)) for i in range(MAX_MAPS)]


def _numbers(values: Iterable[float | None]) -> list[float]:
    return [number for number in values if number is not None]


def _divided(number: float | None, divisor: float) -> float | None:
    return None if number is None else number / divisor
