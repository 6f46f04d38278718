"""The control: how far PyTorch gets from itself by rounding says whether two variants did the same."""

import shutil

import pytest

from pipeline.api import report
from pipeline.comparison.control import control_recipe
from pipeline.comparison.run_matrix import plan, plan_controls
from pipeline.recipe.loading import load_recipe, load_shipped
from pipeline.reporting import writer
from tests.helpers.run_writer import write_run

PERTURBED = {"perturb_weights": True}
# Their root mean square over the four steps is 0.0025, twice and twenty times that.
CONTROL, NEAR, FAR = (0.0, 0.0, 0.003, 0.004), (0.0, 0.0, 0.006, -0.008), (0.0, 0.0, 0.06, -0.08)


@pytest.fixture
def results(tmp_path):
    """Writes runs of both frameworks and the control, and returns how they compare."""

    def compare(seeds, tensorflow, wrong=4, **changes):
        paths = []
        for seed in seeds:
            every = ({"framework": "torch"}, {"framework": "tensorflow", "loss_off": tensorflow, "wrong": wrong})
            for number, run in enumerate((*every, {"settings": PERTURBED, "loss_off": CONTROL} | changes)):
                paths.append(write_run(tmp_path / f"{number}-{seed}", seed=seed, **run))
        return report(paths, tmp_path / "report").results

    return compare


def test_a_control_is_no_variant_and_its_distance_is_that_of_its_losses(results):
    found = results((0, 1, 2), NEAR, wrong=6)
    assert [variant.name for variant in found.variants] == ["torch/stock", "tensorflow/stock"]
    assert len(found.runs) == 6 and found.recipe_differences == []
    control = found.sameness.control
    assert (control.seeds, control.first_step_over_rounding, control.agree) == ([0, 1, 2], 3, 1.0)
    assert control.loss_distance == pytest.approx(0.0025)
    assert control.seconds == pytest.approx(3 * 0.4)  # as the runs were written
    (pair,) = control.pairs
    assert (pair.first, pair.second, pair.first_step_over_rounding) == ("torch/stock", "tensorflow/stock", 3)
    assert (pair.loss_distance, pair.share, pair.within) == (pytest.approx(0.005), pytest.approx(2.0), True)
    assert pair.agree == pytest.approx(0.95)  # 2 of 40 rows are wrong in one only
    assert found.data.source == "json files in sentiment"
    page = writer.html(found)
    assert "40 validation rows of json files in sentiment" in page
    assert "Whole trainings, beside the control" in page and "2.00 ×" in page


def test_trainings_no_further_apart_than_the_control_are_the_same_although_scores_do_not_show_it(results):
    found = results((0, 1, 2), NEAR, wrong=6)
    assert found.comparisons[0].metrics["accuracy"].verdict.code == "different"
    found = results_with_scattered_scores(found)
    training, score = found.headline.training, found.headline.score
    assert (training.state, training.word) == ("good", "Yes")
    assert training.sentence == (
        "Same start (outputs before training within 3e-08), same batches, same learning rates. Over whole trainings, "
        "losses differ 2 times (bound: 3) as much as those of two PyTorch trainings that start one rounding apart."
    )
    assert (score.state, score.word) == ("unknown", "Not settled")
    assert score.sentence.endswith(
        "not shown to be equivalent within 1 point over 3 seeds: 90% interval of the difference \N{MINUS SIGN}2.0 to "
        "+1.0 points, which shows equivalence within 2.0 points; within 1 point it takes about 12 seeds if there is no "
        "true difference. Equivalent: validation loss."
    )
    assert (
        "In whole trainings of 3 seeds, step 3 is the earliest of any seed at which the losses differ by more than "
        "rounding. Over all steps they differ 2 times as much across frameworks as those of two PyTorch trainings "
        "whose first weights differ by one rounding, which is within the bound. Predictions agree in 95.0% of the "
        "rows, those of the two PyTorch trainings in 100.0%."
    ) in writer.html(found)


