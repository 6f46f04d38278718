"""A run from recipe to directory, in both frameworks: what is written, what is refused, what is kept."""

import functools
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pipeline import UserError, finetune, load_recipe
from pipeline.data.batches import padded_batch
from pipeline.pytorch.attention import MultiHeadAttention
from pipeline.recipe.loading import load_shipped
from pipeline.runs.directory import RunDirectory
from pipeline.training.callbacks import TrainingCallback
from pipeline.training.experiment import check, prepare
from tests.helpers.interruption import read_lines, sha256

FILES = {"recipe.yaml", "metrics.json", "history.jsonl", "predictions.jsonl", "probe.npz", "environment.json", "model"}


@pytest.fixture(scope="module")
def plain_run(small, tmp_path_factory):
    """Gives the finished run of a framework with seed 3, trained once; no test may change it."""
    folder = tmp_path_factory.mktemp("plain")

    @functools.cache
    def finished(framework):
        return finetune(small, framework, seed=3, out=folder / framework / "run")

    return finished


@pytest.fixture(scope="module")
def run_with_test_split(small, tmp_path_factory):
    """Gives the finished run of a framework with seed 3 that has a test split, trained once; no test may change it."""
    folder = tmp_path_factory.mktemp("with-test-split")
    files = {"data.files.test": small.data.files.validation, "data.limit.test": 24}

    @functools.cache
    def finished(framework):
        return finetune(small.override(files), framework, seed=3, out=folder / framework / "run")

    return finished


@pytest.mark.slow
def test_a_run_leaves_what_the_contract_says(framework, small, plain_run):
    run = plain_run(framework)
    assert {entry.name for entry in run.path.iterdir()} == FILES
    assert [entry.name for entry in run.path.parent.iterdir()] == ["run"]
    report = json.loads((run.path / "metrics.json").read_text())
    assert {key: report[key] for key in ("recipe", "framework", "attention", "seed", "status")} == {
        "recipe": "sentiment_bert", "framework": framework, "attention": "stock", "seed": 3, "status": "completed",
    }  # fmt: skip
    assert (report["attention_sites"], report["train"]["steps"]) == (0, 3)
    assert report["data"]["train"] == {"rows": 96, "truncated": 0}
    labels = Counter(row["label"] for row in read_lines(Path(small.data.files.train))[:96])
    assert report["data"]["labels"]["train"] == dict(labels) and len(labels) == 2
    assert report["data"]["observed"]["validation"] == {"unknown tokens": 0, "rows that training has too": 0}
    assert report["train"]["peak_memory_bytes"] > 1e8
    assert 0 < report["train"]["padding_fraction"] < 0.15 and report["train"]["batching"] == "packed"
    assert report["train"]["examples_per_second"] == pytest.approx(96 / report["train"]["seconds"])

    history = read_lines(run.path / "history.jsonl")
    assert [line["step"] for line in history] == [1, 2, 3]
    assert sum(line["examples"] for line in history) == 96
    assert list(history[0]) == [
        "step", "epoch", "loss", "learning_rate", "grad_norm", "examples", "tokens", "seconds",
    ]  # fmt: skip
    assert report["train"]["first_step_seconds"] == history[0]["seconds"] < history[2]["seconds"]
    assert sum(line["tokens"] for line in history) == prepare(small).examples["train"].lengths.sum()

    predictions = read_lines(run.path / "predictions.jsonl")
    assert [line["index"] for line in predictions] == list(range(40))
    right = np.mean([line["prediction"] == line["reference"] for line in predictions])
    assert run.metrics["accuracy"] == pytest.approx(right)
    with np.load(run.path / "probe.npz") as probe:
        assert probe["logits_before"].shape == probe["logits_after"].shape == (8, 2)
        assert not np.allclose(probe["logits_before"], probe["logits_after"])
    config = json.loads((run.path / "model" / "config.json").read_text())
    assert config["id2label"] == {"0": "negative", "1": "positive"}
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert "0.1.0" not in (run.path / "model" / "README.md").read_text()


def test_the_resolved_recipe_of_a_run_can_be_run(small, tmp_path):
    first = finetune(small, out=tmp_path / "first")
    again = finetune(load_recipe(first.path / "recipe.yaml"), out=tmp_path / "again")
    assert sha256(first.path / "model" / "model.safetensors") == sha256(again.path / "model" / "model.safetensors")


