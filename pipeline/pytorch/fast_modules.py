"""Modules of transformers exchanged for quicker ones that compute the same, but for other draws and the last digits."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from transformers.activations import NewGELUActivation
from transformers.pytorch_utils import Conv1D

BITS = 16  # a dropout rate is rounded to a multiple of 2^-16
# With fewer rows a product costs less than to convert the weights for it, which autocast does once for many tokens.
FEW_ROWS = 32


def quicken(model: nn.Module, precision: str, device: torch.device) -> None:
    """Exchange modules of a model and of a hand-written attention; what is of a subclass stays as it is.

    Each `nn.Dropout`, but not the dropout that a model asks for as a function: that of stock sdpa and of stock T5 on
    attention's weights. GPT-2's GELU. In bf16 on a CPU that has no instructions for it, every linear layer.
    """
    kinds = {nn.Dropout: Dropout.like, NewGELUActivation: like_gelu}
    if precision == "bf16" and device.type == "cpu" and not has_bf16_instructions():
        kinds |= {nn.Linear: Bf16Linear, Conv1D: Bf16Linear}
    exchanged: dict[nn.Module, nn.Module] = {}  # what is shared stays shared
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child not in exchanged and type(child) in kinds:
                exchanged[child] = kinds[type(child)](child).train(child.training)
            parent._modules[name] = exchanged.get(child, child)


def like_gelu(_: NewGELUActivation) -> nn.GELU:
    """One operation for the library's eight, each of them a pass over the widest activations of a model."""
    return nn.GELU(approximate="tanh")


class Dropout(nn.Dropout):
    """`nn.Dropout` with the same distribution and other draws, which cost less on a CPU.

    The library draws one 32-bit number for each value, on one core. Keeping or dropping wants 16 bits, and PyTorch's
    default generator, which is the source here too, gives 64 at a time.
    """

    @classmethod
    def like(cls, stock: nn.Dropout) -> Dropout:
        return cls(stock.p)

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


def has_bf16_instructions() -> bool:
    """Whether the processor multiplies bfloat16 by itself; True too off x86, and where PyTorch is too old to tell."""
    if not hasattr(torch.cpu, "get_capabilities"):
        return True
    found = torch.cpu.get_capabilities()
    return found["architecture"] != "x86_64" or found["avx512_bf16"] or found["amx_bf16"]


class Bf16Linear(nn.Module):
    """A linear layer with the weights of the library's, which under autocast to bfloat16 is a `Bf16Product`."""

    def __init__(self, stock: nn.Linear | Conv1D):
        super().__init__()
        self.weight, self.bias = stock.weight, stock.bias
        self.has_inputs_first = isinstance(stock, Conv1D)  # of the weight's two dimensions
        self.in_features, self.out_features = stock.weight.shape[:: 1 if self.has_inputs_first else -1]

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out]."""
        weight = self.weight.T if self.has_inputs_first else self.weight
        if torch.is_autocast_enabled("cpu") and input.numel() >= FEW_ROWS * self.in_features:
            return Bf16Product.apply(input, weight, self.bias)
        return nn.functional.linear(input, weight, self.bias)


class Bf16Product(torch.autograd.Function):
    """A linear layer in bfloat16 by products in fp32, for processors that compute bfloat16 piece by piece.

    fp32 holds the product of two bfloat16 exactly, and in either kernel fp32 is what they are summed in. So this is the
    library's result but for the order of the sums, and the gradients of weight and bias stay as fp32 has them.
    """

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """x [..., in] times weight [out, in] plus bias [out], in bfloat16."""
        of_x, of_weight, _ = ctx.needs_input_grad
        ctx.save_for_backward(x if of_weight else None, weight if of_x else None)
        return nn.functional.linear(x.float(), weight.float(), None if bias is None else bias.float()).bfloat16()

    @staticmethod
    @once_differentiable
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx: Any, of_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The gradients of x, in bfloat16, and of weight and bias, in fp32; None where nobody wants one."""
        x, weight = ctx.saved_tensors
        rows = of_output.flatten(0, -2).float()
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = (rows @ weight.float()).bfloat16().view(*of_output.shape[:-1], weight.shape[1])
        if ctx.needs_input_grad[1]:
            of_weight = rows.T @ x.flatten(0, -2).float()
        if ctx.needs_input_grad[2]:
            of_bias = rows.sum(dim=0)
        return of_x, of_weight, of_bias
