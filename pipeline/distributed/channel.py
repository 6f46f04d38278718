"""Messages between the ranks of a run, all through rank 0, and the end of all ranks when one fails.

The frameworks sum gradients by their own means. Everything else that ranks tell each other goes through here: whether
they agree, what rank 0 found on its disk, the scores of an evaluation, and what went wrong. Each rank has two
connections to rank 0: one for what all ranks say at the same point of the run, and one on which a thread watches for
failures. If a rank ends without a word, the system closes its connections, and the others know at once.
"""

from __future__ import annotations

import contextlib
import pickle
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Self, TypeVar, cast

from pipeline.distributed.connection import Connection
from pipeline.distributed.failures import LostRank, SilentRank, described, told
from pipeline.distributed.ranks import Ranks
from pipeline.utils.environment import end_process
from pipeline.utils.errors import PipelineError, UserError
from pipeline.utils.text import escape_controls, one_line

# How long ranks wait for each other at the start: machines of a cluster can be minutes apart.
JOIN_SECONDS = 600.0
# How long a rank has to end by itself after another one failed; a call into a library cannot be interrupted.
END_SECONDS = 5.0
# How often a rank gives a sign of life, and how long it may give none: reading a large file can take it many seconds.
BEAT_SECONDS, MOST_SILENT_SECONDS, TURN_SECONDS = 5.0, 60.0, 1.0
# How long an error that may be the consequence of another rank's is held back until that one is known.
CAUSE_SECONDS = 3.0
# The sign of life.
_BEAT = "here"
Value = TypeVar("Value")


class PeerFailed(Exception):
    """Another rank failed, so this one cannot go on; `Channel.failure` says why."""


