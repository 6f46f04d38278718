"""The results of a comparison, put together from its runs: what results.json holds and a report shows."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.comparison import costs as cost
from pipeline.comparison import same_experiment as evidence
from pipeline.comparison.run_set import Outcome, pairs, shared_seeds, variants
from pipeline.comparison.statistics import bootstrap
from pipeline.comparison.statistics import equivalence as statistics
from pipeline.data import hub
from pipeline.data.fingerprint import content_digest, fingerprint
from pipeline.data.splits import read_splits
from pipeline.metrics.scoring import statistic_for
from pipeline.metrics.specs import lower_is_better, scale
from pipeline.reporting.sentences import headline
from pipeline.tasks.base import Task, load_task
from pipeline.utils import processes
from pipeline.utils.errors import UserError

MOST_WORDS = 20  # of the text whose attention is drawn
# Scores in predictions.jsonl have six decimals, and an area under a curve can turn on the last.
_RECORDED = 1e-3

Notes = list[dict[str, str]]


def assemble(outcomes: list[Outcome], margin: float, locksteps: list[dict[str, Any]], notes: Notes) -> dict[str, Any]:
    """All results but when and by which command. `outcomes` have their variants' names."""
    completed = [run for run in outcomes if run.completed]
    task = load_task(outcomes[0].recipe)
    rows = validation_rows(completed[0]) if completed else []
    notes = list(notes)
    resampled = _resampled(completed, notes)
    chosen = pairs(outcomes)
    metrics = _metrics(completed)
    disagreements = evidence.disagreements(outcomes, rows if task.has_prediction_per_row else [])
    results = {
        **_subject(outcomes, completed, margin),
        "variants": _variants(outcomes),
        "runs": [_run(run) for run in outcomes],
        "recipe_differences": evidence.recipe_differences(outcomes),
        "metrics": metrics,
        "comparisons": [found for pair in chosen if (found := _comparison(pair, outcomes, metrics, margin, resampled))],
        "sameness": {
            "probe": evidence.probe(chosen, outcomes),
            "batches": evidence.batches(chosen, outcomes),
            "optimisation": evidence.optimisation(chosen, outcomes),
            "lockstep": locksteps,
            "curves": evidence.curves(outcomes),
            "evaluations": evidence.evaluations(outcomes),
        },
        "disagreements": disagreements,
        "cost": cost.costs(outcomes),
        "machine": cost.machines(outcomes),
        "attention_maps": _attention_maps(completed, _text_to_draw(task, disagreements, rows), notes),
    }
    return results | {"headline": headline(results, outcomes, notes)}


def validation_rows(run: Outcome) -> list[dict[str, Any]]:
    """The validation split's fields that a prediction is made from, by row.

    Empty where the data cannot be read here, or are no longer what the run was trained on.
    """
    task = load_task(run.recipe)
    fields = task.prediction_fields
    try:
        hub.go_offline_if_unreachable(run.recipe)
        splits = read_splits(run.recipe, task.required, task.optional)
    except UserError:
        return []
    digests = {split: content_digest(rows) for split, rows in splits.items()}
    if fingerprint(digests) != run.report["data"]["fingerprint"]:
        return []
    rows = splits["validation"]
    columns = [rows[name][:] for name in fields]
    return [dict(zip(fields, values, strict=True)) for values in zip(*columns, strict=True)]


def _subject(outcomes: list[Outcome], completed: list[Outcome], margin: float) -> dict[str, Any]:
    recipe = outcomes[0].recipe
    counts = completed[0].report["data"] if completed else {}
    checkpoint = Path(recipe.checkpoint)
    relative = all(scale(name) is None for name in list(_metrics(completed))[:1])
    return {
        "recipe": recipe.name,
        "task": recipe.task,
        "checkpoint": checkpoint.name if checkpoint.is_absolute() else recipe.checkpoint,
        "weights": recipe.weights,
        "data": {
            "source": recipe.data.path + (f" ({recipe.data.name})" if recipe.data.name else ""),
            "fingerprint": counts.get("fingerprint"),
            "splits": {split: found for split, found in counts.items() if split != "fingerprint"},
        },
        "margin": {"value": margin, "kind": "relative" if relative else "absolute"},
    }


def _variants(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "framework": group[0].framework,
            "attention": group[0].attention,
            "seeds": sorted(run.seed for run in group),
            "completed": sum(run.completed for run in group),
            "failed": sum(not run.completed for run in group),
        }
        for name, group in variants(outcomes).items()
    ]


def _run(run: Outcome) -> dict[str, Any]:
    return {
        "variant": run.variant,
        "framework": run.framework,
        "attention": run.attention,
        "seed": run.seed,
        "path": str(run.path),
        "status": "completed" if run.completed else "failed",
        "log_tail": run.log_tail,
        "metrics": run.metrics,
        "train": run.report.get("train", {}),
        "startup_seconds": run.environment.get("startup_seconds"),
        "attention_sites": run.report.get("attention_sites"),
        "attention_max_difference": run.report.get("attention_max_difference"),
        "environment": run.environment,
    }


