"""Evaluation: a split scored batch by batch by the task and the recipe's metrics, each rank with its share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from numpy.typing import NDArray

from pipeline.backend import Predictor
from pipeline.data.batches import evaluation_batches
from pipeline.distributed.channel import Channel
from pipeline.metrics.scoring import compute_metrics
from pipeline.training.experiment import Experiment
from pipeline.training.state import Evaluation

if TYPE_CHECKING:
    from evaluate import EvaluationModule


def evaluate(
    experiment: Experiment,
    learner: Predictor,
    scorers: Mapping[str, EvaluationModule],
    split: str,
    epoch: int,
    batch_size: int,
    channel: Channel,
    before_round: Callable[[], None],
) -> Evaluation:
    """Score a split with the learner's current weights; little is kept of each batch, and no logits.

    The batches are those of a process alone; of each round of as many batches as there are ranks, each rank scores one,
    and in the last round some may have none. Rank 0 puts the scores of all rows together. All ranks get the metrics,
    and only rank 0 has `rows`. `scorers` are the recipe's metrics by name; `before_round` may raise.
    """
    task, examples = experiment.task, experiment.examples[split]
    batches = evaluation_batches(examples.lengths, batch_size, experiment.recipe.data.pad_to_multiple_of)
    scored: list[tuple[NDArray, list[object]]] = []
    for first in range(0, len(batches), channel.size):
        before_round()
        for batch in batches[first : first + channel.size][channel.ranks.rank :][:1]:
            inputs, targets = task.inputs(examples, batch), task.targets(examples, batch)
            scores = task.score_batch(task.outputs(learner, inputs, targets), examples, batch.rows)
            scored.append((batch.rows, scores))
    shares, lines = channel.gather(scored), []

    def metrics() -> dict[str, float]:
        by_row: list[object] = [None] * len(examples.lengths)
        for rows, scores in itertools.chain.from_iterable(shares):
            for row, score in zip(rows, scores, strict=True):
                by_row[row] = score
        aggregated = task.aggregate(examples, by_row)
        lines.extend({"index": index, **example.line} for index, example in enumerate(aggregated))
        return compute_metrics(scorers, aggregated)

    return Evaluation(epoch=epoch, metrics=channel.first(metrics), rows=lines)
