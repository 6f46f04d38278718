"""Other processes, each with its own memory and threads: a function in a fresh Python, or a command.

Everything that the pipeline starts goes through `_start`, and ends with the process that started it, even if that one
is killed with SIGKILL (on Linux).
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from multiprocessing import Pipe
from pathlib import Path
from typing import IO, Generic, Self, TypeVar, cast

from pipeline.utils.cores import usable_cores
from pipeline.utils.environment import THREAD_VARIABLES
from pipeline.utils.errors import RunFailure, UserError
from pipeline.utils.files import is_alive

# The environment variables that name the Python of a framework, if the two have environments of their own.
INTERPRETERS = {"torch": "TWINSTEP_PYTHON_TORCH", "tensorflow": "TWINSTEP_PYTHON_TENSORFLOW"}
# How long a process has to end by itself after it is asked to.
GRACE_SECONDS = 1.0
# Has the system kill this process when its parent ends (PR_SET_PDEATHSIG is 1), then becomes the command. Popen's
# preexec_fn would do the same without a second program, but can deadlock in a process that has threads.
_ENDS_WITH_ITS_PARENT = """
import ctypes, os, signal, sys
parent, *command = sys.argv[1:]
prctl = getattr(ctypes.CDLL(None), "prctl", None)
if prctl is not None:
    prctl(1, signal.SIGKILL)
if os.getppid() == int(parent):  # it may have ended before
    os.execv(command[0], command)
"""
Result = TypeVar("Result")


class ProcessError(Exception):
    """The process ended without a result; the message is the end of what it wrote."""


class EndedBySignal(RunFailure):
    """A signal ended the process: it was killed from outside, or crashed; `number` is the signal's."""

    def __init__(self, written: str, number: int):
        super().__init__(f"{written}\nthe process was ended by signal {number}".lstrip("\n"))
        self.number = number


class Child(Generic[Result]):
    """A function that runs in a fresh Python process, kept to one framework.

    The function is importable, and it, its arguments, events and result can be pickled. With `sends_events` it gets,
    before its arguments, a function that sends an event to this process. `environment` has variables of its own. What
    it prints goes to a log, of which errors show the end. As a context manager, the process has ended when the block
    has. The Python is that of the framework; see `interpreter`.

    >>> with Child(math.sqrt, 4.0) as child:  # doctest: +SKIP
    ...     child.result()
    2.0
    """

    def __init__(
        self,
        function: Callable[..., Result],
        *arguments: object,
        framework: str = "",
        sends_events: bool = False,
        environment: Mapping[str, str] | None = None,
    ):
        self.has_ended = False
        self._answer: tuple[str, object] | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 -- `close` closes it
        self._num_read = 0
        self._pipe, theirs = Pipe()
        with theirs:
            command = [interpreter(framework), "-m", "pipeline.utils.child", str(theirs.fileno()), framework]
            self._process = _start(command, self._log, [theirs.fileno()], environment or {})
        try:
            with contextlib.suppress(OSError):  # a process that has died already; `result` says of what
                self._pipe.send_bytes(pickle.dumps((function, arguments, sends_events)))
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The number of the process, which is that of its process group, too."""
        return self._process.pid

    def fileno(self) -> int:
        """What `multiprocessing.connection.wait` waits for: it is ready when `next_event` need not wait."""
        return self._pipe.fileno()

    def next_event(self, timeout: float | None = None) -> object:
        """The next event; None if none came within `timeout` seconds, or if the function has ended."""
        try:
            if self.has_ended or not self._pipe.poll(timeout):
                return None
            kind, value = self._pipe.recv()
        except (EOFError, OSError):
            self.has_ended = True
            return None
        if kind == "event":
            return value
        self._answer, self.has_ended = (kind, value), True
        return None

    def result(self) -> Result:
        """Wait for the function and return its result.

        Raises the PipelineError that it raised, EndedBySignal, and ProcessError for any other error.
        """
        while not self.has_ended:
            self.next_event()
        if self._answer is None:
            code = self._process.wait()
            written = _end_of(self._log)
            if code < 0:
                raise EndedBySignal(written, -code)
            raise ProcessError(written or f"the process wrote nothing (exit code {code})")
        kind, value = self._answer
        if isinstance(value, BaseException) and kind == "error":
            raise value
        return cast(Result, value)

    def new_output(self) -> str:
        """What the process has printed since the last call: whole lines, or all that is left if it has ended."""
        # With its own position, which the process that writes does not share.
        text = os.pread(self._log.fileno(), os.fstat(self._log.fileno()).st_size - self._num_read, self._num_read)
        if not self.has_ended:
            text = text[: text.rfind(b"\n") + 1]
        self._num_read += len(text)
        return text.decode(encoding="utf-8", errors="replace")

    def send_signal(self, number: int) -> None:
        """Send a signal to the process; nothing happens if it has ended."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kill the process and all that it started, without a chance to save anything."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        """End the process if it still runs."""
        _end(self._process)
        self._pipe.close()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def call(function: Callable[..., Result], *arguments: object, framework: str = "") -> Result:
    """`function(*arguments)` in a process of its own. Raises what `Child.result` raises."""
    with Child(function, *arguments, framework=framework) as child:
        return child.result()


