"""Training steps in both frameworks: micro-batches, too little memory, kept weights, precision, dropout."""

import numpy as np
import pytest

from pipeline.models.initialization import random_weights
from pipeline.recipe.schema import Train
from pipeline.utils.errors import RunFailure
from tests.helpers.classifiers import CONFIGS, NO_DROPOUT, batch, built, framework_module, trained, with_targets


@pytest.mark.slow
@pytest.mark.parametrize("family", CONFIGS)
def test_accumulation_changes_memory_not_the_step(framework, family):
    batches = [with_targets(batch(rows=7, seed=s), seed=s) for s in range(3)]
    # In PyTorch for both frameworks: each training in TensorFlow traces a graph, which takes seconds.
    whole, reports = trained("torch", family, Train(batch_size=8), batches, **NO_DROPOUT[family])
    pieces, reports_of_micro_batches = trained(
        framework, family, Train(batch_size=8, gradient_accumulation=4), batches, **NO_DROPOUT[family]
    )
    assert [report.loss for report in reports] == pytest.approx(
        [report.loss for report in reports_of_micro_batches], rel=1e-5
    )
    assert [report.grad_norm for report in reports] == pytest.approx(
        [report.grad_norm for report in reports_of_micro_batches], rel=1e-4
    )
    start = random_weights({n: v.shape for n, v in whole.items()}, CONFIGS[family], 0)
    moved = np.sqrt(
        sum(((whole[n] - start[n]) ** 2).sum() for n in whole if "key.bias" not in n and "c_attn.bias" not in n)
    )
    difference = np.sqrt(
        sum(((whole[n] - pieces[n]) ** 2).sum() for n in whole if "key.bias" not in n and "c_attn.bias" not in n)
    )
    assert difference / moved < 1e-3


@pytest.mark.parametrize(
    ("num_rows", "count", "sizes"), [(8, 4, [2] * 4), (7, 2, [3, 4]), (3, 4, [0, 1, 1, 1]), (5, 1, [5])]
)
def test_micro_batches_have_every_row_once_and_similar_sizes(framework, num_rows, count, sizes):
    rows = {"input_ids": np.arange(num_rows * 2).reshape(num_rows, 2), "labels": np.arange(num_rows)}
    pieces = [framework_module(framework, "train").micro_batch(rows, i, count) for i in range(count)]
    assert [len(piece["labels"]) for piece in pieces] == sizes
    assert np.concatenate([piece["input_ids"] for piece in pieces]).tolist() == rows["input_ids"].tolist()


@pytest.mark.slow
def test_more_micro_batches_than_rows_change_nothing(framework):
    batches = [with_targets(batch(rows=3))]
    one, _ = trained("torch", "bert", Train(batch_size=8), batches, **NO_DROPOUT["bert"])
    many, reports = trained(
        framework, "bert", Train(batch_size=8, gradient_accumulation=8), batches, **NO_DROPOUT["bert"]
    )
    assert np.isfinite(reports[0].loss)
    assert one["classifier.weight"] == pytest.approx(many["classifier.weight"], abs=1e-6)


@pytest.fixture
def short_memory(framework, monkeypatch):
    """Memory runs out if more than `most_rows` go through the model in training."""
    module, state = framework_module(framework, "train"), {"most_rows": 2}
    real = module.logits_and_targets

    def fail(num_rows):
        if num_rows > state["most_rows"]:
            raise MemoryError
        return np.int32(0)

    def torch_forward(model, inputs, *targets):
        import torch

        if model.training and len(inputs["input_ids"]) > state["most_rows"]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return real(model, inputs, *targets)

    def tensorflow_forward(model, inputs, *targets, training):
        import tensorflow as tf

        if training:
            with tf.control_dependencies([tf.numpy_function(fail, [tf.shape(inputs["input_ids"])[0]], tf.int32)]):
                inputs = {key: tf.identity(value) for key, value in inputs.items()}
        return real(model, inputs, *targets, training=training)

    monkeypatch.setattr(module, "logits_and_targets", torch_forward if framework == "torch" else tensorflow_forward)
    return state


@pytest.mark.slow
def test_a_step_that_runs_out_of_memory_is_split_and_stays_the_same(framework, short_memory):
    batches = [with_targets(batch(rows=7, seed=s), seed=s) for s in range(4)]
    expected, _ = trained(
        framework, "bert", Train(batch_size=8, gradient_accumulation=4), batches, **NO_DROPOUT["bert"]
    )
    actual, reports = trained(framework, "bert", Train(batch_size=8), batches, **NO_DROPOUT["bert"])
    assert [report.micro_batches for report in reports] == [4] * 4
    assert [report.step for report in reports] == [1, 2, 3, 4]
    assert all(np.array_equal(actual[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_a_model_too_large_for_one_example_ends_with_one_message(framework, short_memory):
    short_memory["most_rows"] = 0
    with pytest.raises(RunFailure, match="one example"):
        trained(framework, "bert", Train(batch_size=8), [with_targets(batch(rows=3))], **NO_DROPOUT["bert"])


def test_copied_weights_can_be_put_back(framework):
    backend, model = built(framework, "bert")
    learner = backend.Learner(model, Train(), np.full(1, 1e-2))
    kept, before = learner.copy_weights(), backend.get_weights(model)
    learner.fit([[with_targets(batch())]], lambda report: None, lambda epoch: False)
    assert not (backend.get_weights(model)["classifier.weight"] == before["classifier.weight"]).all()
    learner.restore_weights(kept)
    assert all((value == before[name]).all() for name, value in backend.get_weights(model).items())


def test_stopping_early_ends_the_training(framework):
    backend, model = built(framework, "bert")
    learner, reports = backend.Learner(model, Train(), np.full(6, 1e-3)), []
    learner.fit([[with_targets(batch())] * 2] * 3, reports.append, lambda epoch: epoch == 2)
    assert [report.step for report in reports] == [1, 2, 3, 4]


@pytest.mark.slow
def test_bf16_trains_fp32_weights(framework):
    batches = [with_targets(batch())] * 3
    _, reports = trained(framework, "bert", Train(), batches, **NO_DROPOUT["bert"])
    rough, rough_reports = trained(framework, "bert", Train(precision="bf16"), batches, **NO_DROPOUT["bert"])
    losses, rough_losses = [report.loss for report in reports], [report.loss for report in rough_reports]
    assert losses != rough_losses
    assert losses == pytest.approx(rough_losses, abs=0.02)
    assert rough["classifier.weight"].dtype == np.float32


@pytest.mark.slow
def test_dropout_works_in_training_only_and_follows_the_seed(framework):
    batches = [with_targets(batch())] * 2
    losses = [
        tuple(report.loss for report in trained(framework, "bert", Train(), batches, seed=0)[1]) for _ in range(2)
    ]
    still = tuple(report.loss for report in trained(framework, "bert", Train(), batches, **NO_DROPOUT["bert"])[1])
    assert losses[0] == losses[1] != still