@pytest.mark.slow
def test_the_same_seed_gives_bit_identical_weights_and_another_seed_does_not(
    framework, small, plain_run, run_with_test_split, tmp_path
):
    """A split that is only scored changes no weight."""
    runs = [plain_run(framework), run_with_test_split(framework)]
    if framework == "torch":
        runs.append(finetune(small, seed=2, out=tmp_path / "other"))
    prints = [sha256(run.path / "model" / "model.safetensors") for run in runs]
    assert prints[0] == prints[1] not in prints[2:]


@pytest.mark.slow
def test_both_frameworks_start_from_the_same_model_and_batches(small, plain_run):
    runs = [plain_run(framework) for framework in ("torch", "tensorflow")]
    with np.load(runs[0].path / "probe.npz") as first, np.load(runs[1].path / "probe.npz") as second:
        assert np.abs(first["logits_before"] - second["logits_before"]).max() <= 1e-5
    histories = [read_lines(run.path / "history.jsonl") for run in runs]
    for key in ("examples", "tokens", "learning_rate", "epoch"):
        assert [line[key] for line in histories[0]] == [line[key] for line in histories[1]]
    assert runs[0].record.batches == runs[1].record.batches
    assert len(runs[0].record.batches) == 1


# Runs of TensorFlow do both in tests/tasks/test_every_task.py, where the other framework loads the checkpoint.
def test_a_run_with_the_handwritten_attention_proves_it_and_saves_a_stock_checkpoint(small, tmp_path):
    run = finetune(small, attention="handwritten", out=tmp_path / "run")
    config = json.loads((run.path / "model" / "config.json").read_text())
    assert run.record.attention_sites == config["num_hidden_layers"]
    assert 0 <= run.record.attention_max_difference <= 1e-4
    import transformers

    _, info = transformers.AutoModelForSequenceClassification.from_pretrained(
        run.path / "model", output_loading_info=True
    )
    assert not any(info.values()), info


class Seen(TrainingCallback):
    def __init__(self):
        self.calls = []

    def on_run_found(self, run):
        self.calls.append("already done")

    def on_run_end(self, run):
        self.calls.append("finished")


def test_a_finished_run_is_not_done_again_unless_asked(small, tmp_path):
    seen = Seen()
    for overwrite in (False, False, True):
        finetune(small, out=tmp_path / "run", overwrite=overwrite, callback=seen)
    assert seen.calls == ["finished", "already done", "finished"]
    with pytest.raises(UserError, match="holds a run of another seed; .*overwrite=True"):
        finetune(small, seed=5, out=tmp_path / "run")
    with pytest.raises(UserError, match="another setting of the recipe"):
        finetune(small.override({"train.learning_rate": 1e-3}), out=tmp_path / "run")


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_something_else_is_never_touched(small, tmp_path, overwrite):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="holds something that is not a run"):
        finetune(small, out=tmp_path, overwrite=overwrite)
    with pytest.raises(UserError, match="is a file"):
        finetune(small, out=tmp_path / "thesis.txt", overwrite=overwrite)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_run_that_fails_leaves_nothing(small, tmp_path):
    class Broken(TrainingCallback):
        def on_step_end(self, record):
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        finetune(small, out=tmp_path / "run", callback=Broken())
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_removed(small, tmp_path):
    remains = tmp_path / ".run.partial-4194303"  # no process of Linux has a higher number
    remains.mkdir()
    finetune(small, out=tmp_path / "run")
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


