"""Killed and resumed: the end is bit-identical to that of the run that was never interrupted."""

import json
import re
import shutil

import pytest
from safetensors.numpy import load_file, save_file

from pipeline import UserError, finetune
from pipeline.backend import load_backend
from pipeline.training import experiment
from pipeline.training.callbacks import TrainingCallback
from pipeline.training.checkpoints import TrainingCheckpoints
from pipeline.utils.processes import call
from tests.helpers.families import recipe_of
from tests.helpers.interruption import Kill, Killed, assert_same_outcome, kill_at, read_lines, with_state
from tests.helpers.marks import heavy_in_tensorflow

FAMILIES = {"bert": "single-label", "gpt2": "causal rows", "t5": "sequence-to-sequence", "marian": "translation"}
# What is trained again in `make test`, and what is heavy. TensorFlow saves the weights and moments of every family by
# the same code; a Marian by hand has modules of its own.
USUAL = [("torch", "bert"), ("torch", "gpt2"), ("tensorflow", "bert")]
HEAVY = [("torch", "t5"), ("torch", "marian"), ("tensorflow", "marian")]
# Everything that a resumed run must bring back: dropout, accumulation, best weights, patience. Three steps an epoch.
CHANGES = {
    "train.epochs": 2, "train.dropout": 0.1, "train.keep": "best", "train.keep_metric": "loss",
    "train.early_stopping": 1, "train.save_every": 2, "data.limit.validation": 8,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("framework", "family"),
    [*USUAL, *(pytest.param(*pair, marks=pytest.mark.heavy) for pair in HEAVY)],
)
def test_a_killed_run_ends_as_the_one_that_never_stopped(framework, family, tmp_path):
    also = {"train.gradient_accumulation": 1 if family == "t5" else 2}
    also |= {"train.precision": "bf16"} if family == "bert" else {}
    recipe = recipe_of(FAMILIES[family], tmp_path, changes=CHANGES | also)
    # Written by hand are the attention of GPT-2 and all of Marian, whose dropout must come back too.
    attention = {"gpt2": "handwritten", "marian": "handwritten-model"}.get(family, "stock")
    how = {"framework": framework, "attention": attention}
    straight = finetune(recipe.override({"train.save_every": None}), **how, out=tmp_path / "straight")
    options = how | {"out": tmp_path / "killed"}
    kill_at(("step", 3), recipe, **options)
    assert kill_at(("evaluate", 2), recipe, **options, resume=True) == 2  # in the middle of the first epoch
    resumed = finetune(recipe, **options, resume=True)  # between the last step and its evaluation
    assert_same_outcome(straight.path, resumed.path)
    assert (resumed.record.train.resumed_at, straight.record.train.resumed_at) == ([2, 6], [])
    seconds = [line["seconds"] for line in read_lines(resumed.path / "history.jsonl")]
    assert seconds == sorted(seconds) and resumed.record.train.seconds == seconds[-1]
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix != ".jsonl") == ["killed", "straight"]


def test_a_resumed_run_stops_early_at_the_same_epoch(tmp_path):
    changes = CHANGES | {"train.epochs": 5, "train.learning_rate": 1e-12, "train.dropout": 0.0}
    recipe = recipe_of("single-label", tmp_path, changes=changes)
    straight = finetune(recipe, out=tmp_path / "straight")
    num_epochs = len(straight.record.evaluations)
    assert 1 < num_epochs < 5  # patience is 1, and nothing improves
    kill_at(("step", 3 * num_epochs - 1), recipe, out=tmp_path / "killed")
    assert_same_outcome(straight.path, finetune(recipe, out=tmp_path / "killed", resume=True).path)


def test_a_run_resumed_at_its_last_step_can_be_interrupted_again(tmp_path):
    recipe = recipe_of("single-label", tmp_path, changes={"train.save_every": 3})
    straight = finetune(recipe.override({"train.save_every": None}), out=tmp_path / "straight")
    kill_at(("evaluate", 1), recipe, out=tmp_path / "run")  # after the last step, before its evaluation
    assert kill_at(("saved", 3), recipe, out=tmp_path / "run", resume=True) == 3  # evaluated and saved, not written
    assert_same_outcome(straight.path, finetune(recipe, out=tmp_path / "run", resume=True).path)