def results_with_scattered_scores(found):
    """The results with a first metric that neither is equivalent nor differs, and the sentences about them."""
    from pipeline.reporting.first_screen import with_headline

    pair = found.comparisons[0]
    accuracy = pair.metrics["accuracy"]
    tested = accuracy.equivalence.model_copy(update={"low": -0.02, "high": 0.01, "equivalent": False})
    tested = tested.model_copy(update={"seeds_needed": 12})
    verdict = accuracy.verdict.model_copy(update={"code": "inconclusive"})
    accuracy = accuracy.model_copy(update={"equivalence": tested, "verdict": verdict})
    pair = pair.model_copy(update={"metrics": pair.metrics | {"accuracy": accuracy}})
    return with_headline(found.model_copy(update={"comparisons": [pair], "headline": None}))


def test_trainings_further_apart_than_the_control_are_not_the_same(results):
    found = results((0, 1, 2), FAR)
    assert found.headline.training.state == "bad"
    assert found.headline.training.sentence == (
        "Not the same experiment: the losses of torch/stock and tensorflow/stock are 20 times as far apart as "
        "those of two PyTorch trainings whose first weights differ by one rounding."
    )
    assert "Over" in writer.html(found)


def test_with_few_seeds_the_control_settles_nothing(results):
    found = results((0,), FAR)
    assert found.headline.training.state == "unknown"
    (doubt,) = found.headline.notices
    assert doubt.state == "unknown" and "20 times as far apart" in doubt.sentence
    assert results_with_one_seed_near(results)


def results_with_one_seed_near(results):
    """Whether a pair within the control stays unsettled with one seed."""
    return results((1,), NEAR).headline.training.state == "unknown"


def test_a_control_of_another_experiment_does_not_count(results):
    assert results((0, 1), NEAR, settings=PERTURBED | {"train.learning_rate": 1e-3}).sameness.control is None


def test_small_differences_are_the_same_whatever_the_control(tmp_path):
    paths = [
        write_run(tmp_path / "a"),
        write_run(tmp_path / "b", framework="tensorflow", loss_off=(0.0, 0.0, 2e-6, 5e-4)),
        write_run(tmp_path / "c", settings=PERTURBED, loss_off=(0.0, 0.0, 0.0, 2e-7)),
    ]
    control = report(paths, tmp_path / "report").results.sameness.control
    assert control.first_step_over_rounding is None
    assert control.pairs[0].within and control.pairs[0].first_step_over_rounding == 3


SHARED, LIBRARY = {"train.dropout_masks": "shared"}, {"train.dropout_masks": "framework"}


@pytest.mark.parametrize(
    ("changes", "has_control"),
    [
        (SHARED, True),
        (LIBRARY, False),
        (LIBRARY | {"train.dropout": 0.0}, True),
        (SHARED | {"train.precision": "bf16"}, False),
    ],
)
def test_only_trainings_that_differ_by_rounding_alone_have_a_control(changes, has_control):
    recipe = load_recipe("sentiment_bert", changes)
    changed = control_recipe(recipe)
    assert (changed is not None) == has_control
    assert changed is None or changed == recipe.override(PERTURBED)


def test_each_seed_has_a_control_in_a_directory_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = load_shipped("sentiment_bert")
    recipe = shipped.override(SHARED | {"train.epochs": 1})

    def controls(frameworks, attentions):
        return plan_controls(recipe, shipped, plan(recipe, shipped, frameworks, attentions, [0, 3], rerun=False))

    planned = controls(["torch", "tensorflow"], ["stock", "handwritten"])
    assert [(run.framework, run.attention, run.seed, run.done) for run in planned] == [
        ("torch", "stock", 0, False), ("torch", "stock", 3, False),
    ]  # fmt: skip
    assert planned[1].folder.name == f"torch-stock-seed3-{recipe.digest()}-control"
    assert planned[1].label == "control torch/stock seed 3"
    write_run(planned[1].folder, seed=3, settings=SHARED | PERTURBED)
    assert [run.done for run in controls(["torch", "tensorflow"], ["stock"])] == [False, True]
    shutil.rmtree(planned[1].folder)
    assert controls(["torch"], ["stock"]) == controls(["tensorflow"], ["stock", "handwritten"]) == []
