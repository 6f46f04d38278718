"""Ranks tell each other what they know, and a failure of one ends all of them, told once."""

import os
import pickle
import signal
import socket
import time
from pathlib import Path

import pytest

from pipeline.distributed import channel as channel_module
from pipeline.distributed.channel import Channel
from pipeline.distributed.connection import Connection
from pipeline.distributed.launcher import Launch, RankDied
from pipeline.distributed.ranks import Ranks
from pipeline.runs.history import Steps
from pipeline.runs.record import StepRecord
from pipeline.utils.errors import RunFailure, UserError
from tests.helpers.ranks import in_ranks


def joined():
    return Channel.join(Ranks.from_environment()).together()


def converse(send):
    with joined() as channel:
        rank = channel.ranks.rank
        channel.agree({"color": "red"})
        return (
            channel.all(rank * 10), channel.gather({rank}), channel.first(os.getpid) == os.getpid(),
            channel.any(rank == 2), channel.any(False),
        )  # fmt: skip


def test_all_ranks_hear_of_all():
    values, gathered, is_own, one_of_them, none_of_them = in_ranks(converse, size=3)
    assert values == [0, 10, 20] and gathered == [{0}, {1}, {2}]
    assert is_own and one_of_them and not none_of_them


def test_a_process_alone_needs_no_connection():
    with Channel.join(Ranks()).together() as channel:
        assert channel.all(5) == channel.gather(5) == [5]
        assert channel.first(max, 2, 3) == 3 and channel.any(True) and not channel.any(False)
        channel.agree({"color": "red"})


def disagree(send):
    with joined() as channel:
        color = "red" if channel.is_first else "blue"
        channel.agree({"shape": "round", "the color": color})


def test_ranks_that_differ_are_told_who_differs_in_what():
    with pytest.raises(UserError, match="not train the same run: the color of rank 1 is blue, of rank 0 red. Give"):
        in_ranks(disagree)


def fail_alone(send, victim, error, others_compute, clock):
    """One rank fails; the others wait for it, or are in a call that does not return."""
    with joined() as channel:
        channel.all(None)
        if channel.ranks.rank == victim:
            clock.touch()
            raise error
        if others_compute:
            time.sleep(60)
        channel.all(None)


@pytest.mark.slow
@pytest.mark.parametrize("others_compute", [False, True])
@pytest.mark.parametrize("victim", [0, 2])
def test_an_error_of_one_rank_is_that_of_all(victim, others_compute, tmp_path):
    clock, failure = tmp_path / "failed", UserError("the file is missing", arguments=("out",))
    with pytest.raises(UserError) as error:
        in_ranks(fail_alone, victim, failure, others_compute, clock, size=3)
    assert time.time() - clock.stat().st_mtime < 10
    assert str(error.value).endswith("the file is missing") and error.value.arguments == ("out",)
    assert not error.value.is_told
    assert (f"rank {victim}" in str(error.value)) == (victim > 0)


@pytest.mark.slow
def test_a_fault_of_one_rank_is_named_with_its_rank(tmp_path):
    with pytest.raises(Exception, match="rank 1.*KeyError: 'missing'"):
        in_ranks(fail_alone, 1, KeyError("missing"), False, tmp_path / "failed")


def die_alone(send, victim, clock):
    with joined() as channel:
        channel.all(None)
        if channel.ranks.rank == victim:
            clock.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        channel.all(None)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_is_killed_ends_all(victim, tmp_path):
    clock = tmp_path / "killed"
    with pytest.raises(RankDied, match=f"rank {victim} of 2 was ended by signal 9"):
        in_ranks(die_alone, victim, clock)
    assert time.time() - clock.stat().st_mtime < 10


def lose(send, folder):
    """As `die_alone`, but without a launcher that reports it: what the survivor says."""
    os.environ.pop("TWINSTEP_LAUNCHED")
    try:
        die_alone(send, 0, folder / "killed")
    except RunFailure as error:
        (folder / "said").write_text(f"{error.is_told} {error}", encoding="utf-8")


def test_without_our_launcher_a_survivor_tells_which_rank_is_gone(tmp_path):
    with pytest.raises(RankDied):
        in_ranks(lose, tmp_path)
    said = (tmp_path / "said").read_text(encoding="utf-8")
    assert said.startswith("False rank 0 ended without a message: it was killed, or its machine is gone.")


def halt(send, victim, others_compute):
    """One rank is halted; the others wait for it, or are in a call that does not return."""
    channel_module.BEAT_SECONDS, channel_module.MOST_SILENT_SECONDS, channel_module.TURN_SECONDS = 0.2, 2.0, 0.2
    channel_module.END_SECONDS = 0.5
    with joined() as channel:
        channel.all(None)
        if channel.ranks.rank == victim:
            os.kill(os.getpid(), signal.SIGSTOP)
        if others_compute:
            time.sleep(60)
        channel.all(None)


@pytest.mark.slow
@pytest.mark.parametrize("others_compute", [False, True])
@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_is_halted_ends_all_after_its_silence(victim, others_compute):
    message = f"rank {victim} has given no sign of life for 2 s: its process is halted"
    with pytest.raises(RunFailure, match=message) as error:
        in_ranks(halt, victim, others_compute, size=3)
    assert not error.value.is_told


def go_on(send):
    """The ranks compute for longer than they may be silent."""
    channel_module.BEAT_SECONDS, channel_module.MOST_SILENT_SECONDS, channel_module.TURN_SECONDS = 0.2, 2.0, 0.2
    channel_module.END_SECONDS = 0.5
    with joined() as channel:
        send(channel.all(os.getpid()))
        time.sleep(6.0)
        return channel.all(channel.ranks.rank)


@pytest.mark.slow
def test_ranks_that_compute_for_long_or_are_halted_all_together_are_not_taken_for_lost():
    def halt_all(pids):
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(3.0)
        for pid in pids:  # one is back before the other
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.6)

    assert Launch(go_on, (), 2, "", halt_all).run(lambda: False) == [0, 1]


def come_twice(send):
    os.environ["RANK"] = os.environ["RANK"].replace("2", "1")
    with joined() as channel:
        channel.all(None)


@pytest.mark.slow
def test_a_rank_that_comes_twice_is_refused():
    with pytest.raises(UserError, match="rank 1 of 3 came to rank 0 of 3, but there is one already"):
        in_ranks(come_twice, size=3)


def test_what_is_not_a_value_is_not_read():
    """Whoever reaches the port must not make this process run anything."""
    ours, theirs = map(Connection, socket.socketpair())

    class Command:
        def __reduce__(self):
            return os.system, ("true",)

    for content in (Command(), os.system, Channel):
        theirs.send(content)
        with pytest.raises(pickle.UnpicklingError, match="is not a value"):
            ours.receive()
    theirs.send({"a": [1, (2.5, None)], "path": Path("run")})
    assert ours.receive() == {"a": [1, (2.5, None)], "path": Path("run")}
    step = StepRecord(step=1, epoch=1, loss=0.5, learning_rate=1e-3, grad_norm=2.0, examples=4, tokens=20, seconds=0.25)
    theirs.send(Steps([step]))  # which a rank that resumes is told
    received = ours.receive()
    assert isinstance(received, Steps) and list(received) == [step]
    theirs.close(goodbye=True)
    assert ours.receive() is None
