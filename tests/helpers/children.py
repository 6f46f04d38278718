"""Stands for processes of their own: what they would do is done in this one, which has imported everything already."""

import os
import runpy
import subprocess
import sys

import pytest

import pipeline.sweeps.search
import pipeline.sweeps.sweep
from pipeline.cli.main import execute
from pipeline.utils import processes


class ChildHere:
    """As `pipeline.utils.processes.Child`, but the function is called when the first event is asked for."""

    def __init__(self, function, *arguments, framework="", sends_events=False, environment=None):
        self.function, self.arguments, self.sends_events = function, arguments, sends_events
        self.events, self.error, self.answer = None, None, None
        self.has_ended = False
        self.read, self.write = os.pipe()
        os.write(self.write, b"ready")

    def fileno(self):
        return self.read

    def next_event(self, timeout=None):
        if self.events is None:
            self.events = []
            sender = (self.events.append,) if self.sends_events else ()
            try:
                self.answer = self.function(*sender, *self.arguments)
            except Exception as error:
                self.error = error
        if self.events:
            return self.events.pop(0)
        self.has_ended = True
        return None

    def result(self):
        while not self.has_ended:
            self.next_event()
        if self.error is not None:
            raise self.error
        return self.answer

    def send_signal(self, number):
        """There is no process."""

    def close(self):
        for end in (self.read, self.write):
            if end is not None:
                os.close(end)
        self.read = self.write = None


def call_here(function, *arguments, framework=""):
    """As `pipeline.utils.processes.call`."""
    return function(*arguments)


def run_program_here(command, *_, **options):
    """As `subprocess.run` with the command `python -m module ...`; what it prints is printed."""
    _, _, module, *words = command
    with pytest.MonkeyPatch.context() as patch:
        for name in ("USE_TORCH", "USE_TF"):  # a command sets them; they are put back afterwards
            patch.setenv(name, "1")
        patch.setattr(sys, "argv", [module, *words])
        if module == "pipeline":
            code = execute(words)  # what is in its main ends the process
        else:
            runpy.run_module(module, run_name="__main__")
            code = 0
    return subprocess.CompletedProcess(command, code)


def close_all(children):
    """As `pipeline.utils.processes.close_all`."""
    for child in children:
        child.close()


def train_trials_here(patch):
    """Have a sweep train its trials one after the other in this process."""
    patch.setattr(pipeline.sweeps.search, "Child", ChildHere)
    patch.setattr(pipeline.sweeps.search, "close_all", close_all)
    for module in (pipeline.sweeps.search, pipeline.sweeps.sweep):
        patch.setattr(module, "call", call_here)


def run_experiments_here(patch):
    """Have a comparison make its runs, and whatever else has a process of its own, one after the other in this one."""
    for name in ("USE_TORCH", "USE_TF"):  # a command sets them; they are put back afterwards
        patch.setenv(name, "1")
    patch.setattr(processes, "call", call_here)
    patch.setattr(processes, "run_command", lambda command, log: execute(list(command[3:])))
