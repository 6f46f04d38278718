"""Modules of transformers exchanged for quicker ones that compute the same, but for other draws and the last digits."""

from __future__ import annotations

import torch
from torch import nn
from transformers.activations import NewGELUActivation

BITS = 16  # a dropout rate is rounded to a multiple of 2^-16


def quicken(model: nn.Module) -> None:
    """Exchange each `nn.Dropout` of a model and of a hand-written attention, and its GELU; subclasses stay as they are.

    Dropout that a model asks for as a function stays too: that of stock sdpa and of stock T5 on attention's weights.
    """
    exchanged: dict[nn.Module, nn.Module] = {}  # what is shared stays shared
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child not in exchanged and type(child) is nn.Dropout:
                exchanged[child] = Dropout(child.p).train(child.training)
            elif child not in exchanged and type(child) is NewGELUActivation:
                # The library writes it as eight operations, each a pass over the widest activations of a model.
                exchanged[child] = nn.GELU(approximate="tanh")
            parent._modules[name] = exchanged.get(child, child)


class Dropout(nn.Dropout):
    """`nn.Dropout` with the same distribution and other draws, which cost less on a CPU.

    The library draws one 32-bit number for each value, on one core. Keeping or dropping wants 16 bits, and PyTorch's
    default generator, which is the source here too, gives 64 at a time.
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
    # Clamped to two neighbours, since comparing to a boolean and converting that takes longer.
    lowest_kept = dropped - 2 ** (BITS - 1)
    kept = numbers.clamp_(lowest_kept - 1, lowest_kept).sub_(lowest_kept - 1)
    return kept.to(torch.float32).mul_(2**BITS / (2**BITS - dropped))
