"""The cores of this machine: how many a process may use, how many are free, and what to do while others need them."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

# With these a user says how long threads of OpenMP that wait for each other try again and again before they sleep.
WAIT_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
# How long the load of the cores is watched before the number of threads is chosen.
LOOK_SECONDS = 0.1
# How often the load is looked at while a process computes.
WATCH_SECONDS = 0.5
# Cores are called missing if this much of a core is not there for the threads that compute, and there again if no more
# than half of it is missing: programs that only wake now and then change nothing.
MISSING = 0.4


def usable_cores(root: Path = Path("/")) -> int:
    """The cores that this process may use, which can be fewer than the machine has.

    A container's limit of processor time counts as so many cores, rounded up. `root` is where /proc and /sys are.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *map(math.ceil, _processor_limits(root))]))


def _processor_limits(root: Path) -> Iterator[float]:
    """The limits of processor time that hold for this process, in cores, from version 1 or 2 of Linux' cgroups."""
    groups, mount = root / "proc/self/cgroup", root / "sys/fs/cgroup"
    for line in groups.read_text().splitlines() if groups.exists() else ():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        for place in (mount, mount / "cpu", mount / controllers) if controllers else (mount,):
            group = place / path.lstrip("/")
            # Inside a container the path can be that of the host, which is not there; the container's own is the root.
            for folder in (group, *group.parents):
                if folder.is_relative_to(place):
                    yield from _limit_of(folder)


def _limit_of(folder: Path) -> Iterator[float]:
    """The limit of one cgroup, if it has one: microseconds in each period."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
    except (OSError, ValueError):
        return
    if quota != "max" and int(quota) > 0:
        yield int(quota) / int(period)


def free_cores(statistics: Path = Path("/proc/stat")) -> float:
    """How many of the cores that this process may use were idle while it slept; all of them if that is unknown."""
    if not statistics.exists() or not hasattr(os, "sched_getaffinity"):
        return float(usable_cores())
    before = _idle_and_total(statistics)
    time.sleep(LOOK_SECONDS)
    after = _idle_and_total(statistics)
    return sum(
        (after[core][0] - idle) / (after[core][1] - total) if after[core][1] > total else 1.0
        for core, (idle, total) in before.items()
    )


@contextlib.contextmanager
def while_cores_are_missing(
    threads: int, measure: Callable[[], contextlib.AbstractContextManager[None]], statistics: Path = Path("/proc/stat")
) -> Iterator[None]:
    """In the block, hold `measure` whenever other processes use cores that this one's threads need.

    `measure` makes a context manager, which a thread of its own enters when cores go missing and leaves when they are
    back, looking every WATCH_SECONDS. Without Linux' statistics nothing is watched.
    """
    if not statistics.exists() or not hasattr(os, "sched_getaffinity"):
        yield
        return
    ended = threading.Event()
    watch = threading.Thread(target=_watch, args=(threads, measure, statistics, ended), daemon=True, name="core-watch")
    watch.start()
    try:
        yield
    finally:
        ended.set()
        watch.join()


def _watch(
    threads: int,
    measure: Callable[[], contextlib.AbstractContextManager[None]],
    statistics: Path,
    ended: threading.Event,
) -> None:
    before, own_before = _idle_and_total(statistics), time.process_time()
    with contextlib.ExitStack() as held:
        is_held = False
        while not ended.wait(WATCH_SECONDS):
            after, own = _idle_and_total(statistics), time.process_time()
            missing = threads - _available(before, after, own - own_before)
            before, own_before = after, own
            if not is_held and missing > MISSING:
                held.enter_context(measure())
                is_held = True
            elif is_held and missing < MISSING / 2:
                held.close()
                is_held = False


@contextlib.contextmanager
def short_openmp_waits(libraries: Path) -> Iterator[None]:
    """Have OpenMP's threads sleep almost at once when they wait for each other, as long as the block lasts.

    GNU's OpenMP lets them try again and again for milliseconds. That is the fastest way on free cores; where others
    need the cores it makes a training several times slower. It stops trying early once a process has more threads of
    OpenMP than cores, so an idle team of threads is all that it takes: nothing is computed differently. `libraries` is
    the folder that holds the library which computes. With another OpenMP, and where a variable of the environment says
    how threads wait, nothing changes.
    """
    library = next(iter(libraries.glob("libgomp*.so*")), None)
    if library is None or any(os.environ.get(name) for name in WAIT_VARIABLES):
        yield
        return
    ended = threading.Event()

    def hold_a_team() -> None:
        # Each thread of the team calls C's free(NULL), which does nothing. The team lives as long as this thread.
        ctypes.CDLL(str(library)).GOMP_parallel(ctypes.CDLL(None).free, None, usable_cores() + 1, 0)
        ended.wait()

    holder = threading.Thread(target=hold_a_team, daemon=True, name="idle-team")
    holder.start()
    try:
        yield
    finally:
        ended.set()
        holder.join()


def _available(before: dict[int, tuple[int, int]], after: dict[int, tuple[int, int]], own_seconds: float) -> float:
    """How many cores this process had or could have had between two looks at the load."""
    idle = sum(after[core][0] - before[core][0] for core in before)
    total = sum(after[core][1] - before[core][1] for core in before)
    if total <= 0:
        return float(len(before))
    return len(before) * idle / total + own_seconds * os.sysconf("SC_CLK_TCK") * len(before) / total


def _idle_and_total(statistics: Path) -> dict[int, tuple[int, int]]:
    """For each core of this process the time that it was idle and all of its time, in the kernel's units."""
    found = {}
    for line in statistics.read_text().splitlines():
        name, *times = line.split()
        if name.startswith("cpu") and name[3:].isdecimal() and int(name[3:]) in os.sched_getaffinity(0):
            # In order: user, nice, system, idle, waiting for disks, two kinds of interrupts, taken by the host.
            spent = [int(value) for value in times[:8]]
            found[int(name[3:])] = (spent[3] + spent[4], sum(spent))
    return found
