"""Faults planted into runs are named on the first screen; clean runs have none. Runs are written here, not trained."""

import dataclasses

import numpy as np
import pytest
from markupsafe import escape

from pipeline.api import compare_runs
from pipeline.comparison.assembly import assemble
from pipeline.comparison.lockstep_records import lockstep_records
from pipeline.comparison.run_set import Outcome, named, read_outcome
from pipeline.comparison.same_experiment import disagreements
from pipeline.recipe.loading import load_recipe
from pipeline.reporting import writer as report
from pipeline.utils import processes
from tests.helpers.comparison_example import example
from tests.helpers.run_writer import write_run

SEEDS = (0, 1, 2)


@pytest.fixture
def compared(tmp_path):
    """Writes a run for each description, compares them all and returns the results."""

    def compare(*runs):
        paths = [write_run(tmp_path / f"run{number}", **run) for number, run in enumerate(runs)]
        return compare_runs(paths, tmp_path / "report").results

    return compare


def both(seeds=SEEDS, torch=None, tensorflow=None):
    """A run of each framework and seed, with what is planted in either."""
    changes = {"torch": torch or {}, "tensorflow": tensorflow or {}}
    return [{"framework": name, "seed": seed} | change for name, change in changes.items() for seed in seeds]


def told(results, state):
    return [notice["sentence"] for notice in results["headline"]["notices"] if notice["state"] == state]


