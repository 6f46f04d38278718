"""Tests of the tables of `make bench` with made-up numbers; nothing is trained or timed."""

import pytest

from tests.benchmarks import bench, tables
from tests.benchmarks.contestants import CONTESTANTS
from tests.benchmarks.workloads import SMALL, forward_flops

WORKLOAD = {
    "source": "made up", "rows": 300, "epochs": 2, "tokens": 3300, "steps": 20, "batch_size": 30, "score": "accuracy",
    "learning_rate": 5e-4, "vocabulary": 71, "training_flops": 12e9,
}  # fmt: skip
MB = 10**6


def run(contestant, repeat, seconds, score):
    return {
        "workload": "classification", "contestant": contestant, "repeat": repeat, "seconds": seconds, "score": score,
        "startup_seconds": 7.0, "peak_memory_bytes": (500 + repeat) * MB, "real_token_share": 0.25, "steps": 20,
        "steps_of_later_half": 10, "seconds_of_later_half": seconds / 4,
    }  # fmt: skip


# 600 examples: at 10, 12 and 20 s they are 60, 50 and 30 a second; at 4, 6 and 5 s they are 150, 100 and 120.
RUNS = [
    {"workload": "classification", "contestant": "ceiling", "repeat": 0, "gflops": {"fp32": 20.0, "bf16": 41.0}},
    {"workload": "classification", "contestant": "ceiling", "repeat": 1, "gflops": {"fp32": 24.0, "bf16": 40.0}},
    *(run("trainer-fp32", i, s, a) for i, (s, a) in enumerate([(10, 0.5), (12, 0.75), (20, 0.625)])),
    *(run("ours-torch-fp32", i, s, a) for i, (s, a) in enumerate([(4, 0.5), (6, 0.5), (5, 0.875)])),
    {"workload": "classification", "contestant": "keras-fp32", "repeat": 0, "failed": "no\nmemory\nexit code 137"},
]


def table():
    timed = [r for r in RUNS if r["contestant"] != "ceiling"]
    return {row["contestant"]: row for row in tables.rows(timed, WORKLOAD, tables.ceiling_of(RUNS))}


def test_a_speed_is_given_as_median_and_range_over_the_repeats():
    assert table()["trainer-fp32"]["examples_per_second"] == {"median": 50, "low": 30, "high": 60}
    assert table()["ours-torch-fp32"]["score"] == {"median": 0.5, "low": 0.5, "high": 0.875}


def test_the_speed_in_the_later_half_counts_its_own_steps_and_seconds():
    # 10 steps of 30 examples: in 1, 1.5 and 1.25 s.
    assert table()["ours-torch-fp32"]["later_examples_per_second"] == {"median": 240, "low": 200, "high": 300}


def test_a_ratio_is_taken_within_each_repeat():
    # 150/60, 100/50, 120/30; the ratio of the medians would be 2.4.
    assert table()["ours-torch-fp32"]["ratio"] == {"median": 2.5, "low": 2, "high": 4}
    assert table()["trainer-fp32"]["ratio"] == {"median": 1, "low": 1, "high": 1}


def test_where_only_bf16_ran_ratios_are_to_trainer_in_bf16():
    runs = [run("ours-torch-bf16", 0, 4, 0.5), run("trainer-bf16", 0, 10, 0.5)]
    ratios = {row["contestant"]: row["ratio"]["median"] for row in tables.rows(runs, WORKLOAD, {})}
    assert ratios == {"ours-torch-bf16": 2.5, "trainer-bf16": 1}


def test_the_share_of_the_ceiling_compares_the_median_time_with_the_fastest_products():
    assert table()["ours-torch-fp32"]["share_of_ceiling"] == pytest.approx(12 / 5 / 24)


def test_a_failed_contestant_is_shown_as_failed_with_the_end_of_its_log():
    results = {
        "began": "then", "settings": {"repeats": 3, "at_once": 1},
        "machine": {"processor": "P", "device": "cpu", "threads": 2, "python": "3"},
        "workloads": {"classification": WORKLOAD}, "runs": RUNS,
    }  # fmt: skip
    text = tables.report(results)
    cells = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in text.splitlines() if line.startswith("| ")}
    assert [cell.strip() for cell in cells["keras-fp32"][:2]] == ["0, 1 failed", "failed"]
    assert cells["ours-torch-fp32"][1].strip() == "120 (100 to 150)"
    assert len({len(line) for line in cells.values()}) == 1
    assert "memory\nexit code 137" in text


def test_contestants_take_turns_and_change_the_order():
    settings = bench.parsed(["--repeats", "2", "--only", "causal", "--contestants", "trainer-grouped-fp32 keras-fp32"])
    assert bench.turns(settings) == [(r, "causal", c) for r in (0, 1) for c in ("ceiling", "keras-fp32")]
    plan = bench.turns(bench.parsed(["--repeats", "2", "--only", "seq2seq"]))
    first, second = ([c for r, _, c in plan if r == repeat and c != "ceiling"] for repeat in (0, 1))
    assert first == second[::-1]
    assert set(first) < set(CONTESTANTS) and "ours-torch-handwritten-bf16" not in first


def test_operations_of_a_forward_pass_are_those_counted_by_hand():
    # Of a row of 1 token in 4 layers of width 256: 4 · 256² weights of attention and 2 · 256 · 1024 of the inner
    # layers; 2 · 256 weights' worth of scores and mixing; then the pooler's 256².
    weights = 4 * (4 * 256**2 + 2 * 256 * 1024 + 2 * 256) + 256**2
    assert forward_flops("classification", [1], SMALL, vocabulary=71) == 2 * weights
    weights = 4 * (4 * 256**2 + 2 * 256 * 1024 + 2 * 256) + 256 * 71
    assert forward_flops("causal", [1], SMALL, vocabulary=71) == 2 * weights
    decoder = 4 * (8 * 256**2 + 2 * 256 * 1024 + 4 * 256) + 256 * 71
    assert forward_flops("seq2seq", [(1, 1)], SMALL, vocabulary=71) == 2 * (weights - 256 * 71 + decoder)
