"""Bad luck and hostile input: one clear message, the last whole state kept, no code run that nobody asked for."""

import ast
import errno
import http.server
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml

from pipeline import UserError, finetune
from pipeline.backend import load_backend
from pipeline.cli.main import execute
from pipeline.models.checkpoint import load_config, load_tokenizer, read_weights
from pipeline.recipe.loading import load_recipe, read_yaml
from pipeline.runs import directory
from pipeline.runs.prediction import _write
from pipeline.training import checkpoints as snapshot
from pipeline.training.checkpoints import TrainingCheckpoints
from pipeline.training.experiment import prepare
from pipeline.utils.errors import RunFailure
from pipeline.utils.files import locked
from pipeline.utils.text import escape_controls
from tests.helpers.families import recipe_of

ROOT = Path(__file__).resolve().parents[2]
PATHS = sorted((ROOT / "pipeline").rglob("*.py"))


@pytest.fixture
def tiny(tmp_path):
    """Three updates of a tiny BERT, saved after each."""
    return recipe_of("single-label", tmp_path, changes={"train.save_every": 1})


# --- bad luck


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_batch(tiny, tmp_path, monkeypatch):
    from pipeline.pytorch import train

    calls, right = [], train.weighted_loss

    def wrong(*arguments):
        calls.append(1)
        return right(*arguments) * (float("nan") if len(calls) == 2 else 1.0)

    monkeypatch.setattr(train, "weighted_loss", wrong)
    with pytest.raises(RunFailure) as failure:
        finetune(tiny, seed=3, out=tmp_path / "run")
    rows = ", ".join(str(row + 1) for row in prepare(tiny).training_plan(0, 3)[1].rows)
    message = str(failure.value)
    assert message.startswith("the loss of update 2 is nan, so the run stops.")
    assert f"examples {rows} (from 1). Lower train.learning_rate (0.0005)" in message
    found, _ = TrainingCheckpoints(tmp_path / "run.checkpoints", 2).newest()
    assert found.step == 1 and str(found.path) in message
    assert not (tmp_path / "run").exists()


def test_weights_that_are_no_numbers_are_never_saved(framework, tiny, tmp_path):
    recipe = tiny.override({"train.learning_rate": 1e38, "train.weight_decay": 10.0})
    with pytest.raises(RunFailure, match="There is no checkpoint before it"):
        finetune(recipe, framework, out=tmp_path / "run")
    assert TrainingCheckpoints(tmp_path / "run.checkpoints", 2).names() == []


def full_disk(*arguments, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_the_last_whole_checkpoint(tiny, tmp_path, monkeypatch):
    right, calls = snapshot.save_file, []

    def filling(arrays, path):
        calls.append(path)
        right(arrays, path)
        if len(calls) == 2:
            full_disk()

    monkeypatch.setattr(snapshot, "save_file", filling)
    with pytest.raises(RunFailure) as failure:
        finetune(tiny, out=tmp_path / "run")
    found, _ = TrainingCheckpoints(tmp_path / "run.checkpoints", 2).newest()
    assert re.search(
        "step-00000002 cannot be written: No space left on device; the last whole one is ", str(failure.value)
    )
    assert found.step == 1 and str(found.path) in str(failure.value)
    assert [entry.name for entry in found.path.parent.iterdir()] == ["step-00000001"]


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("rows.arrow", "rows.arrow failed: No such file"),
        ("run.checkpoints/step-1/weights", "run cannot be written: No such file"),
        (".run.partial-7/metrics.json", "run cannot be written: No such file"),
        (3, "run cannot be written: No such file"),
    ],
)
def test_a_file_of_others_that_is_lost_is_not_called_ours(file, said, tiny, tmp_path, monkeypatch):
    def lost(*arguments):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), file if file == 3 else str(tmp_path / file))

    monkeypatch.setattr("pipeline.pytorch.train.Learner.train_step", lost)
    with pytest.raises(RunFailure, match=re.escape(said)):
        finetune(tiny, out=tmp_path / "run")


