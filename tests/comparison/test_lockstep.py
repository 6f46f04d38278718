"""Both frameworks take the same steps, and every fault planted in one of them is seen."""

import dataclasses
import importlib

import numpy as np
import pytest

from pipeline import load_recipe
from pipeline.comparison.lockstep import Bounds, Trace, compare_frameworks, compare_traces, record

STEPS = 50
FRAMEWORKS = ("torch", "tensorflow")
OTHER = {"torch": "tensorflow", "tensorflow": "torch"}


@pytest.fixture(scope="module")
def recipe():
    """Everything that a fault can be planted in is on: decay, clipping, warm-up, accumulation."""
    return load_recipe(
        "sentiment_bert",
        {
            "data.limit.train": 32 * STEPS, "data.limit.validation": 8, "train.weight_decay": 0.1,
            "train.max_grad_norm": 0.5, "train.warmup_ratio": 0.1, "train.gradient_accumulation": 2,
        },
    )  # fmt: skip


@pytest.fixture(scope="module")
def clean(recipe):
    """What each framework does when nothing is wrong."""
    return {framework: record(recipe, framework, STEPS) for framework in FRAMEWORKS}


def module(framework):
    return importlib.import_module(f"pipeline.{'pytorch' if framework == 'torch' else framework}.train")


def plant(monkeypatch, framework, fault):
    """Break one framework's training in one way."""
    train = module(framework)
    package = importlib.import_module(train.__package__)
    learner = train.Learner

    def with_settings(**changes):
        def make(model, settings, learning_rates, loss):
            return learner(model, settings.model_copy(update=changes), learning_rates, loss)

        monkeypatch.setattr(package, "Learner", make)

    optimizer = importlib.import_module(f"{train.__package__}.optimizer")
    if fault == "weight decay dropped":
        with_settings(weight_decay=0.0)
    elif fault == "no clipping":
        with_settings(max_grad_norm=None)
    elif fault == "another epsilon":
        with_settings(epsilon=1e-6)
    elif fault == "decay on bias and LayerNorm":
        monkeypatch.setattr(optimizer, "decays", lambda name, num_dimensions: True)
    elif fault == "warm-up off by one step":
        monkeypatch.setattr(
            package,
            "Learner",
            lambda model, settings, rates, loss: learner(model, settings, np.append(rates[1:], 0.0), loss),
        )
    elif fault == "accumulation averaged wrongly":
        # Each micro-batch by its own mean, then the mean of those: wrong where the parts differ in weight.
        right = train.weighted_loss

        def wrong(logits, labels, loss_weights, label_smoothing, loss):
            if framework == "torch":
                return right(logits, labels, loss_weights / loss_weights.sum() / 2, label_smoothing)
            import tensorflow as tf

            return right(logits, labels, loss_weights / tf.reduce_sum(loss_weights) / 2, label_smoothing)

        monkeypatch.setattr(train, "weighted_loss", wrong)
    else:
        raise ValueError(fault)


@pytest.mark.slow
def test_the_frameworks_are_the_same_experiment(recipe, clean):
    report = compare_traces(recipe.name, clean["torch"], clean["tensorflow"], Bounds())
    assert report.same, report.as_text()
    assert clean["torch"].loss[-5:].mean() < clean["torch"].loss[:5].mean()  # and it is one that learns


FAULTS = [
    "weight decay dropped", "decay on bias and LayerNorm", "no clipping", "warm-up off by one step",
    "another epsilon",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_planted_in_one_framework_is_seen(recipe, clean, monkeypatch, framework, fault):
    plant(monkeypatch, framework, fault)
    faulty = record(recipe, framework, STEPS)
    report = compare_traces(recipe.name, clean[OTHER[framework]], faulty, Bounds())
    assert not report.same, report.as_text()


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_accumulation_averaged_wrongly_is_seen(recipe, monkeypatch, framework):
    # With class weights the parts of a step differ in weight, and only then does the wrong mean differ.
    uneven = recipe.override({"train.class_weights": {"negative": 1.0, "positive": 3.0}})
    right = record(uneven, OTHER[framework], 10)
    fine = record(uneven, framework, 10)
    plant(monkeypatch, framework, "accumulation averaged wrongly")
    wrong = record(uneven, framework, 10)
    assert compare_traces("x", right, fine, Bounds()).same
    assert not compare_traces("x", right, wrong, Bounds()).same


@pytest.mark.slow
def test_handwritten_attention_takes_the_same_steps(recipe, clean):
    for framework in FRAMEWORKS:
        trace = record(recipe, framework, STEPS, attention="handwritten")
        report = compare_traces(recipe.name, clean[framework], trace, Bounds())
        assert report.same, report.as_text()


@pytest.mark.slow
def test_each_framework_in_a_process_of_its_own(recipe):
    report = compare_frameworks(recipe, steps=3)
    assert report.same, report.as_text()
    assert "the same experiment" in report.as_text()


def test_differences_are_measured_as_documented():
    values = {"a.weight": np.zeros(4, np.float32), "x.key.bias": np.zeros(3, np.float32)}
    moved = {"a.weight": np.full(4, 2.0, np.float32), "x.key.bias": np.ones(3, np.float32)}
    first = Trace(np.zeros((2, 2)), np.array([1.0, 2.0]), np.array([4.0, 2.0]), values, moved, "bert")
    off = {"a.weight": np.full(4, 2.5, np.float32), "x.key.bias": -np.ones(3, np.float32)}
    second = dataclasses.replace(first, loss=np.array([1.0, 2.25]), grad_norm=np.array([4.0, 3.0]), after=off)
    report = compare_traces("x", first, second, Bounds())
    assert report.differences == {"logits": 0.0, "loss": 0.25, "grad_norm": 0.5, "parameters": 0.25}
    assert report.worst_parameter == "a.weight" and not report.same
    nan = compare_traces("x", first, dataclasses.replace(first, loss=np.array([np.nan, 2.0])), Bounds())
    assert not nan.same
