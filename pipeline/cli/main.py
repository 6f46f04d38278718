"""`python -m pipeline`: runs the command that is asked for, and turns errors into one message and an exit code."""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback

import typer

# Importing these files adds their commands to the parser.
from pipeline.cli import (  # noqa: F401
    comparison_commands,
    deployment_commands,
    prediction_commands,
    serving_commands,
    training_commands,
)
from pipeline.cli.app import app
from pipeline.cli.explanations import explain, make_variable
from pipeline.utils.environment import end_process
from pipeline.utils.errors import PipelineError, UserError
from pipeline.utils.text import escape_controls, shorten

DONE, FAILED, WRONG_INPUT = 0, 1, 2
# What the option parser returns for Ctrl-C.
INTERRUPTED = 130


def main() -> None:
    """The console script: run the command line's command and leave with its exit code."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, signal.default_int_handler)
    # Where --attention my_module:MyAttention is looked for; behind the pipeline's own modules.
    sys.path.append(os.getcwd())
    end_process(execute(sys.argv[1:]))


def execute(arguments: list[str]) -> int:
    """Run a command and return its exit code: 0 done, 2 the user's input is wrong, 1 anything else."""
    debug = "--debug" in arguments
    try:
        code = app(arguments, standalone_mode=False)
    except PipelineError as error:
        code = WRONG_INPUT if isinstance(error, UserError) else FAILED
        return code if error.is_told and not debug else _fail(explain(error), code, debug)
    except typer.Exit as error:
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _stopped(debug)
    except Exception as error:
        return _unexpected(error, debug)
    if code == INTERRUPTED:
        return _stopped(debug)
    return code if isinstance(code, int) else DONE


def _unexpected(error: Exception, debug: bool) -> int:
    """Usage errors of the option parser keep their own words; anything else is our mistake."""
    usage_message = getattr(error, "format_message", None)
    if usage_message is not None:
        # The library that checks types quotes pydantic.
        message = usage_message().replace("Value error, ", "").replace("Input should be", "must be")
        message = message.partition(", unable to parse")[0]
        options = [name for name in getattr(getattr(error, "param", None), "opts", ()) if name.startswith("--")]
        with_make = "".join(f"with make: {make_variable(name)}; " for name in options[:1])
        return _fail(f"{message} ({with_make}see --help)", WRONG_INPUT, debug)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, KeyboardInterrupt):
            return _stopped(debug)
        if isinstance(cause, OSError) and cause.errno == errno.ENAMETOOLONG:
            name = shorten(str(cause.filename), 60)
            return _fail(
                f"{name} is a longer name than the file system allows; choose a shorter one", WRONG_INPUT, debug
            )
        cause = cause.__cause__ or cause.__context__
    advice = "This is a bug in twinstep. Run again with --debug and report the traceback."
    return _fail(f"{type(error).__name__}: {error}\n{advice}", FAILED, debug)


def _stopped(debug: bool) -> int:
    return _fail("stopped; nothing was written", FAILED, debug)


def _fail(message: str, code: int, debug: bool) -> int:
    if debug:
        print(escape_controls(traceback.format_exc()), file=sys.stderr)
    print(escape_controls(message), file=sys.stderr)
    return code
