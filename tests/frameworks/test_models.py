"""Models in both frameworks: the same weights, the same start, frozen weights, heads that a library lacks."""

import random

import numpy as np
import pytest
import transformers
from safetensors.numpy import load_file

from pipeline.backend import load_backend
from pipeline.models.checkpoint import save_checkpoint
from pipeline.models.families import family_of
from pipeline.models.initialization import random_weights
from pipeline.recipe.schema import Train
from pipeline.training.experiment import prepare, start
from pipeline.utils.errors import UserError
from tests.helpers.classifiers import CONFIGS, FRAMEWORKS, batch, built, logits_as_built, tensor, with_targets
from tests.helpers.packed_batches import with_token_targets
from tests.helpers.tiny_models import config, random_state


@pytest.mark.parametrize("family", CONFIGS)
def test_both_frameworks_have_the_same_weights_by_name_and_shape(family):
    shapes = [load_backend(framework).weight_shapes(built(framework, family)[1]) for framework in FRAMEWORKS]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("family", CONFIGS)
def test_weights_come_out_as_they_went_in(framework, family):
    backend, model = built(framework, family)
    weights = {name: np.random.default_rng(1).normal(size=shape).astype(np.float32)
               for name, shape in backend.weight_shapes(model).items()}  # fmt: skip
    backend.set_weights(model, weights)
    actual = backend.get_weights(model)
    assert all((actual[name] == weights[name]).all() for name in weights)


@pytest.mark.parametrize("family", CONFIGS)
def test_the_same_start_gives_the_same_logits(family):
    logits = [logits_as_built(*built(framework, family, seed=5), batch()) for framework in FRAMEWORKS]
    assert np.abs(logits[0] - logits[1]).max() <= 1e-6
    assert logits[0].std() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("attention", ["stock", "handwritten"])
def test_frozen_weights_stay_and_the_others_move(framework, family, attention):
    patterns = {"bert": ("bert.embeddings.*", "*.attention.self.query.*"), "gpt2": ("transformer.w?e.*", "*.c_attn.*")}
    backend, model = built(framework, family)
    before = backend.get_weights(model)
    frozen = backend.freeze(model, patterns[family])
    if attention == "handwritten":
        backend.swap_attention(model, attention)
    learner = backend.Learner(model, Train(weight_decay=0.1), np.full(2, 1e-3))
    learner.fit([[with_targets(batch())] * 2], lambda report: None, lambda epoch: False)
    if attention == "handwritten":
        backend.restore_attention(model)
    after = backend.get_weights(model)
    assert {name for name in before if (before[name] == after[name]).all()} == set(frozen)
    assert frozen


def test_a_freeze_pattern_without_match_is_refused(framework):
    backend, model = built(framework, "bert")
    with pytest.raises(UserError, match='"bert.embedings.*" matches no weight'):
        backend.freeze(model, ["bert.embedings.*"])
    with pytest.raises(UserError, match="leaves nothing to train"):
        backend.freeze(model, ["*"])


@pytest.mark.slow
def test_a_model_of_either_framework_loads_in_the_other(framework, small, tmp_path):
    experiment, backend = prepare(small), load_backend(framework)
    model = start(experiment, backend, seed=2).model
    learner = backend.Learner(model, small.train, np.full(2, 1e-3))
    plan = experiment.training_plan(0, 0)[:2]
    learner.fit([experiment.features(plan, 0, 0, 0)], lambda report: None, lambda epoch: False)
    expected = logits_as_built(backend, model, experiment.probe())
    save_checkpoint(tmp_path / "m", backend.get_weights(model), experiment.config, experiment.tokenizer, "card")
    assert load_file(tmp_path / "m" / "model.safetensors").keys() == backend.weight_shapes(model).keys()
    if framework == "tensorflow":
        plain, info = transformers.AutoModelForSequenceClassification.from_pretrained(
            tmp_path / "m", output_loading_info=True
        )
        assert not any(info.values()), info
        actual = logits_as_built(load_backend("torch"), plain, experiment.probe())
    else:
        again = prepare(small.override({"checkpoint": str(tmp_path / "m")}))
        other = load_backend("tensorflow")
        actual = logits_as_built(other, start(again, other, seed=0).model, experiment.probe())
    assert np.abs(actual - expected).max() <= 1e-5


