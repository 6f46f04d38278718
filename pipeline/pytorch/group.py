"""The sum of gradients over ranks in PyTorch, by torch.distributed.

`pipeline/tensorflow/group.py` has the same definitions in the same order.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch._C._distributed_c10d import TCPStore

from pipeline.distributed.channel import Channel


@dataclass(frozen=True)
class Sums:
    """What all ranks together computed of a step: its loss, and whether a rank was short of memory or asked to stop."""

    loss: Tensor
    is_short: bool
    stop_asked: bool


class Group:
    """The ranks that train together; see `pipeline.backend.Group`."""

    def __init__(self, channel: Channel, stop_asked: Callable[[], bool]):
        self.ranks, self.stop_asked = channel.ranks, stop_asked
        ranks = channel.ranks
        kind = "nccl" if torch.cuda.is_available() else "gloo"
        # Else, where only TF_CONFIG says who is where, at the port after that of the channel.
        place, store = "env://" if os.environ.get("MASTER_ADDR") else f"tcp://{ranks.address}:{ranks.port + 1}", None
        if ranks.is_launched:
            # Left to itself, PyTorch listens on all devices of the network.
            meeting, server = (ranks.address, ranks.port - 1), None
            if ranks.is_first:
                server = socket.create_server(meeting, backlog=ranks.size).detach()
            store = TCPStore(*meeting, ranks.size, ranks.is_first, master_listen_fd=server)
        self.is_own = not distributed.is_initialized()  # Ray makes it before the run, and ends it afterwards
        if self.is_own:
            # That a rank is gone, the channel knows sooner than a timeout.
            distributed.init_process_group(
                kind, init_method=None if store else place, store=store, rank=ranks.rank, world_size=ranks.size
            )
        # Of all gradients and three numbers more. Made once, so that no step can lack the memory for it.
        self.flat: Tensor | None = None

    def reserve(self, weights: list[nn.Parameter]) -> None:
        """Reserve the memory that `sum` needs for these weights."""
        num_values = sum(weight.numel() for weight in weights)
        self.flat = torch.zeros(num_values + 3, device=weights[0].device)

    def sum(self, weights: list[nn.Parameter], loss: Tensor | None) -> Sums:
        """Replace the weights' gradients by their sums over all ranks, and sum the loss.

        The loss is None on a rank that was short of memory: then the sums mean nothing, and all ranks know it.
        """
        flat = self.flat
        assert flat is not None, "nothing was reserved"
        *parts, numbers = flat.split([*(weight.numel() for weight in weights), 3])
        flat.zero_()
        if loss is None:
            numbers[1] = 1.0
        else:
            pairs = [(p, w.grad.flatten()) for p, w in zip(parts, weights, strict=True) if w.grad is not None]
            torch._foreach_copy_([part for part, _ in pairs], [gradient for _, gradient in pairs])  # pyright: ignore[reportPrivateImportUsage] -- has no public name
            numbers[0] = loss
        numbers[2] = float(self.stop_asked())
        distributed.all_reduce(flat)
        for part, weight in zip(parts, weights, strict=True):
            if weight.grad is not None:
                weight.grad = part.view_as(weight)
        _, is_short, stop_asked = numbers.tolist()
        return Sums(numbers[0].clone(), is_short > 0, stop_asked > 0)

    def leave(self) -> None:
        """Close the connections to the other ranks."""
        if self.is_own:
            distributed.destroy_process_group()
