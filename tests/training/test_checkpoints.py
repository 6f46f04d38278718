"""Training checkpoints on disk: what is valid, what is kept, and what older versions wrote."""

import errno
import hashlib
import json
import tracemalloc

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import save

from pipeline.recipe.loading import load_recipe
from pipeline.runs.record import RunIdentity
from pipeline.training.checkpoints import TrainingCheckpoint, TrainingCheckpoints, refuse_foreign
from pipeline.training.state import Evaluation, SavedState, in_order, numbered, starting_with
from pipeline.utils.errors import RunFailure, UserError
from tests.helpers.damage import flips

IDENTITY = {"recipe": "tiny", "framework": "torch", "attention": "stock", "seed": 0}
# As the first version wrote state.json.
OLD_STATE = {
    "history": [
        {
            "step": 1, "epoch": 1, "loss": 0.7, "learning_rate": 0.1, "grad_norm": 1.5, "examples": 16, "tokens": 90,
            "seconds": 0.25,
        }
    ],
    "scores": [{"epoch": 1, "accuracy": 0.5, "loss": float("nan")}],
    "last": None,
    "best": {"epoch": 1, "metrics": {"accuracy": 0.5, "loss": float("nan")}, "rows": [{"index": 0, "score": 0.25}]},
    "is_over": False, "resumed_at": [], "peak_memory_bytes": 7, "parts": 2, "step": 1, "identity": IDENTITY,
    "experiment": {"name": "tiny"}, "fingerprints": {"data": "0", "checkpoint": None}, "versions": {"torch": "2"},
    "seconds": 0.25,
}  # fmt: skip
# What later versions added, with the values of a training that had none of it.
LATER = {"compilations": 0, "attention_implementation": None, "tracking_id": "", "processes": 1}


def state_at(step):
    return SavedState.model_validate(OLD_STATE | {"step": step})


def arrays_at(step):
    """Of the state above, which has taken one step whatever its name says."""
    return {"weights.0": np.arange(step), "step": np.array(1)}


def steps(checkpoints):
    return [int(name[-8:]) for name in checkpoints.names()]


@pytest.fixture
def checkpoints(tmp_path):
    """Checkpoints of the steps 1 to 4, of which two are kept."""
    checkpoints = TrainingCheckpoints(tmp_path / "run.checkpoints", keep=2)
    assert checkpoints.newest() == (None, [])
    for step in (1, 2, 3, 4):
        checkpoints.save(f"step-{step:08d}", arrays_at(step), state_at(step))
    return checkpoints


def test_saving_takes_no_more_memory_after_many_steps(checkpoints):
    history = [OLD_STATE["history"][0] | {"step": step} for step in range(1, 20_001)]
    state = SavedState.model_validate(OLD_STATE | {"history": history, "step": 20_000})
    tracemalloc.start()
    try:
        path = checkpoints.save("step-00020000", {"weights.0": np.arange(3), "step": np.array(20_000)}, state)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 4 * 2**20  # parts of a file are read for their digest; the history is a text of 3 MB
    saved, _ = checkpoints.newest()
    assert saved.path == path and saved.step == 20_000
    written = json.loads((path / "state.json").read_text(encoding="utf-8"))
    assert written["history"] == history and {*written} == {*OLD_STATE, *LATER}


def test_the_last_checkpoints_are_kept(checkpoints):
    assert steps(checkpoints) == [4, 3]
    newest, skipped = checkpoints.newest()
    assert (newest.step, newest.arrays()["weights.0"].tolist(), skipped) == (4, [0, 1, 2, 3], [])


@pytest.mark.parametrize(
    ("file", "message"), [("state.json", "is cut off"), ("manifest.json", "its manifest is cut off")]
)
def test_a_damaged_checkpoint_is_skipped_with_its_reason(checkpoints, file, message):
    path = checkpoints.folder / "step-00000004" / file
    path.write_bytes(path.read_bytes()[:-5])
    newest, skipped = checkpoints.newest()
    assert newest.step == 3 and newest.arrays()["weights.0"].tolist() == [0, 1, 2]
    assert len(skipped) == 1 and str(path.parent) in skipped[0] and message in skipped[0]


def test_a_checkpoint_without_manifest_or_of_another_format_is_skipped(checkpoints):
    manifest = checkpoints.folder / "step-00000004" / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(content | {"format": 99}))
    assert "its format is 99, but this version reads 1" in checkpoints.newest()[1][0]
    manifest.unlink()
    assert "it has no manifest" in checkpoints.newest()[1][0]


def write_manifest(path):
    """Say of a checkpoint that it is as it was written."""
    files = {
        file.name: {"bytes": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        for file in (path / "state.safetensors", path / "state.json")
    }
    (path / "manifest.json").write_text(json.dumps({"format": 1, "files": files}))


DEEP = "[" * 100_000


@pytest.mark.parametrize("content", ["[]", "7", "null", '{"format": 1}', '{"format": 1, "files": []}', DEEP, b"\xff"])
def test_a_manifest_of_another_form_is_passed_over(checkpoints, content):
    manifest = checkpoints.folder / "step-00000004" / "manifest.json"
    manifest.write_bytes(content if isinstance(content, bytes) else content.encode())
    newest, skipped = checkpoints.newest()
    assert newest.step == 3 and len(skipped) == 1


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("state.json", b"[]"), ("state.json", DEEP.encode()), ("state.json", b'{"step": 4}'),
        ("state.json", json.dumps(OLD_STATE | {"step": 4, "history": []}).encode()),
        ("state.json", json.dumps(OLD_STATE | {"step": 4, "is_over": True}).encode()),
        ("state.safetensors", b"no tensors"), ("state.safetensors", save({"step": np.array(1)})),
        ("state.safetensors", save({"weights.0": np.array(1)})),
    ],
)  # fmt: skip
def test_a_checkpoint_whose_digests_are_right_and_whose_content_is_wrong_is_passed_over(checkpoints, file, content):
    path = checkpoints.folder / "step-00000004"
    (path / file).write_bytes(content)
    write_manifest(path)
    newest, skipped = checkpoints.newest()
    assert newest.step == 3 and len(skipped) == 1