def _metrics(completed: list[Outcome]) -> dict[str, Any]:
    """Every metric of every variant over its seeds."""
    names = dict.fromkeys(name for run in completed for name in run.metrics)
    found = {}
    for name in names:
        rows = {
            variant: statistics.summary({run.seed: run.metrics.get(name) for run in group})
            for variant, group in variants(completed).items()
        }
        found[name] = {"lower_is_better": lower_is_better(name), "scale": scale(name), "variants": rows}
    return found


def _comparison(
    pair: tuple[str, str], outcomes: list[Outcome], metrics: dict, margin: float, resampled: dict
) -> dict[str, Any] | None:
    """All that is said of two variants; None where no seed was completed by both."""
    shared = shared_seeds(outcomes, *pair)
    if not shared:
        return None
    same_predictions = all(evidence.same_predictions(*both) for both in shared)
    found = {}
    for name, metric in metrics.items():
        if not any(name in run.metrics for both in shared for run in both):
            continue
        reference = next((row["mean"] for row in metric["variants"].values() if row["mean"] is not None), None)
        values = [[both[side].metrics.get(name) for both in shared] for side in (0, 1)]
        samples = [[resampled.get((both[side].label, name)) for both in shared] for side in (0, 1)]
        difference = None
        if None not in (*samples[0], *samples[1]):
            difference = bootstrap.difference(*samples)
        found[name] = statistics.compare_metric(
            name,
            pair,
            *values,
            statistics.margin_of(name, margin, reference),
            difference,
            len(shared[0][0].predictions),
            same_predictions,
        )
    agreement = None
    if load_task(shared[0][0].recipe).predicts_classes:
        columns = ("prediction", "prediction", "reference")
        agreement = statistics.agreement(
            [[line[key] for line in run.predictions] for key, run in zip(columns, (a, b, a), strict=True)]
            for a, b in shared
        )
    return {"first": pair[0], "second": pair[1], "metrics": found, "agreement": agreement}


def _resampled(completed: list[Outcome], notes: Notes) -> dict[tuple[str, str], tuple[float, np.ndarray]]:
    """By run and metric: the value and the resampled ones, all runs over the same resamples."""
    sizes = {len(run.predictions) for run in completed}
    if len(sizes) != 1 or min(sizes) < 2:
        if len(sizes) > 1:
            sentence = "the runs have predictions for different numbers of examples, so none are resampled"
            notes.append({"state": "bad", "sentence": sentence})
        return {}
    (num_examples,) = sizes
    keys, found = [], []
    for run in completed:
        labels = _labels(run)
        for name, recorded in run.metrics.items():
            of_counts = statistic_for(name, run.predictions, labels)
            if of_counts is None:
                continue
            value = bootstrap.on_the_full_set(of_counts, num_examples)
            if _is_another(value, recorded):
                sentence = (
                    f"the recorded {name} of {run.label} is {recorded:.4g}, but its predictions.jsonl gives {value:.4g}"
                )
                notes.append({"state": "bad", "sentence": sentence})
            keys.append((run.label, name))
            found.append((value, of_counts))
    if not found:
        return {}
    values = bootstrap.resample([of_counts for _, of_counts in found], num_examples)
    return {key: (value, row) for key, (value, _), row in zip(keys, found, values, strict=True)}


def _is_another(value: float, recorded: float | None) -> bool:
    if recorded is None or not math.isfinite(recorded) or not math.isfinite(value):
        return False
    return abs(value - recorded) > _RECORDED * max(1.0, abs(recorded))


def _labels(run: Outcome) -> list[str]:
    """The class names in the model's order; none where the run has no model any more."""
    path = run.path / "model" / "config.json"
    if not path.exists():
        return []
    found = json.loads(path.read_text(encoding="utf-8")).get("id2label") or {}
    return [found[key] for key in sorted(found, key=int)]


def _text_to_draw(task: Task, disagreements: list, rows: list[dict[str, Any]]) -> str | None:
    """The first text on which the variants disagree, or the split's first one; its first words."""
    candidates = [each["fields"] for each in disagreements if each["fields"]] + rows[:1]
    for fields in candidates:
        if words := task.words_to_show(fields):
            return " ".join(words[:MOST_WORDS])
    return None


def _attention_maps(completed: list[Outcome], text: str | None, notes: Notes) -> list[dict[str, Any]]:
    """One text through each framework's first run with hand-written attention."""
    found: dict[str, dict[str, Any]] = {}
    for run in completed if text else ():
        if run.attention != "handwritten" or run.framework in found:
            continue
        try:
            weights, tokens = processes.call(draw, run.path, text, run.framework, framework=run.framework)
        except (UserError, processes.ProcessError) as error:
            last = str(error).strip().rpartition("\n")[2]
            sentence = f"the attention of {run.label} could not be drawn: {last}"
            notes.append({"state": "unknown", "sentence": sentence})
            continue
        found[run.framework] = {
            "variant": run.variant,
            "seed": run.seed,
            "text": text,
            "tokens": tokens,
            "weights": np.round(weights.astype(np.float64), 3).tolist(),
        }
    return list(found.values())


def draw(path: Path, text: str, framework: str) -> tuple[np.ndarray, list[str]]:
    """Attention maps and tokens; called in a process of its own."""
    from pipeline.runs.attention_maps import maps_of_run

    maps = maps_of_run(path, text, framework)
    return maps.weights, maps.tokens
