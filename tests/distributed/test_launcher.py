"""The launcher starts ranks that know of each other, and ends all of them, whatever happens to one."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from pipeline.distributed.launcher import Launch, RankDied, rank_environments
from pipeline.distributed.ranks import Ranks
from pipeline.utils.environment import THREAD_VARIABLES
from pipeline.utils.errors import RunFailure, Stopped, UserError
from tests.utils.test_processes import has_ended, wait_until


def rank_of_this_process():
    return Ranks.from_environment().rank


def meet(send):
    """All ranks connect to the first one, at the port that they were told."""
    ranks = Ranks.from_environment()
    send(("ready", ranks.rank))
    if ranks.is_first:
        with socket.create_server((ranks.address, ranks.port)) as server:
            return sorted(json.loads(server.accept()[0].recv(100)) for _ in range(ranks.size - 1))
    with socket.socket() as client:
        while client.connect_ex((ranks.address, ranks.port)):
            time.sleep(0.01)
        client.sendall(json.dumps([ranks.rank, ranks.local_rank, os.environ["OMP_NUM_THREADS"]]).encode())
    return None


def die(send, victim, how):
    """One rank ends in some way; the others would go on for a minute, and do not listen to SIGTERM."""
    if rank_of_this_process() != victim:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("still here")
        time.sleep(60)
    print("the last words")
    if isinstance(how, Exception):
        raise how
    os.kill(os.getpid(), how)


def fail_after_the_other(send):
    """Rank 1 is killed; rank 0 then fails for the want of a peer, as it does in a sum over all ranks."""
    if rank_of_this_process() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.5)
    print("connection closed by peer")
    raise RunFailure("rank 1 is lost")


def fail_together(send, message):
    time.sleep(0.3 * rank_of_this_process())
    raise UserError(message, arguments=("out",))


def save_when_asked(send):
    """Rank 0 saves for a while after it was asked to stop, when the other rank has stopped already."""
    if rank_of_this_process() == 0:
        asked = []
        signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
        send("ready")
        # Not signal.pause: the signal may come before it, and no other one would.
        assert wait_until(lambda: asked)
        send("asked")
        time.sleep(0.5)
        raise Stopped("stopped; the training checkpoint is saved")
    raise Stopped("stopped; the training checkpoint is saved")


def be_halted(send, victim):
    """One rank is halted; the other would go on for a minute. Without a victim they have their results at once."""
    if rank_of_this_process() == victim:
        os.kill(os.getpid(), signal.SIGSTOP)
    if victim is not None:
        time.sleep(60)
    return "result"


def finish_first(send, how):
    """Rank 0 has its result; the other rank hangs or is killed."""
    if rank_of_this_process() == 0:
        return "result"
    if how == "hangs":
        time.sleep(60)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def impatient(monkeypatch):
    """Ranks that should end have a fraction of a second."""
    monkeypatch.setattr("pipeline.distributed.launcher.ENDING_SECONDS", 0.2)


def launched(function, *arguments, size=2, stop_requested=lambda: False, **options):
    """A launch that notes events, output and process ids."""
    events, output, pids = [], [], []
    launch = Launch(
        function, arguments, size, "", events.append, lambda rank, text: output.append((rank, text)), pids.extend
    )
    try:
        return launch.run(stop_requested), events
    finally:
        assert len(pids) == size and all(map(has_ended, pids))
        options.get("output", []).extend(output)


def test_ranks_know_of_each_other_and_the_first_one_gives_events_and_the_result(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    result, events = launched(meet, size=3)
    assert (result, events) == ([[1, 1, "2"], [2, 2, "2"]], [("ready", 0)])


@pytest.mark.slow
def test_ranks_that_do_not_end_by_themselves_are_ended_within_ten_seconds():
    began = time.monotonic()
    with pytest.raises(RankDied):
        launched(die, 0, signal.SIGKILL)
    assert time.monotonic() - began < 10


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "how"), [(0, signal.SIGKILL), (1, signal.SIGKILL), (1, signal.SIGSEGV), (0, KeyError("x"))]
)
def test_all_ranks_end_when_one_dies_and_the_error_says_which(victim, how, impatient):
    output = []
    with pytest.raises(RankDied) as died:
        launched(die, victim, how, output=output)
    reason = "failed, so the other ranks were ended, too: KeyError: 'x'"
    if not isinstance(how, Exception):
        reason = f"was ended by signal {how.value} ({how.name}), so the other ranks were ended, too"
    assert str(died.value) == f"rank {victim} of 2 {reason}"
    assert any(rank == victim and "the last words" in text for rank, text in output)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_is_halted_while_others_go_on_ends_all(victim, impatient, monkeypatch):
    monkeypatch.setattr("pipeline.distributed.launcher.HALTED_SECONDS", 1.0)
    began = time.monotonic()
    with pytest.raises(RankDied, match=rf"^rank {victim} of 2 was halted \(SIGSTOP\) for 1 s while others went on"):
        launched(be_halted, victim)
    assert 1.0 < time.monotonic() - began < 10


def test_ranks_that_are_halted_all_together_go_on_afterwards(monkeypatch):
    monkeypatch.setattr("pipeline.distributed.launcher.HALTED_SECONDS", 0.5)

    def pause(pids):
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for pid in pids:
                os.kill(pid, number)
            time.sleep(1.5)

    pauses = []

    def pause_beside(pids):
        pauses.append(threading.Thread(target=pause, args=(pids,)))
        pauses[0].start()

    assert Launch(be_halted, (None,), 2, "", lambda event: None, on_start=pause_beside).run(lambda: False) == "result"
    pauses[0].join()


def test_a_rank_that_explains_its_end_is_heard_alone(impatient):
    with pytest.raises(UserError) as refused:
        launched(die, 1, UserError("no rows", arguments=("out",)))
    assert str(refused.value) == "rank 1 of 2: no rows" and refused.value.arguments == ("out",)


def test_the_rank_that_was_killed_is_named_and_not_the_one_that_misses_it():
    output = []
    with pytest.raises(RankDied, match=r"^rank 1 of 2 was ended by signal 9 \(SIGKILL\)"):
        launched(fail_after_the_other, output=output)
    assert output == []


def test_an_error_of_all_ranks_comes_once():
    with pytest.raises(UserError) as refused:
        launched(fail_together, "no rows")
    assert str(refused.value) == "no rows"


def test_a_request_to_stop_reaches_the_first_rank_which_has_time_to_save(impatient):
    events = []
    launch = Launch(save_when_asked, (), 2, "", events.append)
    with pytest.raises(Stopped, match="^stopped; the training checkpoint is saved$"):
        launch.run(lambda: "ready" in events)
    assert events == ["ready", "asked"]


@pytest.mark.parametrize("how", ["hangs", "is killed"])
def test_what_another_rank_does_at_the_end_does_not_matter_once_the_first_one_has_its_result(how, impatient):
    assert launched(finish_first, how)[0] == "result"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_rank_outlives_the_launcher(number):
    program = (
        "from tests.distributed.test_launcher import *\n"
        "print_ids = lambda pids: print(*pids, flush=True)\n"
        "Launch(die, (7, signal.SIGKILL), 2, '', lambda event: None, on_start=print_ids).run(lambda: False)"
    )
    launcher = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    pids = [int(word) for word in launcher.stdout.readline().split()]
    assert len(pids) == 2 and not any(map(has_ended, pids))
    launcher.send_signal(number)
    launcher.communicate()
    assert wait_until(lambda: all(map(has_ended, pids)))


def test_what_the_ranks_of_one_machine_are_told(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "5")
    monkeypatch.setenv("TF_CONFIG", "{}")
    environments = rank_environments(2)
    ranks = [Ranks.from_environment(environment) for environment in environments]
    assert [(each.rank, each.local_rank) for each in ranks] == [(0, 0), (1, 1)]
    assert all(each.are_on_one_machine and each.is_launched for each in ranks)
    assert {each.address for each in ranks} == {"127.0.0.1"} and len({each.port for each in ranks}) == 1
    assert {environments[0][name] for name in THREAD_VARIABLES} == {"2"}
