"""Many ranks, one after another in this process: every row once, and the sums are those of a process alone."""

import numpy as np
import pytest

from pipeline.backend import load_backend
from pipeline.data.batches import share
from pipeline.distributed.ranks import Ranks
from pipeline.metrics.scoring import load_metrics
from pipeline.recipe.schema import Train
from pipeline.training.evaluation import evaluate
from pipeline.training.experiment import start
from tests.helpers.classifiers import batch, built, with_targets
from tests.helpers.families import prepared, recipe_of
from tests.helpers.packed_batches import loss_and_gradients

SIZES = (1, 2, 3, 7, 64)


def ranks_of(size):
    return [Ranks(rank=rank, size=size) for rank in range(size)]


@pytest.mark.parametrize("size", SIZES)
def test_every_row_of_every_batch_is_in_one_share(size, tmp_path):
    experiment, _, _ = prepared(recipe_of("single-label", tmp_path, num_rows=35))
    plan = experiment.training_plan(0, seed=5)
    for whole in experiment.features(plan, 0, seed=5, first_step=0):
        shares = [share(whole, ranks) for ranks in ranks_of(size)]
        counted = [part for part in shares if part["loss_weights"].any()]
        assert len(counted) == min(size, len(whole["labels"]))
        for name, rows in whole.items():
            assert {part[name].shape[1:] for part in shares} == {rows.shape[1:]}  # the global width is kept
            found = np.concatenate([part[name] for part in counted]).reshape(len(rows), -1).tolist()
            assert sorted(found) == sorted(rows.reshape(len(rows), -1).tolist())
        assert sum(part["loss_weights"].sum() for part in shares) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("framework", "num_rows"),
    [("torch", 5), ("torch", 130), ("tensorflow", 5), pytest.param("tensorflow", 130, marks=pytest.mark.heavy)],
)
@pytest.mark.slow
def test_the_gradients_of_64_ranks_add_up_to_those_of_one(framework, num_rows):
    backend, model = built(framework, "bert")  # with dropout, whose masks do not depend on the rank
    learner = backend.Learner(model, Train(), np.full(1, 1e-3))
    whole = with_targets(batch(rows=num_rows))
    loss, expected = loss_and_gradients(framework, learner, whole)
    total_loss, total = 0.0, {name: np.zeros_like(gradient) for name, gradient in expected.items()}
    for ranks in ranks_of(64):
        part_loss, part = loss_and_gradients(framework, learner, share(whole, ranks))
        assert part.keys() == expected.keys()
        total_loss += part_loss
        for name, gradient in part.items():
            total[name] += gradient
    assert total_loss == pytest.approx(loss, rel=1e-5)
    largest = max(np.abs(gradient).max() for gradient in expected.values())
    assert all(np.abs(total[name] - expected[name]).max() < 1e-5 * largest for name in expected)


class SimulatedChannel:
    """One of several ranks that run one after another, rank 0 last; only rank 0 hears of the others."""

    def __init__(self, ranks, gathered):
        self.ranks, self.size, self.gathered = ranks, ranks.size, gathered

    def gather(self, value):
        self.gathered[self.ranks.rank] = value
        return [self.gathered[rank] for rank in range(self.size)] if self.ranks.is_first else []

    def first(self, function):
        return function() if self.ranks.is_first else {}


@pytest.mark.parametrize("kind", ["single-label", "question-answering"])
def test_an_evaluation_scores_every_row_once_whatever_the_number_of_ranks(kind, tmp_path):
    """Of 16 rows there are one, two, three or eight batches."""
    experiment, task, examples = prepared(recipe_of(kind, tmp_path), "validation")
    backend = load_backend("torch")
    model = start(experiment, backend, seed=0).model
    learner = backend.Learner(model, experiment.recipe.train, np.full(1, 1e-3), task.loss)
    scorers = load_metrics(experiment.metric_names)

    def evaluated(size, batch_size):
        gathered, rounds = {}, []
        for ranks in reversed(ranks_of(size)):
            channel = SimulatedChannel(ranks, gathered)
            asked = []
            found = evaluate(
                experiment, learner, scorers, "validation", 1, batch_size, channel, lambda asked=asked: asked.append(1)
            )
            rounds.append(len(asked))
        assert len(set(rounds)) == 1, "all ranks must ask as often whether to stop"
        rows = [row for part in gathered.values() for rows, _ in part for row in rows.tolist()]
        assert sorted(rows) == list(range(len(examples.lengths)))
        return found

    for batch_size in (32, 8, 6, 2):
        alone = evaluated(1, batch_size)
        for size in SIZES[1:]:
            several = evaluated(size, batch_size)
            assert several.rows == alone.rows and several.metrics == alone.metrics
