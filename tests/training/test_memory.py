"""Memory does not grow with the number of steps, whose samples are those of `tests/benchmarks/memory_series.py`, or of
trainings.
"""

import gc
import weakref

import numpy as np
import pytest

from pipeline.data.batches import digest
from pipeline.recipe.loading import load_recipe
from pipeline.training.experiment import prepare
from pipeline.utils.processes import call
from tests.benchmarks.memory_series import train
from tests.helpers.packed_batches import learner_of, with_dropout_keys


@pytest.mark.heavy
def test_memory_stays_flat_over_steps_with_packed_batches(framework, tmp_path):
    samples = call(train, framework, "single-label", "stock", {}, tmp_path, 2000, framework=framework)
    steps, megabytes, files = np.array(samples).T
    late = steps > steps[-1] / 2
    growth = np.polyfit(steps[late], megabytes[late], 1)[0] * np.ptp(steps[late])
    # The heap rises in stairs of 2.1 MB. One that falls into the middle makes the line rise by 1.5 times as much; a new
    # shape in nearly every step by 7 MB in PyTorch and 14 MB in TensorFlow.
    assert growth < 4, f"{growth:.1f} MB in the second half of {steps[-1]:.0f} steps"
    assert len(set(files[late])) == 1


def test_in_bf16_the_same_steps_have_fewer_shapes():
    recipe = load_recipe("sentiment_bert")
    plans = [prepare(recipe.override({"train.precision": name})).training_plans(0, 1)[0] for name in ("fp32", "bf16")]
    numbers = [len({(batch.num_rows, batch.widths) for batch in plan}) for plan in plans]
    assert numbers[1] <= 12 + 2 < numbers[0]
    assert digest(plans[0]) == digest(plans[1])


@pytest.mark.slow
def test_a_model_is_gone_when_another_one_is_trained(framework):
    # A Marian has activations to which TensorFlow gives gradients of its own.
    learner = learner_of(framework, "marian", dropout=0.1)
    learner.fit([[with_dropout_keys("marian")[1]]], lambda report: None, lambda epoch: True)
    model = weakref.ref(learner.model)
    del learner
    learner_of(framework, "bert pairs")
    gc.collect()
    assert model() is None
