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
from torch import Tensor
from transformers import PreTrainedModel

from pipeline.pytorch.sites import CountedAttention, Site, swapped_sites
from pipeline.utils.text import one_line

# With more shapes those that come last are computed operation by operation.
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

    It adds to `gradients`, those of the weights. `buffers` are the model's, kept alive here: the model may get others.
    `calls` has each swapped attention with the number of its calls.
    """

    inputs: dict[str, Tensor]
    graph: Graph
    loss: Tensor
    gradients: list[Tensor | None]
    buffers: list[Tensor]
    calls: list[tuple[Site | CountedAttention, int]]


class RecordedPasses:
    """Computes the gradients of a model on packed micro-batches.

    The first of each shape is computed operation by operation, which loads the kernels that it takes. At the second the
    pass is recorded, and from then on it is replayed. If one cannot be recorded, no more are, with a warning that says
    why. `num_recorded` is the number of recordings made.
    """

    def __init__(self, model: PreTrainedModel):
        self.model, self.num_recorded, self.is_on = model, 0, True
        self.weights = list(model.parameters())
        self.seen: set[Shapes] = set()
        self.recordings: dict[Shapes, Recording] = {}
        self.pool = RecordedPasses.new_pool()

    def gradients(self, tensors: dict[str, Tensor], compute: Compute) -> Tensor:
        """Add the gradients of a micro-batch to those of the weights, and return its loss, as `compute` does.

        It must not wait for the GPU. Of padded rows the library asks whether their mask hides anything, which does.
        """
        if "segment_ids" not in tensors:
            return compute(tensors)
        shapes = tuple((name, tensor.shape, tensor.dtype) for name, tensor in tensors.items())
        recording = self.recordings.get(shapes)
        if recording is not None and not self.has_gradients(recording.gradients):
            del self.recordings[shapes]
        elif recording is None and shapes in self.seen and self.is_on and len(self.recordings) < MOST_RECORDINGS:
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
        """Record the pass over a micro-batch, which computes nothing yet; record no more if that fails."""
        inputs = {name: tensor.clone() for name, tensor in tensors.items()}
        sites, buffers = swapped_sites(self.model), list(self.model.buffers())
        calls, gradients = [site.calls for site in sites], [weight.grad for weight in self.weights]
        try:
            graph, loss = RecordedPasses.recorded(lambda: compute(dict(inputs)), self.pool)
            if not self.has_gradients(gradients):
                raise RuntimeError("a weight has a gradient that it did not have in the first pass of this shape")
        except RuntimeError as error:
            for weight, gradient in zip(self.weights, gradients, strict=True):
                weight.grad = gradient
            self.is_on = False
            cause = error.__context__ or error  # the recording ends with an error of its own
            warnings.warn(
                "Steps of some shapes are computed operation by operation, which a GPU waits for: PyTorch could not "
                f"record one. {type(cause).__name__}: {one_line(cause)}",
                stacklevel=2,
            )
        else:
            by_site = [(site, site.calls - before) for site, before in zip(sites, calls, strict=True)]
            self.recordings[shapes] = Recording(inputs, graph, loss, gradients, buffers, by_site)
            self.num_recorded += 1
        for site, before in zip(sites, calls, strict=True):
            site.calls = before

    def has_gradients(self, gradients: list[Tensor | None]) -> bool:
        """Whether the weights have these gradients, the very same ones."""
        return all(weight.grad is gradient for weight, gradient in zip(self.weights, gradients, strict=True))

    def stop(self) -> None:
        """Record no more, and forget what was recorded, which frees its memory."""
        self.is_on = False
        self.recordings.clear()

    @staticmethod
    def new_pool() -> Any:
        """The memory of all recordings. They are replayed one after the other, and so can use the same."""
        return torch.cuda.graph_pool_handle()

    @staticmethod
    def recorded(compute: Callable[[], Tensor], pool: Any) -> tuple[Graph, Tensor]:
        """What a function would compute on the GPU, and the tensor that it returns."""
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            # Other threads may use the GPU meanwhile.
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                loss = compute()
        finally:
            torch.cuda.set_stream(stream)  # a recording that fails does not go back to it
        return graph, loss
