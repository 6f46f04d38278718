"""Prints the files of `pipeline/` in the order in which a command first calls something in them.

    python -m tests.helpers.walk finetune sentiment_bert --out folder then compare sentiment_bert --out report

Commands follow one another in this process, so that the libraries are loaded once. What runs while a module is imported
does not count, nor what would run in another process.
"""

import inspect
import sys
from pathlib import Path

import pytest
import transformers  # noqa: F401 -- it looks for frameworks once, so before a command keeps the process to one

from pipeline.cli.main import execute
from pipeline.utils import processes
from tests.helpers.children import run_experiments_here

PACKAGE = str(Path(__file__).resolve().parents[2] / "pipeline") + "/"


def is_imported(frame):
    """Whether a frame runs because a module of the package is imported."""
    while frame := frame.f_back:
        if frame.f_code.co_name == "<module>" and frame.f_code.co_filename.startswith(PACKAGE):
            return True
    return False


def files_met(words):
    """The files of the package in the order in which a command of these words first calls something in them."""
    met = {}

    def note(frame, event, _):
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(PACKAGE) and name not in met:
            is_function = frame.f_code.co_flags & inspect.CO_OPTIMIZED  # the body of a module or class is not
            if is_function and not is_imported(frame):
                met[name] = None

    def unnoted(function):
        def call(*arguments, **options):
            sys.settrace(None)
            try:
                return function(*arguments, **options)
            finally:
                sys.settrace(note)

        return call

    with pytest.MonkeyPatch.context() as patch:
        run_experiments_here(patch)
        patch.setattr("pipeline.api.LOCKSTEP_STEPS", 2)
        patch.setattr(processes, "call", unnoted(processes.call))
        patch.setattr(processes, "run_command", unnoted(processes.run_command))
        sys.settrace(note)
        code = execute(words)
        sys.settrace(None)
    return code, [name.removeprefix(PACKAGE) for name in met]


def main(words):
    """Run the commands, which "then" parts, and print for each file of each a line "met: COMMAND FILE"."""
    commands = " ".join(words).split(" then ")
    for command in commands:
        code, met = files_met(command.split())
        if code:
            return code
        for name in met:
            print(f"met: {command.split()[0]} {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
