"""Killed and resumed: the end is bit-identical to that of the run that never stopped."""

import hashlib
import json
import os
import re
import shutil
import signal

import numpy as np
import pytest

from pipeline import UserError, finetune
from pipeline.runs.directory import load_run
from pipeline.training.callbacks import TrainingCallback
from pipeline.training.checkpoints import TrainingCheckpoints
from pipeline.training.kill_test import Moment, compare, drill, moments
from pipeline.training.signals import StopOnSignal
from pipeline.utils.errors import Stopped
from tests.helpers.families import recipe_of

FAMILIES = {"bert": "single-label", "gpt2": "causal rows", "t5": "sequence-to-sequence"}
# Everything that a resumed run must bring back: dropout, accumulation, best weights, patience. Three updates an epoch.
CHANGES = {
    "train.epochs": 2, "train.dropout": 0.1, "train.keep": "best", "train.keep_metric": "loss",
    "train.early_stopping": 1, "train.save_every": 2, "data.limit.validation": 8,
}  # fmt: skip


class Killed(BaseException):
    """In place of SIGKILL."""


class Kill(TrainingCallback):
    """Breaks the run off the first time that it tells of a chosen moment, such as ("update", 3)."""

    def __init__(self, *moment):
        self.moment, self.resumed_at, self.notes = moment, None, []

    def reached(self, *moment):
        if moment == self.moment:
            raise Killed

    def on_resume(self, step, notes):
        self.resumed_at, self.notes = step, notes

    def on_step_end(self, line):
        self.reached("update", line["step"])

    def on_evaluate_begin(self, epoch):
        self.reached("evaluating", epoch)

    def on_save_begin(self, step):
        self.reached("saving", step)

    def on_save_end(self, step):
        self.reached("saved", step)


def killed(moment, *arguments, **options):
    """Run until the moment; returns the update after which this part began."""
    kill = Kill(*moment)
    with pytest.raises(Killed):
        finetune(*arguments, **options, callback=kill)
    return kill.resumed_at


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def outcome(folder):
    """All of a run that must not depend on whether it was killed."""
    report = load_run(folder).record.model_dump()
    with np.load(folder / "probe.npz") as probe:
        logits = {name: probe[name].tobytes() for name in probe}
    return {
        "weights": hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest(),
        "predictions": (folder / "predictions.jsonl").read_bytes(),
        "history": [{k: v for k, v in line.items() if k != "seconds"} for line in lines(folder / "history.jsonl")],
        "probe": logits,
        "report": {k: report.get(k) for k in ("metrics", "evaluations", "kept_epoch", "test", "data")},
    }


def assert_same(first, second):
    first, second = outcome(first), outcome(second)
    for key in first:
        assert first[key] == second[key], key


@pytest.mark.parametrize("family", FAMILIES)
def test_a_killed_run_ends_as_the_one_that_never_stopped(framework, family, tmp_path):
    also = {"train.gradient_accumulation": 1 if family == "t5" else 2}
    also |= {"train.precision": "bf16"} if family == "bert" else {}
    recipe = recipe_of(FAMILIES[family], tmp_path, changes=CHANGES | also)
    # GPT-2 with our attention, whose dropout must come back too.
    how = {"framework": framework, "attention": "handwritten" if family == "gpt2" else "stock"}
    straight = finetune(recipe.override({"train.save_every": None}), **how, out=tmp_path / "straight")
    options = how | {"out": tmp_path / "killed"}
    killed(("update", 3), recipe, **options)
    assert killed(("evaluating", 2), recipe, **options, resume=True) == 2  # in the middle of the first epoch
    resumed = finetune(recipe, **options, resume=True)  # between the last update and its evaluation
    assert_same(straight.path, resumed.path)
    train = resumed.record.train
    assert (train.resumed_at, straight.record.train.resumed_at) == ([2, 6], [])
    seconds = [line["seconds"] for line in lines(resumed.path / "history.jsonl")]
    assert seconds == sorted(seconds) and train.seconds == seconds[-1]
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix != ".jsonl") == ["killed", "straight"]