def test_a_run_that_cannot_be_written_at_the_end_is_saved_and_finished_later(tiny, tmp_path, monkeypatch):
    recipe, out = tiny.override({"train.save_every": None}), tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.models.checkpoint.save_file", full_disk)
        with pytest.raises(RunFailure, match="run cannot be written: No space left on device. .*evaluated is saved"):
            finetune(recipe, attention="handwritten", out=out)
    assert not out.exists()
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.pytorch.train.Learner.train_step", full_disk)  # nothing is trained again
        run = finetune(recipe, attention="handwritten", out=out, resume=True)
    assert run.record.train.steps == 3
    straight = finetune(recipe, attention="handwritten", out=tmp_path / "straight")
    files = [each.path / "model" / "model.safetensors" for each in (run, straight)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_an_output_that_cannot_be_written_is_refused_before_anything_is_loaded(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(directory.os, "access", lambda path, mode: False)
    monkeypatch.setattr("pipeline.training.finetune.prepare", full_disk)
    with pytest.raises(UserError, match="run cannot be written: .* is not a folder that can be written to"):
        finetune(tiny, out=tmp_path / "run")


def test_a_data_file_that_vanished_keeps_the_checkpoints(tiny, tmp_path):
    snapshots = TrainingCheckpoints(tmp_path / "run.checkpoints", 2)
    identity = {"recipe": "tiny", "framework": "torch", "attention": "stock", "seed": 0}
    rest = {"step": 1, "identity": identity, "experiment": tiny.experiment()}
    snapshots.save("step-00000001", {}, rest)
    (tmp_path / "train.jsonl").unlink()
    with pytest.raises(UserError, match=r"data.files.train is .*train.jsonl, but there is no such file"):
        finetune(tiny, out=tmp_path / "run", resume=True)
    assert snapshots.newest()[0].step == 1


def test_changed_data_are_not_gone_on_with(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "pipeline.pytorch.train.Learner.fit",
        lambda self, epochs, on_step, *rest: (_ for _ in ()).throw(KeyboardInterrupt),
    )
    snapshots = TrainingCheckpoints(tmp_path / "run.checkpoints", 2)
    identity = {"recipe": "tiny", "framework": "torch", "attention": "stock", "seed": 0}
    prints = {"data": "0", "checkpoint": None}
    rest = {"step": 1, "identity": identity, "experiment": tiny.experiment(), "fingerprints": prints}
    snapshots.save("step-00000001", {}, rest)
    with pytest.raises(UserError, match="the data changed since .*step-00000001 was written"):
        finetune(tiny, out=tmp_path / "run", resume=True)
    assert snapshots.newest()[0].step == 1


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


class Hub(http.server.BaseHTTPRequestHandler):
    """A Hub with a bad day."""

    day, asked = "", 0

    def do_GET(self):
        type(self).asked += 1
        if self.day == "503":
            self.send_response(503)
            self.end_headers()
            return
        self.send_response(200)
        for header, value in {"ETag": '"1"', "X-Repo-Commit": "a" * 40, "Content-Length": "1000"}.items():
            self.send_header(header, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(b"x" * 100)  # and no more

    do_HEAD = do_GET

    def log_message(self, *arguments):
        pass


@pytest.mark.parametrize(
    "day, message, least",
    [
        ("503", "the Hub does not give out some/model: it answers 503 Server Error again and again", 6),
        ("half a file", "the Hub broke off in the middle of some/model, 3 times", 3),
        ("silence", "some/model is not in the local cache and the Hub cannot be reached", 0),
    ],
)
def test_a_hub_with_a_bad_day_is_asked_again_and_then_reported_in_one_sentence(tmp_path, day, message, least):
    handler = type("Today", (Hub,), {"day": day})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if day != "silence":  # else it listens and never answers
        threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path),
        "HF_HUB_ETAG_TIMEOUT": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "1", "USE_TF": "0", "USE_TORCH": "0",
    }  # fmt: skip
    # The waits between attempts are the library's own and cannot be set.
    code = (
        "import time; time.sleep = lambda seconds: None\n"
        "from pipeline.data.hub import go_offline_if_unreachable; from pipeline.models.checkpoint import load_config\n"
        "from pipeline import load_recipe, UserError\n"
        "recipe = load_recipe('sentiment_bert', {'checkpoint': 'some/model'})\n"
        "go_offline_if_unreachable(recipe)\n"
        "try: load_config(recipe)\nexcept UserError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    server.server_close() if day == "silence" else server.shutdown()
    assert done.stdout.startswith(f"recipe sentiment_bert: checkpoint: {message}"), done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert handler.asked >= least


# --- hostile input


def test_code_of_a_checkpoint_is_never_trusted():
    found = 0
    for path in PATHS:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert isinstance(node.value, ast.Constant) and node.value.value is False, path
                found += 1
    assert found >= 2


@pytest.fixture
def checkpoint(tiny, tmp_path):
    """A copy of the embedded BERT to be spoiled, and its recipe."""
    shutil.copytree(tiny.checkpoint, tmp_path / "checkpoint")
    return tmp_path / "checkpoint", tiny.override({"checkpoint": str(tmp_path / "checkpoint")})


@pytest.mark.parametrize("model_type", ["bert", "mine"])
def test_a_checkpoint_with_code_does_not_run_it(checkpoint, tmp_path, model_type):
    folder, recipe = checkpoint
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    classes = {name: f"mine.{name}" for name in ("AutoConfig", "AutoModel", "AutoModelForSequenceClassification")}
    for name, changes in (
        ("config.json", {"model_type": model_type, "auto_map": classes}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["mine.Tokenizer", None]}}),
    ):
        file = folder / name
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    if model_type == "bert":
        load_config(recipe).save_pretrained(tmp_path / "saved")
        load_tokenizer(recipe).save_pretrained(tmp_path / "saved")
        assert "auto_map" not in "".join(file.read_text() for file in (tmp_path / "saved").glob("*config.json"))
    else:
        with pytest.raises(UserError, match="wants code of its own to be run .* which never is"):
            load_config(recipe)
    assert not (tmp_path / "ran").exists()


