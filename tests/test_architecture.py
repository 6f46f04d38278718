"""Frameworks that mirror each other; nothing names a registry or a machine."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

from pipeline.backend import Backend, Learner, load_backend

ROOT = Path(__file__).resolve().parent.parent


def definitions(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]


def test_the_framework_folders_have_the_same_files():
    names = [{p.name for p in (ROOT / "pipeline" / home).glob("*.py")} for home in ("pytorch", "tensorflow")]
    assert names[1] == {"__init__.py", "attention.py", "loss.py", "model.py", "swap.py", "train.py"}
    assert names[0] - names[1] == {"fast_modules.py"}


# What one framework needs and the other brings along.
ONLY_HERE = {
    "build_optimizer", "AdamW", "Trainee", "Reports", "signature", "pytorch_names", "to_pytorch", "freeze_variables",
    "TFUntiedGPT2LMHeadModel", "tied_logits", "likeliest", "dropout_generators", "CrossEntropy",
}  # fmt: skip


@pytest.mark.parametrize("file", ["attention.py", "loss.py", "model.py", "swap.py", "train.py"])
def test_the_files_of_a_pair_define_the_same_names_in_the_same_order(file):
    pairs = [definitions(ROOT / "pipeline" / home / file) for home in ("pytorch", "tensorflow")]
    public = [[n for n in names if not n.startswith("_") and n not in ONLY_HERE] for names in pairs]
    assert public[0] == public[1]


def test_both_backends_offer_what_the_interface_says(framework):
    backend = load_backend(framework)
    for protocol, found in ((Backend, backend), (Learner, backend.Learner)):
        wanted = {name for name in vars(protocol) if not name.startswith("_")} | set(protocol.__annotations__)
        assert {name for name in wanted if not hasattr(found, name)} == set()


def test_nothing_names_a_registry_or_a_machine():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    place = re.compile(r"(?<![\w.:/])/(?:home|root|Users)/\w|index.url|find.links")
    texts = [ROOT / name for name in tracked if not name.endswith((".safetensors", ".jsonl", ".png"))]
    found = [
        str(p) for p in texts if p != Path(__file__) and place.search(p.read_text(encoding="utf-8", errors="replace"))
    ]
    assert found == []
