"""Frameworks that mirror each other; model families in their files only; nothing names a registry or a machine."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

from pipeline.backend import Backend, Learner, Predictor, load_backend
from pipeline.models.families import FAMILIES

ROOT = Path(__file__).resolve().parent.parent


FRAMEWORK_FILES = (
    "attention.py", "body.py", "dropout.py", "export.py", "fast_modules.py", "generation.py",
    "gradient_checkpointing.py", "graphs.py", "group.py", "lora.py", "loss.py", "model.py", "optimizer.py", "packed.py",
    "sites.py", "swap/__init__.py", "swap/bert.py", "swap/distilbert.py", "swap/gpt2.py", "swap/marian.py",
    "swap/roberta.py", "swap/t5.py", "tour.py", "train.py", "transformer.py",
)  # fmt: skip
# What one framework needs and the other has no counterpart of, with the reason; at most 8.
ONE_SIDED = {
    "CrossEntropy": "PyTorch takes a gradient of our own from a class, TensorFlow's tape as an argument",
    "FunctionDropout": "PyTorch's library applies dropout in functions too, TensorFlow's in layers only",
    "Bf16Linear": "PyTorch computes bf16 products slowly on processors without bf16 instructions",
    "Bf16Product": "the gradient of Bf16Linear",
    "GreedyGeneration": "the library's generate is fast in PyTorch; in TensorFlow it runs every operation separately",
    "layer_defaults": "precision and random generators of Keras layers are settings of the process when they are made",
    "TFUntiedGPT2LMHeadModel": "the library's TensorFlow GPT-2 ignores an output matrix of its own",
    "FitProgress": "Keras' fit reads batches ahead and reports by callback; PyTorch's loop is visible",
}
# Files of one folder that the other has no counterpart of, with the reason.
ONE_SIDED_FILES = {
    "pytorch/library.py": "PyTorch's models are in versions 4.57 and 5 of transformers, TensorFlow's in 4.57 only",
    "pytorch/gpu/__init__.py": "TensorFlow compiles its steps as graphs on any device",
    "pytorch/gpu/kernels.py": "masks on a GPU, which PyTorch's Triton compiles; TensorFlow has no such compiler",
    "pytorch/gpu/recording.py": "PyTorch starts each operation of a step by itself, a graph of TensorFlow all of them",
}
# Where a value may be of any type, with the reason; everywhere else a type says what it is.
ANY_TYPE = {
    "pipeline/pytorch": "the modules of a transformers model have attributes that no type names",
    "pipeline/tensorflow": "the same, and Keras takes and returns nested structures of tensors",
    "pipeline/metrics/classification.py": "the types inferred for scikit-learn know one value of zero_division",
    "pipeline/metrics/token_classification.py": "the types inferred for seqeval know one value of zero_division",
}
# Where code may name a model family: what is known of families is there. Any other file needs a reason.
FOLDERS_OF_FAMILIES = ("pipeline/models", "pipeline/pytorch/swap", "pipeline/tensorflow/swap")
NAMES_FAMILY = {
    "pipeline/data/token_stream.py": "BertNormalizer and others are classes of the tokenizers library for any model",
    "pipeline/tensorflow/model.py": "TFUntiedGPT2LMHeadModel, since the library ignores an output matrix of its own",
    "pipeline/deploy/tokenizer.py": "MarianTokenizer, of which the library writes no tokenizer.json",
}


def definitions(path):
    """Names of the classes and functions of a file, private ones too, in their order."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]


def test_the_framework_folders_have_the_same_files():
    for folder in ("pytorch", "tensorflow"):
        names = {str(path.relative_to(ROOT / "pipeline")) for path in (ROOT / "pipeline" / folder).rglob("*.py")}
        alone = {name for name in ONE_SIDED_FILES if name.startswith(folder)}
        assert names == {f"{folder}/{name}" for name in ("__init__.py", *FRAMEWORK_FILES)} | alone


@pytest.mark.parametrize("file", FRAMEWORK_FILES)
def test_the_files_of_a_pair_define_the_same_names_in_the_same_order(file):
    pair = [definitions(ROOT / "pipeline" / folder / file) for folder in ("pytorch", "tensorflow")]
    first, second = ([name for name in names if name not in ONE_SIDED] for names in pair)
    assert first == second