class Trap:
    """Runs a command where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_pickled_weights_are_read_only_when_asked_for_and_never_run(checkpoint, tmp_path):
    import torch

    folder, recipe = checkpoint
    wanted = read_weights(recipe)
    (folder / "model.safetensors").unlink()
    torch.save({name: torch.tensor(value) for name, value in wanted.items()}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="pickled weights are not read unasked: .* --allow-pickle"):
        read_weights(recipe)
    found = read_weights(recipe, load_backend("torch").read_pickle)
    assert found.keys() == wanted.keys() and all((found[name] == wanted[name]).all() for name in wanted)
    with pytest.raises(UserError, match="only PyTorch can read safely: use --framework torch"):
        read_weights(recipe, load_backend("tensorflow").read_pickle)

    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"x": Trap(tmp_path / "ran")}, protocol=2))
    with pytest.raises(UserError, match="holds something else than tensors, or is torn, and was not run"):
        read_weights(recipe, load_backend("torch").read_pickle)
    assert not (tmp_path / "ran").exists()


def test_the_flag_lets_a_run_read_a_pickle(checkpoint, capsys):
    import torch

    folder, recipe = checkpoint
    weights = read_weights(recipe)
    (folder / "model.safetensors").unlink()
    torch.save({name: torch.tensor(value) for name, value in weights.items()}, folder / "pytorch_model.bin")
    (folder / "recipe.yaml").write_text(recipe.to_yaml())
    assert execute(["check", str(folder / "recipe.yaml")]) == 2
    assert "--allow-pickle" in capsys.readouterr().err
    assert execute(["check", str(folder / "recipe.yaml"), "--allow-pickle"]) == 0


def laughs(depth):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, depth)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [laughs(9), "a: &a [*a]", "[" * 5000, "day: 2001-99-99", "1" * 5000, "x" * 1_000_001,
     "!!python/object/apply:os.system [ls]"],
    ids=["a billion laughs", "a snake that bites its tail", "too deep", "a day that is none", "a number of a mile",
         "a book", "a command"],
)  # fmt: skip
def test_a_yaml_recipe_can_neither_run_code_nor_eat_the_memory(text, tmp_path, capsys):
    with pytest.raises(yaml.YAMLError):
        read_yaml(text)
    (tmp_path / "hostile.yaml").write_text(text)
    assert execute(["check", str(tmp_path / "hostile.yaml")]) == 2
    assert "the file cannot be read as YAML" in capsys.readouterr().err


def test_aliases_of_a_sane_recipe_still_work():
    assert read_yaml("a: &x {b: 1}\nc: {<<: *x, d: 5e-4}") == {"a": {"b": 1}, "c": {"b": 1, "d": 5e-4}}
    assert read_yaml(laughs(3))["a2"][8][8][8] == "x"


@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".hidden", "a\nb", "a\x1b[31m", "x" * 81, "ünïcode"])
def test_a_recipes_name_is_a_slug(name):
    with pytest.raises(UserError, match="name"):
        load_recipe("sentiment_bert", {"name": name})


def test_no_text_can_paint_the_terminal(tmp_path, capsys):
    evil = "\x1b[31m\x07\x9b2J\u202ered\r"
    assert escape_controls(f"a\tb\n{evil}ü\ud800") == "a\tb\n\\u001b[31m\\u0007\\u009b2J\\u202ered\\u000dü\\ud800"
    (tmp_path / "x.jsonl").write_text("{}\n")
    for arguments in (
        ["--set", f"task={json.dumps(evil)}"],
        ["--set", f"{evil}=1"],
        ["--set", f"checkpoint={json.dumps(f'./{evil}')}"],
        ["--set", f"data.columns.text={json.dumps(evil)}"],
        ["--attention", evil],
    ):
        assert execute(["check", "sentiment_bert", *arguments]) == 2
        error = capsys.readouterr().err
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", error), error
        assert "\\u001b[31m" in error or "x1b[31m" in error
    _write(sys.stdout, {"text": evil})
    out = capsys.readouterr().out
    assert json.loads(out) == {"text": evil} and "\x9b" not in out and "\u202e" not in out


def test_what_a_run_writes_lies_under_its_output(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for attention in ("../../x:Y", "/etc/x:Y"):
        with pytest.raises(UserError):
            finetune(tiny, attention=attention)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["train.jsonl", "validation.jsonl"]
