"""What a process that is the pipeline's own sets for its libraries."""

import logging
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy
import pytest

from pipeline.utils.environment import (
    DEFAULTS,
    configure_process,
    legacy_keras,
    preserved_random_state,
    usable_cores,
    without_native_noise,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def environment(monkeypatch):
    """This process's environment, put back after the test."""
    for name in ("USE_TORCH", "USE_TF", *DEFAULTS):
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
