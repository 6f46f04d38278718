"""What a process that is the pipeline's own sets for its libraries."""

import logging
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy
import pytest

from pipeline.utils import environment as settings
from pipeline.utils.cores import WAIT_VARIABLES
from pipeline.utils.environment import (
    DEFAULTS,
    THREAD_VARIABLES,
    configure_process,
    legacy_keras,
    preserved_random_state,
    without_native_noise,
)
from tests.helpers.one_framework import IS_VERSION_5

ROOT = Path(__file__).resolve().parents[2]
LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


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


def test_a_process_that_only_starts_others_imports_neither_framework(environment):
    code = (
        "import sys; from pipeline.utils.environment import *; configure_process(NO_FRAMEWORK); import transformers; "
        "import pipeline.tour.report; sys.exit(str({'torch', 'tensorflow'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    # Version 5 of transformers imports PyTorch wherever it is installed.
    assert ended.stderr == ("{'torch'}\n" if IS_VERSION_5 else "set()\n")


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


@pytest.mark.parametrize(("free", "threads"), [(64.0, 64), (40.4, 40), (0.2, 1)])
def test_a_process_has_a_thread_for_each_core_that_is_free_and_says_if_that_is_not_all(free, threads, environment):
    environment.setattr(settings, "free_cores", lambda: free)
    environment.setattr(settings, "usable_cores", lambda: 64)
    note = configure_process()
    assert [os.environ[name] for name in THREAD_VARIABLES] == [str(threads)] * 3
    assert (note is None) == (threads == 64)
    assert note is None or f"computing with {threads} of 64 possible threads" in note
    assert {name: os.environ.get(name) for name in WAIT_VARIABLES} == dict.fromkeys(WAIT_VARIABLES)


def test_numbers_of_threads_and_ways_to_wait_of_the_user_are_left_alone(environment):
    environment.setattr(settings, "free_cores", lambda: 0.0)
    environment.setenv("TF_NUM_INTRAOP_THREADS", "5")
    environment.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert configure_process() is None
    assert [os.environ[name] for name in THREAD_VARIABLES] == ["5"] * 3
    assert "GOMP_SPINCOUNT" not in os.environ


def test_the_time_since_the_launch_is_told_once_and_only_in_a_process_that_was_configured():
    code = (
        "import time; from pipeline.utils.environment import configure_process, seconds_since_launch\n"
        "early = seconds_since_launch(); configure_process(); time.sleep(0.5)\n"
        "print(early, seconds_since_launch(), seconds_since_launch())"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    early, told, again = done.stdout.split()
    assert (early, again) == ("None", "None")
    assert 0.5 <= float(told) <= time.monotonic() - began + 0.02  # the system counts in hundredths of a second


@pytest.mark.skipif(
    not LARGE_PAGES.exists() or "[never]" in LARGE_PAGES.read_text(), reason="the system has no large pages to ask for"
)
@pytest.mark.parametrize("setting", [{}, {"MALLOC_TRIM_THRESHOLD_": "131072"}], ids=["by default", "set by the user"])
def test_memory_comes_in_large_pages_unless_the_user_has_set_how(setting):
    # NumPy asks for large pages by itself, from 4 MB on.
    code = (
        "import re, numpy; from pipeline.utils.environment import configure_process, give_back_freed_memory\n"
        "configure_process(); give_back_freed_memory()\n"
        "array = numpy.ones(2**18); at = array.ctypes.data\n"
        "for line in open('/proc/self/smaps'):\n"
        "    place = re.match('([0-9a-f]+)-([0-9a-f]+) ', line)\n"
        "    inside = int(place[1], 16) <= at < int(place[2], 16) if place else inside\n"
        "    if inside and line.startswith('VmFlags:'): print('hg' in line.split())\n"
        "print(next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | setting
    )
    has_large_pages, peak_kilobytes = done.stdout.split()
    assert has_large_pages == str(not setting)
    assert int(peak_kilobytes) < 200_000  # what is reserved is not in use
