"""The exceptions whose message is written for the person who reads it; every folder may raise them."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class PipelineError(Exception):
    """An error whose message says all that its reader needs; the command line prints it without a traceback.

    `arguments` are the Python arguments that the message names, such as "resume" in `resume=True`, so that the command
    line can say how they are given there. `is_told` is whether another process tells it to the user.
    """

    is_told = False

    def __init__(self, message: str = "", *, arguments: tuple[str, ...] = ()):
        super().__init__(message)
        self.arguments = arguments

    def __reduce__(self) -> tuple[object, ...]:
        # Python would call the class with the message alone, which a subclass with arguments of its own does not take.
        return _restored, (type(self), self.args, self.__dict__)


class UserError(PipelineError):
    """A mistake that the user can correct: the message names the place, what came, what was expected and the way out.

    The command line exits with code 2.
    """


class ProofError(PipelineError):
    """A check that the pipeline makes of its own work failed, so the run stops; exit code 1."""


class RunFailure(PipelineError):
    """A run that began correctly could not continue: the message says why and what is saved; exit code 1."""


class Stopped(PipelineError):
    """A run ended because it was asked to: the message says what is saved; exit code 1."""


def _restored(kind: type[PipelineError], args: tuple[object, ...], attributes: dict[str, object]) -> PipelineError:
    """An error as it was in the process that sent it."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error


def combine_errors(errors: Iterable[UserError]) -> UserError:
    """One error with the lines of all, each once, and every argument that they name."""
    errors = list(errors)
    lines = dict.fromkeys(line for error in errors for line in str(error).split("\n"))
    arguments = dict.fromkeys(name for error in errors for name in error.arguments)
    return UserError("\n".join(lines), arguments=tuple(arguments))


def did_you_mean(wrong: object, known: Iterable[str]) -> str:
    """' Did you mean "x"?' for the nearest of `known`, or '' if none is near."""
    nearest = get_close_matches(str(wrong), list(known), n=1)
    return f' Did you mean "{nearest[0]}"?' if nearest else ""
