"""A model that somebody subclassed, hooked, saves or prunes: swapped as it should be, or refused by name."""

import copy

import numpy as np
import pytest
import transformers

from pipeline.utils.errors import UserError
from tests.helpers.framework_drivers import FRAMEWORKS, Torch
from tests.helpers.tiny_models import FAMILIES, RELATIVES, SITES, inputs, is_real, relative

both = pytest.mark.parametrize("framework", FRAMEWORKS, ids=lambda framework: framework.name)
families = pytest.mark.parametrize(
    "family", [*FAMILIES, *(pytest.param(family, marks=pytest.mark.heavy) for family in RELATIVES)]
)


def layers_of(framework, model):
    return list(model.modules() if framework is Torch else model._flatten_layers())


def first(framework, model, *class_names):
    """The first layer whose class has one of the names, without TensorFlow's prefix."""
    found = (layer for layer in layers_of(framework, model) if type(layer).__name__.removeprefix("TF") in class_names)
    return next(found)


LAYERS = (
    "BertAttention", "RobertaAttention", "TransformerBlock", "GPT2Block", "Block", "T5LayerSelfAttention",
    "MarianEncoderLayer",
)  # fmt: skip


def parent_of_attention(framework, model):
    return first(framework, model, *LAYERS)


def stock_attention(framework, model):
    names = (
        "BertSelfAttention",
        "BertSdpaSelfAttention",
        "RobertaSelfAttention",
        "RobertaSdpaSelfAttention",
        "DistilBertSdpaAttention",
        "DistilBertSelfAttention",
        "MultiHeadSelfAttention",
        "GPT2Attention",
        "Attention",
        "T5Attention",
        "MarianAttention",
    )
    return first(framework, model, *names)


def subclassed(layer):
    """Give a layer a class of its own that changes nothing."""
    layer.__class__ = type("Own", (type(layer),), {})


@both
@families
def test_a_subclass_of_the_layer_around_an_attention_is_swapped_too(framework, family):
    model, batch = framework.build(family), inputs(family)
    stock = framework.output(model, batch)
    subclassed(parent_of_attention(framework, model))
    assert framework.swap().swap_attention(model) == SITES[family]
    real = is_real(family, batch, stock)
    assert relative(framework.output(model, batch)[real], stock[real]) <= 1e-6
    assert framework.swap().restore_attention(model) == SITES[family]


@both
@families
def test_a_subclass_of_the_attention_itself_is_refused(framework, family):
    model = framework.build(family)
    subclassed(stock_attention(framework, model))
    with pytest.raises(UserError, match="is Own, but has to be .*Attention: its own code would be lost"):
        framework.swap().swap_attention(model)
    assert framework.swap().attention_sites(model) == 0


@both
@families
def test_an_attention_in_a_place_that_the_swap_does_not_know_is_refused(framework, family):
    model, other = framework.build(family), framework.build(family)
    model.somewhere_else = stock_attention(framework, other)
    with pytest.raises(UserError, match="is outside of the library's layers"):
        framework.swap().swap_attention(model)
    assert framework.swap().attention_sites(model) == 0


@both
@families
def test_a_swapped_model_is_not_saved(framework, family, tmp_path):
    model = framework.build(family)
    framework.swap().swap_attention(model)
    with pytest.raises(UserError, match=r"call restore_attention\(model\) first"):
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())
    framework.swap().restore_attention(model)
    model.save_pretrained(tmp_path, safe_serialization=framework is Torch)
    assert (tmp_path / "config.json").exists()


INNER = {
    "bert": "bert",
    "distilbert": "distilbert",
    "roberta": "roberta",
    "gpt2": "transformer",
    "t5": "encoder",
    "marian": "model",
}


@both
@families
def test_a_model_around_a_swapped_one_is_not_saved(framework, family, tmp_path):
    outer = framework.build(family)
    inner = getattr(outer, INNER[family])
    num_sites = framework.swap().swap_attention(inner)
    assert num_sites == (SITES[family] if family == "marian" else 2)
    with pytest.raises(UserError, match=r"^save_pretrained needs the stock attention: call restore_attention"):
        outer.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())
    framework.build(family).save_pretrained(tmp_path / "stock", safe_serialization=framework is Torch)
    assert framework.swap().restore_attention(outer) == num_sites
    outer.save_pretrained(tmp_path / "restored", safe_serialization=framework is Torch)
    names = {folder.name: sorted(file.name for file in folder.iterdir()) for folder in tmp_path.iterdir()}
    assert names["restored"] == names["stock"]


