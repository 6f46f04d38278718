"""The run directory: its files, what may be written there, and readers for what it holds."""

import numpy as np
import pytest

from pipeline import UserError, load_recipe, load_run
from pipeline.runs.directory import CONTENTS, RunDirectory
from pipeline.runs.record import RunIdentity
from tests.helpers.run_writer import NUM_TRAIN, NUM_VALIDATION, write_run

IDENTITY = RunIdentity(recipe="sentiment_bert", framework="torch", attention="stock", seed=0)


@pytest.fixture
def directory(tmp_path):
    """A finished run of the bundled recipe with one epoch."""
    return RunDirectory(write_run(tmp_path / "run"))


@pytest.fixture
def recipe():
    return load_recipe("sentiment_bert", {"train.epochs": 1})


def test_a_finished_run_holds_the_files_of_the_contract(directory):
    assert directory.contents() == set(CONTENTS) == {
        "recipe.yaml", "metrics.json", "history.jsonl", "predictions.jsonl", "probe.npz", "environment.json", "model",
    }  # fmt: skip
    assert directory.is_finished and not directory.is_unfinished


def test_readers_give_what_the_files_hold(directory, recipe):
    history = directory.history()
    assert [step.step for step in history] == [1, 2, 3, 4] and sum(s.examples for s in history) == NUM_TRAIN
    assert [line["index"] for line in directory.predictions()] == list(range(NUM_VALIDATION))
    probe = directory.probe()
    assert probe.before.shape == (8, 2) and np.allclose(probe.after, probe.before + 1, atol=1e-6)
    assert directory.environment().processor == "A Processor"
    assert directory.recipe() == recipe


def test_the_recipe_of_an_older_run_says_what_older_versions_did(directory):
    lines = directory.recipe_file.read_text(encoding="utf-8").splitlines(keepends=True)
    older = [line for line in lines if not line.strip().startswith(("batching:", "dropout_masks:"))]
    assert len(older) == len(lines) - 2
    directory.recipe_file.write_text("".join(older), encoding="utf-8")
    recipe = directory.recipe()
    assert (recipe.data.batching, recipe.train.dropout_masks) == ("sorted", "framework")


def test_a_run_shows_itself_in_one_line(directory):
    run = load_run(directory.path)
    assert run.metrics == run.record.metrics and run.directory == directory
    assert repr(run) == f"<Run sentiment_bert torch/stock seed 0: accuracy 0.9, loss 0.3; {directory.path}>"


def test_the_finished_run_of_the_same_recipe_is_returned(directory, recipe):
    run = directory.finished_run(recipe, IDENTITY, overwrite=False)
    assert run == load_run(directory.path)
    assert directory.finished_run(recipe, IDENTITY, overwrite=True) is None


def test_a_folder_that_is_missing_or_empty_may_be_written(tmp_path, recipe):
    (tmp_path / "empty").mkdir()
    for name in ("missing", "empty"):
        directory = RunDirectory(tmp_path / name)
        assert not directory.is_finished and not directory.is_unfinished
        assert directory.finished_run(recipe, IDENTITY, overwrite=False) is None


def test_remains_of_a_run_without_a_readable_record_are_unfinished(directory):
    directory.metrics_file.write_text('{"recipe": "sent')
    assert directory.is_unfinished
    (directory.path / "thesis.txt").write_text("years of work")
    assert not directory.is_unfinished


