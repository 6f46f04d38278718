"""The figures of a comparison's report: SVG that takes the page's colours, and the same as PNG."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from pipeline.reporting import svg
from pipeline.reporting.formatting import measured, score, small
from pipeline.reporting.plots import Style, bands, dots, heat_map, legend, new_figure, scientific, steps_axis, styles
from pipeline.reporting.tables import pair_name
from pipeline.utils.text import shorten, visible

Results = dict[str, Any]
MAX_TOKENS = 40  # of an attention map; the labels of more would not be legible
MAX_METRICS = 4
MAX_MAPS = 6  # a side of the grid of layers and heads


@dataclass(frozen=True)
class Picture:
    """A drawn figure with its caption and what it shows in words."""

    name: str
    section: str
    title: str
    caption: str
    description: str
    figure: Figure

    def svg(self) -> str:
        """An inline SVG element with its text alternative."""
        return svg.inline(self.figure, self.name, self.title, self.description)

    def save_png(self, folder: Path) -> None:
        """Write <folder>/<name>.png on white."""
        with svg.any_script():
            self.figure.savefig(folder / f"{self.name}.png", dpi=200, facecolor="white")


def pictures(results: Results) -> list[Picture]:
    """Every figure that the results have data for, in the order of the report."""
    drawn = [*_scores(results), *_equivalence(results), *_lockstep(results), *_curves(results)]
    return [*drawn, *_evaluations(results), *_cost(results), *_attention(results)]


def _scores(results: Results) -> Iterable[Picture]:
    look = styles(results)
    for number, (metric, found) in enumerate(list(results["metrics"].items())[:MAX_METRICS], start=1):
        rows = {name: row for name, row in found["variants"].items() if row["mean"] is not None}
        if not rows:
            continue
        figure, axis = new_figure(height=0.8 + 0.34 * len(rows))
        dots(
            axis,
            [
                (name, row["mean"], row["low"], row["high"], [v for v in row["values"].values() if v is not None])
                for name, row in rows.items()
            ],
            look,
        )
        axis.set_xlabel(_metric_label(metric, found))
        described = "; ".join(f"{name} {score(row['mean'], found['scale'])}" for name, row in rows.items())
        yield Picture(
            f"scores-{number}", "scores", f"{metric} by variant",
            "Filled: the mean with its 95% interval. Hollow: each seed.", f"Means: {described}.", figure,
        )  # fmt: skip


def _equivalence(results: Results) -> Iterable[Picture]:
    for number, (metric, found) in enumerate(list(results["metrics"].items())[:MAX_METRICS], start=1):
        rows = [
            (pair_name(pair), pair["metrics"][metric]) for pair in results["comparisons"] if metric in pair["metrics"]
        ]
        rows = [(name, row["seeds"]["mean_difference"], row["equivalence"]) for name, row in rows]
        rows = [row for row in rows if None not in (row[1], row[2]["low"], row[2]["high"], row[2]["margin"])]
        if not rows:
            continue
        figure, axis = new_figure(height=0.9 + 0.46 * len(rows))
        margin = rows[0][2]["margin"]
        axis.axvspan(-margin, margin, color=svg.GOOD, alpha=0.13, linewidth=0)
        axis.axvline(0, color=svg.INK, linewidth=0.7)
        plain = {name: Style(svg.INK, "-", "o") for name, _, _ in rows}
        dots(axis, [(name, middle, row["low"], row["high"], []) for name, middle, row in rows], plain)
        axis.set_xlabel(f"difference in {visible(metric)}, first minus second")
        inside = [name for name, _, row in rows if row["equivalent"]]
        yield Picture(
            f"equivalence-{number}", "verdicts", f"Difference in {metric} against the margin",
            "The 90% interval; equivalent where it lies wholly inside the shaded margin.",
            f"Margin ±{score(margin, found['scale'])}. {len(inside)} of {len(rows)} pairs are equivalent.", figure,
        )  # fmt: skip


def _lockstep(results: Results) -> Iterable[Picture]:
    runs = [run for run in results["sameness"]["lockstep"] if run["loss_by_step"]]
    if not runs:
        return
    figure, axis = new_figure()
    dashes, drawn = ("-", (0, (4, 2)), (0, (1, 1.2)), "-."), False
    for run, dash, color in zip(runs, dashes, svg.SERIES, strict=False):
        # A logarithm has no place for updates whose losses are exactly alike.
        points = [(step, apart) for step, apart in enumerate(run["loss_by_step"], start=1) if apart]
        drawn = drawn or bool(points)
        label = f"{visible(run['attention'])} attention"
        axis.plot(*(zip(*points, strict=True) if points else ([], [])), linestyle=dash, color=color, label=label)
    bound = max(run["bounds"]["loss"] for run in runs)
    axis.axhline(bound, color=svg.INK, linewidth=1, linestyle=(0, (6, 3)))
    axis.annotate(
        f"bound {bound:.0e}", (1, bound), (-2, 3), ("axes fraction", "data"), "offset points", ha="right", va="bottom"
    )
    axis.set_yscale("log")
    axis.set_ylim(top=bound * 8, bottom=None if drawn else bound / 1e6)
    axis.set_ylabel("|difference in loss|")
    steps_axis(axis)
    legend(axis)
    largest = "; ".join(f"{run['attention']} {small(run['differences']['loss'])}" for run in runs)
    yield Picture(
        "lockstep", "sameness", "Loss of PyTorch and TensorFlow, update by update",
        "How far the two losses are apart, logarithmic; updates without any difference have no point.",
        f"Largest difference: {largest}. Bound {bound:.0e}.", figure,
    )  # fmt: skip


_CURVES = {
    "loss": ("loss_mean", "Training loss", "training loss", "Line: mean over seeds. Band: lowest to highest seed."),
    "learning-rate": ("learning_rate", "Learning rate applied", "learning rate", "One line where all are alike."),
    "gradient-norm": ("grad_norm", "Gradient norm before clipping", "global L2 norm", "Mean over seeds."),
}  # fmt: skip


def _curves(results: Results) -> Iterable[Picture]:
    curves, look = results["sameness"]["curves"], styles(results)
    for name, (key, title, label, caption) in _CURVES.items():
        drawn = {variant: curve for variant, curve in curves.items() if _numbers(curve[key])}
        if not drawn:
            continue
        figure, axis = new_figure()
        for variant, curve in drawn.items():
            band = (curve["loss_low"], curve["loss_high"]) if name == "loss" else None
            bands(axis, curve["step"], curve[key], band, look[variant], visible(variant))
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0) if name != "loss" else None
        scientific(axis)
        steps_axis(axis)
        legend(axis)
        last = "; ".join(f"{variant} {_numbers(curve[key])[-1]:.4g}" for variant, curve in drawn.items())
        yield Picture(name, "sameness", title, caption, f"At the last update: {last}.", figure)


def _evaluations(results: Results) -> Iterable[Picture]:
    look, metrics = styles(results), results["metrics"]
    for metric in list(metrics)[:1]:
        lines = {}
        for variant, seeds in results["sameness"]["evaluations"].items():
            by_epoch: dict[float, list[float]] = {}
            for evaluation in (row for rows in seeds.values() for row in rows):
                if evaluation.get(metric) is not None:
                    by_epoch.setdefault(evaluation["epoch"], []).append(evaluation[metric])
            if len(by_epoch) > 1:
                lines[variant] = {epoch: by_epoch[epoch] for epoch in sorted(by_epoch)}
        if not lines:
            continue
        figure, axis = new_figure()
        for variant, by_epoch in lines.items():
            means = [sum(values) / len(values) for values in by_epoch.values()]
            band = tuple([pick(values) for values in by_epoch.values()] for pick in (min, max))
            bands(axis, list(by_epoch), means, band, look[variant], visible(variant), marker=True)
        axis.set_xticks(
            list(next(iter(lines.values()))) if len(next(iter(lines.values()))) <= 10 else axis.get_xticks()
        )
        axis.set(xlabel="epoch", ylabel=_metric_label(metric, metrics[metric]))
        legend(axis)
        yield Picture(
            "evaluations", "sameness", f"{metric} on the validation split after each epoch",
            "Line: mean over seeds. Band: lowest to highest seed.", f"Variants: {', '.join(lines)}.", figure,
        )  # fmt: skip


def _cost(results: Results) -> Iterable[Picture]:
    look = styles(results)
    for name in ("examples_per_second", "peak_memory_bytes"):
        for found in (row for row in results["cost"] if row["name"] == name):
            rows = {name: row for name, row in found["variants"].items() if row["median"] is not None}
            if not rows:
                continue
            divisor, unit = (2**20, "MiB") if found["unit"] == "bytes" else (1, found["unit"])
            figure, axis = new_figure(height=0.8 + 0.34 * len(rows))
            scaled = [
                (name, *(None if row[key] is None else row[key] / divisor for key in ("median", "low", "high")), [])
                for name, row in rows.items()
            ]
            dots(axis, scaled, look)
            axis.set_xlim(left=0)
            axis.set_xlabel(f"{visible(found['title'])} ({visible(unit)})")
            medians = "; ".join(" ".join((name, *measured(row["median"], found["unit"]))) for name, row in rows.items())
            yield Picture(
                name.replace("_", "-"), "cost", found["title"],
                "Point: median. Line: lowest to highest seed.", f"Medians: {medians}.", figure,
            )  # fmt: skip


def _attention(results: Results) -> Iterable[Picture]:
    maps = results["attention_maps"]
    tops = [_mean_of_heads(found["weights"][-1]) for found in maps]
    brightest = max((max(map(max, top)) for top in tops), default=1)
    for number, (found, top) in enumerate(zip(maps, tops, strict=True), start=1):
        tokens = [shorten(visible(token), 14) for token in found["tokens"][:MAX_TOKENS]]
        figure, axis = new_figure(height=4.25)
        heat_map(axis, _cut(top), brightest, tokens)
        layer = len(found["weights"])
        yield Picture(
            f"attention-{number}", "attention", f"{found['variant']}: layer {layer}, mean of its heads",
            "Rows: the token that looks. Columns: the token looked at." + _cropped(found), _gaze(top, found), figure,
        )  # fmt: skip
    brightest = max((max(map(max, head)) for found in maps for layer in found["weights"] for head in layer), default=1)
    for number, found in enumerate(maps, start=1):
        yield _head_by_head(number, found, brightest)


def _head_by_head(number: int, found: dict, brightest: float) -> Picture:
    layers, heads = _spread(len(found["weights"])), _spread(len(found["weights"][0]))
    figure, axes = new_figure(0.5 + 4.4 / len(heads) * len(layers), len(layers), len(heads))
    places = [(layer, head) for layer in layers for head in heads]
    for axis, (layer, head) in zip(axes.flat if len(places) > 1 else [axes], places, strict=True):
        heat_map(axis, _cut(found["weights"][layer][head]), brightest, None)
        axis.set_title(f"{layer + 1}.{head + 1}", fontsize=8, pad=2)
    shown = f"{len(layers)} of {len(found['weights'])} layers, {len(heads)} of {len(found['weights'][0])} heads"
    return Picture(
        f"attention-heads-{number}", "attention", f"{found['variant']}: head by head",
        f"Titled layer.head; dark 0, bright {brightest:.2f}; {shown}." + _cropped(found),
        f"Heat maps: {shown}.", figure,
    )  # fmt: skip


def _gaze(top: list[list[float]], found: dict) -> str:
    """The map in words: where each token looks most."""
    tokens = found["tokens"][:MAX_TOKENS]
    most = [max(range(len(tokens)), key=row.__getitem__) for row in top[: len(tokens)]]
    return (
        "Looks most at: " + "; ".join(f"{token} → {tokens[at]}" for token, at in zip(tokens, most, strict=True)) + "."
    )


def _mean_of_heads(heads: list) -> list[list[float]]:
    return [[sum(cells) / len(cells) for cells in zip(*rows, strict=True)] for rows in zip(*heads, strict=True)]


def _cut(rows: list[list[float]]) -> list[list[float]]:
    return [row[:MAX_TOKENS] for row in rows[:MAX_TOKENS]]


def _cropped(found: dict) -> str:
    total = len(found["tokens"])
    return f" The first {MAX_TOKENS} of {total} tokens." if total > MAX_TOKENS else ""


def _spread(count: int) -> list[int]:
    """At most MAX_MAPS indices, evenly from first to last."""
    if count <= MAX_MAPS:
        return list(range(count))
    return [round(i * (count - 1) / (MAX_MAPS - 1)) for i in range(MAX_MAPS)]


def _numbers(values: list[float | None]) -> list[float]:
    return [number for number in values if number is not None]


def _metric_label(metric: str, found: dict) -> str:
    return f"{visible(metric)} ({'lower' if found['lower_is_better'] else 'higher'} is better)"