@families
def test_neither_a_model_inside_a_swapped_one_nor_its_copy_is_saved(family, tmp_path):
    model = Torch.build(family)
    Torch.swap().swap_attention(model)
    for unsaved in (model.base_model if family != "t5" else model.encoder, copy.deepcopy(model)):
        with pytest.raises(UserError, match="restore_attention"):
            unsaved.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])  # the library prunes no Marian
def test_heads_of_a_swapped_model_are_not_pruned(family):
    model, batch = Torch.build(family, "EncoderModel" if family == "t5" else None), inputs(family)
    if not hasattr(model, "prune_heads"):
        pytest.skip("version 5 of transformers prunes no heads")
    batch.pop("decoder_input_ids", None)
    before, config = Torch.output(model, batch), model.config.to_dict()
    Torch.swap().swap_attention(model)
    outside = type(model)(copy.deepcopy(model.config))  # around the swapped model, as those with a head are
    for name, module in list(model.named_children()):
        setattr(outside, name, module)
    for refused in (model, outside):
        with pytest.raises(UserError, match="^prune_heads needs the stock attention: call restore_attention"):
            refused.prune_heads({0: [1]})
    assert model.config.to_dict() == config
    Torch.swap().restore_attention(model)
    np.testing.assert_array_equal(Torch.output(model, batch), before)
    model.prune_heads({0: [1]})
    assert Torch.output(model, batch).shape == before.shape


# Marian calls its attention with keywords only, among which PyTorch looks for no inputs with gradients.
@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@families
def test_hooks_on_the_attention_go_on_to_work_after_a_swap_and_after_restoring(family):
    model, batch, seen = Torch.build(family), inputs(family), []
    attention = stock_attention(Torch, model)
    handles = [
        attention.register_forward_pre_hook(lambda *_: seen.append("before")),
        attention.register_forward_hook(lambda *_, **kwargs: seen.append("after"), with_kwargs=True),
        attention.register_full_backward_hook(lambda *_: seen.append("gradient")),
    ]
    Torch.swap().swap_attention(model)
    Torch.loss(model, batch).backward()
    assert seen == ["before", "after", "gradient"]
    site = next(module for module in model.modules() if hasattr(module, "aside"))
    handles.append(site.register_forward_hook(lambda *_: seen.append("new")))
    Torch.swap().restore_attention(model)
    seen.clear()
    Torch.loss(model, batch).backward()
    assert seen == ["before", "after", "new", "gradient"]
    for handle in handles:
        handle.remove()
    seen.clear()
    Torch.loss(model, batch).backward()
    assert seen == []


@pytest.mark.parametrize(("family", "part"), [("gpt2", "c_attn"), ("gpt2", "attn_dropout"), ("bert", "dropout")])
def test_hooks_on_a_part_that_the_swap_leaves_out_are_refused(family, part):
    model = Torch.build(family)
    handle = getattr(stock_attention(Torch, model), part).register_forward_hook(lambda *_: None)
    with pytest.raises(UserError, match=rf"\.{part} has hooks or a forward of its own"):
        Torch.swap().swap_attention(model)
    handle.remove()
    assert Torch.swap().swap_attention(model) == SITES[family]


@pytest.mark.parametrize(("family", "part"), [("bert", "query"), ("t5", "v"), ("gpt2", "resid_dropout")])
def test_hooks_on_a_part_that_lives_on_are_called(family, part):
    model, seen = Torch.build(family), []
    getattr(stock_attention(Torch, model), part).register_forward_hook(lambda *_: seen.append(part))
    Torch.swap().swap_attention(model)
    Torch.output(model, inputs(family))
    assert seen == [part]


@families
def test_a_forward_that_was_replaced_is_refused(family):
    model = Torch.build(family)
    attention = stock_attention(Torch, model)
    attention.forward = attention.forward
    with pytest.raises(UserError, match="has hooks or a forward of its own"):
        Torch.swap().swap_attention(model)


@families
def test_initializing_a_trained_model_again_changes_no_weight_of_a_swapped_one(family):
    settings = Torch.build(family).config
    model = transformers.AutoModel.from_config(settings)
    Torch.swap().swap_attention(model)
    before = Torch.state(model)
    model.init_weights()
    for name, value in Torch.state(model).items():
        np.testing.assert_array_equal(value, before[name])
