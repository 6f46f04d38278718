"""The program of a `Child` process: `python -m pipeline.utils.child PIPE FRAMEWORK` calls one function."""

from __future__ import annotations

import pickle
import sys
from multiprocessing.connection import Connection

from pipeline.utils.environment import configure_process, end_process, run_endings
from pipeline.utils.errors import PipelineError


def main() -> None:
    """Read the function and its arguments from the pipe, call it, and send back its events and its result."""
    descriptor, framework = sys.argv[1:]
    configure_process(framework or None)  # before unpickling, which imports the function's modules
    pipe = Connection(int(descriptor))
    function, arguments, sends_events = pickle.loads(pipe.recv_bytes())
    if sends_events:
        arguments = (lambda event: pipe.send(("event", event)), *arguments)
    try:
        answer = ("result", function(*arguments))
    except PipelineError as error:
        answer = ("error", error)
    run_endings()  # who gets the answer may end this process at once
    pipe.send(answer)
    end_process(0)


if __name__ == "__main__":
    main()