def test_the_default_folder_of_a_changed_recipe_has_its_digest(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = finetune(small)
    assert str(run.path) == f"runs/sentiment_bert/torch-stock-seed0-{small.digest()}"
    assert str(RunDirectory.default(small, small, "torch", "stock", 0).path) == "runs/sentiment_bert/torch-stock-seed0"


class OwnAttention(MultiHeadAttention):
    """An attention that computes what the hand-written one does."""


def test_a_recipe_may_be_a_path_and_an_attention_a_class(small, tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(small.to_yaml(), encoding="utf-8")
    run = finetune(str(path), attention=OwnAttention, out=tmp_path / "run")
    assert run.record.attention == f"{__name__}:OwnAttention" and run.record.attention_sites > 0


def test_the_default_folder_of_a_recipe_from_a_path_has_no_digest(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(small.to_yaml(), encoding="utf-8")
    assert str(finetune("small.yaml").path) == "runs/sentiment_bert/torch-stock-seed0"


@pytest.mark.slow
def test_keep_best_keeps_the_best_epoch_and_early_stopping_stops(framework, small, tmp_path):
    # A rate this high ruins the model after a while, so that the last epoch is not the best.
    changes = {
        "train.epochs": 12, "train.learning_rate": 0.02, "train.schedule": "constant", "train.keep": "best",
        "train.keep_metric": "loss", "train.early_stopping": 2,
    }  # fmt: skip
    run = finetune(small.override(changes), framework, out=tmp_path / "run")
    losses = [evaluation.metrics["loss"] for evaluation in run.record.evaluations]
    assert run.metrics["loss"] == min(losses)
    assert run.record.kept_epoch == losses.index(min(losses)) + 1 == len(losses) - 2 < 10
    again = check_loss(run, small)
    assert again == pytest.approx(run.metrics["loss"], abs=1e-5)


def check_loss(run, small):
    """The validation loss of the saved model, computed afresh in PyTorch."""
    import torch
    import transformers

    experiment = prepare(small.override({"checkpoint": str(run.path / "model")}))
    model = transformers.AutoModelForSequenceClassification.from_pretrained(run.path / "model").eval()
    examples = experiment.examples["validation"]
    batch = experiment.task.inputs(examples, padded_batch(np.arange(40), examples.lengths))
    labels = torch.tensor(examples.labels).long()
    with torch.no_grad():
        output = model(**{k: torch.tensor(v).long() for k, v in batch.items()}, labels=labels)
    return float(output.loss)


@pytest.mark.slow
def test_a_test_split_is_scored_once_at_the_end(framework, plain_run, run_with_test_split):
    run = run_with_test_split(framework)
    assert set(run.record.test) == set(run.metrics) == {"accuracy", "f1", "loss"}
    assert run.record.data.test["rows"] == 24
    right = [line["prediction"] == line["reference"] for line in read_lines(run.path / "predictions.jsonl")[:24]]
    assert run.record.test["accuracy"] == pytest.approx(np.mean(right))
    other = plain_run(framework)
    assert other.record.test is None and "test" not in json.loads((other.path / "metrics.json").read_text())


OPTIONS = {
    "label smoothing": {"train.label_smoothing": 0.2},
    "class weights": {"train.class_weights": {"negative": 1.0, "positive": 3.0}},
    "dropout": {"train.dropout": 0.0},
    "precision": {"train.precision": "bf16"},
}


# TensorFlow's training has them in tests/comparison/test_lockstep.py, and 16 bits in tests/frameworks/test_packed.py.
@pytest.mark.parametrize("name", OPTIONS)
def test_options_reach_the_training(name, small, plain_run, tmp_path):
    first = read_lines(plain_run("torch").path / "history.jsonl")
    changed = finetune(small.override(OPTIONS[name]), seed=3, out=tmp_path / "run")
    assert read_lines(changed.path / "history.jsonl")[0]["loss"] != first[0]["loss"]


# A T5 from random weights is trained in both frameworks in tests/comparison/test_lockstep.py.
def test_random_weights_are_another_start_from_the_same_architecture(small, tmp_path):
    run = finetune(small.override({"weights": "random"}), out=tmp_path / "run")
    assert run.record.checkpoint_fingerprint is None
    assert (run.path / "model" / "config.json").exists()


@pytest.mark.parametrize("attention", ["handwriten", "no.such:Thing", "os:path"])
def test_an_unknown_attention_is_refused(framework, small, tmp_path, attention):
    with pytest.raises(UserError, match="attention"):
        finetune(small, framework, attention=attention, out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_check_returns_the_experiment_and_writes_nothing(framework, small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    experiment = check(small, framework)
    assert experiment.task.labels == ("negative", "positive")
    assert os.listdir(tmp_path) == []


def test_the_recipe_of_the_quick_start_is_bundled():
    recipe = load_shipped("sentiment_bert")
    assert recipe.data.is_local and os.path.isdir(recipe.checkpoint)