class Channel:
    """The connections of this rank; of a process alone it has none, and all methods return at once.

    What all ranks call at the same point of the run: `first`, `all`, `any`, `agree`. All calls are inside `together`.
    """

    def __init__(self, ranks: Ranks):
        self.ranks = ranks
        # To the other ranks, by rank, from rank 0, and from the others to rank 0 alone.
        self._lines: dict[int, Connection] = {}
        self._watched: dict[int, Connection] = {}
        self.failure: tuple[int, PipelineError] | None = None
        self._failed, self._over = threading.Event(), threading.Event()

    @classmethod
    def join(cls, ranks: Ranks) -> Channel:
        """Connect all ranks. Raises UserError if they do not find each other."""
        channel = cls(ranks)
        if ranks.size > 1:
            (channel._listen if ranks.is_first else channel._call)()
            threading.Thread(target=channel._watch, daemon=True, name="watch-ranks").start()
        return channel

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, the one that writes and prints."""
        return self.ranks.is_first

    @property
    def size(self) -> int:
        """How many ranks there are."""
        return self.ranks.size

    # --- what all ranks call together

    def all(self, value: Value) -> list[Value]:
        """The values of all ranks, by rank."""
        return self.first(list, self.gather(value))

    def gather(self, value: Value) -> list[Value]:
        """The values of all ranks, by rank, at rank 0; none at the others."""
        if self.is_first:
            return [value, *(self._receive(self._lines[rank]) for rank in range(1, self.size))]
        self._send(self._lines[0], value)
        return []

    def first(self, function: Callable[..., Value], *arguments: object) -> Value:
        """What a function returns at rank 0, at all ranks; the others do not call it."""
        if not self.is_first:
            return self._receive(self._lines[0])
        value = function(*arguments)
        for line in self._lines.values():
            self._send(line, value)
        return value

    def any(self, flag: bool) -> bool:
        """Whether a flag is set at some rank."""
        return flag if self.size == 1 else any(self.all(flag))

    def agree(self, facts: Mapping[str, str]) -> None:
        """Raise UserError, with who differs in what, unless these facts are the same at all ranks."""
        problems = self.first(_differences, self.gather(dict(facts)))
        if problems:
            raise UserError(
                f"the {self.size} processes would not train the same run: {'; '.join(problems)}. Give all of them the "
                "same recipe, data, checkpoint, versions and files"
            )

    @contextlib.contextmanager
    def together(self) -> Iterator[Self]:
        """Inside, an error of one rank ends all of them with one message, which names the rank.

        The message is that of rank 0; at the others the error's `is_told` says that it needs none.
        """
        if self.size == 1:
            yield self
            return
        try:
            yield self
            self.all(None)
        except BaseException as error:
            of_all = self._of_all(error)
            if of_all is error:
                raise
            raise of_all from error
        finally:
            self._over.set()
            for line in (*self._watched.values(), *self._lines.values()):
                line.close(goodbye=self.failure is None)

    # --- failures

    def _of_all(self, error: BaseException) -> BaseException:
        """The error with which this rank ends after `error`; the other ranks are told."""
        is_own = isinstance(error, PipelineError | KeyboardInterrupt)
        if not is_own:  # a connection of the framework that broke, or a fault of this rank
            self._failed.wait(CAUSE_SECONDS)
        if self.failure is None or (is_own and self.is_first):
            self.failure = self.ranks.rank, described(error)
            self._failed.set()
            for line in self._watched.values():
                line.send(self.failure)
            if self.is_first:
                return error
        rank, cause = self.failure
        return told(cause, rank, is_told=not self._tells(rank))

    def _tells(self, rank: int) -> bool:
        """Whether this rank is the one that tells of a failure of `rank`."""
        assert self.failure is not None
        is_lost, is_silent = (isinstance(self.failure[1], kind) for kind in (LostRank, SilentRank))
        if is_lost and self.ranks.is_launched:  # the launcher sees it end, and says how
            return False
        return self.ranks.rank == (1 if (is_lost or is_silent) and rank == 0 else 0)

    def _note(self, rank: int, error: PipelineError) -> None:
        if self.failure is None:
            self.failure = rank, error
            self._failed.set()

    def _watch(self) -> None:
        """Wait for the failure of a rank, pass it on, and see to it that this rank ends, too."""
        watched, silent = dict(self._watched), dict.fromkeys(self._watched, 0.0)
        beat_at = turn_at = float("-inf")
        while self.failure is None and watched and not self._over.is_set():
            now = time.monotonic()
            # A long turn is one in which this process was halted, perhaps all of them, as a container can be.
            seconds, turn_at = min(now - turn_at, 2 * TURN_SECONDS), now
            if now >= beat_at + BEAT_SECONDS:
                beat_at = now
                for line in watched.values():
                    line.send(_BEAT)
            try:
                ready, _, _ = select.select(list(watched.values()), [], [], TURN_SECONDS)
            except (OSError, ValueError):  # this rank is done and has closed them
                return
            for rank, line in list(watched.items()):
                silent[rank] += seconds
                if line in ready:
                    silent[rank] = 0.0
                    self._hear(rank, line, watched)
                elif silent[rank] > MOST_SILENT_SECONDS:
                    self._note(rank, SilentRank(rank, silent[rank]))
        if self.failure is None:
            return
        for line in self._watched.values():
            line.send(self.failure)
        if not self._over.wait(END_SECONDS):
            self._end()

    def _hear(self, rank: int, line: Connection, watched: dict[int, Connection]) -> None:
        """Take a message of a rank, which is no longer watched once it is done."""
        try:
            message = cast("tuple[int, PipelineError] | str | None", line.receive())
        except (OSError, EOFError, pickle.UnpicklingError):
            message = rank, LostRank(rank)
        if message is None or self._over.is_set():
            del watched[rank]
        elif message != _BEAT:
            self._note(*cast("tuple[int, PipelineError]", message))

    def _end(self) -> None:
        """End this process, whose main thread is in a call that does not return."""
        assert self.failure is not None
        rank, error = self.failure
        if self._tells(rank) or self.ranks.is_launched:  # the launcher shows what the first rank that ends has printed
            print(escape_controls(str(told(error, rank, is_told=False))), file=sys.stderr, flush=True)
        end_process(2 if isinstance(error, UserError) else 1)

    # --- connections

    def _listen(self) -> None:
        """Wait for the two connections of every other rank."""
        ranks = self.ranks
        host = ranks.address if ranks.are_on_one_machine else ""
        try:
            listener = socket.create_server((host, ranks.port), backlog=2 * ranks.size)
        except OSError as error:
            raise UserError(
                f"rank 0 cannot listen at port {ranks.port}, the one after MASTER_PORT: {one_line(error)}. Choose "
                "another MASTER_PORT"
            ) from error
        with listener:
            until = time.monotonic() + JOIN_SECONDS
            while len(self._lines) + len(self._watched) < 2 * (ranks.size - 1):
                listener.settimeout(max(0.1, until - time.monotonic()))
                try:
                    line = Connection(listener.accept()[0])
                    line.socket.settimeout(10.0)
                    purpose, rank, size = cast(tuple[str, int, int], line.receive())
                    line.socket.settimeout(None)
                except TimeoutError as error:
                    missing = sorted(set(range(1, ranks.size)) - set(self._watched))
                    raise UserError(
                        f"rank 0 waited {JOIN_SECONDS:.0f} s for the other ranks at port {ranks.port}, but of "
                        f"{ranks.size} ranks these did not come: {', '.join(map(str, missing))}"
                    ) from error
                except (OSError, EOFError, pickle.UnpicklingError, TypeError, ValueError):
                    continue  # not one of ours
                place = self._lines if purpose == "values" else self._watched
                if size != ranks.size or rank in place:
                    raise UserError(
                        f"rank {rank} of {size} came to rank 0 of {ranks.size}"
                        + (", but there is one already" if size == ranks.size else "")
                        + ": give each process its own RANK, and all the same WORLD_SIZE"
                    )
                place[rank] = line

    def _call(self) -> None:
        """Connect to rank 0 twice, which may not have started yet."""
        ranks, until = self.ranks, time.monotonic() + JOIN_SECONDS
        for purpose, place in (("values", self._lines), ("failures", self._watched)):
            while 0 not in place:
                try:
                    line = Connection(socket.create_connection((ranks.address, ranks.port), timeout=10.0))
                    line.socket.settimeout(None)
                    place[0] = line
                except OSError as error:
                    if time.monotonic() > until:
                        raise UserError(
                            f"rank {ranks.rank} waited {JOIN_SECONDS:.0f} s for rank 0 at {ranks.address}:{ranks.port} "
                            f"(MASTER_ADDR, and the port after MASTER_PORT): {one_line(error)}"
                        ) from error
                    time.sleep(0.1)
            place[0].send((purpose, ranks.rank, ranks.size))

    def own_address(self) -> str:
        """The address at which the other ranks reach this machine."""
        return self.ranks.address if self.is_first else self._lines[0].socket.getsockname()[0]

    def _send(self, line: Connection, value: object) -> None:
        if not line.send(value):
            raise PeerFailed

    def _receive(self, line: Connection) -> Value:  # pyright: ignore[reportInvalidTypeVarUse] -- what the caller expects
        while not select.select([line], [], [], 0.2)[0]:
            if self._failed.is_set():
                raise PeerFailed
        try:
            return cast(Value, line.receive())
        except (OSError, EOFError) as error:
            raise PeerFailed from error


def _differences(facts: list[dict[str, str]]) -> list[str]:
    """Who differs from rank 0 in what."""
    return [
        f"{name} of rank {rank} is {own.get(name)}, of rank 0 {facts[0].get(name)}"
        for rank, own in enumerate(facts)
        for name in dict.fromkeys([*facts[0], *own])
        if own.get(name) != facts[0].get(name)
    ]