def test_what_only_has_a_name_like_a_checkpoint_is_passed_over_and_stays(checkpoints, tmp_path):
    """A file, a link to a folder, a folder of another name: it neither stops a run nor is removed with one."""
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "thesis").touch()
    (checkpoints.folder / "step-00000009").touch()
    (checkpoints.folder / "step-00000005").symlink_to(tmp_path / "documents")
    (checkpoints.folder / "step-mine").mkdir()
    (checkpoints.folder / ".step-mine.partial-of-a-film").mkdir()
    assert steps(checkpoints) == [4, 3] and checkpoints.newest()[0].step == 4
    checkpoints.save("step-00000005", arrays_at(5), state_at(5))  # in the place of the link
    assert steps(checkpoints) == [5, 4] and (tmp_path / "documents" / "thesis").exists()
    checkpoints.remove()
    left = sorted(entry.name for entry in checkpoints.folder.iterdir())
    assert left == [".step-mine.partial-of-a-film", "step-00000009", "step-mine"]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device; .*Free some space, then"),
        (OSError(errno.EACCES, "Permission denied"), "Permission denied; .*Correct the cause, then"),
        (SafetensorError("Error while serializing: I/O error: No space (os error 28)"), ".*No space.*Free some space"),
        (OSError("the mount is gone"), "the mount is gone; .*Correct the cause"),
        (OSError(), "OSError; .*Correct the cause"),
    ],
)
def test_a_checkpoint_that_cannot_be_written_says_why_and_what_to_do(checkpoints, error, message, monkeypatch):
    def fail(*arguments):
        raise error

    monkeypatch.setattr("pipeline.training.checkpoints.write_safetensors", fail)
    with pytest.raises(RunFailure, match=f"step-00000005 cannot be written: {message}"):
        checkpoints.save("step-00000005", arrays_at(5), state_at(5))


def test_a_flipped_bit_anywhere_in_a_checkpoint_is_seen(checkpoints):
    """In a sample of all bits; only a flip that leaves the same JSON may be read, and then as what was written."""
    path = checkpoints.folder / "step-00000004"
    written = checkpoints.newest()[0]
    for file, flipped in flips(path, 300, seed=5):
        newest, _ = checkpoints.newest()
        assert newest.step == 3 or (newest == written and file.name == "manifest.json"), flipped


def test_saving_an_earlier_step_again_drops_the_later_ones(checkpoints):
    checkpoints.save("step-00000003", arrays_at(3), state_at(3))  # a training that never reached 4
    assert steps(checkpoints) == [3]


def test_state_json_is_what_the_first_version_wrote(checkpoints):
    written = json.loads((checkpoints.folder / "step-00000004" / "state.json").read_text())
    assert {key: written.pop(key) for key in LATER} == LATER
    assert json.dumps(written) == json.dumps(OLD_STATE | {"step": 4})
    state = checkpoints.newest()[0].state.training_state()
    assert (state.steps_done, state.epochs_done, state.micro_batches) == (1, 1, 2)
    assert state.best.rows == [{"index": 0, "score": 0.25}] and np.isnan(state.evaluations[0].metrics["loss"])


def test_numbered_arrays_come_back_in_their_order():
    arrays = numbered("weights", [np.array(i) for i in range(11)]) | {"weights_of_others.0": np.array(-1)}
    assert len(starting_with("weights", arrays)) == 11
    assert [int(array) for array in in_order("weights", arrays)] == list(range(11))


@pytest.mark.parametrize(
    ("value", "earlier", "lower_is_better", "expected"),
    [(0.5, 0.4, False, True), (0.5, 0.4, True, False), (0.4, 0.4, False, False), (0.1, float("nan"), False, True)],
)
def test_an_evaluation_is_better_by_the_metrics_direction_and_than_nan(value, earlier, lower_is_better, expected):
    now, before = (Evaluation(epoch=1, metrics={"m": number}, rows=[]) for number in (value, earlier))
    assert now.is_better_than(before, "m", lower_is_better) is expected
    assert now.is_better_than(None, "m", lower_is_better)


@pytest.mark.parametrize(("section", "key"), [("data", "batching"), ("train", "dropout_masks")])
def test_a_checkpoint_of_a_version_that_trained_in_another_way_is_refused(section, key, tmp_path):
    recipe = load_recipe("sentiment_bert", {f"{section}.{key}": {"batching": "sorted"}.get(key, "framework")})
    former = recipe.experiment()
    del former[section][key]
    state = SavedState.model_validate(OLD_STATE | {"experiment": former})
    with pytest.raises(UserError, match=rf"an older version, which had no {section}\.{key}, wrote .*overwrite=True"):
        refuse_foreign(TrainingCheckpoint(tmp_path / "step-00000001", state), RunIdentity(**IDENTITY), recipe)


@pytest.mark.parametrize("name", ["sentiment_bert", "stories_gpt2"])
def test_a_checkpoint_from_before_the_folder_of_bundled_data_was_renamed_belongs_to_the_same_run(name, tmp_path):
    recipe = load_recipe(name)
    former = json.loads(json.dumps(recipe.experiment()).replace("recipes/bundled/", "recipes/embedded/"))
    state = SavedState.model_validate(OLD_STATE | {"experiment": former})
    assert former != recipe.experiment()
    refuse_foreign(TrainingCheckpoint(tmp_path, state), RunIdentity(**IDENTITY), recipe)