def ask_python_of(framework: str, function: Callable[..., Result], *arguments: object) -> Result:
    """`function(*arguments)` in the Python of a framework, which is this process if it has that Python."""
    if interpreter(framework) == os.path.abspath(sys.executable):
        return function(*arguments)
    return call(function, *arguments, framework=framework)


def run_command(command: Sequence[str], log: Path) -> int:
    """Run a command to its end, its output going to `log`; returns its exit code.

    Whatever interrupts this process ends the command, and what it started, before it is passed on.
    """
    with open(log, "wb") as file:
        process = _start(command, file)
        try:
            return process.wait()
        finally:
            _end(process)


def log_tail(log: Path, lines: int = 40, most: int = 8000) -> str:
    """The last lines of a log, at most `most` characters."""
    if not log.exists():
        return ""
    with open(log, "rb") as file:
        return _end_of(file, lines, most)


def is_running(pid: int) -> bool:
    """Whether a process is there and has not ended; one that its parent has not asked about yet has."""
    if not Path("/proc/self/stat").is_file():
        return is_alive(pid)
    return _state(pid) not in ("", "Z", "X")


def is_halted(pid: int) -> bool:
    """Whether a process was halted by SIGSTOP, and not by a debugger; always False on systems without /proc."""
    return _state(pid) == "T"


def _state(pid: int) -> str:
    """The letter by which Linux says what a process does; "" if it is not there."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def interpreter(framework: str) -> str:
    """The Python that has a framework installed: the one that its variable in INTERPRETERS names, else this one.

    Raises UserError if the variable names no program.
    """
    variable = INTERPRETERS.get(framework, "")
    path = os.environ.get(variable) or sys.executable
    if not os.access(path, os.X_OK) or os.path.isdir(path):
        raise UserError(f"{variable} in the environment is {path}, but must be the path of a Python program")
    return os.path.abspath(path)


def child_environment(python: str = sys.executable) -> dict[str, str]:
    """The environment of a new process: this one's, with the same modules importable, and free to choose a framework.

    Another `python` than this one has installed packages of its own, and only the other modules are the same. The
    working directory comes last among the places of modules, unless the pipeline itself lies there: a file of the
    user's may be called pipeline.py or recipes.py.

    Both frameworks get as many threads; left alone, each chooses by a rule of its own. If the user has set some of the
    variables, the first one decides for those that are not set.
    """
    kept = {name: value for name, value in os.environ.items() if name not in ("USE_TORCH", "USE_TF")}
    here, own = Path.cwd(), Path(__file__).resolve().parents[2]
    places = [Path(place).resolve() for place in sys.path if place]
    places = [place for place in places if place != here or here == own]
    if python != sys.executable:
        installed = [Path(prefix).resolve() for prefix in (sys.prefix, sys.base_prefix)]
        places = [place for place in places if not any(place.is_relative_to(prefix) for prefix in installed)]
    places = dict.fromkeys([*([] if own in places else [own]), *places, here])
    threads = next((os.environ[name] for name in THREAD_VARIABLES if os.environ.get(name)), str(usable_cores()))
    kept |= {name: threads for name in THREAD_VARIABLES if not os.environ.get(name)}
    return kept | {"PYTHONPATH": os.pathsep.join(map(str, places)), "PYTHONSAFEPATH": "1"}


def shared_threads(size: int) -> dict[str, str]:
    """The environment variables that give each of `size` processes its share of the threads of this one."""
    given = next((os.environ[name] for name in THREAD_VARIABLES if os.environ.get(name, "").isdecimal()), None)
    threads = max(1, (int(given) if given else usable_cores()) // size)
    return dict.fromkeys(THREAD_VARIABLES, str(threads))


def close_all(children: Iterable[Child]) -> None:
    """End all processes that still run, at once and not one after another."""
    children = list(children)
    _end(*(child._process for child in children))
    for child in children:
        child.close()


def _start(
    command: Sequence[str], log: IO[bytes], pass_fds: Sequence[int] = (), environment: Mapping[str, str] | None = None
) -> subprocess.Popen:
    """Start a command, given by its path, that ends with this process; in general the path is that of a Python.

    It leads a process group, so that it can be ended with all that it starts.
    """
    launcher = [sys.executable, "-I", "-S", "-c", _ENDS_WITH_ITS_PARENT, str(os.getpid())]
    return subprocess.Popen(
        [*launcher, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
        env=child_environment(command[0]) | dict(environment or {}), start_new_session=True, pass_fds=pass_fds,
    )  # fmt: skip


def _end(*processes: subprocess.Popen) -> None:
    """Ask the process groups to end, then make them; a second Ctrl-C must not leave one behind."""
    running = [process for process in processes if process.poll() is None]
    _signal_groups(running, signal.SIGTERM)
    until = time.monotonic() + GRACE_SECONDS
    while any(process.poll() is None for process in running) and time.monotonic() < until:
        with contextlib.suppress(KeyboardInterrupt):
            time.sleep(0.02)
    _signal_groups(running, signal.SIGKILL)
    for process in running:
        process.wait()


def _signal_groups(processes: Iterable[subprocess.Popen], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)


def _end_of(log: IO[bytes], lines: int = 40, most: int = 8000) -> str:
    log.seek(0)
    text = log.read().decode(encoding="utf-8", errors="replace")
    return "\n".join(text.splitlines()[-lines:])[-most:]
