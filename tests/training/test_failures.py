"""Runs that fail: one clear message, the last valid training checkpoint kept, nothing half-written left."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline import UserError, finetune
from pipeline.runs.record import RunIdentity
from pipeline.training import checkpoints as checkpoints_module
from pipeline.training.checkpoints import TrainingCheckpoints
from pipeline.training.experiment import prepare
from pipeline.training.state import SavedState
from pipeline.training.trainer import Trainer
from pipeline.utils.errors import RunFailure
from pipeline.utils.files import locked

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def checkpoints(tmp_path):
    """The training checkpoints of the run in tmp_path / "run"."""
    return TrainingCheckpoints(tmp_path / "run.checkpoints", keep=2)


@pytest.fixture
def first_step_saved(tiny, checkpoints):
    """A training checkpoint of step 1 of the tiny recipe, made from other data."""
    state = SavedState(
        step=1,
        identity=RunIdentity(recipe="tiny", framework="torch", attention="stock", seed=0),
        experiment=tiny.experiment(),
        fingerprints={"data": "0", "checkpoint": None},
        versions={},
        seconds=0.0,
    )
    checkpoints.save("step-00000001", {"weights.0": np.zeros(1), "step": np.array(0)}, state)


def full_disk(*arguments, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    "name, value, message",
    [("WORLD_SIZE", "2", "has WORLD_SIZE=2, .* no RANK and no MASTER_ADDR"), ("TF_CONFIG", "{", "TF_CONFIG={, which")],
)
def test_processes_that_cannot_find_each_other_are_refused_before_they_train(
    name, value, message, tiny, tmp_path, monkeypatch
):
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        finetune(tiny, out=tmp_path / "run")
    assert not list(tmp_path.glob("*run*"))


def test_a_loss_that_is_nan_stops_the_run_and_names_the_batch(tiny, checkpoints, tmp_path, monkeypatch):
    from pipeline.pytorch import train

    calls, original = [], train.weighted_loss

    def nan_at_the_second_call(*arguments):
        calls.append(1)
        return original(*arguments) * (float("nan") if len(calls) == 2 else 1.0)

    monkeypatch.setattr(train, "weighted_loss", nan_at_the_second_call)
    with pytest.raises(RunFailure) as failure:
        finetune(tiny, seed=3, out=tmp_path / "run")
    rows = ", ".join(str(row + 1) for row in prepare(tiny).training_plan(0, 3)[1].rows)
    message = str(failure.value)
    assert message.startswith("the loss of step 2 is nan, so the run stops.")
    assert f"examples {rows} (counted from 1). Lower train.learning_rate (0.0005)" in message
    newest, _ = checkpoints.newest()
    assert newest.step == 1 and f"The last training checkpoint is {newest.path}" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_weights_that_are_not_finite_are_never_saved(framework, tiny, checkpoints, tmp_path):
    recipe = tiny.override({"train.learning_rate": 1e38, "train.weight_decay": 10.0})
    with pytest.raises(RunFailure, match="There is no training checkpoint"):
        finetune(recipe, framework, out=tmp_path / "run")
    assert checkpoints.names() == []


@pytest.mark.parametrize("keep", ["last", "best"])
@pytest.mark.slow
def test_a_run_whose_last_step_diverges_is_not_completed(framework, keep, tiny, tmp_path, monkeypatch):
    """No loss of a step comes after it, only that of the evaluation."""
    rates = lambda train, num_steps: np.array([1e-4] * (num_steps - 1) + [1e38])  # noqa: E731
    monkeypatch.setattr("pipeline.training.trainer.learning_rates", rates)
    recipe = tiny.override({"train.save_every": None, "train.keep": keep})
    with pytest.raises(RunFailure, match=r"^the validation loss after step 3 is (nan|inf), so the run stops"):
        finetune(recipe, framework, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_run_whose_results_are_not_finite_is_not_completed(split, tiny, tmp_path, monkeypatch):
    """Weights that no validation row reads, or a loss of the test split alone."""
    recipe = tiny.override({"train.save_every": None, "data.files.test": str(tmp_path / "validation.jsonl")})
    if split == "validation":
        monkeypatch.setattr("pipeline.training.trainer.are_finite", lambda arrays: False)
        message = "^weights are not finite after step 3, so the run stops"
    else:
        original = Trainer.evaluate

        def evaluate(trainer, name, epoch):
            found = original(trainer, name, epoch)
            return found if name != "test" else found.model_copy(update={"metrics": {"loss": float("nan")}})

        monkeypatch.setattr(Trainer, "evaluate", evaluate)
        message = "^the test loss after step 3 is nan, so the run stops"
    with pytest.raises(RunFailure, match=message):
        finetune(recipe, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_more_steps_than_can_be_planned_are_refused(tiny, monkeypatch):
    message = "48 training examples in batches of 1 for 10,000 epochs are 480,000 steps, but at most 479,999"
    monkeypatch.setattr("pipeline.training.experiment.MOST_STEPS", 479_999)
    with pytest.raises(UserError, match=message):
        prepare(tiny.override({"train.epochs": 10_000, "train.batch_size": 1}))


def test_a_full_disk_leaves_the_newest_valid_checkpoint(tiny, checkpoints, tmp_path, monkeypatch):
    original, calls = checkpoints_module.write_safetensors, []

    def full_at_the_second_call(arrays, path):
        calls.append(path)
        original(arrays, path)
        if len(calls) == 2:
            full_disk()

    monkeypatch.setattr(checkpoints_module, "write_safetensors", full_at_the_second_call)
    with pytest.raises(RunFailure) as failure:
        finetune(tiny, out=tmp_path / "run")
    newest, _ = checkpoints.newest()
    message = f"step-00000002 cannot be written: No space left on device; the newest valid one is {newest.path}"
    assert newest.step == 1 and message in str(failure.value)
    assert [entry.name for entry in checkpoints.folder.iterdir()] == ["step-00000001"]


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("rows.arrow", "rows.arrow failed: No such file"),
        ("run.checkpoints/step-1/weights", "run cannot be written: No such file"),
        (".run.partial-7/metrics.json", "run cannot be written: No such file"),
        (3, "run cannot be written: No such file"),
    ],
)
def test_a_lost_file_is_named_unless_the_run_was_writing_it(file, message, tiny, tmp_path, monkeypatch):
    def lost(*arguments):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), file if file == 3 else str(tmp_path / file))

    monkeypatch.setattr("pipeline.pytorch.train.Learner.train_step", lost)
    with pytest.raises(RunFailure, match=re.escape(message)):
        finetune(tiny, out=tmp_path / "run")


def test_a_run_that_cannot_be_written_at_the_end_is_saved_and_finished_later(tiny, tmp_path, monkeypatch):
    recipe, out = tiny.override({"train.save_every": None}), tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.models.checkpoint.write_safetensors", full_disk)
        with pytest.raises(RunFailure, match="run cannot be written: No space left on device. .*evaluated is saved"):
            finetune(recipe, attention="handwritten", out=out)
    assert not out.exists()
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.pytorch.train.Learner.train_step", full_disk)  # nothing is trained again
        run = finetune(recipe, attention="handwritten", out=out, resume=True)
    assert run.record.train.steps == 3
    straight = finetune(recipe, attention="handwritten", out=tmp_path / "straight")
    weights = [each.path / "model" / "model.safetensors" for each in (run, straight)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_an_output_that_cannot_be_written_is_refused_before_anything_is_loaded(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.runs.directory.os.access", lambda path, mode: False)
    monkeypatch.setattr("pipeline.training.finetune.prepare", full_disk)
    with pytest.raises(UserError, match="run cannot be written: .* is not a folder that can be written to"):
        finetune(tiny, out=tmp_path / "run")


def test_a_data_file_that_vanished_keeps_the_checkpoints(tiny, checkpoints, first_step_saved, tmp_path):
    (tmp_path / "train.jsonl").unlink()
    with pytest.raises(UserError, match=r"data.files.train is .*train.jsonl, but there is no such file"):
        finetune(tiny, out=tmp_path / "run", resume=True)
    assert checkpoints.newest()[0].step == 1


def test_a_run_is_not_resumed_on_changed_data(tiny, checkpoints, first_step_saved, tmp_path):
    with pytest.raises(UserError, match="the data changed since .*step-00000001 was written") as error:
        finetune(tiny, out=tmp_path / "run", resume=True)
    assert error.value.arguments == ("overwrite",)
    assert checkpoints.newest()[0].step == 1


def test_a_second_process_is_kept_out_until_the_first_one_dies(tiny, tmp_path):
    folder = tmp_path / "run"
    code = (
        "import sys, time; from pathlib import Path; from pipeline.utils.files import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('has it', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, folder], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "has it\n"
    with pytest.raises(UserError, match=rf"being written by another process \({holder.pid}\); wait for it"):
        finetune(tiny, out=folder)
    holder.kill()
    holder.communicate()
    with locked(folder):  # the file is still there, the lock is not
        pass
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["train.jsonl", "validation.jsonl"]


def test_what_a_run_writes_lies_under_its_output(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for attention in ("../../x:Y", "/etc/x:Y"):
        with pytest.raises(UserError):
            finetune(tiny, attention=attention)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["train.jsonl", "validation.jsonl"]