def test_a_run_killed_between_its_results_and_the_removal_of_its_checkpoints_leaves_none(tiny, tmp_path, monkeypatch):
    def die(checkpoints):
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(TrainingCheckpoints, "remove", die)
        finetune(tiny, out=tmp_path / "run", resume=True)
    assert (tmp_path / "run.checkpoints").exists()
    run = finetune(tiny, out=tmp_path / "run", resume=True)
    assert not (tmp_path / "run.checkpoints").exists()
    # What a later training saved is not the run's.
    kill_at(("step", 2), tiny, out=tmp_path / "run", overwrite=True)
    assert finetune(tiny, out=tmp_path / "run").record == run.record
    assert TrainingCheckpoints(tmp_path / "run.checkpoints", 2).newest()[0].step == 1


def test_a_resumed_run_computes_with_as_many_threads_as_before(tmp_path):
    import torch

    class Watch(TrainingCallback):
        def on_train_begin(self, num_steps, num_epochs):
            seen.append(torch.get_num_threads())

    recipe, seen, before = (
        recipe_of("single-label", tmp_path, changes={"train.save_every": 1}),
        [],
        torch.get_num_threads(),
    )
    try:
        torch.set_num_threads(3)
        kill_at(("step", 2), recipe, out=tmp_path / "run")
        torch.set_num_threads(1)
        run = finetune(recipe, out=tmp_path / "run", resume=True, callback=Watch())
        assert (seen, torch.get_num_threads()) == ([3], 1)
        assert json.loads((run.path / "environment.json").read_text())["threads"] == "3"
    finally:
        torch.set_num_threads(before)


def threads_of_tensorflow():
    """Its number of threads, after it was set to 3, and after it was set to 2 when something had been computed."""
    backend = load_backend("tensorflow")
    import tensorflow as tf

    found = []
    for number in (3, 2):
        with backend.threads(number):
            found.append(backend.versions()["threads"])
        tf.constant(1) + 1
    return found


@pytest.mark.slow
def test_tensorflow_takes_a_number_of_threads_until_it_has_computed():
    assert call(threads_of_tensorflow, framework="tensorflow") == ["3", "3"]


def test_an_interrupted_run_leaves_only_its_training_checkpoints(interrupted):
    folder, _ = interrupted
    assert sorted(entry.name for entry in folder.iterdir() if entry.suffix != ".jsonl") == ["run.checkpoints"]
    checkpoints = folder / "run.checkpoints"
    assert sorted(entry.name for entry in checkpoints.iterdir()) == ["step-00000001", "step-00000002"]
    assert sorted(entry.name for entry in (checkpoints / "step-00000002").iterdir()) == [
        "manifest.json", "state.json", "state.safetensors",
    ]  # fmt: skip


def test_an_altered_checkpoint_is_named_and_the_one_before_it_is_used(interrupted_copy):
    out, recipe = interrupted_copy
    newest = out.with_name("run.checkpoints") / "step-00000002"
    content = bytearray((newest / "state.safetensors").read_bytes())
    content[len(content) // 2] ^= 1
    (newest / "state.safetensors").write_bytes(content)
    seen = Kill()
    # How often a run saves itself does not change its results, so the recipe counts as the same.
    other = recipe.override({"train.save_every": None, "train.keep_checkpoints": 5})
    finetune(other, out=out, resume=True, callback=seen)
    assert seen.resumed_at == 1
    assert [str(newest) in note and "was altered" in note for note in seen.notes] == [True]
    assert sorted(entry.name for entry in out.parent.iterdir()) == ["run"]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"seed": 1, "resume": True}, "holds training checkpoints of another run: seed is 0, not 1"),
        ({"framework": "tensorflow", "resume": True}, 'framework is "torch", not "tensorflow"'),
        ({"attention": "handwritten", "resume": True}, 'attention is "stock", not "handwritten"'),
        ({"train.learning_rate": 1e-5, "resume": True}, "recipe's train.learning_rate is 0.0005, not 1e-05"),
        ({}, "holds training checkpoints of an unfinished run; continue it with resume=True"),
        ({"resume": True, "overwrite": True}, "give one of them"),
    ],
)
def test_what_would_lose_or_mix_up_work_is_refused(interrupted_copy, options, message):
    out, recipe = interrupted_copy
    changes = {key: options[key] for key in options if "." in key}
    arguments = {key: options[key] for key in options if "." not in key}
    with pytest.raises(UserError, match=re.escape(message)):
        finetune(recipe.override(changes), **arguments, out=out)
    assert TrainingCheckpoints(out.with_name("run.checkpoints"), 2).newest()[0].step == 2


