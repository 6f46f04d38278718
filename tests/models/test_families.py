"""The facts of the model families, against the library's own models."""

import inspect
import re

import numpy as np
import pytest
import transformers
from transformers import AutoConfig, MarianConfig

from pipeline.backend import load_backend
from pipeline.models.building import build_for_training, build_model
from pipeline.models.families import FAMILIES, families_of, family_of
from pipeline.models.initialization import off_by_one_rounding, random_weights
from pipeline.models.transformer import sinusoids
from pipeline.recipe.loading import load_recipe
from pipeline.recipe.overrides import RECIPES
from pipeline.recipe.task_table import TASKS
from pipeline.tasks.base import task_class
from tests.helpers import tiny_models

# The heads of each family: those of the tasks that it serves.
HEADS = {
    model_type: [task.auto_class for task in map(task_class, TASKS) if family.architecture in task.architectures]
    for model_type, family in FAMILIES.items()
}
BUNDLED = {"bert": "sentiment/bert", "gpt2": "stories/gpt2", "t5": "dates/t5"}
families = pytest.mark.parametrize("model_type", FAMILIES)


def config_of(model_type):
    if model_type not in BUNDLED:
        return tiny_models.config(model_type, num_labels=2)
    return AutoConfig.from_pretrained(RECIPES / "bundled" / BUNDLED[model_type])


@families
def test_every_head_of_a_family_can_be_built_in_both_frameworks(model_type, framework):
    backend, family = load_backend(framework), FAMILIES[model_type]
    for head in HEADS[model_type]:
        model = backend.build_model(head, config_of(model_type), "fp32", 0)
        required = [name for name in backend.weight_shapes(model) if family.is_required(name)]
        assert len(required) > 10, "the prefix of the body matches its weights"


@families
def test_every_dropout_rate_of_the_librarys_config_is_known(model_type):
    settings = inspect.signature(type(config_of(model_type)).__init__).parameters
    rates = {name for name in settings if "drop" in name}
    family = FAMILIES[model_type]
    assert rates == {*family.dropout_keys, *(name for name in family.requires if "drop" in name)}


@families
def test_the_attention_sites_are_counted_as_the_models_modules(model_type):
    config = config_of(model_type)
    model = load_backend("torch").build_model(HEADS[model_type][0], config, "fp32", 0)
    names = {
        "bert": "BertAttention", "distilbert": "DistilBert(Sdpa|Self)Attention", "roberta": "RobertaAttention",
        "gpt2": "GPT2Attention", "t5": "T5Attention", "marian": "MarianAttention",
    }  # fmt: skip
    sites = sum(re.fullmatch(names[model_type], type(module).__name__) is not None for module in model.modules())
    assert FAMILIES[model_type].num_attentions(config) == sites


def test_a_task_is_served_by_the_families_of_its_architectures():
    assert families_of(task_class("sequence-classification").architectures) == ("bert", "distilbert", "roberta", "gpt2")
    assert families_of(task_class("sequence-to-sequence").architectures) == ("t5", "marian")
    assert families_of(()) == ()


@families
def test_weights_without_effect_have_no_gradient(model_type):
    config = config_of(model_type)
    config.pad_token_id = 0
    family = family_of(config)
    for head in HEADS[model_type]:
        backend = load_backend("torch")
        model = backend.build_model(head, config, "fp32", 0)
        backend.set_weights(model, random_weights(backend.weight_shapes(model), config, 0))
        loss_of(model, head).backward()
        gradients = {
            name: np.zeros(weight.shape) if weight.grad is None else weight.grad.numpy()
            for name, weight in model.named_parameters()
        }
        largest = max(np.abs(value).max() for value in gradients.values())
        kept = family.weights_with_effect(gradients)
        for name, value in gradients.items():
            if name not in kept:
                assert np.abs(value).max() < 1e-6 * largest, name
            elif kept[name].shape != value.shape:
                idle = np.setdiff1d(value, kept[name]) if kept[name].size else value
                assert np.abs(idle).max() < 1e-6 * largest, name


