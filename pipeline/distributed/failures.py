"""The failure of one rank as the others learn of it."""

from __future__ import annotations

from pipeline.utils.errors import PipelineError, ProofError, RunFailure, Stopped, UserError
from pipeline.utils.text import one_line


class LostRank(RunFailure):
    """A rank ended without a word: it was killed, or its machine is gone."""

    def __init__(self, rank: int):
        super().__init__(
            f"rank {rank} ended without a message: it was killed, or its machine is gone. The training checkpoints are "
            "kept; resume=True continues from the newest",
            arguments=("resume",),
        )


class SilentRank(RunFailure):
    """A rank is there and gives no sign of life: it was halted, or its machine is."""

    def __init__(self, rank: int, seconds: float):
        super().__init__(
            f"rank {rank} has given no sign of life for {seconds:.0f} s: its process is halted, or its machine is "
            "overloaded or not reached. The training checkpoints are kept; resume=True continues from the newest",
            arguments=("resume",),
        )


def described(error: BaseException) -> PipelineError:
    """An error as the other ranks are told of it."""
    if isinstance(error, PipelineError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return Stopped("stopped; nothing was written")
    return RunFailure(f"{type(error).__name__}: {one_line(error)}")


def told(error: PipelineError, rank: int, is_told: bool) -> PipelineError:
    """The error of another rank, with its number."""
    kinds = (UserError, ProofError, Stopped, RunFailure)
    kind = next(each for each in kinds if isinstance(error, each))
    place = "" if isinstance(error, LostRank | SilentRank) else f"rank {rank}: "
    error_of_all = kind(f"{place}{error}", arguments=error.arguments)
    error_of_all.is_told = is_told
    return error_of_all
