"""A swapped model of each family computes what the stock model computes: logits, gradients, tokens, maps."""

import os
from pathlib import Path

import numpy as np
import pytest
import transformers

from tests.helpers.framework_drivers import FRAMEWORKS, Torch
from tests.helpers.tiny_models import FAMILIES, RELATIVES, SITES, inputs, is_real, relative

both = pytest.mark.parametrize("framework", FRAMEWORKS, ids=lambda framework: framework.name)
families = pytest.mark.parametrize("family", FAMILIES)


def case(framework, family, *others):
    """A case of a test; of BERT's relatives those in TensorFlow, which take longer, repeat what PyTorch's show."""
    is_repeated = framework is not Torch and family in RELATIVES
    return pytest.param(framework, family, *others, marks=pytest.mark.heavy if is_repeated else ())


both_with_relatives = pytest.mark.parametrize(
    ("framework", "family"),
    [case(framework, family) for framework in FRAMEWORKS for family in (*FAMILIES, *RELATIVES)],
    ids=lambda value: getattr(value, "name", value),
)


# T5 without a decoder: only the encoder's layers attend.
ENCODER_ONLY = {"EncoderModel": 2, "ForTokenClassification": 2}


def stock_and_swapped_outputs(framework, family, padding="right", **build):
    model = framework.build(family, **build)
    batch = inputs(family, padding, build.get("head"))
    stock = framework.output(model, batch)
    framework.swap().swap_attention(model)
    swapped = framework.output(model, batch)
    real = is_real(family, batch, stock)
    return swapped[real], stock[real]


@both_with_relatives
@pytest.mark.parametrize("padding", ["left", "right", "none"])
def test_swapped_model_gives_the_stock_logits(framework, family, padding):
    assert relative(*stock_and_swapped_outputs(framework, family, padding)) <= 1e-6


@pytest.mark.parametrize("family", ["bert", *RELATIVES, "gpt2", "marian"])
@pytest.mark.parametrize("padding", ["left", "right", "none"])
def test_swapped_model_gives_the_logits_of_stock_eager_attention(family, padding):
    assert relative(*stock_and_swapped_outputs(Torch, family, padding, implementation="eager")) <= 1e-6


