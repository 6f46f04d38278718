"""A predictor gives the model's own logits, losses and tokens, and holds nothing that only training needs."""

import copy
import gc

import numpy as np
import pytest

from pipeline.backend import load_backend
from pipeline.models.initialization import random_weights
from pipeline.recipe.schema import Train
from tests.helpers.classifiers import CONFIGS, batch, built, logits_as_built, with_targets


def built_head(framework, auto_class, family, **changes):
    """(backend, model) of the Auto class with random weights, large enough to tell one position from another."""
    config = copy.deepcopy(CONFIGS[family])
    for name, value in changes.items():
        setattr(config, name, value)
    backend = load_backend(framework)
    model = backend.build_model(auto_class, config, "fp32", 0)
    weights = random_weights(backend.weight_shapes(model), config, 0)
    backend.set_weights(model, {name: 10 * value for name, value in weights.items()})
    return backend, model


def outputs_of(framework, model, inputs):
    """What the library's model returns when it is simply called."""
    if framework == "torch":
        import torch

        with torch.no_grad():
            return model.eval()(**{key: torch.tensor(value) for key, value in inputs.items()})
    import tensorflow as tf

    return model({key: tf.constant(value) for key, value in inputs.items()}, training=False)


def bytes_alive(framework):
    """The size of all tensors (PyTorch) or variables (TensorFlow) that this process holds."""
    gc.collect()
    if framework == "torch":
        import torch

        # Other subclasses, which compiling leaves behind, have no memory of their own.
        tensors = [value for value in gc.get_objects() if type(value) in (torch.Tensor, torch.nn.Parameter)]
        tensors = [tensor for tensor in tensors if torch._C._has_storage(tensor)]
        return sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values())
    import tensorflow as tf

    variables = [value for value in gc.get_objects() if issubclass(type(value), tf.Variable)]
    return sum(variable.dtype.size * variable.shape.num_elements() for variable in variables)


def test_an_optimized_predictor_gives_the_models_logits(framework):
    backend, model = built(framework, "bert")
    expected = logits_as_built(backend, model, batch())
    predictor = backend.Predictor(model)
    assert predictor.logits(batch()) == pytest.approx(expected, abs=1e-6)
    assert predictor.logits(batch(rows=3, width=5)).shape == (3, 5)


@pytest.mark.parametrize("family", CONFIGS)
def test_a_predictor_that_is_not_optimized_calls_the_model_as_the_library_built_it(framework, family):
    backend, model = built(framework, family)
    expected = np.asarray(outputs_of(framework, model, batch()).logits)
    assert np.array_equal(logits_as_built(backend, model, batch()), expected)


def test_padding_of_spans_is_hidden_only_if_optimized(framework):
    backend, model = built_head(framework, "AutoModelForQuestionAnswering", "bert", num_labels=2)
    is_real = batch()["attention_mask"].astype(bool)
    as_built, optimized = (
        backend.Predictor(model, optimize=optimize).logits(batch()).transpose(0, 2, 1) for optimize in (False, True)
    )
    assert as_built.shape == (*is_real.shape, 2)
    assert optimized[is_real] == pytest.approx(as_built[is_real], abs=1e-4)
    assert (optimized[~is_real] < -1e8).all() and (np.abs(as_built) < 1e3).all()


@pytest.mark.parametrize(("head", "family"), [("AutoModelForCausalLM", "gpt2"), ("AutoModelForMaskedLM", "bert")])
def test_token_losses_are_the_cross_entropies_of_the_logits(framework, head, family):
    backend, model = built_head(framework, head, family)
    logits = np.asarray(outputs_of(framework, model, batch()).logits).astype(np.float64)
    rng = np.random.default_rng(7)
    labels = rng.integers(0, 101, batch()["input_ids"].shape).astype(np.int32)
    counts = batch()["attention_mask"].astype(bool) & (rng.uniform(size=labels.shape) < 0.4)
    counts[2] = False
    targets = {"labels": labels, "loss_weights": counts.astype(np.float32)}
    losses, likeliest = backend.Predictor(model).token_losses(batch(), targets)
    assert losses.shape == likeliest.shape == labels.shape
    chosen = np.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    assert losses[counts] == pytest.approx((np.log(np.exp(logits).sum(-1)) - chosen)[counts], abs=1e-4)
    assert np.array_equal(likeliest[counts], logits.argmax(-1)[counts])


@pytest.mark.slow
def test_predicting_holds_no_moments_of_an_optimizer(framework):
    backend, model = built(framework, "bert")
    weights = sum(value.nbytes for value in backend.get_weights(model).values())
    before = bytes_alive(framework)
    predictor = backend.Predictor(model)
    predictor.logits(batch())
    assert bytes_alive(framework) - before < 0.1 * weights
    learner = backend.Learner(model, Train(), np.full(1, 1e-3))
    learner.fit([[with_targets(batch())]], lambda report: None, lambda epoch: False)
    assert bytes_alive(framework) - before > 1.9 * weights