def test_clean_runs_have_no_fault_and_did_the_same(compared):
    results = compared(*both())
    assert results["headline"]["notices"] == []
    assert results["headline"]["same"] == {
        "state": "good",
        "sentence": "Same start (logits within 3e-08), same batches, same learning rates. The accuracy is equivalent "
        "within 1 point over 3 seeds (the predictions are the same).",
    }
    assert results["recipe_differences"] == []
    assert all(row["ok"] for row in results["sameness"]["probe"])
    assert all(row["same"] and row["basis"] == "rows" for row in results["sameness"]["batches"])


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
        ["The batches of torch/stock and tensorflow/stock are not the same: seed 2 from update 1 on; the batches of "
         "torch/stock seed 2 are those of seed 1"],
    ),
    "the order of another seed among updates of equal sizes": (
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


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_named(compared, fault):
    runs, expected = PLANTED[fault]
    results = compared(*runs)
    assert told(results, "bad") == expected
    same = results["headline"]["same"]
    assert same["state"] == "bad"
    first = expected[0][0].lower() + expected[0][1:]
    assert same["sentence"].startswith(f"Not the same experiment: {first}")
    text = report.html(results)
    assert all(str(escape(sentence)) in text for sentence in expected)


def test_a_run_may_stop_early_before_another_but_with_the_same_batches_so_far(compared):
    early = {"settings": {"train.early_stopping": 1, "train.epochs": 2}}
    runs = both((0,), torch=early, tensorflow=early | {"epochs_done": 2})
    assert told(compared(*runs), "bad") == []


def test_runs_that_do_not_say_their_rows_are_held_by_the_sizes_of_their_updates(compared):
    old = {"report": {"batches": None}}
    results = compared(*both((0,), torch=old))
    assert results["headline"]["same"]["sentence"].startswith(
        "Same start (logits within 3e-08), batches of the same si"
    )
    assert [row["basis"] for row in results["sameness"]["batches"]] == ["sizes"]
    assert told(results, "unknown") == []


def test_equal_sizes_of_packed_blocks_show_no_order(compared):
    old = {"report": {"batches": None}, "lengths": np.full(96, 64)}
    results = compared(*both((0,), torch=old, tensorflow=old | {"order": 7}))
    assert told(results, "bad") == []
    assert told(results, "unknown") == [
        "All updates have about the same size, and not all runs say which rows they had, so the order of the data is "
        "not shown to be the same"
    ]


def test_different_machines_threads_and_versions_are_told_and_speeds_not_compared(compared):
    other = {"processor": "Another", "cores": 8, "threads": "8", "versions": {"python": "3.12.1", "numpy": "2.4.6"}}
    results = compared(*both((0,), tensorflow={"environment": other}))
    assert told(results, "unknown") == [
        "The runs were made on different machines, so their speeds do not compare: A Processor, 2 cores; Another, 8 "
        "cores",
        "The runs had different numbers of threads (2, 8), which changes speed",
    ]
    assert [machine["runs"] for machine in results["machine"]] == [["torch/stock seed 0"], ["tensorflow/stock seed 0"]]
    for kind in ("speed", "memory"):
        assert results["headline"][kind]["state"] == "bad"
        assert results["headline"][kind]["sentence"].startswith("The runs were made on different machines, so this ")
    assert results["headline"]["same"]["state"] == "unknown"


def test_versions_that_changed_on_one_machine_are_told(compared):
    other = {"versions": {"python": "3.11.7", "numpy": "2.5.0"}}
    results = compared(*both((0,), tensorflow={"environment": other}))
    assert told(results, "unknown") == ["Versions differ between the runs: numpy 2.4.6 and 2.5.0"]


def test_an_undefined_score_and_one_that_its_predictions_do_not_give_are_told(compared):
    results = compared(*both((0,), torch={"report": {"metrics": {"accuracy": 0.7, "loss": None}}}))
    assert told(results, "bad") == [
        "The recorded accuracy of torch/stock seed 0 is 0.7, but its predictions.jsonl gives 0.9"
    ]
    assert told(results, "unknown") == ["Undefined in torch/stock seed 0: loss; the run may have diverged"]
    verdict = results["comparisons"][0]["metrics"]["loss"]["verdict"]
    assert verdict["sentence"] == "not shown to be equivalent: undefined in 1 of 1 seed"


@pytest.fixture
def outcomes(tmp_path):
    """Three seeds of both frameworks; TensorFlow's last one failed."""
    found = [read_outcome(write_run(tmp_path / f"{n}", **run)) for n, run in enumerate(both())]
    failed = Outcome("tensorflow", "stock", 2, tmp_path / "none", found[0].recipe, log_tail="no memory\n(signal 9)")
    return named([*found[:-1], failed])


def test_a_failed_run_is_told_and_the_others_are_compared(outcomes):
    results = assemble(outcomes, 0.01, [], [])
    assert told(results, "bad") == ["The run tensorflow/stock seed 2 failed; the end of its log is below"]
    assert results["headline"]["same"]["state"] == "unknown"
    assert results["comparisons"][0]["metrics"]["accuracy"]["seeds"]["n"] == 2
    assert results["variants"][1] == {
        "name": "tensorflow/stock", "framework": "tensorflow", "attention": "stock", "seeds": [0, 1, 2],
        "completed": 2, "failed": 1,
    }  # fmt: skip
    assert "(signal 9)" in report.html(results | {"created": "2026-11-24T06:40:00+00:00", "command": [], "schema": 1})


def test_where_every_run_failed_there_is_a_report_still(outcomes):
    results = assemble([dataclasses.replace(run, log_tail="no") for run in outcomes], 0.01, [], [])
    assert (
        results["headline"]["same"]["sentence"] == "Fewer than two variants finished, so there is nothing to compare."
    )
    assert "Fault" in report.html(results | {"created": "2026-11-24T06:40:00+00:00", "command": [], "schema": 1})


def test_a_lockstep_that_parts_is_a_fault(outcomes):
    (record,) = example()["sameness"]["lockstep"]
    clean = assemble(outcomes, 0.01, [record], [])
    assert "10 updates in lock-step within bounds" in clean["headline"]["same"]["sentence"]
    record["differences"]["parameters"], record["same"] = 0.0612, False
    results = assemble(outcomes, 0.01, [record], [])
    assert told(results, "bad")[0] == (
        "In lock-step with stock attention PyTorch and TensorFlow part: parameters 0.061 (bound 1e-03)"
    )
    assert results["headline"]["same"]["state"] == "bad"


# Whose keys are names of variants, metrics, settings or packages.
NAMED = {
    "metrics",
    "values",
    "curves",
    "evaluations",
    "predictions",
    "fields",
    "environment",
    "train",
    "versions",
    "splits",
}


def agree(ours, theirs, where):
    """Both have the same keys at every depth, as far as both have entries."""
    if isinstance(theirs, list):
        assert isinstance(ours, list), where
        for a, b in zip(ours[:1], theirs[:1], strict=False):
            agree(a, b, where)
    elif isinstance(theirs, dict):
        is_named = where[-1] in NAMED or (where[-1] == "variants" and isinstance(ours, dict))
        if not is_named:
            assert ours.keys() == theirs.keys(), where
        pairs = zip(ours.items(), theirs.items(), strict=False) if is_named else (
            ((key, ours[key]), (key, theirs[key])) for key in theirs
        )  # fmt: skip
        for (key, a), (_, b) in pairs:
            agree(a, b, [*where, key])


def test_results_have_the_keys_that_the_report_is_tested_with(compared):
    results = compared(*both((0, 1, 2), tensorflow={"wrong": 6, "settings": {"train.weight_decay": 0.0}}))
    theirs = example()
    agree(results, theirs, [""])
    assert [kind["name"] for kind in results["cost"]] == [kind["name"] for kind in theirs["cost"]]
    assert results["disagreements"] and results["recipe_differences"]


def disagreeing(reference, *predictions):
    """The indices of disagreement where each run predicts a list."""
    runs = [
        Outcome("torch", f"a:A{i}", 0, None, None, variant=f"{i}", predictions=[
            {"index": n, "prediction": p, "reference": r} for n, (p, r) in enumerate(zip(row, reference, strict=True))
        ])
        for i, row in enumerate(predictions)
    ]  # fmt: skip
    return [row["index"] for row in disagreements(runs, [])]


def test_those_on_which_one_is_right_come_first():
    assert disagreeing(["a", "b", "c", "d"], ["a", "x", "c", "d"], ["a", "y", "c", "e"]) == [3, 1]


def test_numbers_disagree_beyond_rounding_only_the_widest_apart_first():
    assert disagreeing([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.1, 4.0], [1.0000004, 2.0, 3.0, 9.0]) == [3, 2]
    assert disagreeing([1.0, 2.0], [None, 2.0], [1.0, 2.0]) == [0]


def test_a_lockstep_is_used_again_for_the_same_data_only(tmp_path, monkeypatch):
    taken, now = [], {"data": "a", "checkpoint": "b"}
    record = {"attention": "stock"}
    monkeypatch.setattr(processes, "call", lambda *arguments: taken.append(1) or {"of": dict(now), "found": record})

    def records(again=False, **of):
        return lockstep_records(load_recipe("sentiment_bert"), ["stock"], 0, tmp_path, 50, again, now | of)

    assert [records(), records(), len(taken)] == [([record], []), ([record], []), 1]
    assert [records(again=True), len(taken)] == [([record], []), 2]
    for what in now:  # the runs were made of something else than what the recipe finds now
        found, (note,) = records(**{what: "earlier"})
        assert found == [] and note["sentence"].startswith("the data or the checkpoint changed since the runs")
    now["data"] = "c"
    assert [records(), records(), len(taken)] == [([record], []), ([record], []), 5]
