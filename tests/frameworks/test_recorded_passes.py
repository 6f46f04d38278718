"""Recorded passes of a GPU, here without one: what stands for a recording computes the pass again when it is replayed.

That a GPU's recordings have the bits of plain steps, `tests/benchmarks/gpu_check.py` shows on a GPU.
"""

import numpy as np
import pytest
import torch

from pipeline.pytorch import Learner, attention_calls, get_weights
from pipeline.pytorch.attention import MultiHeadAttention
from pipeline.pytorch.gpu import recording
from pipeline.pytorch.gpu.recording import RecordedPasses
from pipeline.recipe.schema import Train
from tests.helpers.classifiers import batch, built, trained, with_targets
from tests.helpers.packed_batches import learner_of, with_dropout_keys

HEADS = ("bert pairs", "bert tokens", "bert spans", "gpt2 causal", "t5", "marian")
# By shape: the first micro-batch of each is computed, the second recorded, and all later ones replayed.
ORDER = (0, 1, 0, 0, 1, 0)


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
    batches = [with_dropout_keys(head)[shape] for shape in ORDER]
    recorded = learner_of("torch", head, attention, len(ORDER), dropout=0.1)
    reports = steps_of(recorded, batches)
    assert len(passes) == 2 and [report.compilations for report in reports] == [0, 0, 1, 1, 2, 2]
    monkeypatch.setattr(Learner, "can_record", lambda learner: False)
    plain = learner_of("torch", head, attention, len(ORDER), dropout=0.1)
    for ours, wanted in zip(reports, steps_of(plain, batches), strict=True):
        assert (ours.loss, ours.grad_norm) == (wanted.loss, wanted.grad_norm)
    weights = get_weights(plain.model)
    assert all((value == weights[name]).all() for name, value in get_weights(recorded.model).items())
    assert attention_calls(recorded.model) == attention_calls(plain.model)


def test_micro_batches_are_recorded_and_replayed_within_a_step(passes, monkeypatch):
    batches = [with_targets(batch(rows=7, seed=seed), seed) for seed in range(3)]
    settings = Train(batch_size=9, gradient_accumulation=3)  # of two, two and three rows
    weights, reports = trained("torch", "bert", settings, batches)
    monkeypatch.setattr(Learner, "can_record", lambda learner: False)
    wanted, plain = trained("torch", "bert", settings, batches)
    assert len(passes) == 2 and [report.loss for report in reports] == [report.loss for report in plain]
    assert all((value == weights[name]).all() for name, value in wanted.items())


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


def test_a_pass_that_cannot_be_recorded_is_computed_with_a_warning_and_none_is_tried_again(passes, monkeypatch):
    tried = []

    def refuse(compute, pool):
        tried.append(1)
        for weight in learner.weights:
            weight.grad = torch.ones_like(weight)  # as far as it came
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    batches = [with_dropout_keys("bert pairs")[shape] for shape in ORDER]
    wanted = steps_of(learner_of("torch", "bert pairs", steps=len(ORDER)), batches)
    monkeypatch.setattr(RecordedPasses, "recorded", staticmethod(refuse))
    learner = learner_of("torch", "bert pairs", steps=len(ORDER))
    with pytest.warns(UserWarning, match="could not record one. RuntimeError: CUDA error: operation not permitted"):
        reports = steps_of(learner, batches)
    assert len(tried) == 1 and reports[-1].compilations == 0
    assert [report.loss for report in reports] == [report.loss for report in wanted]


def test_short_memory_ends_recording_before_it_splits_batches(passes, monkeypatch):
    batches = [with_dropout_keys("bert pairs")[shape] for shape in ORDER]
    learner = learner_of("torch", "bert pairs", steps=len(ORDER))
    compute, left = learner.compute, [3]

    def short_once(tensors):
        left[0] -= 1
        if left[0] == 0:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return compute(tensors)

    monkeypatch.setattr(learner, "compute", short_once)
    reports = steps_of(learner, batches)
    assert [report.micro_batches for report in reports] == [1] * len(ORDER)
    assert not learner.recorded.is_on and not learner.recorded.recordings
    monkeypatch.setattr(Learner, "can_record", lambda learner: False)
    wanted = steps_of(learner_of("torch", "bert pairs", steps=len(ORDER)), batches)
    assert [report.loss for report in reports] == [report.loss for report in wanted]


def test_no_more_shapes_are_recorded_than_there_may_be(passes, monkeypatch):
    monkeypatch.setattr(recording, "MOST_RECORDINGS", 1)
    learner = learner_of("torch", "bert pairs", steps=len(ORDER))
    reports = steps_of(learner, [with_dropout_keys("bert pairs")[shape] for shape in ORDER])
    assert len(passes) == 1 and reports[-1].compilations == 1


def test_gradients_stay_in_the_same_memory_to_which_a_replay_adds(passes):
    learner = learner_of("torch", "bert pairs", steps=len(ORDER))
    places = []

    def on_step(report):
        gradients = [weight.grad for weight in learner.weights if weight.grad is not None]
        assert gradients and not any(gradient.any() for gradient in gradients)
        places.append([gradient.data_ptr() for gradient in gradients])

    learner.fit([[with_dropout_keys("bert pairs")[shape] for shape in ORDER]], on_step, lambda epoch: False)
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
