"""Several ranks in a test: real processes on this machine, which call one function together."""

from pipeline.distributed.launcher import Launch


def in_ranks(function, *arguments, size=2, framework=""):
    """What the function returns at rank 0; it gets a function to send events, and the arguments."""
    launch = Launch(function, arguments, size, framework, on_event=print, on_output=lambda rank, text: print(text))
    return launch.run(lambda: False)
