"""The optimizer and gradient clipping in PyTorch.

`pipeline/tensorflow/optimizer.py` has the same definitions in the same order.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from pipeline.models.optimization import CLIP_EPSILON, decays
from pipeline.recipe.schema import Train


def clip_gradients(
    weights: list[nn.Parameter], max_grad_norm: float | None, sum_over_ranks: Callable[[Tensor], object] | None = None
) -> Tensor:
    """Scale the weights' gradients so that their global norm is at most `max_grad_norm`; returns the norm before.

    `sum_over_ranks` sums a tensor in place; it is needed where each rank holds a part of every gradient.
    """
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    gradients = [gradient.to_local() if isinstance(gradient, DTensor) else gradient for gradient in gradients]
    # On a CPU the library's fp32 sum over millions of entries is off by 4e-4; row by row by 1e-6. A GPU adds in a tree.
    rows = [torch.linalg.vector_norm(g, dim=-1) if g.ndim > 1 and g.device.type == "cpu" else g for g in gradients]
    grad_norm = torch.nn.utils.get_total_norm(rows)
    if sum_over_ranks is not None:
        grad_norm = grad_norm.double().square()
        sum_over_ranks(grad_norm)
        grad_norm = grad_norm.sqrt().float()
    if max_grad_norm is not None:
        scale = torch.clamp(max_grad_norm / (grad_norm + CLIP_EPSILON), max=1.0)
        # On a CPU each pass over the gradients counts; a GPU would wait for the comparison.
        if grad_norm.is_cuda or scale != 1:
            torch._foreach_mul_(gradients, scale)  # pyright: ignore[reportPrivateImportUsage] -- has no public name
    return grad_norm


class AdamW(torch.optim.AdamW):
    """The library's fused AdamW with decay on matrices only.

    Source: Loshchilov and Hutter 2019, algorithm 2.
    """

    def __init__(self, model: nn.Module, settings: Train):
        trainable = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        decayed = [weight for name, weight in trainable.items() if decays(name, weight.ndim)]
        others = [weight for name, weight in trainable.items() if not decays(name, weight.ndim)]
        super().__init__(
            [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=settings.learning_rate,
            betas=(settings.beta1, settings.beta2),
            eps=settings.epsilon,
            fused=True,
        )
