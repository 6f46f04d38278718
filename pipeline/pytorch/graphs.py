"""Compiling a training step in PyTorch; forward pass and step of a model, eagerly and as graphs, to measure them.

`pipeline/tensorflow/graphs.py` has the same definitions in the same order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim
from torch.fx.experimental import _config as fx_settings
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from pipeline.data.batches import Features
from pipeline.models.families import family_of
from pipeline.pytorch.export import Graph
from pipeline.pytorch.model import head_logits
from pipeline.pytorch.optimizer import AdamW, clip_gradients
from pipeline.recipe.schema import Train
from pipeline.utils.errors import PipelineError, UserError
from pipeline.utils.text import one_line

# The modes of execution, eager first.
MODES = ("eager", "torch.export", "TorchScript", "torch.compile")


def compiled(function: Callable, on_compilation: Callable[[], None]) -> Callable:
    """The function, compiled at its first call for all sizes; `on_compilation` is called for each graph.

    Packed batches have many sizes, so these stay open: a graph for each would take longer to compile than to train.
    """
    # Imported here: it takes seconds.
    from torch._inductor.compile_fx import compile_fx
    from torch._inductor.cpp_builder import get_cpp_compiler

    get_cpp_compiler()  # raises an error if there is none, before anything is traced

    def backend(graph: Any, example: Any) -> Any:
        # One process compiles: others would outlive a run that is killed.
        code = compile_fx(graph, example, config_patches={"compile_threads": 1})
        on_compilation()  # not before: the compiler begins again when it meets a number that may change
        return code

    how: Any = {"fullgraph": True, "dynamic": True, "backend": backend, "isolate_recompiles": True}
    return torch.compile(function, **how)


@contextlib.contextmanager
def compiling() -> Iterator[None]:
    """Inside, a step is compiled: raises UserError, with the cause and the way out, if that fails."""
    settings: Any = fx_settings
    try:
        # Else sizes that are equal in the example by chance would have to be equal in all batches.
        with settings.patch(use_duck_shape=False):
            yield
    except PipelineError:
        raise
    except Exception as error:  # each part of the compiler has its own
        if "InvalidCxxCompiler" in f"{type(error).__name__}: {error}":
            raise UserError(
                "train.compile is true, but PyTorch compiles by a C++ compiler and found none: install g++, name one "
                "in the environment variable CXX, or leave train.compile out"
            ) from error
        raise UserError(
            "train.compile is true, but PyTorch cannot compile a step of this model with this attention; leave "
            f"train.compile out. {type(error).__name__}: {one_line(error)}"
        ) from error


class Pass(nn.Module):
    """One pass of a stock model over tokens [B, T]; the decoder of an encoder-decoder reads the same tokens."""

    def __init__(self, model: PreTrainedModel, mode: str):
        super().__init__()
        self.model = model
        # TorchScript cannot trace the library's own causal mask.
        self.makes_mask = mode == "TorchScript" and family_of(model.config).architecture == "decoder"

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The logits in fp32, as in `head_logits`."""
        if self.makes_mask:
            attention_mask = Graph.causal_bias(attention_mask, input_ids.shape[1])
        text = {"decoder_input_ids": input_ids} if self.model.config.is_encoder_decoder else {}
        return head_logits(self.model(input_ids=input_ids, attention_mask=attention_mask, **text))


def execution(
    model: PreTrainedModel, mode: str, example: Features, settings: Train | None = None
) -> Callable[[Features], NDArray]:
    """A function that computes one batch in a mode of execution; see `pipeline.backend.Backend`."""
    model.train(settings is not None)
    with torch.set_grad_enabled(settings is not None):
        logits_of = graph(Pass(model, mode), mode, tensors(example))

    @torch.no_grad()
    def predict(batch: Features) -> NDArray:
        return logits_of(*tensors(batch)).numpy()

    return predict if settings is None else training_step(model, logits_of, settings)


def graph(function: Pass, mode: str, example: tuple[Tensor, ...]) -> Callable[..., Tensor]:
    """The function in a mode of execution; number of rows and length stay open, and are 2 or more in `example`."""
    if mode == "torch.export":
        sizes = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}
        return torch.export.export(function, example, dynamic_shapes=(sizes, sizes), strict=False).module()
    if mode == "TorchScript":
        # Dropout makes two passes differ, so a trace in training cannot be checked by another.
        traced: Any = torch.jit.trace(function, example, check_trace=False)
        return traced if function.training else torch.jit.freeze(traced)
    return torch.compile(function, dynamic=True) if mode == "torch.compile" else function


def training_step(
    model: PreTrainedModel, logits_of: Callable[..., Tensor], settings: Train
) -> Callable[[Features], NDArray]:
    """A step: forward pass, cross-entropy with made-up labels, backward pass, clipping, AdamW; returns the loss."""
    optimizer = AdamW(model, settings)
    weights = [weight for weight in model.parameters() if weight.requires_grad]

    def train(batch: Features) -> NDArray:
        logits_NV = logits_of(*tensors(batch)).flatten(0, -2)
        loss = cross_entropy(logits_NV, torch.arange(len(logits_NV)) % logits_NV.shape[1])
        loss.backward()
        clip_gradients(weights, settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach().numpy()

    return train


def tensors(batch: Features) -> tuple[Tensor, Tensor]:
    """The token ids and the attention mask of a batch."""
    return torch.from_numpy(batch["input_ids"]).long(), torch.from_numpy(batch["attention_mask"]).long()
