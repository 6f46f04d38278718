"""What runs cost: medians, ranges and ratios by hand, and sentences that claim no more than the runs allow."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.comparison.costs import costs, machines, memory, speed
from pipeline.comparison.run_set import Outcome

MACHINE = {"processor": "A Processor", "cores": 2, "platform": "Linux", "threads": "2", "startup_seconds": 5.0}


def run(variant, seed, seconds, first=0.5, mebibytes=600, examples=32, steps=5):
    """A run of updates that take equally long but for the first one."""
    each = (seconds - first) / (steps - 1)
    history = [{"seconds": first + each * step, "examples": examples} for step in range(steps)]
    train = {
        "seconds": seconds, "examples_per_second": steps * examples / seconds, "tokens_per_second": 1000.0,
        "first_step_seconds": first, "peak_memory_bytes": mebibytes * 2**20,
    }  # fmt: skip
    framework, attention = variant.split("/")
    return Outcome(
        framework, attention, seed, Path(), None, variant, report={"train": train}, environment=MACHINE, history=history
    )


def row(found, name, variant):
    (kind,) = (kind for kind in found if kind["name"] == name)
    return kind["variants"][variant]


@pytest.fixture
def runs():
    """Three seeds of each: PyTorch 64, 80 and 160 examples a second, TensorFlow 32, 40 and 50."""
    fast = [run("torch/stock", seed, seconds) for seed, seconds in enumerate((2.5, 2.0, 1.0))]
    slow = [run("tensorflow/stock", seed, seconds, mebibytes=900) for seed, seconds in enumerate((5.0, 4.0, 3.2))]
    return fast + slow


def test_medians_ranges_and_ratios_are_those_computed_by_hand(runs):
    found = costs(runs)
    assert row(found, "examples_per_second", "torch/stock") == {"median": 80, "low": 64, "high": 160, "ratio": 1}
    assert row(found, "examples_per_second", "tensorflow/stock") == {
        "median": 40, "low": 32, "high": 50, "ratio": 0.5,
    }  # fmt: skip
    # 4 of 5 updates, 128 examples, in 2, 1.5 and 0.5 seconds.
    assert row(found, "steady_examples_per_second", "torch/stock")["median"] == pytest.approx(128 / 1.5)
    assert row(found, "peak_memory_bytes", "tensorflow/stock")["ratio"] == 1.5
    assert row(found, "startup_seconds", "torch/stock")["median"] == 5.0


def test_the_sentences_name_the_best_and_the_ratio_to_it(runs):
    short = [replace(r, report={"train": r.report["train"] | {"first_step_seconds": 0.1}}) for r in runs]
    assert speed(costs(short), short) == {
        "state": "good", "sentence": "Fastest was torch/stock with 80 examples/s; tensorflow/stock 0.50 × that.",
    }  # fmt: skip
    assert memory(costs(runs), runs) == {
        "state": "good",
        "sentence": "Smallest was torch/stock with 600 MiB at its peak; tensorflow/stock 1.50 × that.",
    }


def test_a_long_first_update_is_left_out_of_the_sentence_and_that_is_said():
    runs = [run("torch/stock", seed, 2.0, first=0.4) for seed in range(3)]
    runs += [run("tensorflow/stock", seed, 20.0, first=18.0) for seed in range(3)]
    # All of it: 80 and 8 examples a second. After the first update: 128 examples in 1.6 and in 2 seconds.
    assert speed(costs(runs), runs) == {
        "state": "good",
        "sentence": "After the first update, fastest was torch/stock with 80 examples/s; tensorflow/stock 0.80 × that. "
        "The first update took 90% of tensorflow/stock's training.",
    }


def test_runs_of_one_update_have_no_speed_after_it():
    runs = [
        replace(run(name, 0, 2.0, first=2.0), history=[{"seconds": 2.0, "examples": 32}]) for name in ("a/b", "c/d")
    ]
    assert row(costs(runs), "steady_examples_per_second", "a/b")["median"] is None
    assert speed(costs(runs), runs)["sentence"].startswith("Fastest was a/b with 80 examples/s; c/d 1.00 × that.")


def test_overlapping_ranges_show_no_order():
    runs = [run("torch/stock", seed, seconds, first=0.1) for seed, seconds in enumerate((2.0, 2.2, 2.4))]
    runs += [run("torch/handwritten", seed, seconds, first=0.1) for seed, seconds in enumerate((2.1, 2.3, 2.5))]
    assert speed(costs(runs), runs) == {
        "state": "unknown",
        "sentence": "Fastest was torch/stock with 73 examples/s; torch/handwritten 0.96 × that. The ranges of "
        "torch/stock and torch/handwritten overlap, so their order is not shown.",
    }


@pytest.mark.parametrize(("seeds", "words"), [(1, "With 1 run of"), (2, "With 2 runs of")])
def test_few_runs_leave_it_to_chance(seeds, words):
    runs = [run(name, seed, seconds) for name, seconds in (("a/b", 2.5), ("c/d", 5.0)) for seed in range(seeds)]
    found = speed(costs(runs), runs)
    assert found["state"] == "unknown"
    assert f"{words} a variant, chance is not ruled out." in found["sentence"]


def test_a_failed_variant_costs_nothing_that_is_known(runs):
    failed = [Outcome("tensorflow", "stock", 0, Path(), None, "tensorflow/stock", log_tail="no")]
    found = costs(runs[:3] + failed)
    assert row(found, "examples_per_second", "tensorflow/stock") == dict.fromkeys(("median", "low", "high", "ratio"))
    assert speed(found, runs[:3] + failed) == {
        "state": "unknown", "sentence": "Fewer than two variants finished, so there is nothing to compare.",
    }  # fmt: skip


def test_machines_are_told_apart_by_processor_cores_and_platform(runs):
    other = [replace(r, environment=MACHINE | {"cores": 8, "threads": "8"}) for r in runs[3:]]
    found = machines(runs[:3] + other)
    assert [(machine["cores"], machine["threads"]) for machine in found] == [(2, "2"), (8, "8")]
    assert found[1]["runs"] == [f"tensorflow/stock seed {seed}" for seed in range(3)]
    assert memory(costs(runs[:3] + other), runs[:3] + other)["state"] == "bad"
