"""The loss and its gradient in both frameworks, against NumPy; what PyTorch's saves memory by."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from pipeline.pytorch import loss as losses
from pipeline.pytorch.loss import weighted_loss
from tests.helpers.classifiers import loss_and_gradient


@pytest.mark.parametrize("offset", [0.0, 1000.0], ids=["", "large logits"])
@pytest.mark.parametrize("share", [1.0, 0.7, 0.2, 0.0])  # of the labels that count
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_weighted_cross_entropy(framework, smoothing, share, offset):
    rng = np.random.default_rng(3)
    logits, labels = rng.normal(0, 4, size=(6, 9, 5)).astype(np.float32), rng.integers(0, 5, (6, 9)).astype(np.int32)
    weights = (rng.uniform(size=(6, 9)) * (rng.uniform(size=(6, 9)) < share)).astype(np.float32)
    log_p = logits - np.log(np.exp(logits.astype(np.float64)).sum(-1, keepdims=True))
    targets = np.eye(5)[labels] * (1 - smoothing) + smoothing / 5
    expected = -(weights * (targets * log_p).sum(-1)).sum()
    slope = weights[..., None] * (np.exp(log_p) - targets)
    if framework == "torch":
        labels = labels.astype(np.int64)
    loss, gradient = loss_and_gradient(framework, logits + np.float32(offset), labels, weights, smoothing)
    # At 1,000 the logits themselves are rounded to 6e-5.
    assert loss == pytest.approx(expected, rel=1e-5 if offset == 0 else 1e-4)
    assert gradient == pytest.approx(slope, abs=1e-6 if offset == 0 else 1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("chunk", [1, 5 * 13, 2**18])  # a row at a time, with a rest, all at once
def test_the_chunked_loss_is_the_librarys(chunk, smoothing, dtype, monkeypatch):
    monkeypatch.setattr(losses, "CHUNK", chunk)
    rng = np.random.default_rng(6)
    logits = torch.tensor(rng.normal(0, 9, (3, 7, 13)), dtype=dtype)
    labels = torch.tensor(rng.integers(0, 13, (3, 7)))
    weights = torch.tensor(rng.uniform(size=(3, 7)) * (rng.uniform(size=(3, 7)) < 0.5), dtype=torch.float32)
    sides = [logits.clone().requires_grad_() for _ in range(2)]
    ours = weighted_loss(sides[0] * 1, labels, weights, smoothing)
    rows = functional.cross_entropy(
        sides[1].float().flatten(0, 1), labels.flatten(), reduction="none", label_smoothing=smoothing
    )
    library = (rows * weights.flatten()).sum()
    assert ours.item() == pytest.approx(library.item(), rel=1e-6)
    for loss in (ours, library):
        (3 * loss).backward()
    tolerances = {"atol": 1e-6, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 1e-3, "rtol": 1e-2}
    assert torch.allclose(sides[0].grad, sides[1].grad, **tolerances)
    assert (sides[0].grad[weights == 0] == 0).all()


def test_rows_that_do_not_count_may_hold_anything():
    logits = torch.tensor([[1.0, 2.0], [float("inf"), float("nan")]], requires_grad=True)
    loss = weighted_loss(logits * 1, torch.tensor([0, 1]), torch.tensor([1.0, 0.0]), 0.0)
    loss.backward()
    assert loss.item() == pytest.approx(np.log(1 + np.e), rel=1e-6)
    assert torch.isfinite(logits.grad).all()


def test_the_gradient_can_be_taken_only_once():
    logits = torch.randn(2, 3, requires_grad=True)
    loss = weighted_loss(logits * 1, torch.tensor([0, 1]), torch.ones(2), 0.0)
    loss.backward(retain_graph=True)
    with pytest.raises(AssertionError, match="was taken before"):
        loss.backward()


def test_no_copy_of_the_logits_is_made():
    logits = torch.randn(6, 5, requires_grad=True) * 1
    address = logits.data_ptr()
    loss = weighted_loss(logits, torch.zeros(6, dtype=torch.int64), torch.ones(6), 0.0)
    assert loss.grad_fn.gradient_NV.data_ptr() == address
