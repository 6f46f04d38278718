"""Was it the same experiment? What the runs themselves recorded: start, batches, learning rates, norms, curves."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.comparison import run_set as runs
from pipeline.comparison.run_set import Outcome
from pipeline.models.attention_check import TOLERANCE

# bf16 has 8 bits: a model of a few layers rounds to about a percent of its largest logit.
BF16_TOLERANCE = 5e-2
# Dropout draws differ between the frameworks, so gradient norms do; their median over a run does not go this far.
USUAL_GRAD_NORM_RATIO = (0.5, 2.0)
# Predicted numbers closer than this, to their size or to 1, are the same: other orders of sums leave less in fp32.
ROUNDING = 1e-3
CURVE_POINTS = 400
MOST_DISAGREEMENTS = 20


def probe(pairs: list[tuple[str, str]], outcomes: list[Outcome]) -> list[dict[str, Any]]:
    """The probe's logits before training: the largest difference relative to the logits, as the swap's proof has it."""
    found = []
    for first, second, a, b in _each(pairs, outcomes):
        tolerance = TOLERANCE if a.recipe.train.precision == b.recipe.train.precision == "fp32" else BF16_TOLERANCE
        difference = None
        if a.probe.shape == b.probe.shape:
            difference = float(np.abs(a.probe - b.probe).max() / max(1.0, np.abs(a.probe).max()))
        ok = difference is not None and difference <= tolerance
        found.append(
            {"first": first, "second": second, "seed": a.seed}
            | {"max_difference": difference, "tolerance": tolerance, "ok": ok}
        )
    return found


def batches(pairs: list[tuple[str, str]], outcomes: list[Outcome]) -> list[dict[str, Any]]:
    """The batches of the same seed: examples and tokens of every update, and where both runs say them the rows.

    The basis is "rows" or "sizes". Which update was the first of other rows is not known where the sizes are equal.
    """
    found = []
    for first, second, a, b in _each(pairs, outcomes):
        step = _first_difference(_sizes(a), _sizes(b), a.recipe.train.early_stopping is not None)
        basis = "rows" if a.batches and b.batches else "sizes"
        same = step is None and all(x == y for x, y in zip(a.batches, b.batches, strict=False))
        found.append(
            {"first": first, "second": second, "seed": a.seed}
            | {"same": same, "first_different_step": step, "basis": basis}
        )
    return found


def optimisation(pairs: list[tuple[str, str]], outcomes: list[Outcome]) -> list[dict[str, Any]]:
    """The learning rate of every update, and the gradient norms: the median over updates of first by second."""
    found = []
    for first, second, a, b in _each(pairs, outcomes):
        length = min(len(a.history), len(b.history))
        rates = [run.column("learning_rate")[:length] for run in (a, b)]
        norms = [run.column("grad_norm")[:length] for run in (a, b)]
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = norms[0] / norms[1]
        ratios = ratios[np.isfinite(ratios)]
        found.append(
            {"first": first, "second": second, "seed": a.seed}
            | {"learning_rate_max_difference": float(np.abs(rates[0] - rates[1]).max())}
            | {"grad_norm_median_ratio": float(np.median(ratios)) if len(ratios) else None}
        )
    return found


def telling_sizes(outcomes: Iterable[Outcome]) -> bool:
    """Whether batches are told apart by their sizes: not where every update has as many examples and tokens."""
    return any(len(np.unique(_sizes(run), axis=0)) > 2 for run in outcomes if run.completed)


def order_of_another_seed(run: Outcome, outcomes: Iterable[Outcome]) -> int | None:
    """The seed of another run whose batches this run's are, where they are not those of its own seed's runs."""
    others = [other for other in outcomes if other.completed and other.seed != run.seed]
    if all(other.batches for other in (run, *others)):
        matches = {other.seed for other in others if other.batches == run.batches}
    elif telling_sizes([run]):
        matches = {other.seed for other in others if _first_difference(_sizes(run), _sizes(other)) is None}
    else:
        return None
    return min(matches) if matches else None


def curves(outcomes: list[Outcome]) -> dict[str, dict[str, list]]:
    """Loss with its range over seeds, gradient norm and learning rate of each variant, thinned."""
    found = {}
    for name, group in runs.variants(run for run in outcomes if run.completed).items():
        length = min(len(run.history) for run in group)
        points = np.unique(np.linspace(0, length - 1, min(CURVE_POINTS, length)).round().astype(int))
        columns = {
            key: np.stack([run.column(key)[points] for run in group]) for key in ("loss", "grad_norm", "learning_rate")
        }
        found[name] = {
            "step": [int(point) + 1 for point in points],
            "loss_mean": _listed(columns["loss"].mean(axis=0)),
            "loss_low": _listed(columns["loss"].min(axis=0)),
            "loss_high": _listed(columns["loss"].max(axis=0)),
            "grad_norm": _listed(columns["grad_norm"].mean(axis=0)),
            "learning_rate": _listed(columns["learning_rate"][0]),
        }
    return found


def evaluations(outcomes: list[Outcome]) -> dict[str, dict[str, list]]:
    """The scores after each epoch, by variant and seed."""
    found: dict[str, dict[str, list]] = {}
    for run in outcomes:
        if run.completed:
            found.setdefault(run.variant, {})[str(run.seed)] = run.report.get("evaluations", [])
    return found


def recipe_differences(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    """The settings that are not the same in all runs, with each run's value."""
    return [
        {"key": key, "values": {run.label: run.settings.get(key) for run in outcomes}}
        for key in runs.differing_keys(outcomes)
    ]