def loss_of(model, head):
    """A cross-entropy of every output of the head."""
    import torch

    model.eval()
    ids = torch.arange(5, 19).reshape(2, 7)
    inputs = {"input_ids": ids} | ({"decoder_input_ids": ids[:, :3]} if model.config.is_encoder_decoder else {})
    outputs = model(**inputs)
    if "start_logits" in outputs:
        starts, ends = torch.tensor([1, 3]), torch.tensor([2, 6])
        losses = (torch.nn.functional.cross_entropy(outputs.start_logits, starts),
                  torch.nn.functional.cross_entropy(outputs.end_logits, ends))  # fmt: skip
        return sum(losses)
    logits = outputs.logits.reshape(-1, outputs.logits.shape[-1])
    return torch.nn.functional.cross_entropy(logits, torch.arange(len(logits)) % logits.shape[-1])


@families
def test_a_tied_output_reads_the_hidden_states_of_the_named_output(model_type):
    import torch

    config, family = config_of(model_type), FAMILIES[model_type]
    for class_name, output in family.tied_outputs.items():
        model = getattr(transformers, class_name)(config).eval()
        ids = torch.arange(5, 12)[None]
        inputs = {"input_ids": ids} | ({"decoder_input_ids": ids} if config.is_encoder_decoder else {})
        with torch.inference_mode():
            outputs = model(**inputs, output_hidden_states=True)
            hidden = outputs[output][-1] * family.tied_output_scale(config)
            tied = hidden @ model.get_input_embeddings().weight.T
        assert torch.allclose(tied, outputs.logits, atol=1e-5)


def test_a_built_model_has_the_checkpoints_weights_or_the_seeds():
    recipe, backend = load_recipe("stories_gpt2"), load_backend("torch")
    config, head = config_of("gpt2"), "AutoModelForCausalLM"
    stock = transformers.GPT2LMHeadModel.from_pretrained(recipe.checkpoint)
    trained = backend.get_weights(build_model(backend, recipe, head, config, seed=0))
    assert all(np.array_equal(trained[name], value.detach().numpy()) for name, value in stock.named_parameters())
    fresh = recipe.override({"weights": "random"})
    one, two, other = (backend.get_weights(build_model(backend, fresh, head, config, seed)) for seed in (1, 1, 2))
    name = "transformer.wte.weight"
    assert np.array_equal(one[name], two[name]) and not np.array_equal(one[name], other[name])
    assert not np.array_equal(one[name], trained[name])


@pytest.mark.parametrize("framework", ["torch", "tensorflow"])
def test_a_perturbed_start_is_one_rounding_off_in_every_weight_but_zeros(framework):
    recipe, backend = load_recipe("dates_t5"), load_backend(framework)
    config, head = config_of("t5"), "AutoModelForSeq2SeqLM"
    probe = {name: np.array([[3, 4]], np.int32) for name in ("input_ids", "attention_mask", "decoder_input_ids")}

    def start(seed, perturbed):
        changed = recipe.override({"perturb_weights": perturbed})
        model = build_for_training(backend, changed, head, config, seed, "stock", probe).model
        return backend.get_weights(model)

    plain, one, same, other = start(1, False), start(1, True), start(1, True), start(2, True)
    for name, weight in plain.items():
        # The bits of neighboring floats of one sign are neighboring whole numbers.
        distance = one[name].view(np.int32).astype(np.int64) - weight.view(np.int32)
        assert np.array_equal(np.abs(distance), (weight != 0).astype(int))
        assert np.array_equal(one[name], same[name])
    shared = "shared.weight"
    upwards = (one[shared] > plain[shared]).mean()
    assert 0.49 < upwards < 0.51
    assert not np.array_equal(one[shared], other[shared])


def test_a_perturbed_start_leaves_weights_alone_that_are_never_trained():
    """Else encoder and decoder would have two tables of positions, which the hand-written Transformer cannot have."""
    config = MarianConfig(vocab_size=11, d_model=8, encoder_layers=1, decoder_layers=1, max_position_embeddings=7)
    positions = sinusoids(7, 8)
    weights = {f"model.{stack}.embed_positions.weight": positions for stack in ("encoder", "decoder")}
    weights["model.shared.weight"] = np.ones((11, 8), np.float32)
    moved = off_by_one_rounding(weights, config, seed=1)
    assert all((moved[name] == value).all() == ("positions" in name) for name, value in weights.items())
    assert (moved["model.shared.weight"] != 1).all()
