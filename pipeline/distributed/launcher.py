"""Starts the ranks of a run on this machine: processes that know of each other, and end together.

A rank is a `Child` process with the environment variables that `torchrun` sets, too; see `ranks.py`. The first rank
sends events and the result. If one rank fails, the others have a moment to end by themselves, then they are ended; the
error says which rank failed first, and how.
"""

from __future__ import annotations

import contextlib
import random
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing import connection
from typing import Generic, TypeVar

from pipeline.distributed.ranks import LAUNCHED
from pipeline.utils.errors import PipelineError, RunFailure, Stopped, UserError
from pipeline.utils.processes import Child, EndedBySignal, ProcessError, close_all, is_halted, shared_threads

LOOPBACK = "127.0.0.1"
# How long the other ranks have to end by themselves after one has failed, or after the first one has its result.
ENDING_SECONDS = 5.0
# How often the ranks' output and a request to stop are looked at.
POLL_SECONDS = 0.1
# How long a rank may be halted while others go on. If all are, the run is only paused.
HALTED_SECONDS = 4.0
# Below the ports from which systems serve programs that ask for any.
PORTS = range(20_000, 32_000)
Result = TypeVar("Result")


class RankDied(RunFailure):
    """A rank was killed, halted or crashed, which says nothing about the run: it may continue from a checkpoint."""


