"""The experiments of the tour in PyTorch: short functions that are run, measured, and shown as they stand here.

`pipeline/tensorflow/tour.py` has the same definitions in the same order; `pipeline/tour` says what is done with them.
"""

# B batch · S source tokens · T target tokens · H heads · K head width · D model width · V vocabulary

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.profiler import ProfilerActivity, profile

from pipeline.models.transformer import TransformerSettings
from pipeline.pytorch import attention
from pipeline.pytorch.attention import attend, merge_heads, split_heads
from pipeline.pytorch.generation import write_texts  # noqa: F401 (the tour writes with it)
from pipeline.pytorch.model import set_weights
from pipeline.pytorch.transformer import Transformer, causal_bias, padding_bias

# The ways to execute a function, eager first.
MODES = ("eager", "torch.jit.trace", "torch.export", "torch.compile")
# What `remembers` has noted.
NOTES: list[str] = []


def build(settings: TransformerSettings, weights: dict[str, NDArray]) -> Transformer:
    """The Transformer with these weights, whose names and layout are PyTorch's."""
    model = Transformer(settings)
    set_weights(model, weights)
    return model


def frozen(settings: TransformerSettings) -> Transformer:
    """A Transformer with drawn weights that are not trained."""
    return Transformer(settings).requires_grad_(False)


def tensor(array: NDArray) -> Tensor:
    """An array as the framework's; whole numbers as token ids."""
    return torch.from_numpy(array) if array.dtype.kind == "f" else torch.from_numpy(array).long()


def array(tensor: Tensor) -> NDArray:
    """A tensor's values."""
    return tensor.detach().numpy()


