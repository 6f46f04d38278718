"""Evaluation: a split scored batch by batch by the task and the recipe's metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from pipeline.backend import Learner
from pipeline.data.batches import evaluation_batches
from pipeline.metrics.scoring import compute_metrics
from pipeline.training.experiment import Experiment
from pipeline.training.state import Evaluation

if TYPE_CHECKING:
    from evaluate import EvaluationModule


def evaluate(
    experiment: Experiment,
    learner: Learner,
    scorers: Mapping[str, EvaluationModule],
    split: str,
    epoch: int,
    batch_size: int,
    before_batch: Callable[[], None],
) -> Evaluation:
    """Score a split with the learner's current weights; little is kept of each batch, and no logits.

    `scorers` are the recipe's metrics by name; `before_batch` is called before each batch and may raise.
    """
    task, examples = experiment.task, experiment.examples[split]
    by_row: list[object] = [None] * len(examples.lengths)
    for batch in evaluation_batches(examples.lengths, batch_size, experiment.recipe.data.pad_to_multiple_of):
        before_batch()
        inputs, targets = task.inputs(examples, batch), task.targets(examples, batch)
        scores = task.score_batch(task.outputs(learner, inputs, targets), examples, batch.rows)
        for row, score in zip(batch.rows, scores, strict=True):
            by_row[row] = score
    scored = task.aggregate(examples, by_row)
    rows: list[dict[str, object]] = [{"index": index, **example.line} for index, example in enumerate(scored)]
    return Evaluation(epoch=epoch, metrics=compute_metrics(scorers, scored), rows=rows)
