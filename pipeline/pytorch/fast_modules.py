"""What makes a forward pass in PyTorch fast: modules exchanged for faster ones that compute the same.

`pipeline/tensorflow/fast_modules.py` has the same first five definitions in the same order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.activations import NewGELUActivation
from transformers.pytorch_utils import Conv1D

from pipeline.models.optimization import HIDDEN_LOGIT
from pipeline.pytorch.model import architecture, head_logits
from pipeline.pytorch.packed import chosen, span_logits, tokens_read, tokens_with_loss
from pipeline.pytorch.swap import head, packed_hidden_states

# With fewer rows a product costs less than to convert the weights for it, which autocast does once for many tokens.
FEW_ROWS = 32


def prepare_modules(model: nn.Module, precision: str, device: torch.device) -> None:
    """Exchange modules of a model for faster ones, in place; results differ in the last digits.

    Exchanged are the library's GELU of eight operations, and in bf16 every linear layer if the CPU that computes has no
    instructions for it. Subclasses stay.
    """
    replacements: dict[type, Callable[[Any], nn.Module]] = {
        # One operation instead of the library's eight, each of them a pass over the widest activations of a model.
        NewGELUActivation: lambda _: nn.GELU(approximate="tanh"),
    }
    if precision == "bf16" and device.type == "cpu" and not Bf16Linear.has_instructions():
        replacements |= {nn.Linear: Bf16Linear, Conv1D: Bf16Linear}
    exchanged: dict[nn.Module, nn.Module] = {}  # what is shared stays shared
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is None:
                continue
            if child not in exchanged and type(child) in replacements:
                exchanged[child] = replacements[type(child)](child).train(child.training)
            parent._modules[name] = exchanged.get(child, child)


def forward(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """The model's logits in fp32, as in `head_logits`; padding can be neither start nor end of a span.

    Those of a packed batch, which has `segment_ids`, are as in `packed_logits`.
    """
    if "segment_ids" in inputs:
        return packed_logits(model, inputs)
    outputs = model(**inputs)
    logits = head_logits(outputs)
    if "start_logits" in outputs:
        logits = logits + (1 - inputs["attention_mask"][:, None, :]) * HIDDEN_LOGIT
    return logits


def packed_logits(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """The model's logits of a packed batch in fp32, [R, L, classes]; with `pooled_positions`, those of examples.

    These positions [R, P] are where each example of a row is read: the logits are [R, P, classes], or of starts and
    ends of spans [R, P, 2, L].
    """
    positions_RP, read_N = inputs.get("pooled_positions"), tokens_read(model, inputs)
    logits = head(model, packed_hidden_states(model, inputs, read_N))
    if positions_RP is None:
        return logits
    if read_N is None:
        return span_logits(logits, inputs["segment_ids"], positions_RP.shape[1])
    return logits.view(*positions_RP.shape, -1)


def counted_tokens(model: Any, loss_weights: Tensor) -> Tensor | None:
    """Of a masked language model the tokens of `tokens_with_loss`, [N]; None for other models.

    Such a model predicts about one token in seven, and needs to compute logits for these only.
    """
    return tokens_with_loss(loss_weights) if architecture(model).endswith("ForMaskedLM") else None


def logits_and_targets(
    model: Any, inputs: dict[str, Tensor], labels: Tensor, loss_weights: Tensor, counted: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The logits of `forward`, labels and loss weights; with `counted`, those of these tokens only, [N, V] and [N]."""
    if counted is None:
        return forward(model, inputs), labels, loss_weights
    if "segment_ids" in inputs:
        hidden_1ND = packed_hidden_states(model, inputs, counted)
    else:
        hidden_1ND = chosen(model.base_model(**inputs).last_hidden_state, counted)
    return head(model, hidden_1ND)[0], labels.flatten()[counted], loss_weights.flatten()[counted]


class Bf16Linear(nn.Module):
    """A linear layer with the weights of the library's, for autocast on a CPU without bfloat16: a `Bf16Product`."""

    def __init__(self, stock: nn.Linear | Conv1D):
        super().__init__()
        self.weight, self.bias = stock.weight, stock.bias
        self.has_inputs_first = isinstance(stock, Conv1D)  # of the weight's two dimensions
        self.in_features, self.out_features = stock.weight.shape[:: 1 if self.has_inputs_first else -1]

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        weight = self.weight.T if self.has_inputs_first else self.weight
        if not torch.is_autocast_enabled("cpu") or input.numel() < FEW_ROWS * self.in_features:
            return nn.functional.linear(input, weight, self.bias)
        return Bf16Product.apply(input, weight, self.bias)

    @staticmethod
    def has_instructions() -> bool:
        """Whether the processor has bfloat16 instructions; taken for granted off x86 and if PyTorch cannot tell."""
        if not hasattr(torch.cpu, "get_capabilities"):
            return True
        cpu = torch.cpu.get_capabilities()
        return cpu["architecture"] != "x86_64" or cpu["avx512_bf16"] or cpu["amx_bf16"]


class Bf16Product(torch.autograd.Function):
    """A linear layer in bfloat16 computed by products in fp32, which is faster on processors without bfloat16.

    fp32 holds the product of two bfloat16 numbers exactly, and both kernels sum in fp32. So the result is the library's
    but for the order of the sums; the gradients of weight and bias keep the digits that fp32 has.
    """

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """x [..., in] times weight [out, in] plus bias [out], in bfloat16."""
        of_x, of_weight, _ = ctx.needs_input_grad
        ctx.save_for_backward(x if of_weight else None, weight if of_x else None)
        return nn.functional.linear(x.float(), weight.float(), None if bias is None else bias.float()).bfloat16()

    @staticmethod
    @once_differentiable
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx: Any, of_output: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of x, in bfloat16, and of weight and bias, in fp32; None if it is not needed."""
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
