"""Validation examples as a comparison shows them: those on which variants disagree, with the text they are about."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic import JsonValue

from pipeline.comparison.results import Disagreement
from pipeline.comparison.run_set import ComparedRun
from pipeline.data import hub
from pipeline.data.splits import content_digest, fingerprint, read_splits
from pipeline.tasks.base import Task, load_task
from pipeline.utils.errors import UserError

# Predicted numbers closer than this, relative to their size or to 1, are the same: in fp32, another order of sums
# makes smaller differences.
ROUNDING = 1e-3
MAX_DISAGREEMENTS = 20
MAX_WORDS = 20  # of the text whose attention is drawn

Row = dict[str, JsonValue]


def validation_rows(run: ComparedRun) -> list[Row]:
    """The fields of each validation row that a prediction is made from.

    Empty if the data cannot be read on this machine, or are no longer what the run was trained on.
    """
    task = load_task(run.recipe)
    try:
        hub.go_offline_if_unreachable(run.recipe)
        splits = read_splits(run.recipe, task.required, task.optional)
    except UserError:
        return []
    digests = {split: content_digest(rows) for split, rows in splits.items()}
    if fingerprint(digests) != run.completed_record.data.fingerprint:
        return []
    fields = task.prediction_fields
    columns = [splits["validation"][name][:] for name in fields]
    return [dict(zip(fields, values, strict=True)) for values in zip(*columns, strict=True)]


def disagreements(runs: list[ComparedRun], rows: list[Row]) -> list[Disagreement]:
    """Examples of the first seed on which variants differ, those first on which one is right and another is wrong.

    Numbers differ if they are further apart than rounding explains. `rows` are the validation split's, by index; empty
    if the data cannot be read.
    """
    for seed in sorted({run.seed for run in runs if run.completed}):
        group = [run for run in runs if run.completed and run.seed == seed]
        if len(group) < 2 or not all(run.predicts for run in group):
            continue
        ranked = []
        for index, lines in enumerate(zip(*(run.predictions for run in group), strict=False)):
            rank = _rank([line["prediction"] for line in lines], lines[0]["reference"])
            if rank is not None:
                ranked.append((rank, index, lines))
        ranked.sort(key=lambda each: each[:2])
        return [
            Disagreement(
                index=index,
                seed=seed,
                fields=rows[index] if index < len(rows) else {},
                reference=lines[0]["reference"],
                predictions={run.variant: line["prediction"] for run, line in zip(group, lines, strict=True)},
            )
            for _, index, lines in ranked[:MAX_DISAGREEMENTS]
        ]
    return []


def same_predictions(a: ComparedRun, b: ComparedRun) -> bool:
    """Whether two runs predict the same for every example; False for language models, which have no predictions."""
    if not (a.predicts and b.predicts):
        return False
    return [line["prediction"] for line in a.predictions] == [line["prediction"] for line in b.predictions]


def equal_predictions(a: ComparedRun, b: ComparedRun) -> list[bool]:
    """For each example whether two runs predict the same; numbers may differ by what rounding explains."""
    pairs = zip(a.predictions, b.predictions, strict=False)
    return [_rank([one["prediction"], two["prediction"]], one["reference"]) is None for one, two in pairs]


def text_to_draw(task: Task, disagreeing: list[Disagreement], rows: list[Row]) -> str | None:
    """The first words of the first text on which the variants disagree, or else of the split's first text."""
    candidates: list[Mapping[str, JsonValue]] = [each.fields for each in disagreeing if each.fields]
    for fields in [*candidates, *rows[:1]]:
        words = task.words_to_show(fields)
        if words:
            return " ".join(words[:MAX_WORDS])
    return None


def _rank(predictions: list[JsonValue], reference: JsonValue) -> float | None:
    """The place of an example among those on which variants disagree, smallest first; None if they agree."""
    numbers = [prediction for prediction in predictions if isinstance(prediction, float)]
    if isinstance(reference, float) and len(numbers) == len(predictions):  # the widest apart come first
        spread = max(numbers) - min(numbers)
        return -spread if spread > ROUNDING * max(1.0, *map(abs, numbers)) else None
    answers = [json.dumps(prediction) for prediction in predictions]
    if len(set(answers)) == 1:
        return None
    truth = json.dumps(reference)
    return float(sum(answer == truth for answer in answers) in (0, len(answers)))
