"""The loss of a batch in PyTorch. `pipeline/tensorflow/loss.py` has the same definitions in the same order."""

# N rows · V classes, which for a language model are the vocabulary

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import binary_cross_entropy_with_logits

# Logits that are computed at a time: on a CPU what its cache holds, elsewhere what keeps a device busy.
CHUNK, DEVICE_CHUNK = 2**18, 2**26


def weighted_loss(
    logits: Tensor,
    labels: Tensor,
    loss_weights: Tensor,
    label_smoothing: float,
    loss: str = "cross_entropy",
) -> Tensor:
    """The loss in fp32, summed with `loss_weights`; cross-entropy overwrites `logits` with its gradient.

    Labels and weights have the shape of the logits for binary cross-entropy, and without classes for the other losses.
    """
    if loss == "squared_error":
        return ((logits.float()[..., 0] - labels) ** 2 * loss_weights).sum()
    if loss == "binary_cross_entropy":
        return (binary_cross_entropy_with_logits(logits.float(), labels, reduction="none") * loss_weights).sum()
    logits_NV = logits.float().flatten(0, -2)
    return cross_entropy(logits_NV, labels.flatten(), loss_weights.flatten(), label_smoothing)


def cross_entropy(logits_NV: Tensor, labels_N: Tensor, weights_N: Tensor, smoothing: float) -> Tensor:
    """The sum of the rows' cross-entropies times their weights; finite rows of weight 0 add nothing."""
    return CrossEntropy.apply(logits_NV, labels_N, weights_N, smoothing)


class CrossEntropy(torch.autograd.Function):
    """Computes loss and gradient together, some rows at a time, and overwrites the logits with the gradient.

    Logits of a vocabulary are by far the largest array of a language model's step. The library passes over them several
    times and keeps copies; here rows stay in the processor's cache while their loss and gradient are computed.
    With p = softmax(x), ε of smoothing and q = (1 - ε) onehot(label) + ε / V, a row's loss is logsumexp(x) - q·x, and
    its gradient p - q.
    """

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, labels_N: Tensor, weights_N: Tensor, smoothing: float) -> Tensor:
        """The loss; afterwards `logits_NV` holds the gradient that `backward` returns."""
        total = torch.zeros((), device=logits_NV.device)
        size = CHUNK if logits_NV.device.type == "cpu" else DEVICE_CHUNK
        num_rows = max(1, size // logits_NV.shape[1])
        for logits, labels, weights in zip(
            logits_NV.split(num_rows), labels_N.split(num_rows), weights_N.split(num_rows), strict=True
        ):
            if logits_NV.is_cuda or bool(weights.all()):  # on a GPU, asking which rows count would wait for it
                total += loss_and_gradient(logits, labels, weights, smoothing)[0]
                continue
            counted = weights.nonzero()[:, 0]
            loss, gradient = loss_and_gradient(logits[counted], labels[counted], weights[counted], smoothing)
            total += loss
            logits.zero_()[counted] = gradient
        ctx.gradient_NV = logits_NV.detach()
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, loss_gradient: Tensor) -> tuple[Tensor, None, None, None]:
        """The gradient that `forward` computed, times that of the loss; it can be taken only once."""
        gradient, ctx.gradient_NV = ctx.gradient_NV, None
        assert gradient is not None, "the gradient of this loss was taken before"
        if loss_gradient.device.type != "cpu" or loss_gradient != 1:  # elsewhere comparing costs more than multiplying
            gradient.mul_(loss_gradient)
        return gradient, None, None, None


def loss_and_gradient(x: Tensor, labels: Tensor, weights: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """The weighted loss of these rows and its gradient, which takes the place of the logits `x`."""
    rows = torch.arange(len(labels), device=labels.device)
    x -= x.amax(dim=1, keepdim=True)
    chosen = (1 - smoothing) * x[rows, labels]
    if smoothing:
        chosen += smoothing * x.mean(dim=1)
    exponentials = x.exp_()
    sums = exponentials.sum(dim=1)
    gradient = exponentials.mul_((weights / sums)[:, None])
    if smoothing:
        gradient -= (smoothing / x.shape[1] * weights)[:, None]
    gradient[rows, labels] -= (1 - smoothing) * weights
    return torch.dot(sums.log() - chosen, weights), gradient
