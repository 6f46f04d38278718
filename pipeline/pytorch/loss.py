"""The loss of a batch in PyTorch. `pipeline/tensorflow/loss.py` has the same definitions in the same order."""

# N rows · V classes, which for a language model are the vocabulary

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import binary_cross_entropy_with_logits

# Logits that are worked on at a time: on a CPU what its cache holds, elsewhere what keeps a device busy.
CHUNK, DEVICE_CHUNK = 2**18, 2**26


def weighted_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    loss_weights: torch.Tensor,
    label_smoothing: float,
    loss: str = "cross_entropy",
) -> torch.Tensor:
    """The loss in fp32, summed with `loss_weights`; cross-entropy uses the memory of `logits` up.

    Labels and weights of cross-entropy have the logits' shape less classes, those of binary cross-entropy have their
    shape, and those of squared error are [B].
    """
    if loss == "squared_error":
        return ((logits.float()[:, 0] - labels) ** 2 * loss_weights).sum()
    if loss == "binary_cross_entropy":
        return (binary_cross_entropy_with_logits(logits.float(), labels, reduction="none") * loss_weights).sum()
    logits_NV = logits.float().flatten(0, -2)
    return cross_entropy(logits_NV, labels.flatten(), loss_weights.flatten(), label_smoothing)


def cross_entropy(
    logits_NV: torch.Tensor, labels_N: torch.Tensor, weights_N: torch.Tensor, smoothing: float
) -> torch.Tensor:
    """The sum of the rows' cross-entropies times their weights; rows of weight 0 count for nothing."""
    return CrossEntropy.apply(logits_NV, labels_N, weights_N, smoothing)


class CrossEntropy(torch.autograd.Function):
    """Computes loss and gradient together, some rows at a time, and writes the gradient over the logits.

    Logits of a vocabulary are the largest array of a language model's step by far. The library passes over them again
    and again and keeps copies; here rows stay in the processor's cache while their loss and gradient are computed.
    With p = softmax(x), ε of smoothing and q = (1 - ε) onehot(label) + ε / V, a row's loss is logsumexp(x) - q·x, and
    its gradient p - q.
    """

    @staticmethod
    def forward(
        ctx: Any, logits_NV: torch.Tensor, labels_N: torch.Tensor, weights_N: torch.Tensor, smoothing: float
    ) -> torch.Tensor:
        """The loss; what `backward` will give stands in `logits_NV` afterwards."""
        total = torch.zeros((), device=logits_NV.device)
        size = CHUNK if logits_NV.device.type == "cpu" else DEVICE_CHUNK
        num_rows = max(1, size // logits_NV.shape[1])
        for logits, labels, weights in zip(
            logits_NV.split(num_rows), labels_N.split(num_rows), weights_N.split(num_rows), strict=True
        ):
            counted = weights.nonzero()[:, 0]
            loss, gradient = _of_rows(logits[counted], labels[counted], weights[counted], smoothing)
            total += loss
            logits.zero_()[counted] = gradient
        ctx.gradient_NV = logits_NV.detach()
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_loss: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        """The gradient that `forward` computed, scaled where the loss was; it can be had once."""
        gradient, ctx.gradient_NV = ctx.gradient_NV, None
        assert gradient is not None, "the gradient of this loss was taken before"
        if of_loss.device.type != "cpu" or of_loss != 1:  # elsewhere to ask costs more than to multiply
            gradient.mul_(of_loss)
        return gradient, None, None, None


def _of_rows(
    x: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, smoothing: float
) -> tuple[torch.Tensor, torch.Tensor]:
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
