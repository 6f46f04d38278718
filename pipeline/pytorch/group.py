"""What ranks share in PyTorch: the sums of gradients, and on request the weights, by torch.distributed.

`pipeline/tensorflow/group.py` has the same definitions in the same order.
"""

from __future__ import annotations

import functools
import itertools
import os
import socket
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch._C._distributed_c10d import PrefixStore, TCPStore
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from pipeline.distributed.channel import Channel
from pipeline.distributed.ranks import Ranks
from pipeline.pytorch.sites import stacked_layers
from pipeline.pytorch.swap import parts_of_tokens_read
from pipeline.utils.errors import UserError

# So many gradients, 25 MB, are summed at a time where others are still computed, as in DistributedDataParallel.
PIECE_VALUES = 6_553_600


@dataclass(frozen=True)
class Sums:
    """What all ranks together computed of a step: its loss, and whether a rank was short of memory or asked to stop."""

    loss: Tensor
    is_short: bool
    stop_asked: bool


class Group:
    """The ranks that train together; see `pipeline.backend.Group`.

    On GPUs gradients are summed while the backward pass still computes others: piece by piece, as each is complete.
    """

    # Of the groups of this process, one for each run.
    numbers = itertools.count()

    def __init__(self, channel: Channel, stop_asked: Callable[[], bool]):
        self.ranks, self.stop_asked = channel.ranks, stop_asked
        ranks = channel.ranks
        kind = "nccl" if torch.cuda.is_available() else "gloo"
        # Else, where only TF_CONFIG says who is where, at the port after that of the channel.
        place, store = "env://" if os.environ.get("MASTER_ADDR") else f"tcp://{ranks.address}:{ranks.port + 1}", None
        if ranks.is_launched:
            store = PrefixStore(f"group {next(Group.numbers)}", Group.meeting(ranks))
        self.is_own = not distributed.is_initialized()  # Ray makes it before the run, and ends it afterwards
        if self.is_own:
            # That a rank is gone, the channel knows sooner than a timeout.
            distributed.init_process_group(
                kind, init_method=None if store else place, store=store, rank=ranks.rank, world_size=ranks.size
            )
        self.reserve([], torch.device("cpu"))

    @staticmethod
    @functools.cache  # what is left of a sharded model keeps it and its port
    def meeting(ranks: Ranks) -> TCPStore:
        """The place at which launched ranks find each other, made once."""
        # Left to itself, PyTorch listens on all devices of the network.
        place, server = (ranks.address, ranks.port - 1), None
        if ranks.is_first:
            server = socket.create_server(place, backlog=ranks.size).detach()
        return TCPStore(*place, ranks.size, ranks.is_first, master_listen_fd=server)

    def reserve(self, weights: list[nn.Parameter], device: torch.device) -> None:
        """Reserve the memory that `sum` needs for these weights, once, so that no step can lack it."""
        sizes = [*(weight.numel() for weight in weights), 3]  # of the gradients; loss and flags
        self.flat = torch.zeros(sum(sizes), device=device)
        self.parts, self.ends = self.flat.split(sizes), list(itertools.accumulate(sizes))
        self.pieces, self.is_last = [range(len(sizes))], False
        if Group.sums_early(device):
            self.pieces = Group.pieces_of(sizes)
            for number, weight in enumerate(weights):
                weight.register_post_accumulate_grad_hook(functools.partial(self.take, number))

    @staticmethod
    def sums_early(device: torch.device) -> bool:
        """Whether gradients are summed while others are still computed. On a processor, both need the same cores."""
        return device.type == "cuda"

    @staticmethod
    def pieces_of(sizes: Sequence[int]) -> list[range]:
        """Which parts are summed together: the last weights first, as their gradients are computed; then the flags."""
        flags = end = len(sizes) - 1
        pieces = []
        for number in reversed(range(flags)):
            if number == 0 or sum(sizes[number:end]) >= PIECE_VALUES:
                pieces.append(range(number, end))
                end = number
        return [*pieces, range(flags, flags + 1)]

    def begin(self) -> None:
        """From now on, each gradient that is computed is the last one of its weight in this step."""
        self.flat.zero_()
        self.sums, self.missing, self.is_last = [], [set(piece) for piece in self.pieces], True

    def take(self, number: int, weight: Tensor) -> None:
        """Take the gradient of a weight, and begin to sum the pieces that are complete.

        All ranks begin them in the same order. The last one is not complete before `sum`.
        """
        if self.is_last and weight.grad is not None:
            self.parts[number].copy_(weight.grad.flatten())
            for missing in self.missing:
                missing.discard(number)
            while not self.missing[len(self.sums)]:
                self.sum_piece()

    def sum_piece(self) -> None:
        """Begin to sum the next piece."""
        piece = self.pieces[len(self.sums)]
        values = self.flat[self.ends[piece[0]] - len(self.parts[piece[0]]) : self.ends[piece[-1]]]
        self.sums.append(distributed.all_reduce(values, async_op=True))

    def sum(self, weights: list[nn.Parameter], loss: Tensor | None) -> Sums:
        """Replace the weights' gradients by their sums over all ranks, and sum the loss.

        The loss is None on a rank that was short of memory: then the sums mean nothing, and all ranks know it.
        """
        if not self.is_last:
            self.begin()
        self.is_last = False
        numbers = self.parts[-1]
        if loss is None:
            numbers[1] = 1.0
        else:
            missing = sorted(set().union(*self.missing) - {len(weights)})
            pairs = [(self.parts[i], g.flatten()) for i in missing if (g := weights[i].grad) is not None]
            if pairs:
                torch._foreach_copy_([part for part, _ in pairs], [gradient for _, gradient in pairs])  # pyright: ignore[reportPrivateImportUsage] -- has no public name
            numbers[0] = loss
        numbers[2] = float(self.stop_asked())
        while len(self.sums) < len(self.pieces):
            self.sum_piece()
        for each in self.sums:
            each.wait()
        for part, weight in zip(self.parts[:-1], weights, strict=True):
            if weight.grad is not None:
                weight.grad = part.view_as(weight)
        _, is_short, stop_asked = numbers.tolist()
        return Sums(numbers[0].clone(), is_short > 0, stop_asked > 0)

    def leave(self) -> None:
        """Close the connections to the other ranks."""
        if self.is_own:
            distributed.destroy_process_group()


