"""Fine-tuning in several processes of this machine, seen from the one that starts them.

Its callback follows the run as if it trained here, and a request to stop reaches it.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable
from typing import cast

from pipeline.distributed.launcher import Launch
from pipeline.runs.directory import Run
from pipeline.training.callbacks import TrainingCallback
from pipeline.training.signals import StopRequest
from pipeline.utils.text import escape_controls

# The name of a method of TrainingCallback, and its arguments.
Event = tuple[str, tuple[object, ...]]


class EventSender(TrainingCallback):
    """Passes each event of a run on, as to another process."""

    def __init__(self, send: Callable[[Event], None]):
        self._send = send

    def __getattribute__(self, name: str) -> object:
        if name.startswith("on_"):
            return functools.partial(self._forward, name)
        return super().__getattribute__(name)

    def _forward(self, name: str, *arguments: object) -> None:
        self._send((name, arguments))


def combined(*callbacks: TrainingCallback) -> TrainingCallback:
    """One callback whose events go to several, in this order."""

    def send(event: Event) -> None:
        name, arguments = event
        for callback in callbacks:
            getattr(callback, name)(*arguments)

    return EventSender(send)


class RunInProcesses:
    """A run that `size` processes train together. It may be called again if one of them died.

    `has_begun` is whether training has begun in any of the calls.
    """

    def __init__(self, size: int, framework: str, callback: TrainingCallback, stop: StopRequest):
        self.size, self.framework, self.callback, self.stop = size, framework, callback, stop
        self.has_begun = False

    def call(self, function: Callable[..., Run], *arguments: object) -> Run:
        """Call a function in all processes; returns the first one's result.

        The function is called with a function that sends an `Event`, and with `arguments`. Raises what `Launch.run`
        raises.
        """
        is_training = False
        with contextlib.ExitStack() as listening:

            def on_event(event: object) -> None:
                nonlocal is_training
                name, values = cast(Event, event)
                if name == "on_train_begin":  # from now on the run can be saved
                    is_training = self.has_begun = True
                    listening.enter_context(self.stop.listening(self.callback.on_stop_requested))
                if name != "on_stop_requested" or not self.stop.requested:  # else it has been announced here
                    getattr(self.callback, name)(*values)

            on_launch = self.callback.on_launch
            launch = Launch(function, arguments, self.size, self.framework, on_event, _print_output, on_launch)
            return launch.run(lambda: is_training and self.stop.requested)


def _print_output(rank: int, text: str) -> None:
    for line in text.splitlines():
        print(escape_controls(f"rank {rank}: {line}"), file=sys.stderr, flush=True)
