"""Settings for the whole test run, and what the tests of several folders need. Both frameworks must be installed."""

import os
import tempfile

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
os.environ["HF_HUB_OFFLINE"] = "1"
# Tests run beside one another: each process computes with one thread, and none reads what another has cached.
os.environ["OMP_NUM_THREADS"] = os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["TF_NUM_INTEROP_THREADS"] = "1"
CACHE = tempfile.TemporaryDirectory(prefix="twinstep-tests-")
os.environ["HF_DATASETS_CACHE"] = CACHE.name
# Dozens of processes are started, each of which would compile the pipeline's code anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

from pipeline.utils.environment import configure_process

configure_process()

import json
import sys
from pathlib import Path

import pytest
import transformers  # noqa: F401 -- it looks for frameworks once, so before a command keeps the process to one

from pipeline.recipe.loading import load_recipe
from tests.helpers.memory import GraphMemory
from tests.helpers.one_framework import SkipOnImport, is_case_of, skip_other_pythons

FRAMEWORKS = ("torch", "tensorflow")
GRAPH_MEMORY = GraphMemory(growth_mib=400)
TESTS = Path(__file__).parent
# The files that take a minute or more, which are begun first: otherwise one worker would still have one when the other
# has nothing left to do.
LONGEST = [
    TESTS / name
    for name in (
        "distributed/test_training.py", "comparison/test_lockstep.py", "training/test_processes.py",
        "test_documented_commands.py", "frameworks/test_packed.py", "training/test_resume.py", "training/test_run.py",
        "comparison/test_comparison.py", "tasks/test_every_task.py", "frameworks/test_swap_weights.py",
        "frameworks/test_swap.py", "test_documentation.py", "cli/test_cli.py",
    )
]  # fmt: skip


def pytest_collection_modifyitems(config, items):
    """Puts the tests of the files in LONGEST first; with `--only`, leaves out cases of the other framework."""
    if only := config.getoption("--only"):
        left_out = [item for item in items if is_case_of(item, set(FRAMEWORKS) - {only})]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)
    assert all(path.exists() for path in LONGEST), "LONGEST names a file that is not there"
    items.sort(key=lambda item: LONGEST.index(item.path) if item.path in LONGEST else len(LONGEST))


def pytest_addoption(parser):
    parser.addoption("--only", choices=FRAMEWORKS, help="the one framework that is installed; else both must be")


def pytest_configure(config):
    if only := config.getoption("--only"):
        import datasets  # noqa: F401 -- it looks for frameworks once, so before they seem to be there

        sys.meta_path.insert(0, SkipOnImport(set(FRAMEWORKS) - {only}))
        skip_other_pythons(only)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown():
    """Keeps the memory of a worker that has run thousands of tests below 3 GB."""
    GRAPH_MEMORY.free_if_grown()


@pytest.fixture(scope="session")
def shared():
    """The folder of real data sets and tokenizers, or None where this checkout has none beside it."""
    folder = os.environ.get("PIPELINE_SHARED")
    return Path(folder) if folder else None


@pytest.fixture(params=FRAMEWORKS)
def framework(request):
    """Each framework in turn; one that is missing fails, it is not skipped."""
    return request.param


@pytest.fixture(scope="session")
def small():
    """The recipe `sentiment_bert` on 96 rows: seconds instead of half a minute."""
    return load_recipe("sentiment_bert", {"data.limit.train": 96, "data.limit.validation": 40, "train.epochs": 1})


@pytest.fixture
def rows_to_file(tmp_path):
    """Writes rows as JSON lines and returns the path."""

    def write(name, rows):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write
