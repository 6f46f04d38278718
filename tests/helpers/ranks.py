"""Several ranks in a test, which call one function together: processes on this machine, or threads of this one."""

from concurrent.futures import ThreadPoolExecutor

from pipeline.distributed.launcher import Launch, rank_environments
from pipeline.distributed.ranks import Ranks


def in_ranks(function, *arguments, size=2, framework=""):
    """What the function returns at rank 0; it gets a function to send events, and the arguments."""
    launch = Launch(function, arguments, size, framework, on_event=print, on_output=lambda rank, text: print(text))
    return launch.run(lambda: False)


def in_threads(function, *arguments, size=2):
    """What the function returns at each rank; it gets its ranks and the arguments.

    For what does not need processes, each of which takes seconds to load the libraries.
    """
    with ThreadPoolExecutor(size) as pool:
        ranks = [Ranks.from_environment(environment) for environment in rank_environments(size)]
        return list(pool.map(lambda each: function(each, *arguments), ranks))