def test_resuming_a_finished_run_reports_it(interrupted_copy):
    out, recipe = interrupted_copy
    reported = []

    class Reports(TrainingCallback):
        def on_run_found(self, run):
            reported.append(run.path)

    for _ in range(2):
        run = finetune(recipe, out=out, resume=True, callback=Reports())
    assert reported == [run.path]
    assert not out.with_name("run.checkpoints").exists()


@pytest.mark.parametrize("weights", ["pretrained", "random"])
@pytest.mark.parametrize(
    ("file", "old", "new", "name"),
    [
        ("config.json", '"hidden_act": "gelu"', '"hidden_act": "relu"', "configuration"),
        ("tokenizer.json", '"clean_text": true', '"clean_text": false', "tokenizer"),
    ],
)
def test_a_run_is_not_resumed_with_another_configuration_or_tokenizer(weights, file, old, new, name, tmp_path):
    """Also if the weights, which would be the same, are random."""
    recipe = recipe_of("single-label", tmp_path, changes={"train.save_every": 1})
    shutil.copytree(recipe.checkpoint, tmp_path / "model")
    recipe = recipe.override({"checkpoint": str(tmp_path / "model"), "weights": weights})
    kill_at(("step", 2), recipe, out=tmp_path / "run")
    content = (tmp_path / "model" / file).read_text(encoding="utf-8")
    assert content.count(old) == 1
    (tmp_path / "model" / file).write_text(content.replace(old, new), encoding="utf-8")
    with pytest.raises(UserError, match=f"^the {name} changed since .*step-00000001 was written"):
        finetune(recipe, out=tmp_path / "run", resume=True)
    (tmp_path / "model" / file).write_text(content, encoding="utf-8")
    assert finetune(recipe, out=tmp_path / "run", resume=True).record.train.resumed_at == [1]


@pytest.mark.parametrize("weights", ["pretrained", "random"])
@pytest.mark.parametrize("before", [None, '{"max_new_tokens": 3}'])
def test_a_run_is_not_resumed_with_another_generation_configuration(before, weights, tmp_path):
    recipe = recipe_of("single-label", tmp_path, changes={"train.save_every": 1})
    shutil.copytree(recipe.checkpoint, tmp_path / "model")
    recipe, file = (
        recipe.override({"checkpoint": str(tmp_path / "model"), "weights": weights}),
        tmp_path / "model" / "generation_config.json",
    )
    file.write_text(before, encoding="utf-8") if before else file.unlink(missing_ok=True)
    kill_at(("step", 2), recipe, out=tmp_path / "run")
    for other in ('{"max_new_tokens": 5}', None if before else '{"num_beams": 2}'):
        file.write_text(other, encoding="utf-8") if other else file.unlink()
        with pytest.raises(UserError, match="^the generation configuration changed since .*step-00000001 was written"):
            finetune(recipe, out=tmp_path / "run", resume=True)
    file.write_text(before, encoding="utf-8") if before else file.unlink()
    assert finetune(recipe, out=tmp_path / "run", resume=True).record.train.resumed_at == [1]


def first_of(arrays, prefix, dims):
    return next(name for name in arrays if name.startswith(prefix) and arrays[name].ndim == dims)


def cut(arrays, prefix):
    name = first_of(arrays, prefix, 2)
    return arrays | {name: arrays[name][:3].copy()}


def one_row(arrays, prefix):
    """A shape that a framework would spread over the whole weight."""
    name = first_of(arrays, prefix, 2)
    return arrays | {name: arrays[name][:1].copy()}


def retyped(arrays, prefix):
    name = first_of(arrays, prefix, 1)
    return arrays | {name: arrays[name].astype("f8")}


def without(arrays, prefix):
    name = first_of(arrays, prefix, 1)
    return {key: value for key, value in arrays.items() if key != name}


def renamed(arrays, prefix):
    name = first_of(arrays, prefix, 1)
    return without(arrays, prefix) | {f"{prefix}.of_another_model": arrays[name]}


def with_one_more(arrays, prefix):
    return arrays | {f"{prefix}.999": arrays[first_of(arrays, prefix, 1)]}


