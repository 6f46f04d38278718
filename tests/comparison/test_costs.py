"""What runs cost: medians, ranges and ratios by hand, and rankings that claim no more than the runs allow."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.comparison.costs import costs, machines, rank_memory, rank_speed
from pipeline.comparison.results import CostSummary
from pipeline.comparison.run_set import ComparedRun
from pipeline.recipe.loading import load_recipe
from pipeline.runs.record import DataRecord, EnvironmentRecord, RunRecord, StepRecord, TrainRecord

MACHINE = EnvironmentRecord(
    versions={"python": "3.11.7"}, framework={"torch": "2.0", "threads": "2", "device": "cpu"},
    processor="A Processor", cores=2, threads="2", platform="Linux", command=["finetune"], startup_seconds=5.0,
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


def speed(runs):
    return rank_speed(costs(runs), runs)


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
    assert summary(runs, "startup_seconds", "torch/stock").median == 5.0


def test_a_ranking_names_the_best_and_the_ratios_to_it(runs):
    ranking = speed(runs)
    assert (ranking.code, ranking.best, ranking.median) == ("ranked", "torch/stock", 80)
    assert ranking.ratios == {"tensorflow/stock": 0.5}
    assert (ranking.fewest_runs, ranking.overlapping, ranking.slow_first_step) == (3, [], None)
    memory = rank_memory(costs(runs), runs)
    assert (memory.code, memory.best, memory.median) == ("ranked", "torch/stock", 600 * 2**20)
    assert memory.ratios == {"tensorflow/stock": 1.5}


def test_a_long_first_step_is_left_out_of_the_ranking(make_run):
    runs = [make_run("torch/stock", seed, 2.0, first=0.4) for seed in range(3)]
    runs += [make_run("tensorflow/stock", seed, 20.0, first=18.0) for seed in range(3)]
    # All of it: 80 and 8 examples a second. After the first step: 128 examples in 1.6 and in 2 seconds.
    ranking = speed(runs)
    assert (ranking.cost, ranking.best, ranking.median) == ("steady_examples_per_second", "torch/stock", 80)
    assert ranking.ratios == {"tensorflow/stock": pytest.approx(0.8)}
    assert (ranking.slow_first_step, ranking.first_step_share) == ("tensorflow/stock", pytest.approx(0.9))


def test_runs_of_one_step_have_no_speed_after_it(make_run):
    runs = [make_run(name, 0, 2.0, first=2.0, steps=1) for name in ("a/b", "c/d")]
    assert summary(runs, "steady_examples_per_second", "a/b").median is None
    ranking = speed(runs)
    assert (ranking.cost, ranking.best, ranking.median) == ("examples_per_second", "a/b", 16)
    assert ranking.ratios == {"c/d": 1.0}


def test_overlapping_ranges_make_a_ranking_uncertain(make_run):
    runs = [make_run("torch/stock", seed, seconds, 0.1) for seed, seconds in enumerate((2.0, 2.2, 2.4))]
    runs += [make_run("torch/handwritten", seed, seconds, 0.1) for seed, seconds in enumerate((2.1, 2.3, 2.5))]
    ranking = speed(runs)
    assert (ranking.code, ranking.best, ranking.overlapping) == ("uncertain", "torch/stock", ["torch/handwritten"])


@pytest.mark.parametrize("seeds", [1, 2])
def test_few_runs_make_a_ranking_uncertain(make_run, seeds):
    runs = [make_run(name, seed, seconds) for name, seconds in (("a/b", 2.5), ("c/d", 5.0)) for seed in range(seeds)]
    ranking = speed(runs)
    assert (ranking.code, ranking.fewest_runs) == ("uncertain", seeds)


def test_a_failed_variant_has_no_costs(runs, recipe):
    failed = ComparedRun("tensorflow", "stock", 0, Path(), recipe, "tensorflow/stock", log_tail="no")
    left = [*runs[:3], failed]
    nothing = CostSummary(median=None, low=None, high=None, ratio=None)
    assert summary(left, "examples_per_second", "tensorflow/stock") == nothing
    assert speed(left).code == "nothing_to_compare"


def test_machines_are_told_apart_by_processor_cores_and_platform(runs):
    larger = MACHINE.model_copy(update={"cores": 8, "threads": "8"})
    moved = runs[:3] + [replace(run, environment=larger) for run in runs[3:]]
    first, second = machines(moved)
    assert (first.cores, first.threads) == (2, {"torch": "2"})
    assert (second.cores, second.threads) == (8, {"tensorflow": "8"})
    assert second.runs == [f"tensorflow/stock seed {seed}" for seed in range(3)]
    assert first.versions == {"python": ["3.11.7"], "torch": ["2.0"]}
    assert rank_memory(costs(moved), moved).code == "different_machines"
