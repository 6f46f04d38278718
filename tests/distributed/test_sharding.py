"""Sharded weights: two processes that each hold a part of every weight train what one trains. PyTorch only."""

import json
import shutil

import numpy as np
import pytest
import transformers

from pipeline import finetune, load_run
from pipeline.comparison.lockstep import compare_traces
from pipeline.comparison.traces import record
from pipeline.models.safetensors_files import read_safetensors
from pipeline.training.first_step import check
from pipeline.utils.errors import RunFailure, UserError
from tests.helpers.families import recipe_of
from tests.helpers.interruption import sha256
from tests.helpers.rank_training import (
    SHARDED_FAULTS,
    SHARES,
    held_values,
    traces,
    train,
    train_from_other_weights,
    train_short_of_memory,
    train_until_stopped,
)
from tests.helpers.ranks import in_ranks

SHARDED = {"train.sharding": "fsdp"}
# The kind of task, its rows, the attention, and what is changed. The last batch of 33 rows is a single row, so that
# rank 1 has none; in micro-batches some ranks have fewer rows than others.
CASES = {
    "bert": ("single-label", 33, "handwritten", {
        "train.save_every": 1, "train.keep": "best", "train.epochs": 2, "train.freeze": ["bert.embeddings.*"],
    }),
    "gpt2": ("causal rows", 24, "handwritten", {"train.batch_size": 8}),
    "t5": ("sequence-to-sequence", 21, "stock", {"train.batch_size": 8, "train.gradient_accumulation": 4}),
    "untied t5": ("sequence-to-sequence", 16, "handwritten", {"train.batch_size": 8, "weights": "random"}),
    "marian": ("translation", 16, "stock", {"train.batch_size": 8}),
    "marian by hand": ("translation", 16, "handwritten-model", {"train.batch_size": 8}),
    "bert in bf16": ("masked words", 24, "stock", {"train.batch_size": 8, "train.precision": "bf16"}),
}  # fmt: skip
STEPS = 4