@dataclass
class Launch(Generic[Result]):
    """The processes that call one function together.

    `function` is importable and is called in each rank with a function that sends an event, which does nothing but in
    the first rank, and with `arguments`. `on_output` gets what a rank prints.
    """

    function: Callable[..., Result]
    arguments: tuple[object, ...]
    size: int
    framework: str
    on_event: Callable[[object], None]
    on_output: Callable[[int, str], None] = lambda rank, text: None
    on_start: Callable[[list[int]], None] = lambda pids: None
    children: list[Child[Result]] = field(default_factory=list)
    failures: dict[int, Exception] = field(default_factory=dict)
    halted_seconds: dict[int, float] = field(default_factory=dict)

    def run(self, stop_requested: Callable[[], bool]) -> Result:
        """Start all ranks, wait for their end, and return the result of the first one.

        If `stop_requested` becomes true, the first rank is sent SIGTERM, once. Unless the first rank has a result,
        raises the PipelineError of the rank that failed first, and RankDied if a rank was killed or crashed.
        """
        try:
            for environment in rank_environments(self.size):
                child = Child(
                    self.function, *self.arguments, framework=self.framework, sends_events=True, environment=environment
                )
                self.children.append(child)
            self.on_start([child.pid for child in self.children])
            self._wait(stop_requested)
            if self.failures and (0 in self.failures or not self.children[0].has_ended):
                raise self._cause()
            return self.children[0].result()
        finally:
            close_all(self.children)

    def _wait(self, stop_requested: Callable[[], bool]) -> None:
        """Wait until all have ended, or some have not long after they should."""
        asked, until, looked_at = False, float("inf"), time.monotonic()
        while any(not child.has_ended for child in self.children) and time.monotonic() < until:
            if stop_requested() and not asked:
                self.children[0].send_signal(signal.SIGTERM)
                asked = True
            for rank, event in self._events():
                if rank == 0 and event is not None:
                    self.on_event(event)
            # A long turn is one in which this process was halted itself, perhaps with the ranks.
            seconds, looked_at = min(time.monotonic() - looked_at, 2 * POLL_SECONDS), time.monotonic()
            self._end_halted(seconds)
            if until == float("inf") and self._should_end():
                until = time.monotonic() + ENDING_SECONDS

    def _events(self) -> Iterator[tuple[int, object]]:
        """What the ranks have sent; notes those that have ended, and how."""
        running = [child.fileno() for child in self.children if not child.has_ended]
        ready = connection.wait(running, POLL_SECONDS)
        for rank, child in enumerate(self.children):
            if not child.has_ended and child.fileno() in ready:
                event = child.next_event(0)
                if child.has_ended:
                    self._note_end(rank)
                yield rank, event
        for rank, child in enumerate(self.children):
            # After a failure, the others complain that a peer is lost.
            if (text := child.new_output()) and rank == next(iter(self.failures), rank):
                self.on_output(rank, text)

    def _end_halted(self, seconds: float) -> None:
        """End each rank that has been halted for too long while others go on; `seconds` ago it was looked at last."""
        running = {rank: child for rank, child in enumerate(self.children) if not child.has_ended}
        halted = [rank for rank, child in running.items() if is_halted(child.pid)]
        if len(halted) == len(running):
            halted = []
        self.halted_seconds = {rank: self.halted_seconds.get(rank, 0.0) + seconds for rank in halted}
        for rank, halted_for in self.halted_seconds.items():
            if halted_for > HALTED_SECONDS and rank not in self.failures:
                how = f"was halted (SIGSTOP) for {HALTED_SECONDS:.0f} s while others went on"
                self.failures[rank] = RankDied(f"rank {rank} of {self.size} {how}, so all were ended")
                self.children[rank].kill()  # the others know at once that it is gone

    def _note_end(self, rank: int) -> None:
        try:
            self.children[rank].result()
        except (PipelineError, ProcessError) as error:
            self.failures.setdefault(rank, error)

    def _should_end(self) -> bool:
        """Whether all ranks should end soon; others may be done while the first one saves a run that is to stop."""
        is_stopping = all(isinstance(error, Stopped) for error in self.failures.values())
        return self.children[0].has_ended or not is_stopping

    def _cause(self) -> Exception:
        """The error of the rank that failed first; one that was killed did so before any that misses it."""
        killed = [rank for rank, error in self.failures.items() if isinstance(error, EndedBySignal)]
        # A rank that could not leave a call when another one failed has no error of its own.
        own = [rank for rank, error in self.failures.items() if isinstance(error, PipelineError) and not error.is_told]
        rank = next(iter(killed or own or self.failures))
        error, name = self.failures[rank], f"rank {rank} of {self.size}"
        if isinstance(error, EndedBySignal):
            how = f"{error.number} ({signal.Signals(error.number).name})"
            return RankDied(f"{name} was ended by signal {how}, so the other ranks were ended, too")
        if isinstance(error, ProcessError):  # its output has the traceback
            last = str(error).splitlines()[-1]
            return RankDied(f"{name} failed, so the other ranks were ended, too: {last}")
        assert isinstance(error, PipelineError)
        if isinstance(error, RankDied):
            return error
        if str(error) != str(self.failures.get(0)) and not error.is_told:
            error.args = (f"{name}: {error}",)
        error.is_told = False  # the rank that was to tell of it may have been ended before it could
        return error


def rank_environments(size: int) -> list[dict[str, str]]:
    """The environment variables of each rank on this machine; see `ranks.py`.

    The ranks meet at two ports of the loopback device. Each has its share of the threads of this process.
    """
    shared = {
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": LOOPBACK,
        "MASTER_PORT": str(_free_port()),
        "TF_CONFIG": "",
        LAUNCHED: "1",
        # Else gloo listens at the address that the machine's name leads to.
        "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
        "PYTHONUNBUFFERED": "1",
        **shared_threads(size),
    }
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]


def _free_port() -> int:
    """A TCP port that no program listens at on the loopback device, nor at the next one. Raises UserError."""
    # Two launchers that start at once draw different ones; the system's generator leaves the caller's alone.
    for port in random.SystemRandom().sample(PORTS, 100):
        with socket.socket() as first, socket.socket() as second, contextlib.suppress(OSError):
            first.bind((LOOPBACK, port))
            second.bind((LOOPBACK, port + 1))
            return port
    raise UserError(f"no free ports were found from {PORTS[0]} to {PORTS[-1]} on {LOOPBACK}, where the processes meet")
