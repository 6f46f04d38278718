"""What the environment says of several processes is read, or refused by name."""

import json

import pytest

from pipeline.distributed.ranks import Ranks
from pipeline.utils.errors import UserError

TORCHRUN = {
    "WORLD_SIZE": "4", "RANK": "3", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "10.0.0.7",
    "MASTER_PORT": "29500",
}  # fmt: skip


def cluster(kind, index, **hosts):
    return json.dumps({"cluster": hosts, "task": {"type": kind, "index": index}})


def test_the_variables_of_torchrun_say_who_and_where():
    found = Ranks.from_environment(TORCHRUN)
    assert (found.rank, found.size, found.local_rank, found.local_size) == (3, 4, 1, 2)
    assert (found.address, found.port) == ("10.0.0.7", 29501)  # 29500 is PyTorch's own
    assert not found.is_first and not found.are_on_one_machine and not found.is_launched


@pytest.mark.parametrize(
    "environment",
    [{}, {"WORLD_SIZE": "1", "RANK": "0"}, {"TF_CONFIG": cluster("worker", 0, worker=["127.0.0.1:1"])}, {"RANK": "3"}],
)
def test_a_process_alone_is_alone(environment):
    assert Ranks.from_environment(environment) == Ranks()
    assert Ranks().is_first and Ranks().are_on_one_machine


def test_tf_config_says_the_same():
    hosts = ["10.0.0.7:2222", "10.0.0.8:2222"]
    found = Ranks.from_environment({"TF_CONFIG": cluster("worker", 1, worker=hosts)})
    assert (found.rank, found.size, found.address, found.port) == (1, 2, "10.0.0.7", 2223)
    found = Ranks.from_environment({"TF_CONFIG": cluster("worker", 1, chief=["10.0.0.9:1"], worker=hosts)})
    assert (found.rank, found.size, found.address) == (2, 3, "10.0.0.9")


@pytest.mark.parametrize(
    "environment, message",
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2, .* no RANK and no MASTER_ADDR and no MASTER_PORT"),
        ({**TORCHRUN, "MASTER_ADDR": ""}, "no MASTER_ADDR, so they cannot find each other"),
        ({**TORCHRUN, "RANK": "4"}, "RANK is 4, but must be from 0 to 3"),
        ({**TORCHRUN, "RANK": "one"}, "RANK=one, but RANK must be a whole number"),
        ({"WORLD_SIZE": "-2"}, "WORLD_SIZE=-2, but WORLD_SIZE must be a whole number"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is 0, but must be 1 or more"),
        ({"TF_CONFIG": "{"}, "TF_CONFIG={, which does not describe"),
        ({"TF_CONFIG": cluster("worker", 2, worker=["a:1", "b:1"])}, "does not describe"),
        ({"TF_CONFIG": cluster("worker", 0, worker=["a:1", "b:1"], ps=["c:1"])}, "tasks of type ps"),
    ],
)
def test_what_cannot_be_is_refused_by_name(environment, message):
    with pytest.raises(UserError, match=message):
        Ranks.from_environment(environment)


def test_the_one_process_that_accelerate_starts_in_place_of_several_is_refused():
    """What `accelerate launch` 1.15 sets with --cpu: for two processes, and for one."""
    environment = {"ACCELERATE_USE_CPU": "True", "ACCELERATE_MIXED_PRECISION": "no"}
    assert Ranks.from_environment(environment) == Ranks()
    with pytest.raises(UserError, match=r"asked for several processes and has started one.* give its option multi_gpu"):
        Ranks.from_environment(environment | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"})