@pytest.mark.parametrize(
    ("framework", "family", "head"),
    [
        case(framework, family, head)
        for framework in FRAMEWORKS
        for family in (*FAMILIES, *RELATIVES)
        for head in framework.heads(family)
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_every_head_of_the_library_can_be_swapped(framework, family, head):
    model = framework.build(family, head)
    batch = inputs(family, "right", head)
    stock = framework.output(model, batch)
    sites = ENCODER_ONLY.get(head, SITES[family]) if family == "t5" else SITES[family]
    swap = framework.swap()
    assert swap.swap_attention(model) == swap.attention_sites(model) == sites
    assert swap.attention_calls(model) == [0] * sites
    swapped = framework.output(model, batch)
    assert swap.attention_calls(model) == [1] * sites
    real = is_real(family, batch, stock)
    assert relative(swapped[real], stock[real]) <= 1e-6
    assert swap.restore_attention(model) == sites
    assert swap.attention_sites(model) == 0
    np.testing.assert_array_equal(framework.output(model, batch), stock)


@pytest.mark.parametrize("family", [*FAMILIES, *RELATIVES])
def test_the_two_frameworks_give_the_same_logits_from_the_same_weights(family):
    outputs = {}
    for framework in FRAMEWORKS:
        outputs[framework.name], _ = stock_and_swapped_outputs(framework, family)
    assert relative(outputs["tensorflow"], outputs["torch"]) <= 1e-5


@both_with_relatives
def test_swapped_model_gives_the_stock_gradients(framework, family):
    model, batch = framework.build(family), inputs(family)
    swap = framework.swap()
    stock = framework.gradients(model, batch, swap)
    model = framework.build(family)
    swap.swap_attention(model)
    swapped = framework.gradients(model, batch, swap)
    assert relative(swapped, stock) <= 1e-5
    total = np.sqrt(sum(np.square(gradient).sum() for gradient in stock.values()))
    for name, gradient in stock.items():
        # The softmax does not see what all keys share, so the gradient of a key bias is rounding alone.
        if np.linalg.norm(gradient) > 1e-6 * total:
            assert relative(swapped[name], gradient) <= 1e-5, name


@pytest.mark.slow
@both
@pytest.mark.parametrize("family", ["gpt2", "t5", "marian"])
@pytest.mark.parametrize(
    "strategy",
    [dict(do_sample=False), dict(do_sample=False, num_beams=4), dict(do_sample=True)],
    ids=["greedy", "beam", "sampling"],
)
def test_swapped_model_generates_the_stock_tokens(framework, family, strategy):
    # No end-of-sequence token, so that all are compared.
    model = framework.build(family, eos_token_id=None)
    batch = inputs(family, "left")
    batch.pop("decoder_input_ids", None)
    # TensorFlow takes a tenth of a second for each token.
    length = 64 if framework is Torch else 7
    stock = framework.generate(model, batch, max_new_tokens=length, **strategy)
    assert stock.shape[1] >= length
    framework.swap().swap_attention(model)
    np.testing.assert_array_equal(framework.generate(model, batch, max_new_tokens=length, **strategy), stock)


@pytest.mark.parametrize("family", ["gpt2", "t5", "marian"])
def test_generation_with_a_static_cache_is_generation_without_a_cache(family):
    model, batch = Torch.build(family, eos_token_id=None), inputs(family, "left")
    batch.pop("decoder_input_ids", None)
    Torch.swap().swap_attention(model)
    without = Torch.generate(model, batch, max_new_tokens=13, do_sample=False, use_cache=False)
    static = Torch.generate(model, batch, max_new_tokens=13, do_sample=False, cache_implementation="static")
    np.testing.assert_array_equal(static, without)


@both
@families
def test_rows_that_are_all_padding_stay_finite(framework, family):
    model, batch = framework.build(family), inputs(family, "left")
    batch["attention_mask"][1] = 0
    framework.swap().swap_attention(model)
    assert np.isfinite(framework.output(model, batch)).all()


@both_with_relatives
def test_attention_maps_are_the_stock_ones(framework, family):
    def maps(model):
        outputs = model(**framework.tensors(batch), output_attentions=True)
        three = ("encoder_attentions", "decoder_attentions", "cross_attentions")
        names = three if model.config.is_encoder_decoder else ("attentions",)
        return [framework.numpy(weights) for name in names for weights in outputs[name]]

    model = framework.build(family, implementation="eager")
    batch = inputs(family, "none")
    stock = maps(model)
    framework.swap().swap_attention(model)
    swapped = maps(model)
    assert len(swapped) == len(stock) == SITES[family]
    for ours, theirs in zip(swapped, stock, strict=True):
        assert ours.shape == theirs.shape
        assert relative(ours, theirs) <= 1e-6


@both
@pytest.mark.parametrize("mutation", ["scale", "mask", "relative bias", "head order"])
def test_each_part_left_out_of_the_swap_is_noticed(framework, mutation, monkeypatch):
    module, swap = framework.attention(), framework.swap()
    attend, split_heads = module.attend, module.split_heads
    family = "t5" if mutation == "relative bias" else "gpt2"
    if mutation == "scale":
        monkeypatch.setattr(module, "attend", lambda q, k, v, b, s, dropout: attend(q, k, v, b, 1.0, dropout))
    elif mutation == "mask":
        monkeypatch.setattr(module, "attend", lambda q, k, v, b, s, dropout: attend(q, k, v, None, s, dropout))
    elif mutation == "relative bias":
        monkeypatch.setattr(swap.t5.T5Site, "position_bias", lambda self, mask, *_: mask)
    else:

        def swapped_axes(x_BTN, num_heads):
            x = framework.numpy(split_heads(x_BTN, x_BTN.shape[2] // num_heads))
            return framework.tensor(np.ascontiguousarray(x.transpose(0, 3, 2, 1)))

        monkeypatch.setattr(module, "split_heads", swapped_axes)
    assert relative(*stock_and_swapped_outputs(framework, family)) > 1e-3


def sorting_model():
    """minGPT's sorter if the shared folder is there, else a tiny random GPT-2 that is untied like it."""
    shared = os.environ.get("PIPELINE_SHARED")
    if shared:
        folder = Path(shared) / "checkpoints" / "mingpt_sort_gpt2"
        return transformers.GPT2LMHeadModel.from_pretrained(folder), True
    return Torch.build("gpt2", tie_word_embeddings=False, vocab_size=3, n_positions=11), False


def test_swapped_sorter_sorts():
    import torch

    model, is_trained = sorting_model()
    prompts = np.random.default_rng(23).integers(0, 3, (200, 6))
    batch = {"input_ids": prompts, "attention_mask": np.ones_like(prompts)}
    # The model has 11 positions: its last token needs none, for nothing comes after it.
    settings = dict(max_new_tokens=6 if is_trained else 5, do_sample=False, eos_token_id=None, pad_token_id=0)
    stock_logits, stock = Torch.output(model, batch), Torch.generate(model, batch, **settings)
    Torch.swap().swap_attention(model)
    assert relative(Torch.output(model, batch), stock_logits) <= 1e-6
    sorted_ids = Torch.generate(model, batch, **settings)
    np.testing.assert_array_equal(sorted_ids, stock)
    if is_trained:
        assert (sorted_ids[:, 6:] == np.sort(prompts, axis=1)).all(axis=1).sum() == 200
    assert torch.equal(model.lm_head.weight, model.get_output_embeddings().weight)
    assert model.lm_head.weight is not model.transformer.wte.weight