def sharded_recipe(name, folder):
    """The recipe of a case, with its files in `folder`."""
    kind, rows, _, changes = CASES[name]
    folder.mkdir(exist_ok=True)
    recipe = recipe_of(kind, folder, num_rows=rows, changes=changes | SHARDED)
    if not name.startswith("untied"):
        return recipe
    checkpoint = folder / "checkpoint"
    shutil.copytree(recipe.checkpoint, checkpoint)
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    return recipe.override({"checkpoint": str(checkpoint)})


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The recipes, and the folder with a run of each by two processes, one that was resumed, and one to be resumed."""
    folder = tmp_path_factory.mktemp("sharded")
    recipes = {name: sharded_recipe(name, folder / name) for name in CASES}
    attentions = {name: attention for name, (_, _, attention, _) in CASES.items()}
    in_ranks(train, "torch", recipes, folder / "two", attentions, framework="torch")
    in_ranks(train_until_stopped, "torch", recipes["bert"], folder / "two/begun", "handwritten", framework="torch")
    return recipes, folder


@pytest.mark.heavy
@pytest.mark.parametrize("name", CASES)
def test_two_processes_with_sharded_weights_train_what_one_trains(runs, name):
    recipes, folder = runs
    two = load_run(folder / "two" / name)
    one = finetune(recipes[name], "torch", CASES[name][2], out=folder / "one" / name)
    assert (one.record.train.processes, two.record.train.processes) == (1, 2)
    close = 1e-2 if "bf16" in name else 1e-4
    for own, other in zip(one.directory.history(), two.directory.history(), strict=True):
        assert other.loss == pytest.approx(own.loss, rel=close)
        assert other.grad_norm == pytest.approx(own.grad_norm, rel=close)
    assert two.metrics == pytest.approx(one.metrics, rel=10 * close)
    assert [line["index"] for line in two.directory.predictions()] == list(range(16))
    ours, theirs = (read_safetensors(run.directory.weights_file) for run in (one, two))
    assert {name: weight.shape for name, weight in ours.items()} == {n: weight.shape for n, weight in theirs.items()}
    for name, weight in ours.items():
        assert np.abs(weight - theirs[name]).max() < 10 * close, name


@pytest.mark.heavy
def test_the_library_loads_what_processes_with_sharded_weights_trained(runs):
    _, folder = runs
    _, report = transformers.AutoModelForCausalLM.from_pretrained(folder / "two/gpt2/model", output_loading_info=True)
    assert not any(report.values())
    config = json.loads((folder / "two/gpt2/model/config.json").read_text())
    assert config["architectures"] == ["GPT2LMHeadModel"]


@pytest.mark.heavy
def test_a_run_with_sharded_weights_that_was_stopped_ends_with_the_same_bits(runs):
    _, folder = runs
    whole, resumed = load_run(folder / "two/bert"), load_run(folder / "two/stopped")
    assert resumed.record.train.resumed_at and not whole.record.train.resumed_at
    assert sha256(whole.directory.weights_file) == sha256(resumed.directory.weights_file)


@pytest.mark.heavy
def test_one_process_continues_what_two_with_sharded_weights_began(runs):
    recipes, folder = runs
    begun = folder / "two/begun"
    with pytest.raises(UserError, match="2 processes trained this run"):
        finetune(recipes["bert"], "torch", "handwritten", out=begun, resume=True)
    resumed = finetune(recipes["bert"], "torch", "handwritten", out=begun, resume=True, change_processes=True)
    whole = read_safetensors(folder / "two/bert/model/model.safetensors")
    for name, weight in read_safetensors(resumed.directory.weights_file).items():
        assert np.abs(weight - whole[name]).max() < 1e-3, name


@pytest.mark.heavy
def test_sharded_weights_are_in_lock_step_with_whole_ones_and_a_fault_is_not(tmp_path):
    """Of a GPT-2; runs of every family are compared above."""
    recipe = sharded_recipe("gpt2", tmp_path / "data").override({"train.gradient_accumulation": 1})
    alone, faults = record(recipe, "torch", STEPS), (*SHARES, *SHARDED_FAULTS)
    found = in_ranks(traces, "torch", recipe, STEPS, faults, "stock", framework="torch")
    reports = {fault: compare_traces("tiny", alone, trace) for fault, trace in found.items()}
    assert {fault: report.same for fault, report in reports.items()} == {None: True} | dict.fromkeys(faults, False)
    assert reports[None].differences["parameters"] < 1e-3, reports[None].as_text()


@pytest.mark.heavy
def test_each_rank_holds_half_of_weights_gradients_and_moments(tmp_path):
    recipe = sharded_recipe("t5", tmp_path / "data")
    part = in_ranks(held_values, recipe, framework="torch")
    num_weights = sum(weight.size for weight in record(recipe, "torch", 1).after.values())
    assert part.keys() == {"weights", "gradients", "moments"}
    for what, number in part.items():
        whole = 2 * num_weights if what == "moments" else num_weights
        assert whole / 2 <= number < 0.51 * whole, what


@pytest.mark.heavy
def test_short_memory_ends_processes_with_sharded_weights_and_names_the_way_out(tmp_path):
    recipe = sharded_recipe("gpt2", tmp_path / "data")
    with pytest.raises(RunFailure, match="rank 1: memory is short.*raise train.gradient_accumulation"):
        in_ranks(train_short_of_memory, "torch", recipe, tmp_path / "run", framework="torch")


@pytest.mark.heavy
def test_a_rank_that_starts_from_other_weights_is_refused_before_they_are_sharded(tmp_path):
    recipe = sharded_recipe("gpt2", tmp_path / "data")
    with pytest.raises(UserError, match="the digest of the weights of rank 1 is .*, of rank 0"):
        in_ranks(train_from_other_weights, recipe, tmp_path / "run", framework="torch")


def test_tensorflow_refuses_sharded_weights_by_name(tmp_path):
    recipe = sharded_recipe("bert", tmp_path / "data")
    with pytest.raises(UserError, match="train.sharding is fsdp, which is a part of PyTorch"):
        check(recipe, "tensorflow")
