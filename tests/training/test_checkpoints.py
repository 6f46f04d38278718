"""Training checkpoints on disk: what is valid, what is kept, and what older versions wrote."""

import json

import numpy as np
import pytest

from pipeline.recipe.loading import load_recipe
from pipeline.runs.record import RunIdentity
from pipeline.training.checkpoints import TrainingCheckpoint, TrainingCheckpoints, refuse_foreign
from pipeline.training.state import Evaluation, SavedState, in_order, numbered, starting_with
from pipeline.utils.errors import UserError

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


def state_at(step):
    return SavedState.model_validate(OLD_STATE | {"step": step})


def steps(checkpoints):
    return [int(name[-8:]) for name in checkpoints.names()]


@pytest.fixture
def checkpoints(tmp_path):
    """Checkpoints of the steps 1 to 4, of which two are kept."""
    checkpoints = TrainingCheckpoints(tmp_path / "run.checkpoints", keep=2)
    assert checkpoints.newest() == (None, [])
    for step in (1, 2, 3, 4):
        checkpoints.save(f"step-{step:08d}", {"x": np.arange(step)}, state_at(step))
    return checkpoints


def test_the_last_checkpoints_are_kept(checkpoints):
    assert steps(checkpoints) == [4, 3]
    newest, skipped = checkpoints.newest()
    assert (newest.step, newest.arrays()["x"].tolist(), skipped) == (4, [0, 1, 2, 3], [])


@pytest.mark.parametrize(
    ("file", "message"), [("state.json", "is cut off"), ("manifest.json", "its manifest is cut off")]
)
def test_a_damaged_checkpoint_is_skipped_with_its_reason(checkpoints, file, message):
    path = checkpoints.folder / "step-00000004" / file
    path.write_bytes(path.read_bytes()[:-5])
    newest, skipped = checkpoints.newest()
    assert newest.step == 3 and newest.arrays()["x"].tolist() == [0, 1, 2]
    assert len(skipped) == 1 and str(path.parent) in skipped[0] and message in skipped[0]


def test_a_checkpoint_without_manifest_or_of_another_format_is_skipped(checkpoints):
    manifest = checkpoints.folder / "step-00000004" / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(content | {"format": 99}))
    assert "its format is 99, but this version reads 1" in checkpoints.newest()[1][0]
    manifest.unlink()
    assert "it has no manifest" in checkpoints.newest()[1][0]


def test_saving_an_earlier_step_again_drops_the_later_ones(checkpoints):
    checkpoints.save("step-00000003", {"x": np.arange(3)}, state_at(3))  # a training that never reached 4
    assert steps(checkpoints) == [3]


def test_state_json_is_what_the_first_version_wrote(checkpoints):
    written = json.loads((checkpoints.folder / "step-00000004" / "state.json").read_text())
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
