"""The kill test: it kills for real, finds no difference, and would find one."""

import json
import shutil

import pytest

from pipeline import finetune
from pipeline.training.kill_test import PHASES, Moment, compare_runs, kill_moments, kill_test
from tests.helpers.families import recipe_of
from tests.helpers.interruption import read_lines
from tests.helpers.marks import heavy_in_tensorflow


@pytest.mark.slow
@heavy_in_tensorflow
def test_the_kill_test_kills_for_real_and_finds_no_difference(framework, tmp_path):
    recipe = recipe_of("single-label", tmp_path, changes={"train.dropout": 0.1, "train.save_every": 1})
    report = kill_test(recipe, framework, num_kills=1, seed=2)
    assert report.passed, report.as_text()
    killed, resumed = report.segments
    assert killed.killed_in in ("training", "saving") and resumed.resumed_at >= 1
    assert "killed 1 times: identical to the bit" in report.as_text()


def test_the_kill_test_would_find_a_difference(interrupted_copy):
    out, recipe = interrupted_copy
    run = finetune(recipe, out=out, resume=True)
    shutil.copytree(run.path, run.path.with_name("other"))
    assert all(compare_runs(run.path, run.path.with_name("other")).values())
    history = run.path.with_name("other") / "history.jsonl"
    changed = [line | {"loss": line["loss"] + 1e-12, "seconds": 0.0} for line in read_lines(history)]
    history.write_text("".join(json.dumps(line) + "\n" for line in changed))
    assert [name for name, same in compare_runs(run.path, history.parent).items() if not same] == [
        "history except its seconds"
    ]


def test_the_moments_follow_the_run_and_cover_its_phases():
    kills = [(phase, "SIGKILL") for phase in PHASES * 2]
    found = kill_moments(kills, 0, num_steps=90, steps_per_epoch=30)
    assert found == kill_moments(kills, 0, 90, 30) != kill_moments(kills, 1, 90, 30)
    assert [moment.step for moment in found] == sorted(moment.step for moment in found)
    assert {moment.phase for moment in found} == {"training", "saving", "evaluation", "start-up", "final save"}
    assert all(isinstance(moment, Moment) and 1 <= moment.step <= 90 for moment in found)
    assert [moment.step for moment in found if moment.phase == "final save"] == [90, 90]
