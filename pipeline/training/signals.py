"""Asked to stop: the first SIGINT or SIGTERM lets a run save itself, the second ends it at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any


class Stop:
    """Whether somebody has asked the run to stop."""

    def __init__(self) -> None:
        self.requested = False

    @contextlib.contextmanager
    def listening(self, announce: Callable[[], None]) -> Iterator[None]:
        """Inside the block the first signal is noted and announced, and the second raises KeyboardInterrupt.

        Python lets only the main thread have signals; elsewhere, and for a signal that is ignored, nothing changes.
        """

        def handle(number: int, frame: Any) -> None:
            if self.requested:
                raise KeyboardInterrupt
            self.requested = True
            announce()

        before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    before[number] = signal.signal(number, handle)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
