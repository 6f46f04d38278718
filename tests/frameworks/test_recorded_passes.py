"""Recorded passes of a GPU, here without one: what stands for a recording computes the pass again when it is replayed.

That a GPU's recordings have the bits of plain steps, `tests/benchmarks/gpu_check.py` shows on a GPU.
"""

import numpy as np
import pytest
import torch

from pipeline.pytorch import Learner, attention_calls, eager_execution, get_weights
from pipeline.pytorch.attention import MultiHeadAttention
from pipeline.pytorch.gpu import recording
from pipeline.pytorch.gpu.recording import RecordedPasses
from pipeline.recipe.schema import Train
from tests.helpers.classifiers import built
from tests.helpers.packed_batches import learner_of, with_dropout_keys

HEADS = ("bert pairs", "bert tokens", "bert spans", "gpt2 causal", "t5", "marian")
# By shape: the first micro-batch of each is computed, the second recorded, and all later ones replayed.
ORDER = (0, 1, 0, 0, 1, 0)


def batches_of(head):
    """Packed batches of two shapes in this order."""
    packed = with_dropout_keys(head)[1]
    fewer = {name: value[:-1] for name, value in packed.items()}
    return [(packed, fewer)[shape] for shape in ORDER]


class Replay:
    """Stands for a graph of a GPU: computes on the same tensors, and leaves the loss in the same one."""

    def __init__(self, compute, loss):
        self.compute, self.loss = compute, loss

    def replay(self):
        self.loss.copy_(self.compute())


@pytest.fixture
def passes(monkeypatch):
    """The functions that were recorded; learners record them though there is no GPU."""
    found = []

    def recorded(compute, pool):
        assert pool == "pool"
        found.append(compute)
        loss = torch.zeros(())
        return Replay(compute, loss), loss

    monkeypatch.setattr(RecordedPasses, "new_pool", staticmethod(lambda: "pool"))
    monkeypatch.setattr(RecordedPasses, "recorded", staticmethod(recorded))
    monkeypatch.setattr(Learner, "can_record", lambda learner: True)
    return found


def steps_of(learner, batches):
    """The reports of steps on batches."""
    reports = []
    learner.fit([batches], reports.append, lambda epoch: False)
    return reports


@pytest.mark.parametrize(
    ("head", "attention"), [*((head, "stock") for head in HEADS), *((head, "handwritten") for head in HEADS[:4:3])]
)
def test_recorded_steps_have_the_bits_of_plain_ones(head, attention, passes, monkeypatch):
    batches = batches_of(head)
    recorded = learner_of("torch", head, attention, len(ORDER), dropout=0.1)
    reports = steps_of(recorded, batches)
    assert len(passes) == 2 and [report.compilations for report in reports] == [0, 0, 1, 1, 2, 2]
    assert not recorded.recorded.recordings  # their memory is free for the evaluation
    monkeypatch.setattr(Learner, "can_record", lambda learner: False)
    plain = learner_of("torch", head, attention, len(ORDER), dropout=0.1)
    for ours, wanted in zip(reports, steps_of(plain, batches), strict=True):
        assert (ours.loss, ours.grad_norm) == (wanted.loss, wanted.grad_norm)
    weights = get_weights(plain.model)
    assert all((value == weights[name]).all() for name, value in get_weights(recorded.model).items())
    assert attention_calls(recorded.model) == attention_calls(plain.model)


def test_micro_batches_are_recorded_and_replayed_within_a_step(passes, monkeypatch):
    batches = [with_dropout_keys("bert pairs")[1]] * 3  # of three rows, so that there are micro-batches of one and two
    reports = steps_of(learner_of("torch", "bert pairs", steps=3, batch_size=8, gradient_accumulation=2), batches)
    monkeypatch.setattr(Learner, "can_record", lambda learner: False)
    plain = steps_of(learner_of("torch", "bert pairs", steps=3, batch_size=8, gradient_accumulation=2), batches)
    assert len(passes) == 2 and [report.loss for report in reports] == [report.loss for report in plain]


def test_padded_batches_are_not_recorded(passes):
    padded = with_dropout_keys("bert pairs")[0]
    steps_of(learner_of("torch", "bert pairs", steps=4), [padded] * 4)
    assert not passes


def test_calls_of_a_swapped_attention_are_counted_at_each_replay_and_not_while_recording(passes, monkeypatch):
    class Nothing:
        def replay(self):
            pass

    # A GPU computes nothing while a pass is recorded, but Python code runs then, and does not when it is replayed.
    monkeypatch.setattr(RecordedPasses, "recorded", staticmethod(lambda compute, pool: (Nothing(), compute())))
    learner = learner_of("torch", "bert pairs", "handwritten")
    counts = []
    for _ in range(4):
        learner.gradients(with_dropout_keys("bert pairs")[1])
        counts.append(set(attention_calls(learner.model)))
    assert counts == [{1}, {2}, {3}, {4}]


