"""A server in a process of its own, started and stopped by a test; its log is read when it has ended."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class ServerProcess:
    """A running server: its address, and after `stop` its exit code and the lines that it logged."""

    def __init__(self, arguments, log, environment=None):
        self.log = log
        with open(log, "wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=file, text=True,
                env=os.environ | (environment or {}),
            )  # fmt: skip
        printed = self.process.stdout.readline()
        found = re.search(r"http://\S+", printed)
        assert found, f"the server said {printed!r}, and in its log: {log.read_text()}"
        self.url = found[0]

    def stop(self, number=signal.SIGTERM):
        """Ask it to stop; returns its exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout=60)

    def logged(self):
        """What it logged, line by line."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]


@contextlib.contextmanager
def stub_server(folder, **limits):
    """A server of the stub with these limits, killed at the end if it still runs."""
    with running(["tests.helpers.served_stub", json.dumps(limits)], folder) as server:
        yield server


@contextlib.contextmanager
def running(arguments, folder, environment=None):
    """A server started with `python -m` and these arguments, killed at the end if it still runs."""
    server = ServerProcess(arguments, folder / "log.jsonl", environment)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()
        server.process.stdout.close()
