"""Prints the files of `pipeline/` in the order in which a command first calls something in them.

    python -m tests.helpers.walk finetune sentiment_bert --out folder

What runs while a module is imported does not count, nor what runs in another process.
"""

import inspect
import sys
from pathlib import Path

from pipeline.cli.main import execute

PACKAGE = str(Path(__file__).resolve().parents[2] / "pipeline") + "/"


def is_imported(frame):
    """Whether a frame runs because a module of the package is imported."""
    while frame := frame.f_back:
        if frame.f_code.co_name == "<module>" and frame.f_code.co_filename.startswith(PACKAGE):
            return True
    return False


def main(arguments):
    """Run the command and print a line "met: FILE" for each file."""
    met = {}

    def note(frame, event, _):
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(PACKAGE) and name not in met:
            is_function = frame.f_code.co_flags & inspect.CO_OPTIMIZED  # the body of a module or class is not
            if is_function and not is_imported(frame):
                met[name] = None

    sys.setprofile(note)
    code = execute(arguments)
    sys.setprofile(None)
    for name in met:
        print(f"met: {name.removeprefix(PACKAGE)}")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
