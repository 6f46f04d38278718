"""What ranks share in TensorFlow: the sums of gradients, by its collective operations.

`pipeline/pytorch/group.py` has the same definitions in the same order.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf
from tensorflow import Tensor
from transformers import TFPreTrainedModel

from pipeline.distributed.channel import Channel
from pipeline.utils.errors import UserError

# Any number that names the group, and one for each learner that sums in it; TensorFlow itself counts from 1.
GROUP_KEY, INSTANCE_KEYS = 10_000, itertools.count(10_001)


@dataclass(frozen=True)
class Sums:
    """What all ranks together computed of a step: its loss, and whether a rank was short of memory or asked to stop.

    The gradients are those of all trained variables, None where the loss does not depend on one.
    """

    loss: Tensor
    is_short: bool
    stop_asked: bool
    gradients: list[Tensor | None]


class Group:
    """The ranks that train together; see `pipeline.backend.Group`."""

    def __init__(self, channel: Channel, stop_asked: Callable[[], bool]):
        self.ranks, self.stop_asked = channel.ranks, stop_asked
        gpus = tf.config.list_physical_devices("GPU")
        if gpus:
            tf.config.set_visible_devices(gpus[channel.ranks.local_rank % len(gpus)], "GPU")
        if not os.environ.get("TF_CONFIG"):
            self._describe_cluster(channel)
        self._start_servers()
        self.shapes: list[tf.TensorShape] = []
        self.instance_key = 0
        self.summed: Callable = self._summed

    def reserve(self, variables: list[tf.Variable]) -> None:
        """Prepare to sum the gradients of these variables."""
        self.shapes, self.instance_key = [variable.shape for variable in variables], next(INSTANCE_KEYS)
        self.summed = tf.function(self._summed, autograph=False)

    def sum(self, gradients: list[Tensor | None], loss: Tensor | None) -> Sums:
        """The sums of gradients and loss over all ranks.

        The loss is None on a rank that was short of memory: then the sums mean nothing, and all ranks know it.
        """
        numbers = tf.stack([tf.zeros(()) if loss is None else loss, float(loss is None), float(self.stop_asked())])
        given = [None] * len(self.shapes) if loss is None else gradients
        parts, summed = self.summed(given, numbers)
        _, is_short, stop_asked = summed.numpy().tolist()
        pairs = zip(given, parts, strict=True)
        return Sums(summed[0], is_short > 0, stop_asked > 0, [None if own is None else part for own, part in pairs])

    def _summed(self, gradients: list[Tensor | None], numbers: Tensor) -> tuple[list[Tensor], Tensor]:
        sizes = [shape.num_elements() for shape in self.shapes]
        pairs = zip(gradients, sizes, strict=True)
        own = [tf.zeros(size) if gradient is None else tf.reshape(gradient, [size]) for gradient, size in pairs]
        flat = tf.raw_ops.CollectiveReduceV2(
            input=tf.concat([*own, numbers], axis=0),
            group_size=self.ranks.size,
            group_key=GROUP_KEY,
            instance_key=self.instance_key,
            ordering_token=[],
            merge_op="Add",
            final_op="Id",
            communication_hint="ring",
        )
        *parts, summed = tf.split(flat, [*sizes, 3])
        return [tf.reshape(part, shape) for part, shape in zip(parts, self.shapes, strict=True)], summed

    def leave(self) -> None:
        """Nothing: TensorFlow keeps its connections as long as the process lives, and a next run uses them again."""

    @staticmethod
    def _describe_cluster(channel: Channel) -> None:
        """Set TF_CONFIG: each rank has chosen a port that is free at the address where the others reach it."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            hosts = channel.all(f"{channel.own_address()}:{probe.getsockname()[1]}")
        task = {"type": "worker", "index": channel.ranks.rank}
        os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": hosts}, "task": task})

    @staticmethod
    @functools.cache
    def _start_servers() -> tf.distribute.Strategy:
        """Connect the ranks of TF_CONFIG, once in a process.

        The strategy has the collective operations ready, which is all that is wanted of it: its scope is not used.
        """
        return tf.distribute.MultiWorkerMirroredStrategy()


class ShardedModel:
    """A model of which every rank holds a part, which TensorFlow does not have: each rank holds all of it."""

    def __init__(self, model: TFPreTrainedModel):
        raise UserError(
            "train.sharding is fsdp, which is a part of PyTorch; in TensorFlow each process holds all weights. Set it "
            "to null, which trains the same experiment, or choose the framework torch",
            arguments=("framework",),
        )
