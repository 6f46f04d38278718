"""Faults planted into runs are named on the first screen; clean runs have none. Runs are written here, not trained."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from markupsafe import escape

from pipeline.api import report
from pipeline.comparison import results as results_module
from pipeline.comparison.assembly import assemble
from pipeline.comparison.examples import disagreements
from pipeline.comparison.lockstep import Bounds, LockstepReport
from pipeline.comparison.lockstep_records import take_or_read
from pipeline.comparison.results import SCHEMA_VERSION, Results, schema_text
from pipeline.comparison.run_set import ComparedRun, read_run, with_variants
from pipeline.recipe.loading import load_recipe
from pipeline.reporting import writer
from pipeline.reporting.first_screen import with_headline
from tests.helpers.comparison_example import lockstep_example
from tests.helpers.run_writer import write_run

SEEDS = (0, 1, 2)


@pytest.fixture
def compared(tmp_path, monkeypatch):
    """Writes a run for each description, compares them all and returns the results; figures, which take long, are not
    drawn.
    """
    monkeypatch.setattr(writer, "pictures", lambda results: [])

    def compare(*runs):
        paths = [write_run(tmp_path / f"run{number}", **run) for number, run in enumerate(runs)]
        return report(paths, tmp_path / "report").results

    return compare


def both(seeds=SEEDS, torch=None, tensorflow=None):
    """A run of each framework and seed, with what is planted in either."""
    changes = {"torch": torch or {}, "tensorflow": tensorflow or {}}
    return [{"framework": name, "seed": seed} | change for name, change in changes.items() for seed in seeds]


def notices(results, state):
    return [notice.sentence for notice in results.headline.notices if notice.state == state]


def test_clean_runs_have_no_fault_and_did_the_same(compared):
    results = compared(*both())
    assert results.headline.notices == []
    training, score = results.headline.training, results.headline.score
    assert (training.state, training.word, score.state, score.word) == ("good", "Yes", "good", "Yes")
    assert training.sentence == (
        "Same start (outputs before training within 3e-08), same batches, same learning rates. The steps themselves "
        "were not compared."
    )
    assert score.sentence == (
        "Mean accuracy with 95% interval: torch/stock 0.9000 (0.9000 to 0.9000), tensorflow/stock 0.9000 (0.9000 to "
        "0.9000): equivalent within 1 point over 3 seeds (the predictions are the same). Also equivalent: "
        "validation loss."
    )
    assert results.recipe_differences == []
    assert all(row.within_tolerance for row in results.sameness.probe)
    assert all(row.same and row.basis == "rows" for row in results.sameness.batches)


PLANTED = {
    "another learning rate": (
        both(tensorflow={"settings": {"train.learning_rate": 1e-3}}),
        ["The setting train.learning_rate differs: 0.0007 in torch/stock seed 0, torch/stock seed 1, torch/stock seed "
         "2; 0.001 in tensorflow/stock seed 0, tensorflow/stock seed 1, tensorflow/stock seed 2",
         "The learning rates of torch/stock and tensorflow/stock differ by up to 0.0003"],
    ),
    "another weight decay in one framework": (
        both((0,), tensorflow={"settings": {"train.weight_decay": 0.0}}),
        ["The setting train.weight_decay differs: 0.01 in torch/stock seed 0; 0.0 in tensorflow/stock seed 0"],
    ),
    "the batches of another seed": (
        [*both((0, 1)), {"framework": "torch", "seed": 2, "order": 1}, {"framework": "tensorflow", "seed": 2}],
        ["The batches of torch/stock and tensorflow/stock are not the same: seed 2 from step 1 on; the batches of "
         "torch/stock seed 2 are those of seed 1"],
    ),
    "the order of another seed among steps of equal sizes": (
        [run | {"lengths": np.full(96, 64)} for run in
         [*both((0, 1)), {"framework": "torch", "seed": 2}, {"framework": "tensorflow", "seed": 2, "order": 0}]],
        ["The batches of torch/stock and tensorflow/stock are not the same: seed 2, of equal sizes but other rows; the "
         "batches of tensorflow/stock seed 2 are those of seed 0"],
    ),
    "an attention that ignores the mask": (
        [*({"seed": s} for s in SEEDS), *({"seed": s, "attention": "mine:NoMask", "probe_off": 0.25} for s in SEEDS)],
        ["The start of torch/stock and torch/mine:NoMask is not the same function: the logits before training differ "
         "by up to 0.25 (tolerance 1e-04, seed 0, 1, 2)"],
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_named(compared, fault):
    runs, expected = PLANTED[fault]
    results = compared(*runs)
    assert notices(results, "bad") == expected
    training = results.headline.training
    assert (training.state, training.word) == ("bad", "No")
    first = expected[0][0].lower() + expected[0][1:]
    assert training.sentence.startswith(f"Not the same experiment: {first}")
    text = writer.html(results)
    assert all(str(escape(sentence)) in text for sentence in expected)


def test_a_run_may_stop_early_before_another_but_with_the_same_batches_so_far(compared):
    early = {"settings": {"train.early_stopping": 1, "train.epochs": 2}}
    runs = both((0,), torch=early, tensorflow=early | {"epochs_done": 2})
    assert notices(compared(*runs), "bad") == []


def test_runs_without_recorded_rows_are_compared_by_the_sizes_of_their_steps(compared):
    old = {"report": {"batches": None}}
    results = compared(*both((0,), torch=old))
    assert results.headline.training.sentence.startswith(
        "Same start (outputs before training within 3e-08), batches of the same sizes"
    )
    assert [row.basis for row in results.sameness.batches] == ["sizes"]
    assert notices(results, "unknown") == []


def test_equal_sizes_of_packed_blocks_show_no_order(compared):
    old = {"report": {"batches": None}, "lengths": np.full(96, 64)}
    results = compared(*both((0,), torch=old, tensorflow=old | {"order": 7}))
    assert notices(results, "bad") == []
    assert notices(results, "unknown") == [
        "All steps have about the same size, and not all runs recorded their rows, so the order of the data is not "
        "shown to be the same"
    ]


def test_different_machines_threads_and_versions_are_told_and_speeds_not_compared(compared):
    other = {"processor": "Another", "cores": 8, "threads": "8", "versions": {"python": "3.12.1", "numpy": "2.4.6"}}
    results = compared(*both((0,), tensorflow={"environment": other}))
    assert notices(results, "unknown") == [
        "The runs were made on different machines, so their speeds cannot be compared: A Processor, 2 cores; Another, "
        "8 cores",
        "The runs had different numbers of threads (2, 8), which changes speed",
    ]
    assert [machine.runs for machine in results.machines] == [["torch/stock seed 0"], ["tensorflow/stock seed 0"]]
    for answer in (results.headline.time, results.headline.memory):
        assert (answer.state, answer.word) == ("bad", "Not comparable")
        assert answer.sentence.startswith("The runs were made on different machines, so this ")
    assert results.headline.score.state == "unknown"


def test_versions_that_changed_on_one_machine_are_notices(compared):
    other = {"versions": {"python": "3.11.7", "numpy": "2.5.0"}}
    results = compared(*both((0,), tensorflow={"environment": other}))
    text = "Versions differ between the runs: numpy 2.4.6 in PyTorch and 2.5.0 in TensorFlow"
    assert notices(results, "unknown") == [text]


def test_an_undefined_score_and_one_that_its_predictions_do_not_give_are_notices(compared):
    results = compared(*both((0,), torch={"report": {"metrics": {"accuracy": 0.7, "loss": None}}}))
    assert notices(results, "bad") == [
        "The recorded accuracy of torch/stock seed 0 is 0.7, but its predictions.jsonl gives 0.9"
    ]
    assert notices(results, "unknown") == ["Undefined in torch/stock seed 0: loss; the run may have diverged"]
    verdict = results.comparisons[0].metrics["loss"].verdict
    assert (verdict.code, verdict.undefined_seeds) == ("undefined", 1)


def test_variants_of_several_recipes_have_the_settings_that_tell_them_apart(compared):
    full, lora = {}, {"train.lora.rank": 8, "train.learning_rate": 3e-3}
    results = compared(
        *({"framework": name, "settings": each} for each in (full, lora) for name in ("torch", "tensorflow"))
    )
    assert [variant.name for variant in results.variants] == [
        "torch/stock (lora=none)", "tensorflow/stock (lora=none)",
        "torch/stock (lora=rank 8, alpha 16)", "tensorflow/stock (lora=rank 8, alpha 16)",
    ]  # fmt: skip
    assert notices(results, "bad") == []
    training = results.headline.training
    assert (training.state, training.word) == ("bad", "No")
    assert training.sentence == (
        "Not the same experiment: the recipes differ in train.learning_rate, train.lora. Peak memory and scores can be "
        "compared. Variants of one recipe: same start (outputs before training within 3e-08), same batches, same "
        "learning rates."
    )


def test_names_have_as_many_settings_as_recipes_need_to_be_told_apart():
    several = [{"train.learning_rate": rate, "train.lora.rank": rank} for rate in (1e-3, 2e-3) for rank in (4, 8)]
    runs = [ComparedRun("torch", "stock", 0, Path("r"), load_recipe("sentiment_bert", each)) for each in several]
    assert [run.variant.partition(" ")[2] for run in with_variants(runs)] == [
        f"(learning_rate={rate}, lora=rank {rank}, alpha 16)" for rate in (0.001, 0.002) for rank in (4, 8)
    ]


@pytest.fixture
def runs(tmp_path):
    """Three seeds of both frameworks; TensorFlow's last one failed."""
    completed = [read_run(write_run(tmp_path / f"{n}", **run)) for n, run in enumerate(both())]
    failed = ComparedRun(
        "tensorflow", "stock", 2, tmp_path / "none", completed[0].recipe, log_tail="no memory\n(signal 9)"
    )
    return with_variants([*completed[:-1], failed])


