"""Trackers: what TensorBoard reads of a run, resumed or not, and that no tracker can stop or change one."""

import json
import re
import subprocess
import sys
import threading

import numpy as np
import pytest
from matplotlib import image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from pipeline import finetune
from pipeline.runs.record import StepRecord
from pipeline.training.callbacks import TrainingCallback
from pipeline.training.trackers import tracking
from pipeline.training.trackers.base import Point, TrackedRun
from pipeline.training.trackers.tensorboard import TensorBoard
from pipeline.training.trackers.tracking import Tracking, track_report
from tests.helpers.families import recipe_of
from tests.helpers.interruption import assert_same_outcome, kill_at, read_lines

RUN = TrackedRun("abc123", "torch-stock-seed0", "tiny", None, {"train.epochs": 3, "task": "x", "keep_head": False})


class Noting(TrainingCallback):
    """Notes the trackers that failed, and after which step the run was told."""

    def __init__(self):
        self.failures, self.steps = [], 0

    def on_step_end(self, record):
        self.steps = record.step

    def on_tracker_failed(self, tracker, cause):
        self.failures.append((tracker, cause, self.steps))


class Remembering:
    """A tracker that keeps what it is told, and fails or waits at a chosen moment."""

    def __init__(self, fails_at="", waits_at="", known=0):
        self.fails_at, self.waits_at, self.known = fails_at, waits_at, known
        self.run, self.points, self.files, self.outcome = None, [], [], None
        self.released = threading.Event()

    def __call__(self, run):
        self.run = run
        self.reached("open")
        return self

    def reached(self, moment):
        if moment == self.waits_at:
            self.released.wait(60)
        if moment == self.fails_at:
            raise OSError(28, "No space left on device")

    def last_step(self, name):
        assert name in ("train/loss", "validation/loss")
        return self.known

    def log(self, points):
        self.reached("log")
        self.points += points

    def add_files(self, files):
        self.reached("files")
        self.files += [file.name for file in files]

    def close(self, outcome):
        self.outcome = outcome
        self.reached("close")


@pytest.fixture
def tiny(tmp_path):
    """Three steps of a tiny BERT, which TensorBoard tracks."""
    return recipe_of("single-label", tmp_path, changes={"train.trackers": "tensorboard", "train.save_every": 1})


def with_tracker(monkeypatch, tracker, name="mlflow"):
    monkeypatch.setattr(tracking, "TRACKERS", {name: tracker})


def scalars(folder):
    """Each curve that TensorBoard itself finds in a folder, as its steps and values."""
    found = EventAccumulator(str(folder)).Reload()
    return {
        tag: ([event.step for event in found.Scalars(tag)], [event.value for event in found.Scalars(tag)])
        for tag in found.Tags()["scalars"]
    }


def assert_tracked(run, folder):
    """TensorBoard has each step of a run once, with the values of its history, and its scores."""
    found, history = scalars(folder), read_lines(run.path / "history.jsonl")
    for name in ("loss", "learning_rate", "grad_norm", "epoch"):
        steps, values = found[f"train/{name}"]
        assert steps == [line["step"] for line in history]
        assert values == np.float32([line[name] for line in history]).tolist()
    seconds = np.diff([0, *(line["seconds"] for line in history)])
    speed = [line["examples"] for line in history] / seconds
    np.testing.assert_allclose(found["train/examples_per_second"][1], speed, rtol=1e-6)
    assert found["validation/accuracy"] == ([3], [np.float32(run.metrics["accuracy"])])
    assert found["train/peak_memory_mib"][1][-1] > 100


def test_tensorboard_reads_each_step_and_the_scores(framework, tiny, tmp_path):
    run = finetune(tiny, framework, out=tmp_path / "run")
    assert_tracked(run, tmp_path / "run.tensorboard")
    found = EventAccumulator(str(tmp_path / "run.tensorboard")).Reload()
    (recorded,) = found.Tensors("metrics.json/text_summary")
    assert json.loads(recorded.tensor_proto.string_val[0].decode().strip("`\n"))["status"] == "completed"
    content = found.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    start = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    assert start.hparams["train.learning_rate"].number_value == 5e-4
    assert start.hparams["framework"].string_value == framework
    assert start.hparams["perturb_weights"].bool_value is False