def test_each_one_sided_name_is_on_one_side_and_there_are_at_most_eight():
    sides = [
        {name for file in FRAMEWORK_FILES for name in definitions(ROOT / "pipeline" / folder / file)}
        for folder in ("pytorch", "tensorflow")
    ]
    assert sides[0] ^ sides[1] == set(ONE_SIDED)
    assert len(ONE_SIDED) <= 8


def test_both_backends_offer_what_the_interface_says(framework):
    backend = load_backend(framework)
    for protocol, offered in ((Backend, backend), (Predictor, backend.Predictor), (Learner, backend.Learner)):
        names = {name for name in vars(protocol) if not name.startswith("_")} | set(protocol.__annotations__)
        assert {name for name in names if not hasattr(offered, name)} == set()


def says_any(source):
    """Whether a file has a type that is or contains `Any`, however it is imported."""
    return any(
        (isinstance(node, ast.ImportFrom) and "Any" in [alias.name for alias in node.names])
        or (isinstance(node, ast.Attribute) and node.attr == "Any")
        for node in ast.walk(ast.parse(source))
    )


def test_a_value_is_of_any_type_only_at_the_edge_of_a_framework_or_library():
    files = [path for path in (ROOT / "pipeline").rglob("*.py") if says_any(path.read_text(encoding="utf-8"))]
    paths = [path.relative_to(ROOT) for path in files]
    found = {str(path): set(map(str, path.parents)) for path in paths}
    assert {file for file, folders in found.items() if not {file, *folders} & set(ANY_TYPE)} == set()
    assert set(ANY_TYPE) <= set(found).union(*found.values()), "an entry that no file needs any more"


@pytest.mark.parametrize(
    "source",
    [
        "from typing import IO, Any\nvalue: dict[str, Any]",
        "from typing_extensions import Any as Anything\nvalue: Anything",
        "import typing\ndef f(x: typing.Any): ...",
    ],
)
def test_a_value_of_any_type_would_be_seen(source):
    assert says_any(source) and not says_any("from typing import AnyStr\nvalue: object = any([])")


def code_words(source):
    """The names in a file and its strings, without docstrings and comments."""
    tree = ast.parse(source)
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value
        for field in ("id", "attr", "name", "arg", "module"):
            if isinstance(word := getattr(node, field, None), str):
                yield word


def names_family(source):
    """Whether the code of a file has a word for a model family, other than in the name of a recipe."""
    recipes = "|".join(path.stem for path in (ROOT / "recipes").glob("*.py"))
    family = re.compile("|".join(FAMILIES) + "|gpt-2", re.IGNORECASE)
    return any(family.search(re.sub(recipes, "", word)) for word in code_words(source))


def test_only_the_models_folder_and_the_two_swaps_name_a_model_family():
    files = {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in (ROOT / "pipeline").rglob("*.py")
    }
    found = {name for name, source in files.items() if names_family(source)}
    assert {name for name in found if not name.startswith(FOLDERS_OF_FAMILIES)} == set(NAMES_FAMILY)


@pytest.mark.parametrize(
    "source",
    [
        "from transformers import BertForMaskedLM",
        "hidden = model.bert(**inputs)",
        "if config.model_type == 't5': ...",
        "def gpt2_states(model): ...",
        "raise UserError('use a GPT-2')",
        "states(t5=1)",
    ],
)
def test_the_name_of_a_model_family_would_be_seen(source):
    assert names_family(source)
    assert not names_family("def f():\n    'As BERT does.'\n    load_recipe('sentiment_bert')  # T5 too")


def test_nothing_names_a_registry_or_a_machine():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    place = re.compile(r"(?<![\w.:/])/(?:home|root|Users)/\w|index.url|find.links")
    texts = [ROOT / name for name in tracked if not name.endswith((".safetensors", ".jsonl", ".png"))]
    found = [
        str(p) for p in texts if p != Path(__file__) and place.search(p.read_text(encoding="utf-8", errors="replace"))
    ]
    assert found == []
