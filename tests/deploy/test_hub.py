"""`push`: what reaches the Hub, byte for byte, and what does not; and one message for whatever is in the way."""

import getpass
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard, constants
from huggingface_hub import utils as hub_utils
from safetensors.numpy import load_file

from pipeline import UserError, finetune, push_run
from pipeline.cli.main import execute
from pipeline.recipe.loading import load_shipped
from tests.helpers.families import recipe_of
from tests.helpers.hub_server import READ_TOKEN, TOKEN, small_hub
from tests.helpers.run_writer import write_run

# What ends the connections of the Hub's client, by the name that its version has for it.
forget_connections = getattr(hub_utils, "reset_sessions", None) or huggingface_hub.close_session


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run whose data lie in a folder with a name of their own."""
    folder = tmp_path_factory.mktemp("folder-of-somebody")
    return finetune(recipe_of("single-label", folder), out=folder / "run")


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the run for one test alone."""
    shutil.copytree(trained.path, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub on this machine, where a token that may write is known."""
    with small_hub() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        # Another protocol, which needs a second server; the Hub takes either.
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.chdir(tmp_path)
        forget_connections()
        yield running
    forget_connections()


def test_every_byte_of_the_model_reaches_the_hub(run, hub):
    assert push_run(run, "somebody/tiny") == f"{hub.url}/somebody/tiny"
    received = hub.repositories["somebody/tiny"]
    names = {file.name for file in (run / "model").iterdir()}
    assert set(received) == names | {"recipe.yaml"} and "model.safetensors" in names
    for name in names - {"README.md"}:
        assert received[name] == (run / "model" / name).read_bytes(), name
    assert hub.private == {"somebody/tiny": False}
    assert hub.messages["somebody/tiny"] == ["tiny torch/stock seed 0, fine-tuned by twinstep"]


def test_the_card_says_what_the_hub_shows(run, hub, trained):
    push_run(run, "somebody/tiny", private=True)
    assert hub.private == {"somebody/tiny": True}
    text = hub.repositories["somebody/tiny"]["README.md"].decode()
    data = ModelCard(text).data
    scores = {result.metric_type: result.metric_value for result in data.eval_results}
    assert scores == pytest.approx(trained.metrics)
    assert (data.library_name, data.pipeline_tag, data.license) == ("transformers", "text-classification", "unknown")
    assert "id on the Hub, `somebody/tiny`" in text and "TFAutoModelForSequenceClassification" in text
    assert "`recipe.yaml` beside this file" in text


def test_nothing_of_the_machine_is_uploaded(run, hub, trained, tmp_path):
    config = json.loads((run / "model" / "tokenizer_config.json").read_text())
    config |= {"name_or_path": "/srv/secret", "tokenizer_file": "C:\\secret\\tokenizer.json"}
    (run / "model" / "tokenizer_config.json").write_text(json.dumps(config))
    record = json.loads((run / "metrics.json").read_text())
    del record["model_files"]["tokenizer_config.json"]
    (run / "metrics.json").write_text(json.dumps(record))
    push_run(run, "somebody/tiny")
    received = b"\n".join([*hub.bodies, *hub.repositories["somebody/tiny"].values()])
    private = ["folder-of-somebody", "secret", str(tmp_path), str(Path.home()), str(Path.cwd())]
    private += [getpass.getuser()] if len(getpass.getuser()) > 4 else []
    assert [word for word in private if word.encode() in received] == []
    recipe = yaml.safe_load(hub.repositories["somebody/tiny"]["recipe.yaml"])
    assert (recipe["checkpoint"], recipe["data"]["files"]["train"]) == ("bert", "train.jsonl")


def test_the_recipe_that_is_uploaded_is_one(run, hub, tmp_path):
    push_run(run, "somebody/tiny")
    (tmp_path / "recipe.yaml").write_bytes(hub.repositories["somebody/tiny"]["recipe.yaml"])
    assert load_shipped(tmp_path / "recipe.yaml").train == load_shipped(run / "recipe.yaml").train


@pytest.mark.slow
def test_a_pushed_model_loads_from_the_hub_by_its_name(run, hub, tmp_path):
    push_run(run, "somebody/tiny")
    code = (
        "from transformers import AutoModelForSequenceClassification as Model, AutoTokenizer;"
        "AutoTokenizer.from_pretrained('somebody/tiny');"
        f"Model.from_pretrained('somebody/tiny').save_pretrained({str(tmp_path / 'loaded')!r})"
    )
    # The library reads these variables when it is imported.
    of_the_hub = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "cache"), "USE_TF": "0"}
    subprocess.run([sys.executable, "-c", code], env=os.environ | of_the_hub, check=True)
    loaded, own = (load_file(folder / "model.safetensors") for folder in (tmp_path / "loaded", run / "model"))
    assert loaded.keys() == own.keys()
    for name, weight in own.items():
        np.testing.assert_array_equal(loaded[name], weight)


def test_a_card_that_was_edited_stays_as_it_is(run, hub):
    card = run / "model" / "README.md"
    card.write_text(card.read_text() + "\nMy own words.\n")
    push_run(run, "somebody/tiny")
    assert "My own words." in hub.repositories["somebody/tiny"]["README.md"].decode()


def test_a_card_of_an_older_version_is_written_anew(run, hub, trained):
    (run / "model" / "README.md").write_text("# tiny\n")
    push_run(run, "somebody/tiny")
    data = ModelCard(hub.repositories["somebody/tiny"]["README.md"].decode()).data
    assert {result.metric_type: result.metric_value for result in data.eval_results} == pytest.approx(trained.metrics)


def test_the_card_has_the_comparison_that_the_run_is_part_of(hub, tmp_path):
    for framework in ("torch", "tensorflow"):
        run = write_run(tmp_path / "runs" / framework, framework)
        (run / "model" / "README.md").write_text("---\nlicense: mit\n---\n# A card\n")
    assert execute(["report", "runs/torch", "runs/tensorflow"]) == 0
    push_run("runs/torch", "somebody/tiny")
    text = hub.repositories["somebody/tiny"]["README.md"].decode()
    assert "## Compared with the other variants" in text
    assert "| torch/stock | accuracy | 0.9000 |" in text and "| tensorflow/stock | accuracy | 0.9000 |" in text
    write_run(tmp_path / "runs" / "other")
    (tmp_path / "runs" / "other" / "model" / "README.md").write_text("---\nlicense: mit\n---\n# A card\n")
    push_run("runs/other", "somebody/other")
    assert "Compared" not in hub.repositories["somebody/other"]["README.md"].decode()


def test_a_repository_that_exists_is_changed_only_if_that_is_asked_for(run, hub):
    push_run(run, "somebody/tiny")
    with pytest.raises(UserError, match="exists already; choose another name.*overwrite=True"):
        push_run(run, "somebody/tiny")
    (run / "model" / "README.md").write_text("---\nlicense: mit\n---\n# Another card\n")
    push_run(run, "somebody/tiny", overwrite=True)
    assert "Another card" in hub.repositories["somebody/tiny"]["README.md"].decode()
    with pytest.raises(UserError, match="everybody can read it"):
        push_run(run, "somebody/tiny", overwrite=True, private=True)


@pytest.mark.parametrize(
    ("token", "message"),
    [("hf_wrong", "does not know the token"), (READ_TOKEN, "may not write to somebody/tiny"), ("", "nobody is logged")],
)
def test_a_wrong_token_is_one_message(token, message, run, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(run / "none"))
    with pytest.raises(UserError, match=message) as raised:
        push_run(run, "somebody/tiny")
    assert "\n" not in str(raised.value) and hub.repositories == {}


def test_a_hub_that_cannot_be_reached_is_one_message(run, hub, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="127.0.0.1:9 cannot be reached"):
        push_run(run, "somebody/tiny")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    forget_connections()
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        push_run(run, "somebody/tiny")


@pytest.mark.parametrize("part", ["preupload", "lfs/objects", "commit"])
def test_a_push_that_fails_half_way_leaves_no_half_model(part, run, hub):
    hub.fails_at, hub.fails_with = part, 400
    with pytest.raises(UserError, match="answered 400 when somebody/tiny was written"):
        push_run(run, "somebody/tiny")
    assert hub.repositories == {"somebody/tiny": {}}
    hub.fails_at = None
    push_run(run, "somebody/tiny", overwrite=True)
    assert "model.safetensors" in hub.repositories["somebody/tiny"]


@pytest.mark.parametrize("name", ["tiny", "a/b/c", "some body/tiny", "/tiny", "", "../x"])
def test_a_name_that_is_no_repository_is_refused(name, run, hub):
    with pytest.raises(UserError, match='as in "user/name"'):
        push_run(run, name)
    assert hub.bodies == []


def test_a_run_that_is_not_complete_or_was_altered_is_not_pushed(run, hub, tmp_path):
    (tmp_path / "unfinished").mkdir()
    with pytest.raises(UserError, match="is not a finished run"):
        push_run(tmp_path / "unfinished", "somebody/tiny")
    weights = run / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UserError, match="model.safetensors"):
        push_run(run, "somebody/tiny")
    assert hub.bodies == []


def test_the_command_prints_the_address_and_explains_its_options(run, hub, capsys):
    assert execute(["push", str(run), "--repo", "somebody/tiny", "--private"]) == 0
    assert f"{hub.url}/somebody/tiny" in capsys.readouterr().out
    assert execute(["push", str(run), "--repo", "somebody/tiny"]) == 2
    assert "--overwrite" in capsys.readouterr().err
