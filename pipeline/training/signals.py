"""Asking a run to stop: by a call, or, on the command line, by SIGINT and SIGTERM."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


class StopRequest:
    """Whether somebody has asked the run to stop; it then saves itself after the current step and ends.

    Set `requested` from a callback or another thread.
    """

    def __init__(self) -> None:
        self.requested = False

    @contextlib.contextmanager
    def listening(self, announce: Callable[[], None]) -> Iterator[None]:
        """The time in which a run can be saved; `announce` is called when something asks for it from outside."""
        yield


class StopOnSignal(StopRequest):
    """A request that SIGINT or SIGTERM makes; a second one ends the run at once, with KeyboardInterrupt."""

    @contextlib.contextmanager
    def listening(self, announce: Callable[[], None]) -> Iterator[None]:
        """Handle both signals inside the block, and restore the earlier handlers after it.

        Python lets only the main thread handle signals; elsewhere, and for a signal that is ignored, nothing changes.
        """

        def handle(number: int, frame: FrameType | None) -> None:
            if self.requested:
                raise KeyboardInterrupt
            self.requested = True
            announce()

        with contextlib.ExitStack() as restored:
            if threading.current_thread() is threading.main_thread():
                for number in (signal.SIGINT, signal.SIGTERM):
                    if signal.getsignal(number) not in (signal.SIG_IGN, None):
                        restored.callback(signal.signal, number, signal.signal(number, handle))
            yield
