"""What the predictions of each variant show: the details that suit the task, over all of its seeds together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from pipeline.comparison.predictions.classes import class_details, label_details
from pipeline.comparison.predictions.numbers import number_details
from pipeline.comparison.predictions.tags import tag_details
from pipeline.comparison.predictions.texts import answer_details, text_details
from pipeline.comparison.predictions.tokens import token_details
from pipeline.comparison.records.predictions import PredictionDetails
from pipeline.comparison.resampling import class_names
from pipeline.comparison.run_set import ComparedRun, by_variant
from pipeline.metrics.specs import Outcome
from pipeline.runs.directory import RunDirectory
from pipeline.utils.errors import UserError
from pipeline.utils.text import one_line

# What the lines of a task must have, if that is more or less than a prediction and its reference.
_NEEDED = {"labels": {"prediction", "reference", "score"}, "token_losses": {"loss_sum", "tokens"}}


def prediction_details(
    runs: Sequence[ComparedRun], outcomes: Sequence[Outcome], rows: Sequence[Mapping[str, JsonValue]]
) -> dict[str, PredictionDetails]:
    """The details of every variant with predictions; `outcomes` are the task's, `rows` the data by index, or none.

    Raises UserError for predictions that are not of the kind of their task: a run writes no such lines.
    """
    found = {}
    for variant, group in by_variant(run for run in runs if run.completed and run.predictions).items():
        try:
            details = _details(group, outcomes, rows)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
            files = " or ".join(str(RunDirectory(run.path).predictions_file) for run in group)
            raise UserError(
                f"{files} does not hold predictions of this task ({type(error).__name__}: {one_line(error)}); the run "
                "was altered, or another program wrote it. Leave it out, or repeat it"
            ) from error
        if details is not None:
            found[variant] = details
    return found


def _details(
    runs: Sequence[ComparedRun], outcomes: Sequence[Outcome], rows: Sequence[Mapping[str, JsonValue]]
) -> PredictionDetails | None:
    lines = [line for run in runs for line in run.predictions]
    num, by_run = len(lines), [run.predictions for run in runs]
    if not _NEEDED.get(outcomes[0], {"prediction", "reference"}) <= lines[0].keys():
        return None  # of a version that did not record them
    if "class" in outcomes:
        return PredictionDetails(num_predictions=num, classes=class_details(lines, class_names(runs[0])))
    if "labels" in outcomes:
        return PredictionDetails(num_predictions=num, classes=label_details(lines))
    if "number" in outcomes:
        return PredictionDetails(num_predictions=num, numbers=number_details(lines))
    if "tags" in outcomes:
        return PredictionDetails(num_predictions=num, tags=tag_details(lines))
    if "answer" in outcomes:
        return PredictionDetails(num_predictions=num, answers=answer_details(lines))
    if "text" in outcomes:
        by_seed = [(run.seed, run.predictions) for run in runs]
        return PredictionDetails(num_predictions=num, texts=text_details(by_seed, rows))
    if "token_losses" in outcomes:
        return PredictionDetails(num_predictions=num, tokens=token_details(by_run))
    return None
