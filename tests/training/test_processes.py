"""A run in several processes that it starts itself: followed, stopped, restarted and refused like any other."""

import os
import resource
import shutil
import signal
import time

import numpy as np
import pytest

from pipeline import RunFailure, Stopped, UserError, finetune
from pipeline.models.safetensors_files import read_safetensors
from pipeline.training.callbacks import TrainingCallback
from pipeline.training.checkpoints import TrainingCheckpoints
from pipeline.training.signals import StopRequest
from tests.helpers.interruption import assert_same_outcome, kill_at
from tests.helpers.marks import heavy_in_tensorflow
from tests.utils.test_processes import has_ended


class Following(TrainingCallback):
    """Notes what happens, and does something after a step of the first start."""

    def __init__(self, step=None, action=lambda pids: None):
        self.step, self.action = step, action
        self.events, self.pids, self.acted_at = [], [], None

    def on_launch(self, pids):
        self.pids.append(pids)

    def on_restart(self, restart, restarts, cause):
        self.events.append((restart, restarts, cause))

    def on_resume(self, step, notes):
        self.events.append(("resume", step))

    def on_step_end(self, record):
        self.events.append(("step", record.step))
        if record.step == self.step and len(self.pids) == 1:
            self.acted_at = time.monotonic()
            self.action(self.pids[0])

    def on_run_end(self, run):
        self.events.append("end")

    def nothing_is_left(self):
        return all(has_ended(pid) for pids in self.pids for pid in pids)


def kill(rank):
    return lambda pids: os.kill(pids[rank], signal.SIGKILL)


def fill_the_disk(pids):
    """The first rank can write no file any more: as on a full disk, but seen by it alone."""
    resource.prlimit(pids[0], resource.RLIMIT_FSIZE, (1, 1))


# What is wrong with the recipe or done after step 7, and what the message says.
FAULTS = {
    "diverges": (
        {"train.learning_rate": 1e30},
        lambda pids: None,
        r"^the (loss|gradient norm) of step \d is (nan|inf), so",
    ),
    "full disk": (
        {},
        fill_the_disk,
        "cannot be written: .*File too large.* training checkpoint|File too large.*newest",
    ),
}


@pytest.mark.slow
@heavy_in_tensorflow
def test_a_killed_rank_ends_all_and_a_restart_gives_the_same_bits(framework, tiny, tmp_path):
    """The second run replaces the first one, which stays until the second is complete."""
    recipe, out, following = tiny.override({"train.dropout": 0.1}), tmp_path / "run", Following(2, kill(1))
    finetune(recipe, framework, out=out, processes=2)
    shutil.copytree(out, tmp_path / "first")
    run = finetune(recipe, framework, out=out, processes=2, restarts=1, overwrite=True, callback=following)
    steps = [event for event in following.events if event[0] in ("step", "resume")]
    assert steps == [("step", 1), ("step", 2), ("resume", steps[2][1]), *steps[3:]] and following.events[-1] == "end"
    (restarted,) = [event for event in following.events if event[0] == 1]
    assert restarted == (1, 1, "rank 1 of 2 was ended by signal 9 (SIGKILL), so the other ranks were ended, too")
    assert run.record.train.processes == run.directory.environment().processes == 2
    assert following.nothing_is_left() and len(following.pids) == 2
    assert_same_outcome(tmp_path / "first", out)


# Rank 1 is killed above, and by a heavy test in tests/test_documented_commands.py.
@pytest.mark.slow
def test_without_a_restart_the_error_says_which_rank_died_and_what_is_saved(tiny, tmp_path):
    following = Following(2, kill(0))
    with pytest.raises(RunFailure) as failure:
        finetune(tiny, out=tmp_path / "run", processes=2, callback=following)
    assert time.monotonic() - following.acted_at < 10 and following.nothing_is_left()
    saved = tmp_path / "run.checkpoints" / "step-0000000"
    assert str(failure.value).startswith(
        "rank 0 of 2 was ended by signal 9 (SIGKILL), so the other ranks were ended, too. The training "
        f"checkpoint {saved}"
    )
    assert failure.value.arguments == ("resume",) and not (tmp_path / "run").exists()


