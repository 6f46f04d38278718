"""`train.compile` in both frameworks: compiled steps are those of a run that does not compile, but for rounding."""

from pathlib import Path

import numpy as np
import pytest

from pipeline import finetune, lockstep
from pipeline.utils.errors import UserError
from tests.helpers.families import recipe_of
from tests.helpers.interruption import kill_at, read_lines
from tests.helpers.packed_batches import learner_of, with_dropout_keys

USUAL = "bert pairs"
COMPILED = {"train.compile": True}


def cut(batch, width):
    """A packed batch whose rows are narrower, by their last positions."""
    is_wide = {key: value.ndim > 1 and value.shape[1] == batch["input_ids"].shape[1] for key, value in batch.items()}
    return {key: value[:, :width] if is_wide[key] else value for key, value in batch.items()}


def commands_of_children():
    """The commands of the processes that this one has started and that still run."""
    children = [path.read_text() for path in Path("/proc/self/task").glob("*/children")]
    return [Path(f"/proc/{number}/cmdline").read_text() for number in " ".join(children).split()]


def steps(framework, head, batches, **settings):
    """The reports of a step on each batch, with dropout."""
    learner, reports = learner_of(framework, head, steps=len(batches), dropout=0.1, **settings), []
    learner.fit([batches], reports.append, lambda epoch: True)
    return reports


def both(framework, head, batches, **settings):
    """Losses and gradient norms of the same steps, compiled and not, and how many graphs were compiled."""
    plain, compiled = (steps(framework, head, batches, compile=value, **settings) for value in (False, True))
    assert plain[-1].compilations == 0
    numbers = [np.array([(report.loss, report.grad_norm) for report in reports]) for reports in (compiled, plain)]
    return *numbers, compiled[-1].compilations


@pytest.mark.parametrize(
    "framework",
    [pytest.param("torch", marks=pytest.mark.compiles), pytest.param("tensorflow", marks=pytest.mark.slow)],
    indirect=True,
)  # XLA takes seconds, torch.compile a minute
def test_compiled_steps_are_those_of_other_steps(framework):
    _, packed = with_dropout_keys(USUAL)
    batches = [packed, cut(packed, 12), packed, cut(packed, 12)]
    compiled, plain, count = both(framework, USUAL, batches, attention="handwritten")
    assert compiled == pytest.approx(plain, rel=1e-5)
    assert len(np.unique(plain[:, 0])) == 4
    # PyTorch's graph is for all widths, XLA has one for each.
    assert count == (1 if framework == "torch" else 2)
    assert not any("compile_worker" in command for command in commands_of_children())


@pytest.mark.compiles
@pytest.mark.parametrize(
    ("head", "attention"),
    [
        ("bert masked", "stock"), ("bert spans", "stock"), ("gpt2 causal", "stock"), ("t5", "handwritten"),
        ("marian", "handwritten"),
    ],
)  # fmt: skip
def test_each_family_is_compiled(framework, head, attention):
    compiled, plain, _ = both(framework, head, [with_dropout_keys(head)[1]] * 3, attention=attention)
    assert compiled == pytest.approx(plain, rel=1e-5)


@pytest.mark.compiles
@pytest.mark.parametrize(
    ("settings", "tolerance"), [({"gradient_accumulation": 2}, 1e-5), ({"precision": "bf16"}, 0.02)]
)
def test_micro_batches_and_bf16_are_compiled(framework, settings, tolerance):
    compiled, plain, _ = both(framework, USUAL, [with_dropout_keys(USUAL)[1]] * 3, **settings)
    assert compiled == pytest.approx(plain, rel=tolerance)


@pytest.mark.compiles
def test_a_compiled_run_is_resumed_to_the_bit_and_says_how_many_graphs_it_compiled(framework, tmp_path):
    recipe = recipe_of("single-label", tmp_path, changes=COMPILED | {"train.save_every": 2, "train.epochs": 2})
    whole = finetune(recipe, framework, out=tmp_path / "whole")
    kill_at(("step", 4), recipe, framework, out=tmp_path / "killed")
    resumed = finetune(recipe, framework, out=tmp_path / "killed", resume=True)
    losses = [[line["loss"] for line in read_lines(run.path / "history.jsonl")] for run in (whole, resumed)]
    assert len(losses[0]) == 6 and losses[0] == losses[1]
    assert resumed.record.train.compilations > whole.record.train.compilations > 0
    with pytest.raises(UserError, match="another recipe|train.compile"):
        kill_at(("step", 4), recipe, framework, out=tmp_path / "other")
        finetune(recipe.override({"train.compile": False}), framework, out=tmp_path / "other", resume=True)


@pytest.mark.compiles
def test_two_processes_compile_and_train_as_one_does(framework, tmp_path):
    recipe = recipe_of("single-label", tmp_path, changes=COMPILED)
    one, two = (finetune(recipe, framework, out=tmp_path / f"{n}", processes=n) for n in (1, 2))
    losses = [[line["loss"] for line in read_lines(run.path / "history.jsonl")] for run in (one, two)]
    assert len(losses[0]) == 3 and losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert two.record.train.processes == 2 and two.record.train.compilations > 0


def test_sharded_weights_are_not_compiled(tmp_path):
    recipe = recipe_of("single-label", tmp_path, changes=COMPILED | {"train.sharding": "fsdp"})
    with pytest.raises(UserError, match="train.compile is true and train.sharding is fsdp"):
        finetune(recipe, processes=2, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.compiles
def test_both_frameworks_compiled_are_the_same_experiment(tmp_path):
    report = lockstep(recipe_of("single-label", tmp_path, changes=COMPILED), steps=6)
    assert report.same, report.as_text()


def test_compiled_steps_are_not_debugged(tmp_path):
    with pytest.raises(UserError, match="train.compile is true, but debug_eager=True runs each operation by itself"):
        finetune(recipe_of("single-label", tmp_path, changes=COMPILED), debug_eager=True, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_machine_without_a_compiler_is_told_what_to_install(tmp_path, monkeypatch):
    import torch._inductor.config

    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    recipe = recipe_of("single-label", tmp_path, changes=COMPILED)
    with pytest.raises(UserError, match=r"a C\+\+ compiler and found none: install g\+\+"):
        finetune(recipe, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
