"""Both frameworks take the same steps, and every fault planted in one of them is seen."""

import dataclasses
import importlib

import numpy as np
import pytest

from pipeline import load_recipe
from pipeline.comparison.lockstep import compare_traces
from pipeline.comparison.traces import Distance, Trace, record, record_with_controls
from pipeline.training.experiment import Experiment

STEPS = 20
FRAMEWORKS = ("torch", "tensorflow")
OTHER = {"torch": "tensorflow", "tensorflow": "torch"}


@pytest.fixture(scope="module")
def recipe():
    """What most faults are planted in is on: decay, clipping, warm-up, shared dropout masks.

    Micro-batches are in `uneven` alone, since TensorFlow traces a model twice for them.
    """
    return load_recipe(
        "sentiment_bert",
        {
            "data.limit.train": 32 * STEPS, "data.limit.validation": 8, "train.weight_decay": 0.1,
            "train.max_grad_norm": 0.5, "train.warmup_ratio": 0.1, "train.dropout": 0.1,
            "train.dropout_masks": "shared",
        },
    )  # fmt: skip


@pytest.fixture(scope="module")
def of_torch(recipe):
    """What PyTorch does when nothing is wrong, and how far it gets from that by rounding."""
    return record_with_controls(recipe, "torch", STEPS, "stock", 0, dropout=True, directions=range(3))


@pytest.fixture(scope="module")
def clean(recipe, of_torch):
    """What each framework does when nothing is wrong."""
    return {"torch": of_torch[0], "tensorflow": record(recipe, "tensorflow", STEPS)}


@pytest.fixture(scope="module")
def controls(of_torch):
    """How far PyTorch gets from itself by rounding."""
    return of_torch[1]


def module(framework):
    return importlib.import_module(f"pipeline.{'pytorch' if framework == 'torch' else framework}.train")


def plant(monkeypatch, framework, fault):
    """Break one framework's training in one way."""
    train = module(framework)
    package = importlib.import_module(train.__package__)
    learner = train.Learner

    def with_settings(**changes):
        def make(model, settings, learning_rates, loss, group=None):
            return learner(model, settings.model_copy(update=changes), learning_rates, loss, group)

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
            lambda model, settings, rates, *more: learner(model, settings, np.append(rates[1:], 0.0), *more),
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
    elif fault == "one dropout's mask of another step":
        give_a_dropout_the_mask_of_another_step(monkeypatch, importlib.import_module(f"{train.__package__}.dropout"))
    else:
        raise ValueError(fault)


def give_a_dropout_the_mask_of_another_step(monkeypatch, dropout):
    """The third dropout of each forward pass draws as in the step after."""
    masks, keys_of_step = dropout.DropoutMasks, Experiment.dropout_keys
    start, keys_of_tokens = masks.start, masks.keys_of_tokens

    def keys_of_two_steps(layout, seed, step):
        later = keys_of_step(layout, seed, step + 1)
        return keys_of_step(layout, seed, step) | {f"later_{name}": keys for name, keys in later.items()}

    def start_with_both(self, batch, tokens_read=None):
        later = {name: batch.pop(name) for name in list(batch) if name.startswith("later_")}
        start(self, {name.removeprefix("later_"): keys for name, keys in later.items()}, tokens_read)
        self.later = self.keys
        start(self, batch, tokens_read)

    def keys_of_another_step(self, x, place):
        right = self.keys
        self.keys = self.later if self.site == 3 else right
        keys, self.keys = keys_of_tokens(self, x, place), right
        return keys

    monkeypatch.setattr(Experiment, "dropout_keys", staticmethod(keys_of_two_steps))
    monkeypatch.setattr(masks, "start", start_with_both)
    monkeypatch.setattr(masks, "keys_of_tokens", keys_of_another_step)


@pytest.mark.slow
def test_the_frameworks_are_the_same_experiment(recipe, clean, controls):
    report = compare_traces(recipe.name, clean["torch"], clean["tensorflow"], controls)
    assert report.same, report.as_text()
    assert (report.dropout, report.num_controls) == (0.1, 3)
    assert clean["torch"].loss[-5:].mean() < clean["torch"].loss[:5].mean()  # and it is one that learns


