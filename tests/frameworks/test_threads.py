"""How PyTorch's threads wait for each other while other processes need the cores."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.utils.cores import WAIT_VARIABLES
from tests.helpers.one_framework import needs

ROOT = Path(__file__).resolve().parents[2]
# Prints how many threads more there are than the cores while others are said to need them, how many of these are left
# afterwards, and whether a product had the same bits. The argument is for how many seconds more threads are waited for.
PROGRAM = """
import contextlib, os, sys, time
import torch
from pipeline.pytorch import model
from pipeline.utils.cores import usable_cores

@contextlib.contextmanager
def at_once(threads, measure):
    with measure():
        yield

def wait(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)

def number():
    return len(os.listdir("/proc/self/task"))

torch.set_num_threads(2)
numbers = torch.linspace(-3, 3, 2**20).reshape(1024, 1024)
model.while_cores_are_missing = at_once
alone, before = numbers @ numbers.T, number()
with model.threads(None):
    wait(lambda: number() > before + usable_cores(), float(sys.argv[1]))
    more = number() - before
    beside = numbers @ numbers.T
wait(lambda: number() == before, 20)
print(more - usable_cores(), number() - before, torch.equal(alone, beside))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in Linux' /proc")
@pytest.mark.parametrize("variables", [{}, {"GOMP_SPINCOUNT": "300000"}], ids=["unset", "set by the user"])
def test_an_idle_team_makes_openmp_wait_shortly_unless_the_user_said_how_threads_wait(variables):
    needs("torch")
    # Without what a command, called in this process by another test, chose for the library.
    unset = (*WAIT_VARIABLES, "USE_TORCH", "USE_TF")
    environment = {name: value for name, value in os.environ.items() if name not in unset} | variables
    seconds = "1" if variables else "20"
    program = [sys.executable, "-c", PROGRAM, seconds]
    done = subprocess.run(program, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    more, left, same = done.stdout.split()
    # The team is one thread more than there are cores: then OpenMP lets none of its threads try again for long.
    assert int(more) == 1 if not variables else int(more) <= 0
    assert (left, same) == ("0", "True")