def train(
    model: Transformer, source_BS: Tensor, mask_BS: Tensor, target_BT: Tensor, steps: int, learning_rate: float
) -> list[float]:
    """The loss of each step; the loop is written by hand."""
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    losses = []
    for _ in range(steps):
        logits_BTV = model(source_BS, mask_BS, target_BT[:, :-1])
        loss = cross_entropy(logits_BTV.flatten(0, 1), target_BT[:, 1:].flatten(), ignore_index=0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def read_source(model: Transformer, source_BS: Tensor, mask_BS: Tensor) -> dict[str, Tensor]:
    """The encoder's only layer, each step by itself."""
    layer: Any = model.encoder[0]
    attention = layer.attention
    embedded_BSD = model.embedding(source_BS) * model.settings.width**0.5
    positions_SD = model.positions[: source_BS.shape[1]]
    x_BSD = embedded_BSD + positions_SD
    q_BHSK = split_heads(attention.query(x_BSD), attention.num_heads)
    k_BHSK = split_heads(attention.key(x_BSD), attention.num_heads)
    v_BHSK = split_heads(attention.value(x_BSD), attention.num_heads)
    scores_BHSS = (q_BHSK * attention.scale) @ k_BHSK.transpose(2, 3)
    weights_BHSS = torch.softmax(scores_BHSS + padding_bias(mask_BS), dim=3)
    mixed_BHSK = weights_BHSS @ v_BHSK
    joined_BSD = attention.out(merge_heads(mixed_BHSK))
    normed_BSD = layer.attention_norm(x_BSD, joined_BSD)
    fed_BSD = layer.feed_forward(normed_BSD)
    encoded_BSD = layer.feed_forward_norm(normed_BSD, fed_BSD)
    return {
        "source tokens": source_BS, "embeddings": embedded_BSD, "positions": positions_SD, "encoder input": x_BSD,
        "queries": q_BHSK, "keys": k_BHSK, "values": v_BHSK, "scores": scores_BHSS, "attention weights": weights_BHSS,
        "mixed values": mixed_BHSK, "heads joined": joined_BSD, "residual and norm": normed_BSD,
        "feed-forward": fed_BSD, "encoder output": encoded_BSD,
    }  # fmt: skip


@torch.no_grad()
def write_target(model: Transformer, encoded_BSD: Tensor, mask_BS: Tensor, target_BT: Tensor) -> dict[str, Tensor]:
    """The decoder's only layer and the choice of the next tokens, each step by itself."""
    layer: Any = model.decoder[0]
    bias_B11S = padding_bias(mask_BS)
    x_BTD = model.embed(target_BT)
    attended_BTD, back_BHTT, _ = layer.attention(x_BTD, None, causal_bias(target_BT), None, True)
    x_BTD = layer.attention_norm(x_BTD, attended_BTD)
    crossed_BTD, cross_BHTS, _ = layer.source_attention(x_BTD, encoded_BSD, bias_B11S, None, True)
    x_BTD = layer.source_attention_norm(x_BTD, crossed_BTD)
    decoded_BTD = layer.feed_forward_norm(x_BTD, layer.feed_forward(x_BTD))
    logits_BTV = model.logits(decoded_BTD)
    chances_BTV = torch.softmax(logits_BTV, dim=2)
    return {
        "target tokens": target_BT, "masked self-attention": back_BHTT, "cross-attention": cross_BHTS,
        "decoder output": decoded_BTD, "logits": logits_BTV, "probabilities": chances_BTV,
        "chosen tokens": chances_BTV.argmax(dim=2),
    }  # fmt: skip


def mix(q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor) -> Tensor:
    """Attention alone, to be timed."""
    return attend(q_BHTK, k_BHTK, v_BHTK)[0]


def talks(x_N: Tensor) -> Tensor:
    """Prints."""
    print("Python is here")
    return 2 * x_N


def remembers(x_N: Tensor) -> Tensor:
    """Changes something outside of itself."""
    NOTES.append("Python was here")
    return 2 * x_N


def decides(x_N: Tensor) -> Tensor:
    """Branches on a value that is known only when it is computed."""
    if x_N.sum() > 0:
        return 2 * x_N
    return -x_N


def halves(x_N: Tensor) -> Tensor:
    """Depends on the number of its values."""
    return x_N[: len(x_N) // 2]


def stops(x_N: Tensor) -> Tensor:
    """Stops in the debugger."""
    doubled_N = 2 * x_N
    breakpoint()
    return doubled_N + 1


def attend_wrongly(q_BHTK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
    """Attention with an error: the keys are not transposed."""
    scores_BHTS = q_BHTK @ k_BHSK
    weights_BHTS = torch.softmax(scores_BHTS, dim=3)
    return weights_BHTS @ v_BHSK, weights_BHTS


@contextlib.contextmanager
def planted_error() -> Iterator[None]:
    """In the block, every attention computes with `attend_wrongly`."""
    with mock.patch.object(attention, "attend", attend_wrongly):
        yield


def entropy_gradient(weights_T: Tensor) -> Tensor:
    """The gradient of the entropy of attention weights, which is not a number where a weight is 0."""
    weights_T = weights_T.clone().requires_grad_()
    entropy = -(weights_T * weights_T.log()).sum()
    entropy.backward()
    assert weights_T.grad is not None, "backward gives every leaf its gradient"
    return weights_T.grad


def checked_entropy_gradient(weights_T: Tensor) -> Tensor:
    """The same, where PyTorch looks for NaN."""
    with torch.autograd.detect_anomaly():
        return entropy_gradient(weights_T)


def as_graph(function: Callable[..., Tensor], mode: str, example: tuple[Tensor, ...]) -> Callable[..., Tensor]:
    """The function in one of `MODES`; what is traced is traced with the example."""
    if mode == "torch.jit.trace":
        traced: Any = torch.jit.trace(function, example)
        return traced
    if mode == "torch.export":

        class Program(nn.Module):
            def forward(self, *inputs: Tensor) -> Tensor:
                return function(*inputs)

        return torch.export.export(Program(), example).module()
    return torch.compile(function) if mode == "torch.compile" else function


@contextlib.contextmanager
def profiled(seconds: dict[str, float]) -> Iterator[None]:
    """Fill in the seconds that each operator took in the block, without those that it called."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        yield
    seconds |= {event.key: event.self_cpu_time_total / 1e6 for event in found.key_averages()}
