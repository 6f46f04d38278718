"""What the server counts, in Prometheus' text format, and the line that it logs of each request."""

from __future__ import annotations

import contextlib
import json
import resource
import sys
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from pipeline.utils.text import shorten

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Histogram:
    """How many observed values are at most each of the bounds, and their sum."""

    def __init__(self, bounds: tuple[float, ...]):
        self.bounds, self.counts, self.sum = bounds, [0] * (len(bounds) + 1), 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def lines(self, name: str, labels: str = "") -> Iterator[str]:
        """Its lines in Prometheus' format; `labels` are as in 'endpoint="infer"'."""
        total, comma = 0, "," if labels else ""
        for bound, count in zip((*self.bounds, "+Inf"), self.counts, strict=True):
            total += count
            yield f'{name}_bucket{{{labels}{comma}le="{bound}"}} {total}'
        shown = f"{{{labels}}}" if labels else ""
        yield f"{name}_sum{shown} {self.sum}"
        yield f"{name}_count{shown} {total}"


@dataclass
class Metrics:
    """What is counted; `waiting_rows` tells how many rows wait in the moment that it is asked."""

    waiting_rows: Callable[[], int] = lambda: 0
    requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    seconds: dict[str, Histogram] = field(default_factory=dict)
    batch_rows: Histogram = field(default_factory=lambda: Histogram(_ROWS))

    def count(self, endpoint: str, status: int, seconds: float) -> None:
        """Count a request that has ended."""
        self.requests[endpoint, status] += 1
        self.seconds.setdefault(endpoint, Histogram(_SECONDS)).observe(seconds)

    def text(self) -> str:
        """All of it in Prometheus' text format."""
        return "\n".join([*self._of_requests(), *self._of_process()]) + "\n"

    def _of_requests(self) -> Iterator[str]:
        yield from _head("twinstep_requests_total", "counter", "Requests that have ended, by endpoint and status.")
        for (endpoint, status), number in sorted(self.requests.items()):
            yield f'twinstep_requests_total{{endpoint="{endpoint}",status="{status}"}} {number}'
        yield from _head("twinstep_request_seconds", "histogram", "Seconds from a request's headers to its answer.")
        for endpoint, histogram in sorted(self.seconds.items()):
            yield from histogram.lines("twinstep_request_seconds", f'endpoint="{endpoint}"')
        yield from _head("twinstep_batch_rows", "histogram", "Rows that the model answered together.")
        yield from self.batch_rows.lines("twinstep_batch_rows")
        yield from _head("twinstep_waiting_rows", "gauge", "Rows that wait for the model.")
        yield f"twinstep_waiting_rows {self.waiting_rows()}"

    def _of_process(self) -> Iterator[str]:
        used = resource.getrusage(resource.RUSAGE_SELF)
        yield from _head("process_cpu_seconds_total", "counter", "Processor time of the server, in seconds.")
        yield f"process_cpu_seconds_total {used.ru_utime + used.ru_stime}"
        if (memory := resident_bytes()) is not None:
            yield from _head("process_resident_memory_bytes", "gauge", "Memory of the server, in bytes.")
            yield f"process_resident_memory_bytes {memory}"


def _head(name: str, kind: str, help_text: str) -> Iterator[str]:
    yield f"# HELP {name} {help_text}"
    yield f"# TYPE {name} {kind}"


def resident_bytes() -> int | None:
    """The memory that this process has at the moment; None where the system does not say."""
    statistics = Path("/proc/self/statm")
    return int(statistics.read_text().split()[1]) * resource.getpagesize() if statistics.exists() else None


@dataclass(frozen=True)
class RequestLog:
    """Writes a JSON line for each request, and one for each error of the server; never a text that was sent."""

    file: IO[str] = field(default_factory=lambda: sys.stderr)

    def request(self, endpoint: str, method: str, path: str, status: int, seconds: float, client: str) -> None:
        """Log a request that has ended."""
        self._write(
            event="request", endpoint=endpoint, method=shorten(method, 20), path=shorten(path, 200), status=status,
            milliseconds=round(1000 * seconds, 3), client=client,
        )  # fmt: skip

    def error(self, endpoint: str, traceback: str) -> None:
        """Log an error that the client is told nothing of."""
        self._write(event="error", endpoint=endpoint, traceback=traceback)

    def _write(self, **content: object) -> None:
        moment = datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds")
        with contextlib.suppress(OSError, ValueError):  # answers do not depend on whether somebody still reads the log
            self.file.write(json.dumps({"time": moment, **content}) + "\n")
            self.file.flush()