def disagreements(outcomes: list[Outcome], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Examples of the first seed on which variants differ, those first on which one is right and another wrong.

    Numbers differ where they are further apart than rounding takes them.

    `rows` are the validation split's, by index; empty where the data cannot be read.
    """
    seeds = {run.seed for run in outcomes if run.completed}
    for seed in sorted(seeds):
        group = [run for run in outcomes if run.completed and run.seed == seed]
        if len(group) < 2 or not all(_predicts(run) for run in group):
            continue
        found = []
        for index, lines in enumerate(zip(*(run.predictions for run in group), strict=False)):
            place = _disagreement([line["prediction"] for line in lines], lines[0]["reference"])
            if place is not None:
                found.append((place, index, lines))
        found.sort(key=lambda each: each[:2])
        return [
            {
                "index": index,
                "seed": seed,
                "fields": rows[index] if index < len(rows) else {},
                "reference": lines[0]["reference"],
                "predictions": {run.variant: line["prediction"] for run, line in zip(group, lines, strict=True)},
            }
            for _, index, lines in found[:MOST_DISAGREEMENTS]
        ]
    return []


def same_predictions(a: Outcome, b: Outcome) -> bool:
    """Whether two runs predict the same for every example; not said of language models, which predict no one thing."""
    if not (_predicts(a) and _predicts(b)):
        return False
    return [line["prediction"] for line in a.predictions] == [line["prediction"] for line in b.predictions]


def _predicts(run: Outcome) -> bool:
    return bool(run.predictions) and "prediction" in run.predictions[0]


def _disagreement(predictions: list[Any], reference: Any) -> float | None:
    """Where an example stands among those on which variants disagree, the smallest first; None where they agree."""
    if isinstance(reference, float) and None not in predictions:  # of numbers the widest apart come first
        apart = max(predictions) - min(predictions)
        return -apart if apart > ROUNDING * max(1.0, *map(abs, predictions)) else None
    answers = [json.dumps(prediction) for prediction in predictions]
    if len(set(answers)) == 1:
        return None
    truth = json.dumps(reference)
    return float(sum(answer == truth for answer in answers) in (0, len(answers)))


def _each(pairs: list[tuple[str, str]], outcomes: list[Outcome]) -> Iterable[tuple[str, str, Outcome, Outcome]]:
    for first, second in pairs:
        for a, b in runs.shared_seeds(outcomes, first, second):
            yield first, second, a, b


def _sizes(run: Outcome) -> NDArray:
    """Examples and tokens of each update, [steps, 2]."""
    return np.stack([run.column("examples"), run.column("tokens")], axis=1)


def _first_difference(a: NDArray, b: NDArray, may_end: bool = False) -> int | None:
    """The first step, from 1, at which two records differ, or one has ended where it may not."""
    length = min(len(a), len(b))
    apart = np.flatnonzero((a[:length] != b[:length]).any(axis=1))
    if len(apart):
        return int(apart[0]) + 1
    return None if len(a) == len(b) or may_end else length + 1


def _listed(values: NDArray) -> list[float]:
    return [float(f"{value:.6g}") for value in values]
