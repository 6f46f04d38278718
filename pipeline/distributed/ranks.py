"""Ranks: which of several processes that train together this one is, and where they meet, from the environment.

All launchers set the same variables: our own, torchrun, accelerate launch, and the operators of clusters.

    WORLD_SIZE, RANK             how many processes there are, and the number of this one, from 0
    LOCAL_WORLD_SIZE, LOCAL_RANK the same within one machine
    MASTER_ADDR, MASTER_PORT     where rank 0 is: PyTorch meets at this port, and `Channel` listens at the next one
    TF_CONFIG                    TensorFlow's own way to say all of it, as JSON; read if WORLD_SIZE is not set. Where it
                                 is not set, the ranks tell each other their addresses and make it up
    TWINSTEP_LAUNCHED            1 if our own launcher watches the processes and reports one that dies, so that the
                                 others need not
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.utils.errors import UserError

LAUNCHED = "TWINSTEP_LAUNCHED"
_REQUIRED = ("RANK", "MASTER_ADDR", "MASTER_PORT")
# What TensorFlow calls the processes that train, in the order of their ranks.
_TRAINING_TASKS = ("chief", "worker")


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together.

    `address` and `port` are where `Channel` listens at rank 0. `is_launched` is whether our own launcher watches the
    processes.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    address: str = ""
    port: int = 0
    is_launched: bool = False

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, the one that writes and prints."""
        return self.rank == 0

    @property
    def are_on_one_machine(self) -> bool:
        """Whether all ranks are on this machine."""
        return self.local_size == self.size

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Ranks:
        """What the launcher says; a single process if it says nothing. Raises UserError."""
        size = _number(environment, "WORLD_SIZE", 1)
        cluster = environment.get("TF_CONFIG")
        if size < 1:
            raise UserError(f"WORLD_SIZE is {size}, but must be 1 or more")
        if size == 1:
            _refuse_missing_processes(environment)
            return _of_cluster(cluster) if cluster and "WORLD_SIZE" not in environment else cls()
        missing = [name for name in _REQUIRED if not environment.get(name)]
        if missing:
            raise UserError(
                f"the environment has WORLD_SIZE={size}, so this is one of {size} processes that train together, but "
                f"it has no {' and no '.join(missing)}, so they cannot find each other. Start them with a launcher "
                "that sets these variables, such as torchrun, or unset WORLD_SIZE to train in one process"
            )
        rank = _number(environment, "RANK", 0)
        if not 0 <= rank < size:
            raise UserError(f"RANK is {rank}, but must be from 0 to {size - 1}, since WORLD_SIZE is {size}")
        return cls(
            rank=rank,
            size=size,
            local_rank=_number(environment, "LOCAL_RANK", 0),
            local_size=_number(environment, "LOCAL_WORLD_SIZE", 0),
            address=environment["MASTER_ADDR"],
            port=_number(environment, "MASTER_PORT", 0) + 1,
            is_launched=environment.get(LAUNCHED) == "1",
        )


def _refuse_missing_processes(environment: Mapping[str, str]) -> None:
    """Raise UserError for the one process that `accelerate launch --cpu` starts if it is asked for several.

    It says nowhere how many there should be, but only for several does it name a meeting place.
    """
    if "WORLD_SIZE" not in environment and {"ACCELERATE_USE_CPU", "MASTER_PORT"} <= set(environment):
        raise UserError(
            "accelerate launch was asked for several processes and has started one, as it does with its option cpu. "
            "Leave that out and give its option multi_gpu, which starts them on processors, too; or use torchrun"
        )


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    """The whole number in a variable. Raises UserError."""
    text = environment.get(name) or str(default)
    if not text.isdecimal():
        raise UserError(f"the environment has {name}={text}, but {name} must be a whole number")
    return int(text)


def _of_cluster(config: str) -> Ranks:
    """The ranks that a TF_CONFIG describes. Raises UserError."""
    try:
        described = json.loads(config)
        cluster, task = described.get("cluster", {}), described.get("task", {})
        hosts = [host for kind in _TRAINING_TASKS for host in cluster.get(kind, [])]
        others = sorted(set(cluster) - set(_TRAINING_TASKS))
        if len(hosts) <= 1 and not others:
            return Ranks()
        place = task["type"], int(task["index"])
        rank = [(kind, i) for kind in _TRAINING_TASKS for i in range(len(cluster.get(kind, [])))].index(place)
        address, _, port = hosts[0].rpartition(":")
        port = int(port) + 1
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"the environment has TF_CONFIG={config}, which does not describe processes that train together: wanted is "
            'a cluster of workers and the task of this process, such as {"cluster": {"worker": ["host1:2222", '
            '"host2:2222"]}, "task": {"type": "worker", "index": 0}}'
        ) from error
    if others:
        raise UserError(f"TF_CONFIG has tasks of type {', '.join(others)}, but all processes must be workers")
    return Ranks(rank=rank, size=len(hosts), address=address, port=port, local_size=0)
