"""A run that is asked to stop: it saves a training checkpoint first, unless it is asked twice."""

import os
import signal

import pytest

from pipeline import finetune
from pipeline.training.checkpoints import TrainingCheckpoints
from pipeline.training.signals import StopOnSignal, StopRequest
from pipeline.utils.errors import Stopped
from tests.helpers.families import recipe_of
from tests.helpers.interruption import Kill


class Signals(Kill):
    """Sends signals to its own process at chosen moments."""

    def __init__(self, signals):
        super().__init__()
        self.signals, self.stops = signals, 0

    def reached(self, *moment):
        if moment in self.signals:
            os.kill(os.getpid(), self.signals[moment])

    def on_stop_requested(self):
        self.stops += 1


@pytest.fixture
def default_handlers():
    """Python's own handlers of both signals; where tests run in the background SIGINT would be ignored."""
    outer = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    assert all(signal.getsignal(number) == signal.default_int_handler for number in outer)
    for number, handler in outer.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    "signals, message, step",
    [
        ({("step", 2): signal.SIGTERM}, "stopped; .*step-00000002 is saved; resume=True continues", 2),
        # During an evaluation the state is that of the last step.
        ({("evaluate", 1): signal.SIGINT}, "stopped; .*step-00000003 is saved; resume=True continues", 3),
        ({("step", 2): signal.SIGINT, ("save", 2): signal.SIGINT}, "stopped; nothing was written", None),
    ],
)
def test_a_signal_saves_and_a_second_one_does_not(tmp_path, default_handlers, signals, message, step):
    recipe, seen = recipe_of("single-label", tmp_path), Signals(signals)
    with pytest.raises(Stopped, match=message):
        finetune(recipe, out=tmp_path / "run", callback=seen, stop=StopOnSignal())
    assert seen.stops == 1
    newest, _ = TrainingCheckpoints(tmp_path / "run.checkpoints", 2).newest()
    assert (newest and newest.step) == step
    assert not (tmp_path / "run").exists() and not list(tmp_path.glob(".run*"))


def test_a_stop_request_from_python_saves_and_can_be_resumed(tmp_path):
    recipe, stop = recipe_of("single-label", tmp_path), StopRequest()

    class StopAtTwo(Kill):
        def reached(self, *moment):
            stop.requested = stop.requested or moment == ("step", 2)

    with pytest.raises(Stopped) as error:
        finetune(recipe, out=tmp_path / "run", callback=StopAtTwo(), stop=stop)
    assert error.value.arguments == ("resume",)
    resumed = Kill()
    finetune(recipe, out=tmp_path / "run", callback=resumed, resume=True)
    assert resumed.resumed_at == 2


def test_an_interruption_is_the_callers_own_unless_a_stop_was_requested(tmp_path):
    class Interrupt(Kill):
        def reached(self, *moment):
            if moment == ("step", 2):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(recipe_of("single-label", tmp_path), out=tmp_path / "run", callback=Interrupt())
    assert not list(tmp_path.glob("*run*"))