def test_a_resumed_run_has_each_step_once_in_tensorboard(tiny, tmp_path):
    # Killed after step 2 was tracked and before it was saved.
    kill_at(("save", 2), tiny, out=tmp_path / "run")
    run = finetune(tiny, out=tmp_path / "run", resume=True)
    assert run.record.train.resumed_at == [1]
    assert len(list((tmp_path / "run.tensorboard").iterdir())) == 1
    assert_tracked_steps(run, tmp_path)


def assert_tracked_steps(run, folder):
    steps, values = scalars(folder / "run.tensorboard")["train/loss"]
    assert steps == [1, 2, 3]
    assert values == np.float32([line["loss"] for line in read_lines(run.path / "history.jsonl")]).tolist()


def test_a_resumed_run_is_the_same_to_a_tracker_and_not_told_twice(tiny, tmp_path, monkeypatch):
    first, second = Remembering(), Remembering(known=2)
    with_tracker(monkeypatch, first)
    changed = tiny.override({"train.trackers": ["mlflow"]})
    kill_at(("save", 3), changed, out=tmp_path / "run")
    with_tracker(monkeypatch, second)
    finetune(changed, out=tmp_path / "run", resume=True)
    assert first.run.id == second.run.id and first.run.name == second.run.name == "run"
    assert (first.outcome, second.outcome) == ("failed", "finished")
    assert [point.step for point in first.points] == [1, 2, 3]
    assert [(point.kind, point.step) for point in second.points] == [("train", 3), ("validation", 3)]
    assert second.files == ["recipe.yaml", "metrics.json", "environment.json"]


def test_what_a_tracker_lacks_of_the_steps_before_is_told_again(tiny, tmp_path, monkeypatch):
    kill_at(("save", 3), tiny.override({"train.trackers": ()}), out=tmp_path / "run")
    tracker = Remembering()
    with_tracker(monkeypatch, tracker)
    run = finetune(tiny.override({"train.trackers": ["mlflow"]}), out=tmp_path / "run", resume=True)
    told = {point.step: point.values["loss"] for point in tracker.points if point.kind == "train"}
    assert told == {line["step"]: line["loss"] for line in read_lines(run.path / "history.jsonl")}


@pytest.mark.parametrize("moment", ["open", "log", "files", "close"])
def test_a_tracker_that_fails_is_named_once_and_changes_nothing(moment, tiny, tmp_path, monkeypatch):
    plain = finetune(tiny.override({"train.trackers": ()}), out=tmp_path / "plain")
    noting, tracker = Noting(), Remembering(fails_at=moment)
    with_tracker(monkeypatch, tracker)
    run = finetune(tiny.override({"train.trackers": ["mlflow"]}), out=tmp_path / "run", callback=noting)
    ((name, cause, step),) = noting.failures
    assert name == "mlflow" and "No space left on device" in cause
    assert step == 0 or moment != "open"
    assert_same_outcome(plain.path, run.path)


@pytest.mark.parametrize("moment", ["open", "log", "close"])
def test_a_tracker_that_does_not_answer_is_left_alone_at_the_end(moment, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "SECONDS_TO_OPEN", 0.1)
    monkeypatch.setattr(tracking, "SECONDS_TO_CLOSE", 0.1)
    noting, tracker = Noting(), Remembering(waits_at=moment)
    with_tracker(monkeypatch, tracker)
    finetune(tiny.override({"train.trackers": ["mlflow"]}), out=tmp_path / "run", callback=noting)
    tracker.released.set()
    ((name, cause, step),) = noting.failures
    assert (name, step) == ("mlflow", 3) and "did not take everything" in cause


def test_a_tracker_that_lags_too_far_behind_is_given_up(monkeypatch):
    monkeypatch.setattr(tracking, "MOST_WAITING", 5)
    monkeypatch.setattr(tracking, "SECONDS_TO_CLOSE", 0.1)
    tracker, noting = Remembering(waits_at="log"), Noting()
    with_tracker(monkeypatch, tracker)
    lagging = Tracking(["mlflow"], RUN, noting.on_tracker_failed)
    for epoch in range(20):
        lagging.on_evaluate_end(epoch, {"loss": 1.0})
    lagging.close("finished")
    tracker.released.set()
    assert [(name, cause) for name, cause, _ in noting.failures] == [("mlflow", "5 points are waiting for it")]