def test_a_resumed_run_stops_early_where_the_other_did(framework, tmp_path):
    changes = CHANGES | {"train.epochs": 5, "train.learning_rate": 1e-12, "train.dropout": 0.0}
    recipe = recipe_of("single-label", tmp_path, changes=changes)
    straight = finetune(recipe, framework, out=tmp_path / "straight")
    evaluations = straight.record.evaluations
    assert 1 < len(evaluations) < 5  # patience is 1, and nothing gets better
    killed(("update", 3 * len(evaluations) - 1), recipe, framework, out=tmp_path / "killed")
    assert_same(straight.path, finetune(recipe, framework, out=tmp_path / "killed", resume=True).path)


def test_a_run_resumed_at_its_last_update_can_be_stopped_once_more(tmp_path):
    recipe = recipe_of("single-label", tmp_path, changes={"train.save_every": 3})
    straight = finetune(recipe.override({"train.save_every": None}), out=tmp_path / "straight")
    killed(("evaluating", 1), recipe, out=tmp_path / "run")  # after the last update, before its evaluation
    assert killed(("saved", 3), recipe, out=tmp_path / "run", resume=True) == 3  # evaluated and saved, nothing written
    assert_same(straight.path, finetune(recipe, out=tmp_path / "run", resume=True).path)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A PyTorch run killed after its checkpoints of updates 1 and 2, and its recipe."""
    folder = tmp_path_factory.mktemp("interrupted")
    recipe = recipe_of("single-label", folder, changes={"train.save_every": 1})
    killed(("update", 3), recipe, out=folder / "run")
    return folder, recipe


@pytest.fixture
def copied(interrupted, tmp_path):
    """The interrupted run for one test alone."""
    folder, recipe = interrupted
    shutil.copytree(folder / "run.checkpoints", tmp_path / "run.checkpoints")
    return tmp_path / "run", recipe


def test_only_what_can_be_gone_on_with_is_left(interrupted):
    folder, _ = interrupted
    assert sorted(entry.name for entry in folder.iterdir() if entry.suffix != ".jsonl") == ["run.checkpoints"]
    checkpoints = folder / "run.checkpoints"
    assert sorted(entry.name for entry in checkpoints.iterdir()) == ["step-00000001", "step-00000002"]
    assert sorted(entry.name for entry in (checkpoints / "step-00000002").iterdir()) == [
        "manifest.json", "state.json", "state.safetensors",
    ]  # fmt: skip


def test_an_altered_checkpoint_is_named_and_the_one_before_it_taken(copied):
    out, recipe = copied
    newest = out.with_name("run.checkpoints") / "step-00000002"
    content = bytearray((newest / "state.safetensors").read_bytes())
    content[len(content) // 2] ^= 1
    (newest / "state.safetensors").write_bytes(content)
    seen = Kill()
    # How often a run saves itself changes nothing of what comes out, so the recipe counts as the same.
    finetune(
        recipe.override({"train.save_every": None, "train.keep_checkpoints": 5}), out=out, resume=True, callback=seen
    )
    assert seen.resumed_at == 1
    assert [str(newest) in note and "was altered" in note for note in seen.notes] == [True]
    assert sorted(entry.name for entry in out.parent.iterdir()) == ["run"]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"seed": 1, "resume": True}, "holds checkpoints of another run: seed 0, not 1"),
        ({"framework": "tensorflow", "resume": True}, 'framework "torch", not "tensorflow"'),
        ({"attention": "handwritten", "resume": True}, 'attention "stock", not "handwritten"'),
        ({"train.learning_rate": 1e-5, "resume": True}, "recipe's setting train learning_rate 0.0005, not 1e-05"),
        ({}, "holds checkpoints of an unfinished run; go on with --resume"),
        ({"resume": True, "overwrite": True}, "give one of them"),
    ],
)
def test_what_would_lose_or_mix_up_work_is_refused(copied, options, message):
    out, recipe = copied
    changes = {key: options.pop(key) for key in list(options) if "." in key}
    with pytest.raises(UserError, match=re.escape(message)):
        finetune(recipe.override(changes), **options, out=out)
    assert TrainingCheckpoints(out.with_name("run.checkpoints"), 2).newest()[0].step == 2


def test_resuming_a_finished_run_says_so(copied):
    out, recipe = copied
    told = []

    class Told(TrainingCallback):
        def on_run_found(self, run):
            told.append(run.path)

    for _ in range(2):
        run = finetune(recipe, out=out, resume=True, callback=Told())
    assert told == [run.path]
    assert not out.with_name("run.checkpoints").exists()


def test_torn_checkpoints_are_passed_over_and_later_ones_given_up(tmp_path):
    snapshots = TrainingCheckpoints(tmp_path / "run.checkpoints", keep=2)
    assert snapshots.newest() == (None, [])
    for step in (1, 2, 3, 4):
        snapshots.save(f"step-{step:08d}", {"x": np.arange(step)}, {"step": step})
    assert [int(name[-8:]) for name in snapshots.names()] == [4, 3]
    newest = snapshots.folder / "step-00000004"
    for name, fault in (("state.json", "is torn"), ("manifest.json", "manifest is torn")):
        path = newest / name
        path.write_bytes(path.read_bytes()[:-5])
        found, reasons = snapshots.newest()
        assert found.step == 3 and found.arrays()["x"].tolist() == [0, 1, 2]
        assert len(reasons) == 1 and str(newest) in reasons[0] and fault in reasons[0]
    (newest / "manifest.json").unlink()
    assert "no manifest" in snapshots.newest()[1][0]
    snapshots.save("step-00000003", {"x": np.arange(3)}, {"step": 3})  # a course that never reached 4
    assert [int(name[-8:]) for name in snapshots.names()] == [3]


class Signals(Kill):
    """Signals its own process at chosen moments."""

    def __init__(self, signals):
        super().__init__()
        self.signals, self.stops = signals, 0

    def reached(self, *moment):
        if moment in self.signals:
            os.kill(os.getpid(), self.signals[moment])

    def on_stop_requested(self):
        self.stops += 1


@pytest.mark.parametrize(
    "signals, message, steps",
    [
        ({("update", 2): signal.SIGTERM}, "stopped; .*step-00000002 is saved; --resume", 2),
        # Inside an evaluation the state is that of the last update.
        ({("evaluating", 1): signal.SIGINT}, "stopped; .*step-00000003 is saved; --resume", 3),
        ({("update", 2): signal.SIGINT, ("saving", 2): signal.SIGINT}, "stopped; nothing was written", None),
    ],
)
def test_a_signal_saves_and_a_second_one_does_not(tmp_path, signals, message, steps):
    recipe, seen = recipe_of("single-label", tmp_path), Signals(signals)
    # Where tests run in the background SIGINT is ignored, and a run leaves an ignored signal alone.
    outer = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with pytest.raises(Stopped, match=message):
            finetune(recipe, out=tmp_path / "run", callback=seen, stop=StopOnSignal())
        assert all(signal.getsignal(number) == signal.default_int_handler for number in outer)
    finally:
        for number, handler in outer.items():
            signal.signal(number, handler)
    assert seen.stops == 1
    found, _ = TrainingCheckpoints(tmp_path / "run.checkpoints", 2).newest()
    assert (found and found.step) == steps
    assert not (tmp_path / "run").exists() and not list(tmp_path.glob(".run*"))


def test_the_drill_kills_for_real_and_finds_no_difference(framework, tmp_path):
    recipe = recipe_of("single-label", tmp_path, changes={"train.dropout": 0.1, "train.save_every": 1})
    report = drill(recipe, framework, kills=1, seed=2)
    assert report.passed, report.as_text()
    killed, resumed = report.parts
    assert killed.killed.phase == "training" and resumed.resumed_at >= 1
    assert "killed 1 times: the same to the bit" in report.as_text()


def test_the_drill_would_see_a_difference(copied):
    out, recipe = copied
    run = finetune(recipe, out=out, resume=True)
    shutil.copytree(run.path, run.path.with_name("other"))
    assert all(compare(run.path, run.path.with_name("other")).values())
    history = run.path.with_name("other") / "history.jsonl"
    changed = [line | {"loss": line["loss"] + 1e-12, "seconds": 0} for line in lines(history)]
    history.write_text("".join(json.dumps(line) + "\n" for line in changed))
    assert [name for name, same in compare(run.path, history.parent).items() if not same] == ["history but its seconds"]


def test_the_drills_moments_follow_the_run_and_cover_its_phases():
    found = moments(8, seed=0, num_updates=90, num_epochs=3)
    assert found == moments(8, seed=0, num_updates=90, num_epochs=3) != moments(8, 1, 90, 3)
    assert [moment.update for moment in found] == sorted(moment.update for moment in found)
    assert {moment.phase for moment in found} == {"training", "saving", "evaluation", "start-up"}
    assert all(isinstance(moment, Moment) and 1 <= moment.update <= 90 for moment in found)