def refusal(learner, tried, error):
    """A recording that fails with an error, after it has replaced gradients and called attentions."""

    def refuse(compute, pool):
        tried.append(1)
        compute()
        learner.optimizer.zero_grad(set_to_none=False)  # a GPU would not have computed anything
        for weight in learner.weights:
            weight.grad = torch.ones_like(weight)
        raise error

    return staticmethod(refuse)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: operation not permitted when stream is capturing"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    ],
)
def test_a_pass_that_cannot_be_recorded_is_computed_with_a_warning_and_none_is_tried_again(error, passes, monkeypatch):
    tried, batches = [], batches_of("bert pairs")
    wanted = steps_of(learner_of("torch", "bert pairs", "handwritten", steps=len(ORDER)), batches)
    learner = learner_of("torch", "bert pairs", "handwritten", steps=len(ORDER))
    monkeypatch.setattr(RecordedPasses, "recorded", refusal(learner, tried, error))
    with pytest.warns(UserWarning, match=f"could not record one. {type(error).__name__}: CUDA"):
        reports = steps_of(learner, batches)
    assert len(tried) == 1 and {report.compilations for report in reports} == {0}
    assert {report.micro_batches for report in reports} == {1}
    assert [report.loss for report in reports] == [report.loss for report in wanted]
    assert set(attention_calls(learner.model)) == {len(ORDER)}


def test_short_memory_ends_recording_before_it_splits_batches(passes, monkeypatch):
    batches = batches_of("bert pairs")
    learner = learner_of("torch", "bert pairs", steps=len(ORDER))
    compute, left = learner.compute, [4]

    def short_once(tensors):
        left[0] -= 1
        if left[0] == 0:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return compute(tensors)

    monkeypatch.setattr(learner, "compute", short_once)
    reports = steps_of(learner, batches)
    assert [report.micro_batches for report in reports] == [1] * len(ORDER) and reports[-1].compilations == 1
    monkeypatch.setattr(Learner, "can_record", lambda learner: False)
    wanted = steps_of(learner_of("torch", "bert pairs", steps=len(ORDER)), batches)
    assert [report.loss for report in reports] == [report.loss for report in wanted]


def test_a_batch_that_is_too_large_is_split_and_its_parts_are_recorded(passes, monkeypatch):
    learner = learner_of("torch", "bert pairs", steps=3, batch_size=8)
    compute = learner.compute

    def short_of_memory(tensors):
        if len(tensors["labels"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return compute(tensors)

    monkeypatch.setattr(learner, "compute", short_of_memory)
    reports = steps_of(learner, [with_dropout_keys("bert pairs")[1]] * 3)
    assert [report.micro_batches for report in reports] == [2] * 3 and reports[-1].compilations == 2


def test_a_recording_is_dropped_when_a_weight_has_another_gradient(passes):
    learner, batch = learner_of("torch", "bert pairs"), with_dropout_keys("bert pairs")[1]
    for _ in range(3):
        learner.gradients(batch)
    learner.model.zero_grad()
    learner.gradients(batch)
    assert learner.recorded.num_recorded == 1 and not learner.recorded.recordings
    learner.gradients(batch)
    assert learner.recorded.num_recorded == 2


def test_what_a_recording_reads_is_kept_though_the_model_gets_another(passes):
    learner, batch = learner_of("torch", "bert pairs"), with_dropout_keys("bert pairs")[1]
    learner.model.register_buffer("mask", torch.ones(2))
    for _ in range(2):
        learner.gradients(batch)
    old, learner.model.mask = learner.model.mask, torch.zeros(3)
    (recording,) = learner.recorded.recordings.values()
    assert any(buffer is old for buffer in recording.buffers)


def test_no_more_shapes_are_recorded_than_there_may_be(passes, monkeypatch):
    monkeypatch.setattr(recording, "MOST_RECORDINGS", 1)
    learner = learner_of("torch", "bert pairs", steps=len(ORDER))
    reports = steps_of(learner, batches_of("bert pairs"))
    assert len(passes) == 1 and reports[-1].compilations == 1


def test_gradients_stay_in_the_same_memory_to_which_a_replay_adds(passes):
    learner = learner_of("torch", "bert pairs", steps=len(ORDER))
    places = []

    def on_step(report):
        gradients = [weight.grad for weight in learner.weights if weight.grad is not None]
        assert gradients and not any(gradient.any() for gradient in gradients)
        places.append([gradient.data_ptr() for gradient in gradients])

    learner.fit([batches_of("bert pairs")], on_step, lambda epoch: False)
    assert len({tuple(each) for each in places}) == 1


class OnGpu:
    """Stands for an Accelerator on a GPU."""

    device = torch.device("cuda")


@pytest.mark.parametrize(
    ("head", "settings", "has_kernels", "records"),
    [
        ("bert pairs", {}, True, True),
        ("bert pairs", {}, False, False),
        ("bert pairs", {"dropout_masks": "framework"}, False, True),
        ("bert pairs", {"gradient_checkpointing": True}, True, True),
        ("bert pairs", {"gradient_checkpointing": True, "dropout_masks": "framework"}, True, False),
        ("bert masked", {}, True, False),
    ],
)
def test_passes_are_recorded_where_nothing_reads_the_processor(head, settings, has_kernels, records, monkeypatch):
    learner = learner_of("torch", head, **settings)
    monkeypatch.setattr(learner.masks, "has_kernels", lambda: has_kernels)
    assert not learner.can_record()
    monkeypatch.setattr(learner, "accelerator", OnGpu())
    assert learner.can_record() == records
    with eager_execution(asked=True):  # a debugger wants to see each operation
        assert not learner.can_record()
    learner.group = object()
    assert not learner.can_record()


class OwnAttention(MultiHeadAttention):
    """An attention of a user's own, which may do something else at each call."""


def test_passes_through_modules_of_others_are_not_recorded(monkeypatch):
    for attention, records in (("handwritten", True), (OwnAttention, False)):
        backend, model = built("torch", "bert")
        backend.swap_attention(model, attention)
        learner = Learner(model, Train(dropout_masks="framework"), np.zeros(1))
        monkeypatch.setattr(learner, "accelerator", OnGpu())
        assert learner.can_record() == records
