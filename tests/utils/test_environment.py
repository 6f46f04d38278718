"""What a process that is the pipeline's own sets for its libraries."""

import logging
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy
import pytest

from pipeline.utils import environment as settings
from pipeline.utils.environment import (
    DEFAULTS,
    THREAD_VARIABLES,
    WAIT_VARIABLES,
    WAITING,
    configure_process,
    free_cores,
    legacy_keras,
    preserved_random_state,
    usable_cores,
    without_native_noise,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def environment(monkeypatch):
    """This process's environment, put back after the test."""
    for name in ("USE_TORCH", "USE_TF", *DEFAULTS, *THREAD_VARIABLES, *WAIT_VARIABLES):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    level = logging.getLogger("tensorflow").level
    yield monkeypatch
    logging.getLogger("tensorflow").setLevel(level)


def test_a_process_is_quiet_and_kept_to_its_framework(environment):
    configure_process("torch")
    assert (os.environ["USE_TORCH"], os.environ["USE_TF"]) == ("1", "0")
    assert {name: os.environ[name] for name in DEFAULTS} == DEFAULTS


def test_what_the_user_has_set_is_left_alone(environment):
    environment.setenv("TRANSFORMERS_VERBOSITY", "debug")
    configure_process()
    assert os.environ["TRANSFORMERS_VERBOSITY"] == "debug"
    assert "USE_TORCH" not in os.environ


@pytest.mark.parametrize("before", [None, "0", "1"])
def test_keras_2_is_chosen_inside_the_block_only(environment, before):
    if before is not None:
        environment.setenv("TF_USE_LEGACY_KERAS", before)
    with pytest.raises(ImportError), legacy_keras():
        assert os.environ["TF_USE_LEGACY_KERAS"] == "1"
        raise ImportError
    assert os.environ.get("TF_USE_LEGACY_KERAS") == before


def test_random_generators_go_on_as_if_nothing_had_happened():
    random.seed(3)
    numpy.random.seed(5)
    expected = (random.random(), numpy.random.rand())
    random.seed(3)
    numpy.random.seed(5)

    @preserved_random_state()
    def train():
        random.seed(0)
        numpy.random.seed(0)
        return "done"

    assert train() == "done"
    assert (random.random(), numpy.random.rand()) == expected


def test_only_known_chatter_of_native_code_is_held_back(capfd):
    with pytest.raises(OSError), without_native_noise():
        os.write(2, b"I0000 cpu_feature_guard.cc:210] This TensorFlow binary is optimized\nan error of the user's\n")
        raise OSError
    assert capfd.readouterr().err == "an error of the user's\n"


def test_usable_cores_are_those_of_the_process():
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("the system does not bind processes to cores")
    core = min(os.sched_getaffinity(0))
    program = f"import os; os.sched_setaffinity(0, [{core}]); from pipeline.utils.environment import usable_cores; "
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
    monkeypatch.setattr(settings.time, "sleep", lambda _: statistics.write_text(after))
    assert free_cores(statistics) == pytest.approx(1 + 15 / 60)
    assert free_cores(tmp_path / "absent") == 2


@pytest.mark.parametrize(("free", "threads"), [(64.0, 64), (40.4, 40), (0.2, 1)])
def test_a_process_has_a_thread_for_each_core_that_is_free_and_says_if_that_is_not_all(
    free, threads, environment, many_cores
):
    environment.setattr(settings, "free_cores", lambda: free)
    environment.setattr(settings, "usable_cores", lambda: 64)
    note = configure_process()
    assert [os.environ[name] for name in THREAD_VARIABLES] == [str(threads)] * 3
    assert (note is None) == (threads == 64)
    assert note is None or f"computing with {threads} of 64 possible threads" in note
    assert {name: os.environ.get(name) for name in WAIT_VARIABLES} == dict.fromkeys(WAIT_VARIABLES) | WAITING


def test_numbers_of_threads_and_ways_to_wait_of_the_user_are_left_alone(environment):
    environment.setattr(settings, "free_cores", lambda: 0.0)
    environment.setenv("TF_NUM_INTRAOP_THREADS", "5")
    environment.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert configure_process() is None
    assert [os.environ[name] for name in THREAD_VARIABLES] == ["5"] * 3
    assert "GOMP_SPINCOUNT" not in os.environ