def test_a_failed_tracker_is_printed_with_the_progress_and_a_quiet_call_warns(tmp_path, tiny, monkeypatch, capsys):
    with_tracker(monkeypatch, Remembering(fails_at="open"))
    recipe = tiny.override({"train.trackers": ["mlflow"]})
    finetune(recipe, out=tmp_path / "run")
    assert re.search("the tracker mlflow failed .* No space left", capsys.readouterr().err)
    with pytest.warns(UserWarning, match="the tracker mlflow failed .* No space left"):
        finetune(recipe, out=tmp_path / "run", overwrite=True, quiet=True)


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_says_how_to_install_it(name, tmp_path, monkeypatch):
    for module in list(sys.modules):
        if module.partition(".")[0] == name:
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    noting = Noting()
    Tracking([name], TrackedRun("a", "b", "c", tmp_path, {}), noting.on_tracker_failed).close("finished")
    ((failed, cause, _),) = noting.failures
    assert failed == name and f"{name} is not installed; pip install '.[trackers]'" in cause


def test_scores_that_are_undefined_are_not_tracked(monkeypatch):
    tracker = Remembering()
    with_tracker(monkeypatch, tracker)
    tracked = Tracking(["mlflow"], RUN, Noting().on_tracker_failed)
    tracked.on_step_end(
        StepRecord(step=7, epoch=1, loss=0.5, learning_rate=0.1, grad_norm=1.0, examples=16, tokens=90, seconds=1.0)
    )
    tracked.on_evaluate_end(1, {"loss": 0.5, "pearson": float("nan"), "spearman": None})
    tracked.close("finished")
    assert tracker.points[-1] == Point("validation", 7, {"loss": 0.5})


def test_the_figures_of_a_report_are_pictures_in_tensorboard(tmp_path, small):
    folder = tmp_path / "report"
    (folder / "figures").mkdir(parents=True)
    image.imsave(folder / "figures" / "scores.png", np.zeros((3, 5, 3)))
    (folder / "report.md").write_text("# sentiment_bert")
    (folder / "results.json").write_text("{}")
    noting = Noting()
    track_report(small.override({"train.trackers": ["tensorboard"]}), folder, noting.on_tracker_failed)
    found = EventAccumulator(str(tmp_path / "report.tensorboard")).Reload()
    (picture,) = found.Images("scores")
    assert picture.encoded_image_string == (folder / "figures" / "scores.png").read_bytes() and noting.failures == []
    (text,) = found.Tensors("report.md/text_summary")
    assert text.tensor_proto.string_val == [b"```\n# sentiment_bert\n```"]


def test_tensorboard_sees_a_step_at_once(tmp_path):
    tracker = TensorBoard(TrackedRun("a", "b", "c", tmp_path, {}))
    for step in (1, 2):
        tracker.log([Point("train", step, {"loss": 0.5})])
        assert scalars(tmp_path)["train/loss"][0] == list(range(1, step + 1))
    tracker.close("finished")


def test_tracking_with_tensorboard_imports_no_framework(tmp_path):
    code = (
        "import sys; from pathlib import Path;"
        "from pipeline.training.trackers.base import Point, TrackedRun;"
        "from pipeline.training.trackers.tensorboard import TensorBoard;"
        f"tracker = TensorBoard(TrackedRun('a', 'b', 'c', Path({str(tmp_path)!r}), {{'lr': 0.1}}));"
        "tracker.log([Point('train', 1, {'loss': 1.0})]); tracker.close('finished');"
        "print(sorted({'torch', 'tensorflow'} & set(sys.modules)))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


@pytest.mark.slow
def test_of_several_processes_one_tracks(tiny, tmp_path):
    run = finetune(tiny, out=tmp_path / "run", processes=2)
    assert len(list((tmp_path / "run.tensorboard").iterdir())) == 1
    assert_tracked(run, tmp_path / "run.tensorboard")


def test_trackers_are_no_part_of_the_experiment(tiny):
    assert tiny.digest() == tiny.override({"train.trackers": ["wandb", "mlflow"]}).digest()
