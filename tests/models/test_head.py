"""A head that was trained for other classes is not the start of a training, unless the recipe says so."""

from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from pipeline import check, finetune
from pipeline.backend import load_backend
from pipeline.cli.progress import TerminalProgress
from pipeline.models.building import draws_head
from pipeline.models.checkpoint import load_config
from pipeline.training.experiment import prepare, start
from tests.helpers.checkpoints import changed_checkpoint
from tests.helpers.families import recipe_of

HEAD = ("classifier.weight", "classifier.bias")


def with_trained_head(tmp_path, id2label, **changes):
    """A recipe for the classes bad and good, on a checkpoint with a head for the given ones, and wrong by far."""

    def weights(body):
        rng = np.random.default_rng(0)
        wide = rng.normal(0, 5, (len(id2label), 128)).astype("f4")
        return body | {"classifier.weight": wide, "classifier.bias": np.full(len(id2label), 9, "f4")}

    config = {"id2label": id2label, "label2id": {name: int(number) for number, name in id2label.items()}}
    recipe = recipe_of("single-label", tmp_path, changes=changes or None)
    return changed_checkpoint(recipe, tmp_path / "checkpoint", config=config, weights=weights)


def head_of(recipe, framework):
    experiment, backend = prepare(recipe), load_backend(framework)
    started = start(experiment, backend, 0)
    return backend.get_weights(started.model)["classifier.bias"], started.sources


@pytest.mark.parametrize("names", [("sports", "politics"), ("LABEL_0", "LABEL_1"), ("good", "bad", "neither")], ids=str)
def test_a_head_for_other_classes_is_drawn_anew_and_said(framework, names, tmp_path):
    recipe = with_trained_head(tmp_path, {str(i): name for i, name in enumerate(names)})
    bias, sources = head_of(recipe, framework)
    np.testing.assert_array_equal(bias, [0, 0])
    assert set(HEAD) <= set(sources.new)
    assert set(HEAD) <= set(sources.dropped)
    assert "classifier.weight" in str(sources)


def test_a_head_for_the_same_classes_is_kept_in_its_order(framework, tmp_path):
    bias, sources = head_of(with_trained_head(tmp_path, {"0": "good", "1": "bad"}), framework)
    np.testing.assert_array_equal(bias, [9, 9])
    assert not set(HEAD) & {*sources.new, *sources.dropped}


def test_a_head_for_other_classes_is_kept_where_the_recipe_says_so(framework, tmp_path):
    recipe = with_trained_head(tmp_path, {"0": "sports", "1": "politics"}, keep_head=True)
    bias, _ = head_of(recipe, framework)
    np.testing.assert_array_equal(bias, [9, 9])


def test_check_starts_from_the_loss_of_a_new_head_and_lists_the_weights(tmp_path):
    checked = check(with_trained_head(tmp_path, {"0": "sports", "1": "politics"}))
    assert checked.first_step.loss == pytest.approx(np.log(2), abs=0.1)
    line = next(line for line in str(checked).splitlines() if line.startswith("weights:"))
    assert " from the checkpoint; new: " in line
    assert "classifier.weight" in line.split("not used: ")[0] and "classifier.weight" in line.split("not used: ")[1]


@pytest.mark.slow
def test_finetune_tells_and_records_which_weights_are_new_kept_and_not_used(framework, tmp_path):
    recipe, output = with_trained_head(tmp_path, {"0": "sports", "1": "politics"}, **{"train.epochs": 1}), StringIO()
    run = finetune(recipe, framework, out=tmp_path / "run", callback=TerminalProgress("x", Console(file=output)))
    weights = run.record.weights
    assert set(HEAD) <= set(weights.new) and set(HEAD) <= set(weights.dropped)
    lines = [line for line in output.getvalue().splitlines() if "weights: " in line]
    assert len(lines) == 1 and f"weights: {weights.kept} from the checkpoint; new: " in lines[0]
    assert lines[0].index("classifier.weight") < lines[0].index("not used: ")
    # All that this run trained is the start of the next, which has nothing to say.
    plain = start(prepare(recipe.override({"checkpoint": str(run.path / "model")})), load_backend(framework), 0).sources
    assert plain.is_plain and plain.kept == weights.kept + len(weights.new)
    random = start(prepare(recipe.override({"weights": "random"})), load_backend(framework), 0).sources
    assert random.is_plain and not random.kept


def test_a_model_without_classes_keeps_all_that_it_can(tmp_path):
    recipe = recipe_of("masked blocks", tmp_path)
    assert not draws_head(recipe, load_config(recipe))