FAULTS = [
    "weight decay dropped", "decay on bias and LayerNorm", "no clipping", "warm-up off by one step",
    "another epsilon", "one dropout's mask of another step",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_planted_in_one_framework_is_seen(recipe, clean, controls, monkeypatch, framework, fault):
    plant(monkeypatch, framework, fault)
    faulty = record(recipe, framework, STEPS)
    report = compare_traces(recipe.name, clean[OTHER[framework]], faulty, controls)
    assert not report.same, report.as_text()


@pytest.fixture(scope="module")
def uneven(recipe):
    """Micro-batches of other weights: with class weights alone does a wrong mean of them differ from the right one."""
    weights = {"train.class_weights": {"negative": 1.0, "positive": 3.0}, "train.label_smoothing": 0.1}
    return recipe.override(weights | {"train.gradient_accumulation": 2})


@pytest.fixture(scope="module")
def accumulated(uneven):
    """What each framework does in such micro-batches when nothing is wrong."""
    return {framework: record(uneven, framework, 10) for framework in FRAMEWORKS}


@pytest.mark.slow
def test_the_frameworks_accumulate_alike(accumulated):
    report = compare_traces("x", accumulated["torch"], accumulated["tensorflow"])
    assert report.same, report.as_text()


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_accumulation_averaged_wrongly_is_seen(uneven, accumulated, monkeypatch, framework):
    plant(monkeypatch, framework, "accumulation averaged wrongly")
    wrong = record(uneven, framework, 10)
    assert not compare_traces("x", accumulated[OTHER[framework]], wrong).same


@pytest.mark.slow
def test_handwritten_attention_takes_the_same_steps(recipe, clean, controls):
    for framework in FRAMEWORKS:
        trace = record(recipe, framework, STEPS, attention="handwritten")
        report = compare_traces(recipe.name, clean[framework], trace, controls)
        assert report.same, report.as_text()


def trace(weights, after, loss, grad_norm=(4.0, 2.0), early=None):
    """A trace of a BERT with these weights at the start and at the end."""
    return Trace(np.zeros((2, 2)), np.array(loss), np.array(grad_norm), weights, early or after, after, "bert")


def values(number, bias=0.0):
    """A weight, and a bias of keys, which has no effect."""
    return {"a.weight": np.full(4, number, np.float32), "x.key.bias": np.full(3, bias, np.float32)}


def test_differences_are_measured_as_documented():
    first = trace(values(0.0), values(2.0, 1.0), (0.5, 4.0), early=values(1.0))
    # It begins 1 higher and ends 1.5 higher, so it moved 0.5 further, of 2; its loss differs by 0.25, and by 1 of 4.
    second = trace(values(1.0), values(3.5, -1.0), (0.75, 5.0), (4.0, 3.0), early=values(2.125))
    report = compare_traces("x", first, second)
    assert report.differences == {
        "logits": 0.0, "early_loss": 0.25, "early_parameters": 0.125, "loss": 0.25, "grad_norm": 0.5,
        "parameters": 0.25,
    }  # fmt: skip
    assert report.worst_parameter == "a.weight" and not report.same
    assert not compare_traces("x", first, dataclasses.replace(first, loss=np.array([np.nan, 2.0]))).same
    lost = dataclasses.replace(first, after=values(np.nan))
    assert not compare_traces("x", first, lost).same


def test_versions_that_differ_are_named_with_their_frameworks():
    first = trace(values(0.0), values(2.0), (0.5, 4.0))
    first = dataclasses.replace(first, versions={"python": "3.11.7", "transformers": "5.24.0", "accelerate": "1.12.0"})
    second = dataclasses.replace(first, versions={"python": "3.11.7", "transformers": "4.57.6"})
    line = "versions: transformers 5.24.0 (torch), 4.57.6 (tensorflow)"
    assert line in compare_traces("x", first, second).as_text().splitlines()
    assert "versions" not in compare_traces("x", first, first).as_text()


def apart(loss=(0.0, 0.0), **changes):
    """A distance that is 0 but for what is given."""
    nothing = {"logits": 0.0, "early_parameters": 0.0, "parameters": 0.0, "worst_parameter": "a.weight"}
    return Distance(**nothing | {"loss": np.array(loss), "grad_norm": np.zeros(len(loss))} | changes)


def test_a_difference_may_be_three_times_that_of_the_control_that_differs_most():
    first = trace(values(0.0), values(2.0), (0.5, 0.5), early=values(1.0))
    late = trace(values(0.0), values(2.05), (0.5, 0.5), early=values(1.0))  # 2.5% of what it moved
    assert not compare_traces("x", first, late).same
    assert not compare_traces("x", first, late, [apart(parameters=0.008), apart(parameters=0.001)]).same
    report = compare_traces("x", first, late, [apart(parameters=0.001), apart(parameters=0.01)])
    assert report.same and report.share_of_control == pytest.approx(2.5, rel=1e-5)
    assert "differ 2.5 times as much as those of two PyTorch trainings" in report.as_text()
    # Late rounding excuses no early fault, and nothing excuses another function at the start.
    early = dataclasses.replace(late, early=values(1.001))
    assert not compare_traces("x", first, early, [apart(parameters=0.01)]).same
    shifted = dataclasses.replace(first, logits=np.full((2, 2), 2e-4))
    assert not compare_traces("x", first, shifted, [apart(logits=1.0)]).same


def test_the_step_is_named_at_which_rounding_has_grown():
    first = trace(values(0.0), values(2.0), (0.5, 4.0, 4.0), (1.0, 1.0, 1.0))
    second = dataclasses.replace(first, loss=np.array([0.5, 4.0 + 3e-6, 4.0 + 5e-6]))
    report = compare_traces("x", first, second, [apart((0.0, 0.0, 0.0)), apart((0.0, 2e-6, 0.0))])
    assert (report.first_step_over_rounding, report.control_first_step_over_rounding) == (3, 2)
    text = "losses equal within 1e-06: the first 2 of 3 steps; of PyTorch and its control: the first 1 of 3 steps"
    assert text in report.as_text()
    assert compare_traces("x", first, first).first_step_over_rounding is None


@pytest.mark.slow
def test_a_t5_from_random_weights_is_the_same_experiment_and_a_fault_in_it_is_seen(monkeypatch):
    # Until rounding has grown beyond what a pretrained model may differ by; how soon it does depends on the processor.
    for steps in (20, 40):
        limits = {"data.limit.train": 32 * steps, "data.limit.validation": 8}
        recipe = load_recipe("dates_t5", limits | {"weights": "random"})
        first, controls = record_with_controls(recipe, "torch", steps, "stock", 0, dropout=True, directions=range(3))
        if max(control.parameters for control in controls) > 1e-3:
            break
    assert max(control.parameters for control in controls) > 1e-3
    report = compare_traces(recipe.name, first, record(recipe, "tensorflow", steps), controls)
    assert report.same, report.as_text()
    # It hides no fault: a decay of 0.01 dropped.
    plant(monkeypatch, "torch", "weight decay dropped")
    report = compare_traces(recipe.name, first, record(recipe, "torch", steps), controls)
    assert not report.same, report.as_text()


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_early_weights_of_a_swapped_model_are_those_of_the_stock_one(framework):
    recipe = load_recipe("stories_gpt2", {"data.limit.train": 160, "data.limit.validation": 8})
    stock, swapped = (record(recipe, framework, 4, attention) for attention in ("stock", "handwritten"))
    for name, weight in stock.early.items():
        if name.endswith("weight"):  # a bias of keys has no effect, and so no gradient but rounding
            moved = np.linalg.norm(weight - stock.before[name])
            assert np.linalg.norm(weight - swapped.early[name]) < 0.01 * moved
            assert np.linalg.norm(weight - stock.after[name]) > 0.1 * moved
