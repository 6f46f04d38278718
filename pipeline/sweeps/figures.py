"""The figures of a sweep's report: its history, its trials as parallel coordinates, epochs, and what matters."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.ticker import MaxNLocator

from pipeline.reporting.drawing import svg
from pipeline.reporting.drawing.picture import Picture
from pipeline.reporting.drawing.plots import legend, new_figure
from pipeline.reporting.formatting import score
from pipeline.sweeps.results import SweepResults, score_of
from pipeline.sweeps.space import Value, brief
from pipeline.utils.drawing import plain_texts
from pipeline.utils.text import shorten

# Keys beyond these would not be legible side by side; the most important ones are shown.
MOST_KEYS = 5
COMPLETED, PRUNED, BEST = svg.SERIES[1], svg.LINE, svg.SERIES[0]


def pictures(results: SweepResults) -> list[Picture]:
    """Every figure that the results have data for."""
    with plain_texts():
        return [*_history(results), *_parallel(results), *_importance(results), *_epochs(results)]


def _history(results: SweepResults) -> Iterator[Picture]:
    """The score of each trial in the order in which values were drawn, and the best so far."""
    settings = results.settings
    done = sorted(results.completed, key=lambda trial: trial.number)
    if not done:
        return
    figure, (axis,) = new_figure()
    better = min if settings.lower_is_better else max
    best = list(itertools.accumulate(map(score_of, done), better))
    numbers = [trial.number for trial in done]
    axis.plot(numbers, list(map(score_of, done)), "o", color=COMPLETED, markersize=4.5, label="completed")
    if pruned := [trial for trial in results.trials if trial.state == "pruned" and trial.score is not None]:
        axis.plot(
            [trial.number for trial in pruned],
            list(map(score_of, pruned)),
            "x",
            color=PRUNED,
            markersize=5,
            label="pruned",
        )
    axis.step(numbers, best, where="post", color=BEST, linewidth=1.4, label="best so far")
    axis.set_xlabel("trial")
    axis.set_ylabel(settings.metric)
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    legend(figure)
    said = f"The best {settings.metric} goes from {_shown(results, best[0])} to {_shown(results, best[-1])}"
    yield Picture("history", "trials", "The score of each trial", "Trials in the order in which their values were "
                  "drawn.", f"{said}, over {len(done)} completed trials.", figure)  # fmt: skip


def _parallel(results: SweepResults) -> Iterator[Picture]:
    """Each completed trial as a line through its values to its score."""
    done, settings = results.completed, results.settings
    if len(done) < 2:
        return
    keys = sorted(settings.space, key=lambda key: -results.importance.get(key, 0.0))[:MOST_KEYS]
    figure, (axis,) = new_figure(height=3.4)
    places = [_places(settings.space[key], [trial.values[key] for trial in done]) for key in keys]
    low, high = min(map(score_of, done)), max(map(score_of, done))
    height = _between(low, high, is_log=False)
    for rank, trial in reversed(list(enumerate(done))):
        heights = [*(place[0](trial.values[key]) for key, place in zip(keys, places, strict=True))]
        share = height(score_of(trial))
        is_best = rank == 0
        color = (
            BEST if is_best else to_hex(colormaps["viridis"](0.85 * (1 - share if settings.lower_is_better else share)))
        )
        axis.plot(range(len(keys) + 1), [*heights, share], color=color, linewidth=2.4 if is_best else 1.0, alpha=0.9)
    for x, (_, ticks) in enumerate([*places, (height, {_shown(results, low): 0.0, _shown(results, high): 1.0})]):
        _vertical(axis, x, ticks)
    axis.set_xticks(range(len(keys) + 1), [*(_name(key) for key in keys), settings.metric], fontsize=9)
    axis.set_xlim(-0.3, len(keys) + 0.5)
    axis.set_ylim(-0.06, 1.06)
    axis.set_yticks([])
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)
    best = ", ".join(f"{key} {brief(done[0].values[key])}" for key in keys)
    more = f" The {len(keys)} most important of {len(settings.space)} keys." if len(keys) < len(settings.space) else ""
    yield Picture("parallel", "trials", "Values and score of each completed trial", "A line for each trial, the best "
                  f"one thick.{more}", f"The best trial has {best}.", figure)  # fmt: skip


def _importance(results: SweepResults) -> Iterator[Picture]:
    """A bar for each key."""
    if len(results.importance) < 2:
        return
    figure, (axis,) = new_figure(height=0.9 + 0.32 * len(results.importance))
    keys = list(results.importance)
    axis.barh(range(len(keys)), [100 * results.importance[key] for key in keys], height=0.6, color=COMPLETED)
    axis.set_yticks(range(len(keys)), [_name(key) for key in keys], fontsize=9)
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.set_xlabel("explained variance of the score, %")
    said = ", ".join(f"{key} {share:.0%}" for key, share in results.importance.items())
    yield Picture(
        "importance", "trials", "Which key matters", "Over the completed trials (fANOVA).", f"{said}.", figure
    )


def _epochs(results: SweepResults) -> Iterator[Picture]:
    """The validation score of each trial after each epoch; where a line ends early, its trial was pruned."""
    shown = [trial for trial in results.trials if trial.scores and trial.state in ("completed", "pruned")]
    if max((len(trial.scores) for trial in shown), default=0) < 2:
        return
    figure, (axis,) = new_figure()
    for trial in shown:
        is_best, is_pruned = trial.number == results.best, trial.state == "pruned"
        color = BEST if is_best else PRUNED if is_pruned else COMPLETED
        axis.plot(
            list(trial.scores), list(trial.scores.values()), color=color,
            linestyle="--" if is_pruned else "-", marker="x" if is_pruned else "o", markersize=3.5,
            linewidth=2.2 if is_best else 0.9, zorder=3 if is_best else 2,
        )  # fmt: skip
    axis.set_xlabel("epoch")
    axis.set_ylabel(results.settings.metric)
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    pruned = sum(trial.state == "pruned" for trial in shown)
    yield Picture("epochs", "trials", "The score after each epoch", "A line for each trial: the best one thick, pruned "
                  "ones dashed.", f"{pruned} of {len(shown)} trials were pruned.", figure)  # fmt: skip


Place = Callable[[Value], float]


def _places(spec: str, values: list[Value]) -> tuple[Place, dict[str, float]]:
    """Where a value of a key is drawn, from 0 to 1, and the labels of the axis."""
    if "(" not in spec:
        choices = spec.split(",")
        step = 1 / max(1, len(choices) - 1)
        by_value = {brief(value): brief(value) for value in values}
        order = sorted({*by_value}, key=lambda text: _position(text, choices))
        heights = {text: _position(text, choices) * step for text in order}
        return lambda value: heights[brief(value)], heights
    numbers = [float(value) for value in values if isinstance(value, int | float)]
    low, high = min(numbers), max(numbers)
    is_log = spec.startswith("log")
    place = _between(low, high, is_log)
    middle = math.sqrt(low * high) if is_log else (low + high) / 2
    return place, {brief(end): place(end) for end in (low, middle, high)}


def _position(text: str, choices: list[str]) -> int:
    return next((i for i, choice in enumerate(choices) if choice == text), len(choices) - 1)


def _between(low: float, high: float, is_log: bool) -> Place:
    """A function that maps a range to 0 to 1; a range of one number to its middle."""
    scaled = math.log if is_log else float

    def place(value: Value) -> float:
        assert isinstance(value, int | float)
        return 0.5 if low == high else (scaled(value) - scaled(low)) / (scaled(high) - scaled(low))

    return place


def _vertical(axis: Axes, x: int, ticks: dict[str, float]) -> None:
    """One of the parallel axes with its labels."""
    axis.axvline(x, 0.05, 0.95, color=svg.LINE, linewidth=0.9)
    for label, height in ticks.items():
        axis.annotate(
            label, (x, height), (4, 5), "data", "offset points", va="center", color=svg.INK, fontsize=8,
        )  # fmt: skip


def _name(key: str) -> str:
    """The last part of a key, which the table gives in full."""
    return shorten(key.rpartition(".")[2], 16)


def _shown(results: SweepResults, number: float) -> str:
    return score(number, results.settings.scale)