def untied_gpt2(framework, config, weights=None, seed=3):
    """A GPT-2 language model with an output matrix of its own, through our loader."""
    backend = load_backend(framework)
    model = backend.build_model("AutoModelForCausalLM", config, "fp32", seed)
    shapes = backend.weight_shapes(model)
    backend.set_weights(model, random_weights(shapes, config, seed) if weights is None else weights)
    return backend, model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "output"),
    [
        ("bert", "cls.predictions.decoder.weight"),
        pytest.param("distilbert", "vocab_projector.weight", marks=pytest.mark.heavy),
        pytest.param("roberta", "lm_head.decoder.weight", marks=pytest.mark.heavy),
    ],
)  # fmt: skip
def test_a_masked_language_model_with_an_output_matrix_of_its_own_reads_trains_and_saves_it(family, output):
    """The library's TensorFlow classes read the embeddings instead, whatever the config says."""
    settings, shapes = config(family, tie_word_embeddings=False), []
    padded, packed = with_token_targets(family, settings.vocab_size, 0.4)
    logits, losses, trained = [], [], []
    for framework in FRAMEWORKS:
        backend = load_backend(framework)
        model = backend.build_model("AutoModelForMaskedLM", settings, "fp32", 0)
        shapes.append(backend.weight_shapes(model))
        start = random_state(shapes[0])
        backend.set_weights(model, start)
        logits.append(logits_as_built(backend, model, {name: padded[name] for name in ("input_ids", "attention_mask")}))
        learner, reports = backend.Learner(model, Train(weight_decay=0.0), np.full(3, 1e-2)), []
        learner.fit([[packed] * 3], reports.append, lambda epoch: True)
        losses.append([report.loss for report in reports])
        trained.append(backend.get_weights(model))
    assert shapes[0] == shapes[1] and output in shapes[0]
    real = padded["attention_mask"].astype(bool)
    assert np.abs(logits[0] - logits[1])[real].max() <= 1e-5 * np.abs(logits[0]).max()
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert np.abs(trained[0][output] - start[output]).max() > 1e-3
    first, second = map(family_of(settings).weights_with_effect, trained)
    for name, value in first.items():
        np.testing.assert_allclose(second[name], value, atol=1e-4, err_msg=name)


def test_an_untied_output_matrix_is_applied_in_both_frameworks():
    config = transformers.GPT2Config.from_dict(CONFIGS["gpt2"].to_dict() | {"tie_word_embeddings": False})
    (torch_backend, ours), (tf_backend, theirs) = (untied_gpt2(framework, config) for framework in FRAMEWORKS)
    assert torch_backend.weight_shapes(ours) == tf_backend.weight_shapes(theirs)
    logits = [logits_as_built(torch_backend, ours, batch()), logits_as_built(tf_backend, theirs, batch())]
    real = batch()["attention_mask"].astype(bool)
    assert np.abs(logits[0] - logits[1])[real].max() <= 1e-5
    weights = torch_backend.get_weights(ours)
    assert not np.allclose(weights["lm_head.weight"], weights["transformer.wte.weight"])


@pytest.mark.parametrize("attention", ["stock", "handwritten"])
def test_the_real_sorter_sorts(framework, attention, shared):
    """minGPT's sorter, a real GPT-2 with an untied output; without it, a tiny one must do what stock PyTorch does."""
    if shared is None:
        config = transformers.GPT2Config.from_dict(
            CONFIGS["gpt2"].to_dict() | {"tie_word_embeddings": False, "vocab_size": 3, "n_positions": 11}
        )
        reference = untied_gpt2("torch", config)[1]
        weights = load_backend("torch").get_weights(reference)
    else:
        folder = shared / "checkpoints" / "mingpt_sort_gpt2"
        config = transformers.GPT2Config.from_pretrained(folder)
        weights, reference = load_file(folder / "model.safetensors"), None
    backend, model = untied_gpt2(framework, config, weights)
    if attention == "handwritten":
        assert backend.swap_attention(model, attention) == config.n_layer
    prompts = np.random.default_rng(29).integers(0, 3, (200, 6)).astype(np.int32)
    settings = dict(max_new_tokens=6 if reference is None else 5, do_sample=False, eos_token_id=None, pad_token_id=0)

    def generated(model, framework):
        if framework == "torch":
            model.eval()
        ids, mask = tensor(framework, prompts), tensor(framework, np.ones_like(prompts))
        return np.asarray(model.generate(ids, attention_mask=mask, **settings))[:, 6:]

    expected = np.sort(prompts, axis=1) if reference is None else generated(reference, "torch")
    assert (generated(model, framework) == expected).all(axis=1).sum() == 200


@pytest.mark.parametrize("family", CONFIGS)
def test_the_architecture_is_named_as_in_a_checkpoint(framework, family):
    backend, model = built(framework, family)
    assert backend.architecture(model) == f"{ {'bert': 'Bert', 'gpt2': 'GPT2'}[family] }ForSequenceClassification"
    config = transformers.GPT2Config.from_dict(CONFIGS["gpt2"].to_dict() | {"tie_word_embeddings": False})
    assert backend.architecture(untied_gpt2(framework, config)[1]) == "GPT2LMHeadModel"


def test_building_a_model_leaves_the_callers_random_numbers_alone(framework):
    def drawn():
        return random.random(), np.random.random()

    random.seed(5), np.random.seed(5)
    expected = drawn()
    random.seed(5), np.random.seed(5)
    built(framework, "bert", seed=3)
    assert drawn() == expected


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_building_and_swapping_in_tensorflow_put_keras_settings_back(precision):
    import tf_keras

    def settings():
        generator = tf_keras.backend.experimental.is_tf_random_generator_enabled()
        return tf_keras.mixed_precision.global_policy().name, generator

    before = settings()
    backend, model = built("tensorflow", "bert", precision=precision)
    backend.swap_attention(model, "handwritten")
    assert settings() == before == ("float32", False)
