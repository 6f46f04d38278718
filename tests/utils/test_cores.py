"""The cores that a process may use and has, and what it does while others need them."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.utils import cores
from pipeline.utils.cores import free_cores, usable_cores, while_cores_are_missing

ROOT = Path(__file__).resolve().parents[2]


def test_usable_cores_are_those_of_the_process():
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("the system does not bind processes to cores")
    core = min(os.sched_getaffinity(0))
    program = f"import os; os.sched_setaffinity(0, [{core}]); from pipeline.utils.cores import usable_cores; "
    out = subprocess.run(
        [sys.executable, "-c", program + "print(usable_cores())"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert out == "1\n" and usable_cores() >= 1


@pytest.fixture
def many_cores(monkeypatch):
    """A machine whose 64 cores this process may all use."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))


def write(root, **files):
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content)


CGROUPS = {
    "version 2, the container's own root": ("0::/\n", {"sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
    "version 2, nested": (
        "0::/a/b\n", {"sys/fs/cgroup/a/cpu.max": "150000 100000\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, 2,
    ),
    "version 2, without a limit": ("0::/\n", {"sys/fs/cgroup/cpu.max": "max 100000\n"}, 64),
    "version 2, more than the machine has": ("0::/\n", {"sys/fs/cgroup/cpu.max": "9900000 100000\n"}, 64),
    "a tenth of a core": ("0::/\n", {"sys/fs/cgroup/cpu.max": "10000 100000\n"}, 1),
    "version 1, under the path of the host": (
        "4:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n",
        {f"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_{name}_us": n for name, n in (("quota", "300000"), ("period", "100000"))},
        3,
    ),
    "version 1, without a limit": (
        "3:cpu:/\n", {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 64,
    ),
    "files that cannot be understood": ("0::/\n", {"sys/fs/cgroup/cpu.max": "much\n"}, 64),
    "no cgroups": ("", {}, 64),
}  # fmt: skip


@pytest.mark.parametrize("name", CGROUPS)
def test_a_containers_limit_of_processor_time_counts_as_cores(name, tmp_path, many_cores):
    groups, files, expected = CGROUPS[name]
    write(tmp_path, **{"proc/self/cgroup": groups, **files})
    assert usable_cores(tmp_path) == expected


def test_free_cores_are_what_the_others_leave(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2})
    statistics = tmp_path / "stat"
    # user, nice, system, idle, waiting, ...; of core 2 a quarter is idle, and core 1 is not ours
    before = "cpu 1 2 3\ncpu0 100 0 0 100 0 0 0 0 0 0\ncpu1 0 0 0 0 0 0 0 0\ncpu2 10 0 5 20 0 1 2 0\nintr 5\n"
    after = "cpu 1 2 3\ncpu0 100 0 0 180 20 0 0 0 0 0\ncpu1 50 0 0 0 0 0 0 0\ncpu2 40 0 5 30 5 1 2 15\nintr 6\n"
    statistics.write_text(before)
    monkeypatch.setattr(cores.time, "sleep", lambda _: statistics.write_text(after))
    assert free_cores(statistics) == pytest.approx(1 + 15 / 60)
    assert free_cores(tmp_path / "absent") == 2


class Load:
    """The statistics of two cores, of which this process uses a part; they go on as long as somebody waits."""

    def __init__(self, folder):
        self.file, self.ticks, self.idle, self.own = folder / "stat", 0, 0, 0.0

    def go_on(self, idle, own):
        """Ten units of time pass on each core, with so many idle on both together and so many used by this process."""
        self.ticks, self.idle, self.own = self.ticks + 20, self.idle + idle, self.own + own
        shares = [(self.idle // 2, (self.ticks - self.idle) // 2), (self.idle // 2, (self.ticks - self.idle) // 2)]
        lines = [f"cpu{core} {used} 0 0 {idle} 0 0 0 0" for core, (idle, used) in zip((0, 2), shares, strict=True)]
        self.file.with_suffix(".new").write_text("\n".join(lines))
        self.file.with_suffix(".new").replace(self.file)

    def until(self, condition, idle, own):
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline
            self.go_on(idle, own)
            time.sleep(0.002)

    def for_a_while(self, idle, own):
        end = time.monotonic() + 0.2
        self.until(lambda: time.monotonic() > end, idle, own)


def test_a_measure_is_held_while_others_use_cores_that_the_threads_need(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2})
    monkeypatch.setattr(cores, "WATCH_SECONDS", 0.02)
    load, held = Load(tmp_path), threading.Event()
    load.go_on(0, 0)
    monkeypatch.setattr(cores.time, "process_time", lambda: load.own / os.sysconf("SC_CLK_TCK"))

    @contextlib.contextmanager
    def measure():
        held.set()
        yield
        held.clear()

    with while_cores_are_missing(2, measure, load.file):
        load.for_a_while(idle=0, own=20)  # alone, with both threads busy
        load.for_a_while(idle=16, own=4)  # alone, waiting for a file
        assert not held.is_set()
        load.until(held.is_set, idle=0, own=10)  # another process has the second core
        load.for_a_while(idle=0, own=10)
        assert held.is_set()
        load.until(lambda: not held.is_set(), idle=2, own=18)
        load.until(held.is_set, idle=0, own=8)
    assert not held.is_set()
    with while_cores_are_missing(1, measure, load.file):
        load.for_a_while(idle=0, own=10)  # the one thread has its core
        assert not held.is_set()


def test_nothing_is_watched_where_the_system_has_no_such_statistics(tmp_path):
    before = threading.active_count()
    with while_cores_are_missing(2, contextlib.nullcontext, tmp_path / "absent"):
        assert threading.active_count() == before
