"""Runs in which a debugger can stop inside the attention, in either framework: where it stops, what it trains."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import finetune
from pipeline.utils.errors import UserError
from tests.helpers.families import recipe_of
from tests.helpers.interruption import read_lines

ROOT = Path(__file__).resolve().parents[2]
LAYERS = 3
# Of each layer: the proof of the swap, the probe before training, two steps, the validation, the probe afterwards. A
# graph would be traced once for all probes and the validation, and once for both steps.
LEAST_CALLS = LAYERS * (1 + 1 + 2 + 1 + 1)


@pytest.fixture
def recipe(tmp_path):
    """A recipe of two steps, whose validation split is one batch."""
    return recipe_of("single-label", tmp_path, num_rows=32)


@pytest.mark.slow
def test_each_operation_by_itself_trains_the_same(framework, recipe, tmp_path):
    runs = [finetune(recipe, framework, out=tmp_path / f"{eager}", debug_eager=eager) for eager in (False, True)]
    graph, eager = ([line["loss"] for line in read_lines(run.path / "history.jsonl")] for run in runs)
    assert len(eager) == 2 and eager == pytest.approx(graph, rel=1e-6)
    # What the framework records of itself says that the speed is not its usual one.
    records = [run.directory.environment().framework.get("execution") for run in runs]
    assert records == ([None, "eager"] if framework == "tensorflow" else [None, None])


@pytest.fixture
def edited_clone(tmp_path):
    """A copy of the code in which someone has put a breakpoint into both attentions."""
    shutil.copytree(ROOT / "pipeline", tmp_path / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("pytorch", "tensorflow"):
        file = tmp_path / "pipeline" / folder / "attention.py"
        text = file.read_text(encoding="utf-8")
        before, found, after = text.partition("    scale = ")
        assert "def attend" in before and found
        file.write_text(f"{before}    breakpoint()\n{found}{after}", encoding="utf-8")
    return tmp_path


@pytest.mark.slow
def test_a_breakpoint_in_the_attention_stops_in_each_call_and_shows_numbers(framework, recipe, edited_clone):
    (edited_clone / "mine.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    commands = [sys.executable, "-m", "pipeline", "finetune", "mine.yaml", "--framework", framework]
    commands += ["--attention", "handwritten", "--out", "run", "--debug-eager"]
    environment = os.environ | {"PYTHONPATH": str(edited_clone), "HF_DATASETS_CACHE": str(edited_clone)}
    answers = "p 'a number', float(q_BHTK[0, 0, 0, 0])\nc\n"
    done = subprocess.run(
        commands,
        cwd=edited_clone,
        env=environment,
        input=answers * 2 * LEAST_CALLS,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr
    folder = "pytorch" if framework == "torch" else framework
    stops = done.stdout.count(f"{edited_clone}/pipeline/{folder}/attention.py(")
    assert stops >= LEAST_CALLS
    assert done.stdout.count("attend()") == stops
    assert done.stdout.count("(Pdb) ('a number', ") == stops
    assert (edited_clone / "run" / "metrics.json").exists()


def test_several_processes_are_not_debugged(recipe, tmp_path):
    with pytest.raises(UserError, match=r"debug_eager=True is for one process, .* but 2 train together"):
        finetune(recipe, processes=2, debug_eager=True, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
