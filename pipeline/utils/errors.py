"""The exceptions that carry their own message, kept apart so that every room can raise them."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A mistake the user can mend: the message names the place, what was wanted and the way out.

    The command line prints it as one message without a traceback and exits with code 2.
    """


class ProofError(Exception):
    """A promise that the software makes about itself did not hold, so the run stops; exit code 1."""


class RunFailure(Exception):
    """A run that was right to begin could not go on: the message says why and what is left; exit code 1."""


class Stopped(Exception):
    """A run ended because it was asked to: the message says what is saved; exit code 1."""


def did_you_mean(wrong: object, known: Iterable[str]) -> str:
    """' Did you mean "x"?' for the nearest of `known`, or '' where none is near."""
    nearest = get_close_matches(str(wrong), list(known), n=1)
    return f' Did you mean "{nearest[0]}"?' if nearest else ""
