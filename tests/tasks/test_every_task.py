"""Every kind of task, from end to end: both frameworks train it alike, and it scores, saves and predicts."""

import json
import math

import numpy as np
import pytest

from pipeline import finetune
from pipeline.comparison.lockstep import compare_traces
from pipeline.comparison.traces import record, record_with_controls
from pipeline.runs.prediction import predict
from tests.helpers.families import KINDS, recipe_of, rows_of


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# The other kinds differ from these only in their rows, or are in tests/comparison/test_lockstep.py.
@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind not in ("single-label", "pairs", "masked words", "causal rows")]
)
def test_both_frameworks_take_the_same_steps(kind, tmp_path):
    """PyTorch in two micro-batches, TensorFlow in one: it would trace the model twice, which takes seconds."""
    recipe = recipe_of(kind, tmp_path, num_rows=64)
    in_two = recipe.override({"train.gradient_accumulation": 2})
    trace, controls = record_with_controls(in_two, "torch", 4, "stock", 0, dropout=True, directions=range(3))
    report = compare_traces(kind, trace, record(recipe, "tensorflow", 4), controls)
    assert report.same, report.as_text()
    assert trace.loss.std() > 0


# The run of each kind predicts in the other framework too, and both train every kind above.
ENDS = [
    ("torch", "pairs"), ("tensorflow", "gpt2 single-label"), ("torch", "regression"), ("tensorflow", "multi-label"),
    ("torch", "token-classification"), ("torch", "question-answering"), ("torch", "masked words"),
    ("tensorflow", "masked blocks"), ("torch", "causal rows"), ("torch", "sequence-to-sequence"),
    ("tensorflow", "translation"),
    pytest.param("tensorflow", "question-answering", marks=pytest.mark.heavy),
    pytest.param("tensorflow", "causal rows", marks=pytest.mark.heavy),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("framework", "kind"), ENDS)
def test_a_run_with_handwritten_attention_scores_saves_and_predicts(kind, framework, tmp_path):
    recipe = recipe_of(kind, tmp_path)
    run = finetune(recipe, framework=framework, attention="handwritten", out=tmp_path / "run")
    assert all(math.isfinite(value) for value in run.metrics.values()) and "loss" in run.metrics
    assert run.record.attention_sites > 0
    found = lines(run.path / "predictions.jsonl")
    assert [line["index"] for line in found] == list(range(len(found)))
    with np.load(run.path / "probe.npz") as probe:
        assert len(probe["logits_before"]) <= 16
        assert probe["logits_before"].shape == probe["logits_after"].shape
    other = {"torch": "tensorflow", "tensorflow": "torch"}[framework]
    asked = rows_of(kind.removeprefix("gpt2 "), 16, 1)[:3]
    if kind.startswith("masked"):
        asked = [{"text": "The film was [MASK]."}, {"text": "The [MASK] was not [MASK]."}]
    here, there = list(predict(run, asked)), list(predict(run, asked, framework=other))
    for one, two in zip(here, there, strict=True):
        assert same(one, two), (one, two)
    if "prediction" in here[0] and kind != "question-answering":
        assert same([line["prediction"] for line in here], [line["prediction"] for line in found[:3]])


def same(one, two):
    """Equal but for the last digits of scores."""
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(same, one, two))
    return one == pytest.approx(two, abs=2e-5) if isinstance(one, float) else one == two