def assembled(runs, lockstep=()):
    return with_headline(
        assemble(runs, 0.01, list(lockstep), [], created="2026-11-24T06:40:00+00:00", command=["report"])
    )


def test_a_failed_run_is_named_and_the_others_are_compared(runs):
    results = assembled(runs)
    assert notices(results, "bad") == ["The run tensorflow/stock seed 2 failed; the end of its log is below"]
    assert results.headline.training.state == "unknown"
    assert results.headline.training.sentence.endswith("But some runs failed.")
    assert results.comparisons[0].metrics["accuracy"].seeds.n == 2
    variant = results.variants[1]
    assert (variant.name, variant.framework, variant.attention) == ("tensorflow/stock", "tensorflow", "stock")
    assert (variant.seeds, variant.completed, variant.failed) == ([0, 1, 2], 2, 1)
    assert "(signal 9)" in writer.html(results)


def test_if_every_run_failed_there_is_a_report_still(runs):
    failed = [dataclasses.replace(run, log_tail="no", record=None, environment=None) for run in runs]
    results = assembled(failed)
    assert results.headline.training.sentence == "Fewer than two variants finished, so there is nothing to compare."
    assert "Fault" in writer.html(results)


def test_a_lockstep_over_its_bounds_is_a_fault(runs):
    within = lockstep_example()
    assert "compared one by one and within bounds" in assembled(runs, [within]).headline.training.sentence
    over = within.model_copy(update={"differences": within.differences | {"parameters": 0.0612}, "same": False})
    results = assembled(runs, [over])
    assert notices(results, "bad")[0] == (
        "In lock-step with stock attention PyTorch and TensorFlow differ: parameters 0.061 (allowed 3e-03)"
    )
    assert results.headline.training.state == "bad"


