"""One, two, three processes are one experiment, in either framework: with real processes on this machine."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pipeline import UserError, finetune, load_run
from pipeline.comparison.lockstep import compare_traces
from pipeline.comparison.traces import record
from pipeline.distributed.launcher import rank_environments
from pipeline.models.safetensors_files import read_safetensors
from tests.helpers.families import recipe_of
from tests.helpers.interruption import read_lines, sha256
from tests.helpers.rank_training import (
    FAULTS_IN_SUMS,
    SHARES,
    train_all,
    train_by_when_sums_begin,
    train_told_by_tf_config,
)
from tests.helpers.ranks import in_ranks

pytestmark = pytest.mark.slow
FRAMEWORKS = ("torch", "tensorflow")
# Three steps each. Rows are packed: the last batch of one example is one row, which rank 1 has no share of. With 16
# rows, or 5, the evaluation is one batch; with 2 at most a row, and with fewer rows than ranks, ranks have none.
CASES = {
    "single-label": {"rows": 33, "changes": {"train.save_every": 1, "train.keep": "best", "train.epochs": 2}},
    "sequence-to-sequence": {"rows": 40, "changes": {"train.gradient_accumulation": 2, "train.batch_size": 8}},
    "translation": {"rows": 40, "attention": "handwritten-model", "changes": {"train.batch_size": 16}},
    "masked words": {"rows": 24, "changes": {"train.batch_size": 8, "train.freeze": ["*layer.0.*"]}},
}
# Recipes of a kind each, for what goes wrong on purpose.
SPECIAL = {
    "faults": ("causal rows", 40, {"train.batch_size": 8}),
    "short memory": ("single-label", 64, {"train.batch_size": 32}),
    "drift": ("single-label", 32, {"train.epochs": 3}),
}


@dataclass(frozen=True)
class Part:
    """What two processes of the framework `name` do in one start: plain runs, by kind, and what goes wrong."""

    name: str
    kinds: tuple[str, ...]
    special: tuple[str, ...]


# TensorFlow takes seconds for each run: what both frameworks do by the same code is heavy there, in MORE.
PARTS = {
    "torch": Part("torch", tuple(CASES), tuple(SPECIAL)),
    "tensorflow": Part("tensorflow", ("single-label", "sequence-to-sequence"), ("faults", "short memory")),
}
MORE = Part("tensorflow", ("translation", "masked words"), ("drift",))
# In how a batch is shared, which both frameworks do by the same code, and in how each of them sums the gradients.
FAULTS_OF = {"torch": (*SHARES, *FAULTS_IN_SUMS), "tensorflow": FAULTS_IN_SUMS}
ATTENTIONS = {kind: case.get("attention", "stock") for kind, case in CASES.items()}
# What starts two processes, or one at each of two "hosts" that are both this machine, by the port where they meet.
TORCHRUN, HOST = "torch.distributed.run", ["--nproc-per-node", "1", "--nnodes", "2", "--master-addr", "127.0.0.1"]
LAUNCHERS = {
    "torchrun": lambda port: [[TORCHRUN, "--nproc-per-node", "2", "--master-port", port]],
    "torchrun on two hosts": lambda port: [
        [TORCHRUN, *HOST, "--master-port", port, "--node-rank", str(number)] for number in range(2)
    ],
    "accelerate launch": lambda port: [
        ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", port]
    ],
}


def recipe_for(kind, folder):
    case = CASES[kind]
    (folder / kind).mkdir(exist_ok=True)
    return recipe_of(kind, folder / kind, num_rows=case["rows"], changes=case["changes"])


def special_recipe(name, folder):
    kind, num_rows, changes = SPECIAL[name]
    (folder / name).mkdir()
    return recipe_of(kind, folder / name, num_rows=num_rows, changes=changes)


@dataclass
class Trained:
    """What two processes of a framework did: runs in `folder` / "two", traces with faults, how drift ended."""

    framework: str
    folder: Path
    recipes: dict
    special: dict
    traces: dict
    drift: str


@pytest.fixture(scope="module", params=PARTS.values(), ids=PARTS)
def trained(request, tmp_path_factory):
    """All of it in one start of the processes, which takes TensorFlow ten seconds for each."""
    framework, folder = request.param.name, tmp_path_factory.mktemp("ranks")
    recipes = {kind: recipe_for(kind, folder) for kind in request.param.kinds}
    special = {name: special_recipe(name, folder) for name in request.param.special}
    faults = FAULTS_OF[framework]
    found = in_ranks(train_all, framework, recipes, special, folder / "two", ATTENTIONS, faults, framework=framework)
    return Trained(framework, folder, recipes, special, *found)


@pytest.mark.parametrize(
    "trained", [*PARTS.values(), pytest.param(MORE, marks=pytest.mark.heavy)], ids=[*PARTS, "more"], indirect=True
)
def test_two_processes_train_what_one_trains(trained):
    for kind, recipe in trained.recipes.items():
        two = load_run(trained.folder / "two" / kind)
        one = finetune(recipe, trained.framework, ATTENTIONS[kind], out=trained.folder / "one" / kind)
        assert two.record.train.processes == two.directory.environment().processes == 2, kind
        assert one.record.train.processes == 1 and one.record.batches == two.record.batches, kind
        for own, other in zip(one.directory.history(), two.directory.history(), strict=True):
            assert other.loss == pytest.approx(own.loss, rel=1e-5), kind
            assert other.grad_norm == pytest.approx(own.grad_norm, rel=1e-4), kind
            assert (other.examples, other.tokens, other.learning_rate) == (own.examples, own.tokens, own.learning_rate)
        assert two.metrics == pytest.approx(one.metrics, rel=1e-3), kind
        lines = [[line["index"] for line in run.directory.predictions()] for run in (one, two)]
        assert lines[0] == lines[1] == list(range(len(lines[0]))), kind
        ours, theirs = (read_safetensors(run.directory.weights_file) for run in (one, two))
        for name, weight in ours.items():
            assert np.abs(weight - theirs[name]).max() < 1e-4, (kind, name)


def test_a_stop_at_one_rank_stops_all_and_the_resumed_run_has_the_same_bits(trained):
    folder, kind = trained.folder, next(iter(CASES))
    whole, resumed = load_run(folder / "two" / kind), load_run(folder / "two" / "stopped")
    # Beside busy processes, a rank may hear that the other one has stopped before it stops itself.
    assert re.match(r"(rank [01]: )?stopped; the training checkpoint", (folder / "two" / "message").read_text())
    assert resumed.record.train.resumed_at and not whole.record.train.resumed_at
    assert sha256(whole.directory.weights_file) == sha256(resumed.directory.weights_file)
    kept = ("step", "loss", "grad_norm")
    histories = [
        [[line[key] for key in kept] for line in read_lines(run.directory.history_file)] for run in (whole, resumed)
    ]
    assert histories[0] == histories[1]


def test_another_number_of_processes_goes_on_only_if_allowed_and_differs_by_rounding(trained, tmp_path):
    """One where two had stopped; of the other way, the refusal."""
    kind, refusal = next(iter(CASES)), (trained.folder / "two" / "refusal").read_text(encoding="utf-8")
    assert re.match("1 process trained this run until .* and now there are 2", refusal)
    shutil.copytree(trained.folder / "two" / "saved.checkpoints", tmp_path / "run.checkpoints")
    how = {"framework": trained.framework, "attention": ATTENTIONS[kind], "out": tmp_path / "run", "resume": True}
    with pytest.raises(UserError, match="^2 processes trained this run until .* and now there is 1"):
        finetune(trained.recipes[kind], **how)
    run = finetune(trained.recipes[kind], **how, change_processes=True)
    assert run.record.train.resumed_at == [2] and run.record.train.processes == 1
    whole = load_run(trained.folder / "two" / kind)
    steps = [[(each.loss, each.grad_norm) for each in one.directory.history()] for one in (whole, run)]
    assert steps[1][:2] == steps[0][:2] and np.array(steps[1]) == pytest.approx(np.array(steps[0]), rel=1e-4)
    ours, theirs = (read_safetensors(one.directory.weights_file) for one in (whole, run))
    assert max(np.abs(weight - theirs[name]).max() for name, weight in ours.items()) < 1e-4


def test_memory_that_is_short_at_one_rank_splits_the_steps_of_all(trained, tmp_path):
    whole = finetune(trained.special["short memory"], trained.framework, out=tmp_path / "whole")
    short = load_run(trained.folder / "two" / "short memory")
    assert (whole.record.train.gradient_accumulation, short.record.train.gradient_accumulation) == (1, 2)
    losses = [[step.loss for step in run.directory.history()] for run in (whole, short)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


@pytest.fixture(scope="module")
def summed_early(tmp_path_factory):
    """What two processes did whose sums of gradients begin early, and their run "short" with its recipe.

    As on GPUs, which these sums of PyTorch's do not need.
    """
    folder = tmp_path_factory.mktemp("early")
    (folder / "data").mkdir()
    short = recipe_of("single-label", folder / "data", num_rows=64, changes={"train.batch_size": 32})
    recipes = {kind: recipe_for(kind, folder) for kind in CASES}
    found = in_ranks(train_by_when_sums_begin, recipes, 3, short, folder / "short", framework="torch")
    return *found, short, folder / "short"


def test_gradients_that_are_summed_while_others_are_computed_have_the_same_bits(summed_early):
    found, begun, *_ = summed_early
    for late, early in found.values():
        assert np.array_equal(late.loss, early.loss) and np.array_equal(late.grad_norm, early.grad_norm)
        assert all(np.array_equal(weight, early.after[name]) for name, weight in late.after.items())
    # All pieces have begun but the last one, which says how the step went.
    assert len(begun) == 3 * len(CASES) and all(early == pieces - 1 > 5 for early, pieces in begun)


def test_memory_that_is_short_after_sums_have_begun_splits_the_steps_of_all(summed_early, tmp_path):
    *_, recipe, folder = summed_early
    whole, short = finetune(recipe, out=tmp_path / "whole"), load_run(folder)
    assert short.record.train.gradient_accumulation == 2
    losses = [[step.loss for step in run.directory.history()] for run in (whole, short)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.parametrize(
    "trained", [PARTS["torch"], pytest.param(MORE, marks=pytest.mark.heavy)], ids=FRAMEWORKS, indirect=True
)
def test_ranks_whose_weights_drift_apart_are_stopped_after_the_epoch(trained):
    assert trained.drift.startswith("after epoch 1 the weights of rank 1 are not those of rank 0")
    assert not (trained.folder / "two" / "drift").exists()


# Read by the same code in PyTorch; tests/distributed/test_ranks.py has what it says.
@pytest.mark.heavy
def test_tf_config_alone_is_enough_in_tensorflow(tmp_path):
    recipe = recipe_of("single-label", tmp_path, num_rows=40)
    in_ranks(train_told_by_tf_config, "tensorflow", recipe, tmp_path / "two", framework="tensorflow")
    assert_same_training(finetune(recipe, "tensorflow", out=tmp_path / "one"), load_run(tmp_path / "two"))


# What they tell a rank is read by the same code in both frameworks.
@pytest.mark.parametrize(
    ("launcher", "framework"),
    [
        ("torchrun", "torch"),
        pytest.param("torchrun", "tensorflow", marks=pytest.mark.heavy),
        pytest.param("torchrun on two hosts", "torch", marks=pytest.mark.heavy),
        pytest.param("accelerate launch", "torch", marks=pytest.mark.heavy),
    ],
)
def test_other_launchers_start_the_ranks_of_either_framework(launcher, framework, tmp_path):
    recipe = recipe_of("single-label", tmp_path, num_rows=40)
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    words = ["-m", "pipeline", "finetune", str(tmp_path / "recipe.yaml"), "--framework", framework]
    hosts = [
        subprocess.Popen(
            [sys.executable, "-m", *command, *words, "--out", str(tmp_path / "two")], text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"GLOO_SOCKET_IFNAME": "lo"},
        )
        for command in LAUNCHERS[launcher](rank_environments(2)[0]["MASTER_PORT"])
    ]  # fmt: skip
    outputs = [host.communicate() for host in hosts]
    assert [host.returncode for host in hosts] == [0] * len(hosts), outputs
    assert "".join(printed for printed, _ in outputs).count("epoch 1/1") == 1
    assert_same_training(finetune(recipe, framework, out=tmp_path / "one"), load_run(tmp_path / "two"))


def assert_same_training(one, two):
    """Two runs took the same steps, but for rounding; the second one in two processes."""
    assert (one.record.train.processes, two.record.train.processes) == (1, 2)
    steps = [[(step.loss, step.grad_norm) for step in run.directory.history()] for run in (one, two)]
    assert np.array(steps[1]) == pytest.approx(np.array(steps[0]), rel=1e-4)
    assert two.metrics == pytest.approx(one.metrics, rel=1e-3)


def test_each_fault_in_sharing_a_step_is_seen_in_lock_step(trained):
    alone = record(trained.special["faults"], trained.framework, 4)
    same = {fault: compare_traces("tiny", alone, trace).same for fault, trace in trained.traces.items()}
    assert same == {None: True} | dict.fromkeys(FAULTS_OF[trained.framework], False)
