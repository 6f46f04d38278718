"""The command line's parser, to which the other files of this folder add their commands."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated

import typer

from pipeline.utils.environment import configure_process
from pipeline.utils.processes import INTERPRETERS, child_environment, interpreter

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Fine-tune one recipe in PyTorch or TensorFlow, provably the same experiment.",
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        print(f"twinstep {version('twinstep')}")
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """What can be given without a command."""


def add_former_name(former: str, name: str, command: Callable[..., None]) -> None:
    """Keep the name that a command had; it does the same and tells on standard error what it is called now."""

    @functools.wraps(command)
    def renamed(*arguments: object, **options: object) -> None:
        print(f"{former} is now called {name}", file=sys.stderr)
        command(*arguments, **options)

    app.command(former, help=f"The former name of {name}.")(renamed)


def configure_for(framework: str) -> str | None:
    """Configure the process for a framework; where that has another Python, the command begins anew in that one.

    Returns what there is to tell; see `configure_process`. Raises UserError if there is no such Python.
    """
    continue_in_python_of(framework)
    return configure_process(framework)


def continue_in_python_of(framework: str) -> None:
    """Begin the command anew in the Python of a framework, unless it is this one. Raises UserError if there is none."""
    python = interpreter(framework)
    if python != os.path.abspath(sys.executable):
        environment = child_environment(python)
        # It is that Python then, whatever it calls itself.
        del environment[INTERPRETERS[framework]]
        os.execve(python, [python, "-m", "pipeline", *sys.argv[1:]], environment)


def tell(note: str | None) -> None:
    """Print a note, if there is one, on standard error: it is no part of what the command puts out."""
    if note is not None:
        print(note, file=sys.stderr)
