"""What runs cost: medians, ranges and ratios by hand, and pairs of which no more is claimed than the runs show."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.comparison.costs import break_even, compare_memory, compare_speed, compare_time, costs, machines
from pipeline.comparison.records.costs import CostSummary
from pipeline.comparison.run_set import ComparedRun
from pipeline.recipe.loading import load_recipe
from pipeline.runs.record import DataRecord, EnvironmentRecord, RunRecord, StepRecord, TrainRecord

MACHINE = EnvironmentRecord(
    versions={"python": "3.11.7"}, framework={"torch": "2.0", "threads": "2", "device": "cpu"},
    processor="A Processor", cores=2, threads="2", platform="Linux", command=["finetune"],
    startup_seconds=3.0, launch_seconds=5.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def recipe():
    return load_recipe("sentiment_bert")


@pytest.fixture(scope="module")
def make_run(recipe):
    """Makes a run of steps that take equally long but for the first one."""

    def make(variant, seed, seconds, first=0.5, mebibytes=600, examples=32, steps=5):
        each = (seconds - first) / max(1, steps - 1)
        framework, attention = variant.split("/")
        train = TrainRecord(
            steps=steps, seconds=seconds, examples_per_second=steps * examples / seconds, tokens_per_second=1000.0,
            padding_fraction=0.0, first_step_seconds=first, peak_memory_bytes=mebibytes * 2**20,
        )  # fmt: skip
        history = [
            StepRecord(
                step=step + 1, epoch=1, loss=0.5, learning_rate=1e-3, grad_norm=1.0, examples=examples, tokens=400,
                seconds=first + each * step,
            )
            for step in range(steps)
        ]  # fmt: skip
        record = RunRecord(
            recipe="sentiment_bert", framework=framework, attention=attention, seed=seed, metrics={}, train=train,
            data=DataRecord(fingerprint="0123456789abcdef"),
        )  # fmt: skip
        return ComparedRun(
            framework, attention, seed, Path(), recipe, variant, record=record, environment=MACHINE, history=history
        )

    return make


@pytest.fixture
def runs(make_run):
    """Three seeds of each: PyTorch 64, 80 and 160 examples a second, TensorFlow 32, 40 and 50."""
    fast = [make_run("torch/stock", seed, seconds, 0.1) for seed, seconds in enumerate((2.5, 2.0, 1.0))]
    slow = [
        make_run("tensorflow/stock", seed, seconds, 0.1, mebibytes=900) for seed, seconds in enumerate((5.0, 4.0, 3.2))
    ]
    return fast + slow


def summary(runs, name, variant):
    (cost,) = (cost for cost in costs(runs) if cost.name == name)
    return cost.variants[variant]


def test_medians_ranges_and_ratios_are_those_computed_by_hand(make_run):
    runs = [make_run("torch/stock", seed, seconds) for seed, seconds in enumerate((2.5, 2.0, 1.0))]
    runs += [make_run("tensorflow/stock", seed, seconds, mebibytes=900) for seed, seconds in enumerate((5.0, 4.0, 3.2))]
    assert summary(runs, "examples_per_second", "torch/stock") == CostSummary(median=80, low=64, high=160, ratio=1)
    assert summary(runs, "examples_per_second", "tensorflow/stock") == CostSummary(
        median=40, low=32, high=50, ratio=0.5
    )
    # 4 of 5 steps, 128 examples, in 2, 1.5 and 0.5 seconds.
    assert summary(runs, "steady_examples_per_second", "torch/stock").median == pytest.approx(128 / 1.5)
    assert summary(runs, "peak_memory_bytes", "tensorflow/stock").ratio == 1.5
    assert summary(runs, "startup_seconds", "torch/stock").median == 3.0
    assert summary(runs, "launch_seconds", "torch/stock").median == 5.0


def test_a_pair_has_both_medians_the_better_one_and_the_factor(runs):
    # From launch: 5 seconds until the first step, then a median of 2 and of 4.
    (pair,) = compare_time(costs(runs), runs).pairs
    assert (pair.first, pair.second, pair.differ_in) == ("torch/stock", "tensorflow/stock", "framework")
    assert (pair.first_median, pair.second_median, pair.better) == (7.0, 9.0, "torch/stock")
    assert pair.factor == pytest.approx(9 / 7)
    assert (pair.fewest_runs, pair.overlapping, pair.is_shown) == (3, False, True)
    # 128 examples in 1.9 and in 3.9 seconds after the first step.
    (pair,) = compare_speed(costs(runs), runs).pairs
    assert (pair.better, pair.factor) == ("torch/stock", pytest.approx(3.9 / 1.9))
    (pair,) = compare_memory(costs(runs), runs).pairs
    assert (pair.first_median, pair.second_median, pair.factor) == (600 * 2**20, 900 * 2**20, 1.5)


def test_frameworks_come_before_attentions_and_each_pair_differs_in_one_thing(make_run):
    names = ("torch/stock", "torch/handwritten", "tensorflow/stock", "tensorflow/handwritten")
    runs = [make_run(name, 0, 2.0) for name in names]
    pairs = [(pair.first, pair.second, pair.differ_in) for pair in compare_time(costs(runs), runs).pairs]
    assert pairs == [
        ("torch/stock", "tensorflow/stock", "framework"),
        ("torch/handwritten", "tensorflow/handwritten", "framework"),
        ("torch/stock", "torch/handwritten", "attention"),
        ("tensorflow/stock", "tensorflow/handwritten", "attention"),
    ]
    alone = [make_run("torch/stock", 0, 2.0), make_run("tensorflow/handwritten", 0, 2.0)]
    assert [pair.differ_in for pair in compare_time(costs(alone), alone).pairs] == ["other"]


def test_runs_of_one_step_are_compared_by_their_whole_speed(make_run):
    runs = [make_run(name, 0, 2.0, first=2.0, steps=1) for name in ("a/b", "c/b")]
    assert summary(runs, "steady_examples_per_second", "a/b").median is None
    speed = compare_speed(costs(runs), runs)
    assert (speed.cost, speed.pairs[0].first_median) == ("examples_per_second", 16)


def test_ranges_that_overlap_show_nothing(make_run):
    runs = [make_run("torch/stock", seed, seconds, 0.1) for seed, seconds in enumerate((2.0, 2.2, 2.4))]
    runs += [make_run("torch/handwritten", seed, seconds, 0.1) for seed, seconds in enumerate((2.1, 2.3, 9.5))]
    (pair,) = compare_time(costs(runs), runs).pairs
    assert (pair.better, pair.overlapping, pair.is_shown) == ("torch/stock", True, False)


@pytest.mark.parametrize(
    ("seconds", "mebibytes", "time_is_shown", "memory_is_shown"),
    [(20.0, 900, True, True), (5.4, 650, False, False), (5.4, 661, False, True)],
)
def test_with_few_runs_only_what_is_plain_is_shown(make_run, seconds, mebibytes, time_is_shown, memory_is_shown):
    runs = [make_run("a/b", 0, 2.0), make_run("c/b", 0, seconds, mebibytes=mebibytes)]
    assert compare_time(costs(runs), runs).pairs[0].is_shown == time_is_shown
    assert compare_memory(costs(runs), runs).pairs[0].is_shown == memory_is_shown


def started(run, seconds):
    """The run with another time until its first step."""
    return replace(run, environment=run.environment.model_copy(update={"launch_seconds": seconds}))


def test_a_late_start_is_made_up_for_where_the_lines_cross(make_run):
    # 160 examples each. The first: 5 s + 32 examples in 0.5 s, then 128 in 1.5 s; the second: 10 s, then 128 in 0.5 s.
    runs = [make_run("torch/stock", 0, 2.0), started(make_run("tensorflow/stock", 0, 1.0), 10.0)]
    time, speed = compare_time(costs(runs), runs), compare_speed(costs(runs), runs)
    (found,) = break_even(time, speed, runs)
    assert (found.faster, found.examples_of_run) == ("tensorflow/stock", 160)
    # By then both have taken 7 + (n - 160) * 1.5 / 128 = 11 + (n - 160) * 0.5 / 128 seconds: n = 672.
    assert found.examples == pytest.approx(672)
    early = [make_run("torch/stock", 0, 1.0), started(make_run("tensorflow/stock", 0, 2.0), 10.0)]
    (found,) = break_even(compare_time(costs(early), early), compare_speed(costs(early), early), early)
    assert (found.faster, found.examples) == ("torch/stock", 0)


def test_runs_that_did_not_record_their_start_are_compared_by_their_training(make_run):
    names = {"torch/stock": 2.0, "tensorflow/stock": 4.0}
    runs = [started(make_run(name, 0, seconds), None) for name, seconds in names.items()]
    time = compare_time(costs(runs), runs)
    assert (time.cost, time.pairs[0].first_median, time.pairs[0].factor) == ("train_seconds", 2.0, 2.0)
    assert break_even(time, compare_speed(costs(runs), runs), runs) == []


def test_a_failed_variant_has_no_costs(runs, recipe):
    failed = ComparedRun("tensorflow", "stock", 0, Path(), recipe, "tensorflow/stock", log_tail="no")
    left = [*runs[:3], failed]
    nothing = CostSummary(median=None, low=None, high=None, ratio=None)
    assert summary(left, "examples_per_second", "tensorflow/stock") == nothing
    assert compare_time(costs(left), left).pairs == []


def test_machines_are_told_apart_by_processor_cores_and_platform(runs):
    larger = MACHINE.model_copy(update={"cores": 8, "threads": "8"})
    moved = runs[:3] + [replace(run, environment=larger) for run in runs[3:]]
    first, second = machines(moved)
    assert (first.cores, first.threads) == (2, {"torch": "2"})
    assert (second.cores, second.threads) == (8, {"tensorflow": "8"})
    assert second.runs == [f"tensorflow/stock seed {seed}" for seed in range(3)]
    assert first.versions == {"python": ["3.11.7"], "torch": ["2.0"]}
    assert not compare_memory(costs(moved), moved).is_same_machine
    assert compare_memory(costs(runs), runs).is_same_machine
