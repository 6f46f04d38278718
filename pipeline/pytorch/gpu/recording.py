"""Forward and backward passes on a GPU, recorded once for each shape of a micro-batch and then replayed as a whole.

A step of a small model is a thousand operations and more, each of which takes a processor longer to start than a GPU to
compute. A replay starts all of them at once: the same kernels on the same memory, and so the same bits. Packed batches
have few shapes. CUDA calls a recording a graph. `python -m tests.benchmarks.gpu_check` measures what this saves.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor
from transformers import PreTrainedModel

from pipeline.pytorch.sites import CountedAttention, Site, swapped_sites
from pipeline.utils.text import one_line

# With more shapes, which padded batches can have, those that come last are computed operation by operation.
MOST_RECORDINGS = 48
# Adds the gradients of a micro-batch to those of the weights; returns its loss.
Compute = Callable[[dict[str, Tensor]], Tensor]
# The tensors of a micro-batch, each with its shape and type.
Shapes = tuple[tuple[str, torch.Size, torch.dtype], ...]


class Graph(Protocol):
    """What has been recorded, on a GPU a `torch.cuda.CUDAGraph`."""

    def replay(self) -> None:
        """Compute it again, on what its inputs hold now."""


@dataclass(frozen=True)
class Recording:
    """One pass over a micro-batch: where it reads its inputs, and where it leaves the loss.

    The gradients are added to those of the weights. `calls` has each swapped attention with the number of its calls.
    """

    inputs: dict[str, Tensor]
    graph: Graph
    loss: Tensor
    calls: list[tuple[Site | CountedAttention, int]]


class RecordedPasses:
    """Computes the gradients of a model on micro-batches.

    The first of each shape is computed operation by operation, which loads the kernels that it takes. At the second the
    pass is recorded, and from then on it is replayed. If one cannot be recorded, all are computed operation by
    operation, with a warning that says why. `num_recorded` is the number of recordings made.
    """

    def __init__(self, model: PreTrainedModel):
        self.model, self.num_recorded, self.is_on = model, 0, True
        self.seen: set[Shapes] = set()
        self.recordings: dict[Shapes, Recording] = {}
        self.pool = RecordedPasses.new_pool()

    def gradients(self, tensors: dict[str, Tensor], compute: Compute) -> Tensor:
        """Add the gradients of a micro-batch to those of the weights, and return its loss, as `compute` does.

        It must not wait for the GPU, and the gradients have to stay in the same memory from step to step.
        """
        shapes = tuple((name, tensor.shape, tensor.dtype) for name, tensor in tensors.items())
        if shapes in self.seen and shapes not in self.recordings and len(self.recordings) < MOST_RECORDINGS:
            self.record(shapes, tensors, compute)
        self.seen.add(shapes)
        if shapes not in self.recordings:
            return compute(tensors)
        recording = self.recordings[shapes]
        for name, tensor in tensors.items():
            recording.inputs[name].copy_(tensor)
        recording.graph.replay()
        for site, calls in recording.calls:
            site.calls += calls
        return recording.loss

    def record(self, shapes: Shapes, tensors: dict[str, Tensor], compute: Compute) -> None:
        """Record the pass over a micro-batch, which computes nothing yet; switch recording off if that fails.

        Raises RuntimeError if memory is short.
        """
        if not self.is_on:
            return
        inputs = {name: tensor.clone() for name, tensor in tensors.items()}
        sites, weights = swapped_sites(self.model), list(self.model.parameters())
        calls, gradients = [site.calls for site in sites], [weight.grad for weight in weights]
        try:
            graph, loss = RecordedPasses.recorded(lambda: compute(dict(inputs)), self.pool)
        except RuntimeError as error:
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.grad = gradient
            if should_reduce_batch_size(error):
                raise
            self.stop()
            warnings.warn(
                "Steps are computed operation by operation, which a GPU waits for: PyTorch could not record one. "
                f"{type(error).__name__}: {one_line(error)}",
                stacklevel=2,
            )
            return
        by_site = [(site, site.calls - before) for site, before in zip(sites, calls, strict=True)]
        for site, before in zip(sites, calls, strict=True):
            site.calls = before
        self.recordings[shapes] = Recording(inputs, graph, loss, by_site)
        self.num_recorded += 1

    def stop(self) -> bool:
        """Record no more and forget what was recorded, which frees its memory; returns whether there was any."""
        had_any, self.is_on = bool(self.recordings), False
        self.recordings.clear()
        return had_any

    @staticmethod
    def new_pool() -> Any:
        """The memory of all recordings. They are replayed one after the other, and so can use the same."""
        return torch.cuda.graph_pool_handle()

    @staticmethod
    def recorded(compute: Callable[[], Tensor], pool: Any) -> tuple[Graph, Tensor]:
        """What a function would compute on the GPU, and the tensor that it returns."""
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the GPU meanwhile.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            loss = compute()
        return graph, loss
