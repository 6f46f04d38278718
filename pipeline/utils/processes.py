"""A function called in a fresh process of its own: a framework's memory and threads end with it."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.utils.environment import THREAD_VARIABLES, usable_cores

# How long a process has to end by itself once it is told to.
GRACE_SECONDS = 1.0
_BODY = """
import os, pickle, sys
from pipeline.utils.environment import configure_process
from pipeline.utils.errors import ProofError, UserError
call, answer, framework = sys.argv[1:]
configure_process(framework or None)
with open(call, "rb") as file:
    function, arguments = pickle.load(file)
try:
    result = (True, function(*arguments))
except (ProofError, UserError) as error:
    result = (False, error)
with open(answer, "wb") as file:
    pickle.dump(result, file)
os._exit(0)
"""


class ProcessError(Exception):
    """The process ended without an answer; the message is the end of what it wrote."""


def call(function: Callable, *arguments: Any, framework: str = "") -> Any:
    """`function(*arguments)` in a fresh process kept to one framework; raises UserError, ProofError, ProcessError."""
    with tempfile.TemporaryDirectory(prefix="twinstep-") as folder:
        question, answer, log = (Path(folder) / name for name in ("call", "answer", "log"))
        question.write_bytes(pickle.dumps((function, arguments)))
        run([sys.executable, "-c", _BODY, str(question), str(answer), framework], log)
        if not answer.exists():
            raise ProcessError(tail(log))
        worked, found = pickle.loads(answer.read_bytes())
    if not worked:
        raise found
    return found


def run(command: Sequence[str], log: Path) -> int:
    """Run a command to its end, its output going to `log`; returns its exit code.

    Whatever interrupts this process ends the command, and what it started, before it is passed on.
    """
    with open(log, "wb") as file, _ended(command, file) as process:
        return process.wait()


def tail(log: Path, lines: int = 40, most: int = 8000) -> str:
    """The end of a log."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    return "\n".join(text.splitlines()[-lines:])[-most:]


@contextlib.contextmanager
def _ended(command: Sequence[str], log: Any) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=_environment(),
        start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            _end(process)


def _end(process: subprocess.Popen) -> None:
    """Ask the process group to end, then make it; a second Ctrl-C must not leave it behind."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        until = time.monotonic() + GRACE_SECONDS
        while process.poll() is None and time.monotonic() < until:
            with contextlib.suppress(KeyboardInterrupt):
                time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _environment() -> dict[str, str]:
    """This process's environment, with the modules that it finds found there too, and free to choose a framework.

    Both frameworks get as many threads; left alone, each chooses by a rule of its own. Where the user has set some of
    the variables, the first one decides for those that are not set.
    """
    kept = {name: value for name, value in os.environ.items() if name not in ("USE_TORCH", "USE_TF")}
    places = dict.fromkeys(str(Path(place).resolve()) for place in sys.path if place)
    threads = next((os.environ[name] for name in THREAD_VARIABLES if os.environ.get(name)), str(usable_cores()))
    kept |= {name: threads for name in THREAD_VARIABLES if not os.environ.get(name)}
    return kept | {"PYTHONPATH": os.pathsep.join(places)}