def rewrite(folder, arrays=None, state=None):
    """Change a training checkpoint, and write the digests of what it holds now."""
    if arrays:
        save_file(arrays(load_file(folder / "state.safetensors")), folder / "state.safetensors")
    with_state(folder, **(state or {}))


CHANGED_ARRAYS = {
    "a cut weight": lambda arrays: cut(arrays, "weights."),
    "one row of a weight": lambda arrays: one_row(arrays, "weights."),
    "a weight of another type": lambda arrays: retyped(arrays, "weights."),
    "a missing weight": lambda arrays: without(arrays, "weights."),
    "a renamed weight": lambda arrays: renamed(arrays, "weights."),
    "a weight too many": lambda arrays: with_one_more(arrays, "weights"),
    "a cut moment": lambda arrays: cut(arrays, "optimizer."),
    "one row of a moment": lambda arrays: one_row(arrays, "optimizer."),
    "a missing moment": lambda arrays: without(arrays, "optimizer."),
    "a renamed moment": lambda arrays: renamed(arrays, "optimizer"),
    "no micro-batches": lambda arrays: {name: value for name, value in arrays.items() if name != "parts"},
    "best weights of another shape": lambda arrays: arrays | {"best.0": arrays["weights.0"][:1].copy()},
}


CHANGED_STATE = {
    "no history": {"history": []},
    "evaluations too many": {"scores": [{"epoch": epoch, "accuracy": 0.5, "loss": 0.7} for epoch in range(1, 9)]},
    "an evaluation of a later epoch": {"scores": [{"epoch": 7, "accuracy": 0.5, "loss": 0.7}]},
}


@pytest.mark.slow
@heavy_in_tensorflow
def test_checkpoints_of_right_digests_that_do_not_fit_the_model_are_skipped(framework, tmp_path):
    """As any damage: each is named, the newest that fits is used, and the end is that of a run that never stopped."""
    settings = {"train.epochs": 6, "train.save_every": 1, "train.keep_checkpoints": 99}
    recipe = recipe_of("single-label", tmp_path, changes=settings)
    straight = finetune(recipe.override({"train.save_every": None}), framework, out=tmp_path / "straight")
    kill_at(("step", 18), recipe, framework=framework, out=tmp_path / "run")
    newest_first = sorted((tmp_path / "run.checkpoints").iterdir(), reverse=True)
    changes = [{"arrays": change} for change in CHANGED_ARRAYS.values()]
    changes += [{"state": change} for change in CHANGED_STATE.values()]
    for folder, change in zip(newest_first, changes, strict=False):
        rewrite(folder, **change)
    seen, sound = Kill(), newest_first[len(changes)]
    run = finetune(recipe, framework, out=tmp_path / "run", resume=True, callback=seen)
    assert f"step-{seen.resumed_at:08d}" in sound.name
    for note, folder in zip(seen.notes, newest_first[: len(changes)], strict=True):
        assert f"{folder} is not valid and is skipped: " in note
    assert_same_outcome(straight.path, run.path)


def test_training_starts_from_the_beginning_if_no_checkpoint_fits(interrupted_copy, tmp_path):
    out, recipe = interrupted_copy
    straight = finetune(recipe.override({"train.save_every": None}), out=tmp_path / "straight")
    for name, change in (("step-00000001", "a renamed moment"), ("step-00000002", "one row of a moment")):
        rewrite(out.with_name("run.checkpoints") / name, arrays=CHANGED_ARRAYS[change])
    seen = Kill()
    run = finetune(recipe, out=out, resume=True, callback=seen)
    assert (seen.resumed_at, len(seen.notes)) == (0, 2)
    assert_same_outcome(straight.path, run.path)


def test_masks_count_the_steps_of_the_whole_training_also_after_a_resume(tmp_path, monkeypatch):
    recipe = recipe_of("single-label", tmp_path, changes={"train.epochs": 2, "train.save_every": 1})
    seen, original = [], experiment.token_keys

    def token_keys(seed, step, examples, positions):
        seen.append(step)
        return original(seed, step, examples, positions)

    monkeypatch.setattr(experiment, "token_keys", token_keys)
    kill_at(("step", 4), recipe, out=tmp_path / "run")
    assert seen[:4] == [0, 1, 2, 3]
    seen.clear()
    finetune(recipe, out=tmp_path / "run", resume=True)
    assert seen == [3, 4, 5] and read_lines(tmp_path / "run" / "history.jsonl")[-1]["step"] == 6
