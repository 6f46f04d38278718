"""Modules of transformers exchanged, for training, for quicker ones that compute the same."""

from __future__ import annotations

import torch
from torch import nn
from transformers.activations import NewGELUActivation

BITS = 16  # a dropout rate is rounded to a multiple of 2^-16


def quicken(model: nn.Module) -> None:
    """Exchange a model's dropout, that of a hand-written attention too, and its GELU; subclasses stay as they are."""
    places = [(parent, name, child) for parent in model.modules() for name, child in parent.named_children()]
    for parent, name, child in places:
        if type(child) is nn.Dropout:
            setattr(parent, name, Dropout(child.p).train(child.training))
        elif type(child) is NewGELUActivation:
            # The library writes it as eight operations, each of which passes over the widest activations of a model.
            setattr(parent, name, nn.GELU(approximate="tanh"))


class Dropout(nn.Dropout):
    """`nn.Dropout` with the same distribution and other draws, which cost a fourth of its on a CPU.

    The library draws one 32-bit number for each value, on one core, which is a fifth of a small model's step. Keeping
    or dropping wants 16 bits, and PyTorch's default generator, which is the source here too, gives 64 at a time.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Each value times 0 or 1 / (1 - rate); on other devices and in evaluation mode this is the stock module."""
        dropped = round(self.p * 2**BITS)
        if not self.training or input.device.type != "cpu" or not 0 < dropped < 2**BITS:
            return super().forward(input)
        return input * keep_scale(input.shape, dropped).to(input.dtype)


def keep_scale(shape: torch.Size, dropped: int) -> torch.Tensor:
    """0 for `dropped` of 65,536 values in expectation, else what keeps the expectation at 1; float32."""
    num_values, per_draw = shape.numel(), 64 // BITS
    draws = torch.empty(-(-num_values // per_draw), dtype=torch.int64).random_(-(2**63), None)
    numbers = draws.view(torch.int16)[:num_values].view(shape)
    # Clamped to two neighbours, since comparing to a boolean and converting that takes four times as long.
    lowest_kept = dropped - 2 ** (BITS - 1)
    kept = numbers.clamp_(lowest_kept - 1, lowest_kept).sub_(lowest_kept - 1)
    return kept.to(torch.float32).mul_(2**BITS / (2**BITS - dropped))