def test_written_results_are_read_again_as_they_were(compared, tmp_path):
    results = compared(*both((0, 1, 2), tensorflow={"wrong": 6, "settings": {"train.weight_decay": 0.0}}))
    text = (tmp_path / "report" / "results.json").read_text(encoding="utf-8")
    assert Results.model_validate_json(text) == results
    assert json.loads(text)["schema"] == SCHEMA_VERSION
    assert results.disagreements and results.recipe_differences


def test_the_published_schema_is_that_of_the_results():
    published = Path(results_module.__file__).with_name("results.schema.json").read_text(encoding="utf-8")
    assert published == schema_text(), "python -m pipeline.comparison.results > pipeline/comparison/results.schema.json"


def disagreeing(reference, *predictions):
    """The indices of disagreement where each run predicts a list."""
    runs = [
        ComparedRun("torch", f"a:A{i}", 0, None, None, variant=f"{i}", predictions=[
            {"index": n, "prediction": p, "reference": r} for n, (p, r) in enumerate(zip(row, reference, strict=True))
        ])
        for i, row in enumerate(predictions)
    ]  # fmt: skip
    return [row.index for row in disagreements(runs, [])]


def test_those_on_which_one_is_right_come_first():
    assert disagreeing(["a", "b", "c", "d"], ["a", "x", "c", "d"], ["a", "y", "c", "e"]) == [3, 1]


def test_numbers_disagree_beyond_rounding_only_the_widest_apart_first():
    assert disagreeing([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.1, 4.0], [1.0000004, 2.0, 3.0, 9.0]) == [3, 2]
    assert disagreeing([1.0, 2.0], [None, 2.0], [1.0, 2.0]) == [0]


def test_a_lockstep_is_used_again_for_the_same_data_only(tmp_path, monkeypatch):
    taken, now = [], {"data": "a", "checkpoint": "b"}
    differences = {"logits": 0.0, "loss": 0.0, "grad_norm": 0.0, "parameters": 0.0}

    def take(recipe, steps, attention, seed):
        taken.append(attention)
        return LockstepReport(
            recipe.name, steps, 0.1, differences, Bounds(), "w", np.zeros(steps), differences, np.zeros(steps), 3,
            dict(now), {},
        )  # fmt: skip

    monkeypatch.setattr("pipeline.comparison.lockstep.compare_frameworks", take)

    def results(rerun=False, **changes):
        recipe = load_recipe("sentiment_bert")
        return take_or_read(recipe, ["stock"], 0, tmp_path, 5, rerun, now | changes)

    (first,), problems = results()
    assert (first.attention, first.steps, first.same, problems, len(taken)) == ("stock", 5, True, [], 1)
    assert (first.dropout, first.num_controls, first.first_step_over_rounding) == (0.1, 3, None)
    assert (results(), len(taken)) == (([first], []), 1)
    assert (results(rerun=True), len(taken)) == (([first], []), 2)
    for what in now:  # the runs were made from other data or another checkpoint than the recipe finds now
        found, (problem,) = results(**{what: "earlier"})
        assert (found, problem.code) == ([], "lockstep_outdated")
    now["data"] = "c"
    assert (results(), len(taken)) == (([first], []), 5)
    assert (results(), len(taken)) == (([first], []), 5)