class ShardedModel(nn.Module):
    """A model of each of whose weights every rank holds a part, with its gradient and its moments (FSDP2).

    In a step a layer's weights are put together when the layer is about to compute, and given up afterwards; those
    outside of layers stay for the whole step. Gradients are summed over ranks, and each rank keeps those of its parts.
    Between `gather` and `scatter` every rank has all weights, and can use the model by itself.
    Source: Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", stage 3.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        if not hasattr(FSDPModule, "reset_iter_state"):
            raise UserError(
                f"train.sharding is fsdp, for which PyTorch {torch.__version__} is too old: its FSDPModule has no "
                "reset_iter_state. Version 2.13 has it"
            )
        self.model = model
        # Parts of such a layer are called by themselves.
        read = {id(part) for part in parts_of_tokens_read(model)}
        layers = [layer for layer in stacked_layers(model) if not read & {id(part) for part in layer.modules()}]
        # In a list, since this one holds itself, as what is around all others.
        self.shards: list[FSDPModule] = [fully_shard(module) for module in (*layers, self)]
        for shard in self.shards:
            shard.set_gradient_divide_factor(1.0)
            shard.set_force_sum_reduction_for_comms(True)
        self.parts: list[nn.Parameter] = list(model.parameters())
        self(lambda: None)  # the first one that is called becomes the one around all others
        self.scatter()

    def forward(self, function: Callable[[], Any]) -> Any:
        """What a function returns that computes with the model, in which the weights are put together."""
        with warnings.catch_warnings():
            # T5's first layer returns its position bias as a view; nothing changes it in place.
            warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")
            return function()

    def gather(self) -> None:
        """Put all weights together at every rank; all ranks call it."""
        for shard in self.shards:
            shard.set_reshard_after_forward(False, recurse=False)
            shard.unshard()

    def scatter(self) -> None:
        """Keep no more than the parts of this rank."""
        for shard in self.shards:
            shard.set_reshard_after_forward(True, recurse=False)
        # Which also forgets in which order layers computed meanwhile: FSDP would prefetch weights in this order, and
        # ranks predict different numbers of batches.
        self.shards[-1].reset_iter_state()

    @staticmethod
    def part(whole: Tensor, weight: Tensor) -> Tensor:
        """This rank's part of something of the shape of a weight."""
        if not isinstance(weight, DTensor) or not whole.ndim:
            return whole
        return distribute_tensor(whole, weight.device_mesh, weight.placements, src_data_rank=None)
