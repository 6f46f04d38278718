"""The files of a run's model are verified: no flipped bit passes, whoever reads the run, and older runs are read."""

import json
import random

import pytest

from pipeline import UserError, attention_maps, finetune, load_run, predict
from pipeline.cli.main import execute
from pipeline.comparison.run_set import read_run
from pipeline.runs.model_files import MODEL_CARD, records_of, refuse_altered
from tests.helpers.damage import flips
from tests.helpers.families import recipe_of
from tests.helpers.interruption import sha256

TEXT = "The room was clean."


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model-files")
    return finetune(recipe_of("single-label", folder, num_rows=16), out=folder / "run")


@pytest.fixture
def run(trained):
    """The run, put back as it was after the test."""
    before = {
        file: file.read_bytes() for file in (*trained.directory.model_folder.iterdir(), trained.path / "metrics.json")
    }
    yield trained
    for file, content in before.items():
        file.write_bytes(content)


def flip(file, seed=0):
    """Flip one bit of a file."""
    rng, content = random.Random(seed), bytearray(file.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)


def test_a_run_records_size_and_sha256_of_every_file_of_its_model_but_the_card(run):
    folder, recorded = run.directory.model_folder, run.record.model_files
    files = [file for file in folder.iterdir() if file.name != "README.md"]
    assert {file.name: [file.stat().st_size, sha256(file)] for file in files} == {
        name: [record.bytes, record.sha256] for name, record in recorded.items()
    }
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= recorded.keys()


def test_no_flipped_bit_of_a_model_passes(run):
    folder = run.directory.model_folder
    (folder / MODEL_CARD).unlink()
    for file, flipped in flips(folder, 300, seed=9):
        with pytest.raises(UserError, match=f"{file.name} was altered"):
            refuse_altered(folder, run.record.model_files, thorough=True)
            pytest.fail(f"{flipped} passes")
    refuse_altered(folder, run.record.model_files, thorough=True)


def test_every_use_of_an_altered_model_is_refused_with_the_file_and_the_ways_out(run, tmp_path, capsys):
    weights = run.directory.model_folder / "model.safetensors"
    flip(weights)
    assert load_run(run.path) == run  # large files are read when they are used
    for use in (lambda: list(predict(run, [TEXT])), lambda: attention_maps(run, text=TEXT)):
        with pytest.raises(UserError, match="model.safetensors was altered .*; restore it or repeat the run"):
            use()
    commands = (["predict", run.path, "--text", TEXT], ["attention-maps", run.path, "--text", TEXT])
    for command in commands:
        assert execute([*map(str, command), "--out", str(tmp_path / "out")]) == 2
        assert "model.safetensors was altered" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    weights.write_bytes(weights.read_bytes()[:-1])
    config = run.directory.model_folder / "config.json"
    for file, fault in ((weights, "is cut off"), (config, "was altered")):
        if file == config:
            flip(config)
            weights.write_bytes(b"\0" * run.record.model_files["model.safetensors"].bytes)
        for read in (load_run, read_run):
            with pytest.raises(UserError, match=f"{file.name} {fault}"):
                read(run.path)


def test_a_file_that_is_missing_is_named_when_the_model_is_loaded_and_not_before(run):
    (run.directory.model_folder / "tokenizer.json").unlink()
    assert read_run(run.path).record == load_run(run.path).record
    with pytest.raises(UserError, match="tokenizer.json is missing; restore it or repeat the run"):
        predict(run, [TEXT])


def test_a_model_that_was_changed_on_purpose_is_used_once_its_entry_is_gone(run):
    config, metrics = run.directory.model_folder / "config.json", run.path / "metrics.json"
    values = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(
        json.dumps(values | {"id2label": {"0": "awful", "1": "splendid"}, "label2id": {"awful": 0, "splendid": 1}})
    )
    with pytest.raises(UserError, match=f"delete its entry in model_files of {metrics}, and it is not verified"):
        load_run(run.path)
    record = json.loads(metrics.read_text(encoding="utf-8"))
    del record["model_files"]["config.json"]
    metrics.write_text(json.dumps(record))
    (line,) = predict(run.path, [TEXT])
    assert line["prediction"] in ("awful", "splendid")


def test_a_run_of_an_older_version_and_an_edited_model_card_are_used_as_they_are(run):
    (run.directory.model_folder / MODEL_CARD).write_text("my notes")
    assert load_run(run.path) == run
    metrics = run.path / "metrics.json"
    record = json.loads(metrics.read_text(encoding="utf-8"))
    del record["model_files"]
    metrics.write_text(json.dumps(record))
    flip(run.directory.model_folder / "model.safetensors", seed=4)
    assert load_run(run.path).record.model_files == {}
    assert [line["index"] for line in predict(run.path, [TEXT])] == [0]


def test_links_to_devices_are_not_read(run):
    file = run.directory.model_folder / "tokenizer.json"
    file.unlink()
    file.symlink_to("/dev/zero")
    with pytest.raises(UserError, match="tokenizer.json is missing"):
        refuse_altered(run.directory.model_folder, run.record.model_files, thorough=True)
    file.unlink()


def test_records_of_a_folder_come_in_the_order_of_names(run):
    assert list(records_of(run.directory.model_folder)) == sorted(run.record.model_files)
