"""Checkpoints that nobody vouches for: none of their code runs, and pickles are read only if asked for."""

import ast
import json
import pickle
import shutil
from pathlib import Path

import pytest

from pipeline import UserError
from pipeline.backend import load_backend
from pipeline.cli.main import execute
from pipeline.models.checkpoint import load_config, load_tokenizer, read_weights
from tests.helpers.families import recipe_of

ROOT = Path(__file__).resolve().parents[2]
PATHS = sorted((ROOT / "pipeline").rglob("*.py"))


def test_code_of_a_checkpoint_is_never_trusted():
    found = 0
    for path in PATHS:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert isinstance(node.value, ast.Constant) and node.value.value is False, path
                found += 1
    assert found >= 2


@pytest.fixture
def checkpoint(tmp_path):
    """A copy of the bundled BERT that a test may change, and its recipe."""
    tiny = recipe_of("single-label", tmp_path)
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
        with pytest.raises(UserError, match="needs code of its own .* which is never run"):
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
    with pytest.raises(UserError, match="pickled weights are not read unless you ask for it: .* allow_pickle=True"):
        read_weights(recipe)
    found = read_weights(recipe, load_backend("torch").read_pickle)
    assert found.keys() == wanted.keys() and all((found[name] == wanted[name]).all() for name in wanted)
    with pytest.raises(UserError, match="only PyTorch can read safely: use framework='torch'"):
        read_weights(recipe, load_backend("tensorflow").read_pickle)

    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"x": Trap(tmp_path / "ran")}, protocol=2))
    with pytest.raises(UserError, match="is incomplete or holds something other than tensors; nothing in it was run"):
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