# Of what follows, TensorFlow's own part is in the two processes of tests/distributed/test_training.py.
@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_that_cannot_go_on_ends_all_processes_within_ten_seconds_with_one_message(fault, tiny, tmp_path, capfd):
    changes, action, message = FAULTS[fault]
    recipe = tiny.override({"train.epochs": 100, "train.save_every": 5, **changes})
    following = Following(7, action)
    with pytest.raises(RunFailure, match=message) as failure:
        finetune(recipe, out=tmp_path / "run", processes=2, callback=following)
    assert "rank 1" not in str(failure.value)
    assert following.acted_at is None or time.monotonic() - following.acted_at < 10
    assert following.nothing_is_left() and capfd.readouterr().err == ""
    newest, skipped = TrainingCheckpoints(tmp_path / "run.checkpoints", 2).newest()
    assert not skipped and (newest is None) == (fault == "diverges")


# One that goes on where two had stopped is in tests/distributed/test_training.py, as is the refusal.
@pytest.mark.slow
def test_two_processes_go_on_where_one_had_stopped_if_allowed_and_differ_by_rounding(tiny, tmp_path):
    recipe, out = tiny.override({"train.dropout": 0.1}), tmp_path / "run"
    whole = finetune(recipe, out=tmp_path / "whole")
    kill_at(("step", 2), recipe, out=out)
    run = finetune(recipe, out=out, processes=2, resume=True, change_processes=True)
    assert run.record.train.resumed_at == [1] and run.record.train.processes == 2
    steps = [[(each.loss, each.grad_norm) for each in one.directory.history()] for one in (whole, run)]
    assert np.array(steps[1]) == pytest.approx(np.array(steps[0]), rel=1e-4)
    ours, theirs = (read_safetensors(one.directory.weights_file) for one in (whole, run))
    assert max(np.abs(weight - theirs[name]).max() for name, weight in ours.items()) < 1e-4


def test_masks_that_each_process_would_draw_for_itself_are_refused_before_one_starts(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.training.finetune.RunInProcesses.call", None)
    recipe = tiny.override({"train.dropout_masks": "framework", "train.dropout": 0.1})
    with pytest.raises(UserError, match="train.dropout_masks is framework, so each of the 2 processes would draw"):
        finetune(recipe, out=tmp_path / "run", processes=2)
    assert not list(tmp_path.glob("*run*"))


@pytest.mark.slow
def test_a_run_in_processes_is_asked_to_stop_as_any_other(tiny, tmp_path):
    stop = StopRequest()
    following = Following(1, lambda pids: setattr(stop, "requested", True))
    recipe = tiny.override({"train.epochs": 20, "train.save_every": None})
    with pytest.raises(Stopped, match=r"^stopped; the training checkpoint .*run.checkpoints/step-0.* is saved; resume"):
        finetune(recipe, out=tmp_path / "run", processes=2, stop=stop, callback=following)
    assert time.monotonic() - following.acted_at < 10 and following.nothing_is_left()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"processes": 0}, "processes is 0, but must be a whole number from 1"),
        ({"processes": "2"}, "processes is '2', but must be a whole number from 1"),
        ({"restarts": -1}, "restarts is -1, but must be a whole number from 0"),
        ({"processes": 2, "seed": -1}, "seed is -1"),
        ({"processes": 2, "resume": True, "overwrite": True}, "give one of them"),
        ({"processes": 2, "recipe": "sentiment_bart"}, "sentiment_bart"),
    ],
)
def test_wrong_arguments_are_refused_before_a_process_starts(arguments, message, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.training.finetune.RunInProcesses.call", None)
    with pytest.raises(UserError, match=message):
        finetune(**{"recipe": tiny, "out": tmp_path / "run"} | arguments)


def test_a_process_of_another_launcher_starts_none_of_its_own(tiny, tmp_path, monkeypatch):
    for name, value in {"WORLD_SIZE": "4", "RANK": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"this is process 3 of 4 that train together .* must not start 2 of its own"):
        finetune(tiny, out=tmp_path / "run", processes=2)