@pytest.mark.parametrize(
    ("changes", "overrides", "message"),
    [
        ({"seed": 5}, {}, "holds a run of another seed; choose another folder with out"),
        ({"framework": "tensorflow", "seed": 5}, {}, "holds a run of another framework and seed; "),
        ({}, {"train.learning_rate": 1e-3}, "holds a run of another setting of the recipe; .*overwrite=True"),
    ],
)
def test_another_run_is_refused_by_what_differs(directory, recipe, changes, overrides, message):
    with pytest.raises(UserError, match=message) as error:
        directory.finished_run(recipe.override(overrides), IDENTITY.model_copy(update=changes), overwrite=False)
    assert error.value.arguments == ("out", "overwrite")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("metrics.json", "[]", "metrics.json is not what a run writes"),
        ("metrics.json", '{"recipe"', "metrics.json cannot be read as JSON"),
        ("recipe.yaml", "name: x", "task is missing"),
        ("recipe.yaml", "a: [", "cannot be read as YAML"),
    ],
)
def test_a_damaged_run_is_refused_with_the_ways_out(directory, recipe, file, content, message):
    (directory.path / file).write_text(content)
    with pytest.raises(UserError, match="choose another folder with out, or replace that run with overwrite=True") as e:
        directory.finished_run(recipe, IDENTITY, overwrite=False)
    assert message in str(e.value) and e.value.arguments == ("out", "overwrite")
    assert directory.finished_run(recipe, IDENTITY, overwrite=True) is None


def test_the_default_folder_names_who_runs_it_and_marks_a_changed_recipe(recipe):
    shipped = load_recipe("sentiment_bert")
    changed = RunDirectory.default(recipe, shipped, "torch", "own:Class", 7).path
    assert str(changed) == f"runs/sentiment_bert/torch-own.Class-seed7-{recipe.digest()}"
    assert (
        str(RunDirectory.default(shipped, shipped, "torch", "stock", 0).path) == "runs/sentiment_bert/torch-stock-seed0"
    )


@pytest.mark.parametrize(
    ("path", "own"),
    [
        ("run/metrics.json", True), ("run.checkpoints/step-1/weights", True), (".run.partial-7/metrics.json", True),
        ("rows.arrow", False), ("runs/metrics.json", False), ("../run", False), (".run.lock", True),
        (".run.b.partial-7/metrics.json", False),
    ],
)  # fmt: skip
def test_a_path_is_told_from_those_of_others(tmp_path, path, own):
    assert RunDirectory(tmp_path / "run").owns(tmp_path / path) is own


@pytest.mark.parametrize("name", ["thesis.txt", "photos/", "model/notes.txt", "model/adapters/"])
def test_a_run_with_other_peoples_files_is_not_replaced(directory, recipe, name):
    """Neither in whole when it is repeated, nor as remains of a run that never ended."""
    foreign = directory.path / name
    foreign.mkdir() if name.endswith("/") else foreign.write_text("years of work")
    with pytest.raises(UserError, match=f"also holds what no run writes: {name.rstrip('/')}. Replacing") as refused:
        directory.finished_run(recipe, IDENTITY, overwrite=True)
    assert refused.value.arguments == ("out",) and foreign.exists()
    directory.metrics_file.unlink()
    assert not directory.is_unfinished


def test_attention_maps_that_were_drawn_of_a_run_go_with_it(directory, recipe):
    (directory.path / "attention.png").touch()
    assert directory.finished_run(recipe, IDENTITY, overwrite=True) is None


def test_files_that_come_into_a_run_while_it_is_repeated_stay(directory):
    with directory.staged() as staging:
        (directory.path / "thesis.txt").write_text("years of work")
        staging.metrics_file.write_text("new")
    assert directory.contents() == {"thesis.txt", "metrics.json"} and directory.metrics_file.read_text() == "new"


def test_a_path_without_a_name_is_that_of_the_folder(tmp_path, monkeypatch):
    (tmp_path / "run" / "model").mkdir(parents=True)
    for here, path in (("run", "."), ("run/model", "..")):
        monkeypatch.chdir(tmp_path / here)
        assert RunDirectory.at(path).checkpoints_folder == tmp_path / "run.checkpoints"
    assert RunDirectory.at("a/b").path.parts == ("a", "b")


def test_a_folder_without_a_record_is_not_a_finished_run(tmp_path):
    with pytest.raises(UserError, match="is not a finished run: it has no metrics.json"):
        load_run(tmp_path)
