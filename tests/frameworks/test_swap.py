"""A swapped BERT, GPT-2 or T5 is the stock model in everything but the code that attends."""

import copy
import os
from pathlib import Path

import numpy as np
import pytest
import transformers

from pipeline.models.attention import unsupported
from pipeline.utils.errors import UserError
from tests.helpers.tiny_models import (
    FAMILIES,
    FRAMEWORKS,
    TensorFlow,
    Torch,
    config,
    inputs,
    is_real,
    relative,
)

SITES = {"bert": 2, "gpt2": 2, "t5": 2 + 2 * 2}
# T5 without a decoder: only the encoder's layers attend.
ENCODER_ONLY = {"EncoderModel": 2, "ForTokenClassification": 2}

both = pytest.mark.parametrize("framework", FRAMEWORKS, ids=lambda framework: framework.name)
families = pytest.mark.parametrize("family", FAMILIES)


def stock_and_swapped_outputs(framework, family, padding="right", **build):
    model = framework.build(family, **build)
    batch = inputs(family, padding, build.get("head"))
    stock = framework.output(model, batch)
    framework.swap().swap_attention(model)
    swapped = framework.output(model, batch)
    real = is_real(family, batch, stock)
    return swapped[real], stock[real]


@both
@families
@pytest.mark.parametrize("padding", ["left", "right", "none"])
def test_swapped_model_gives_the_stock_logits(framework, family, padding):
    assert relative(*stock_and_swapped_outputs(framework, family, padding)) <= 1e-6


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize("padding", ["left", "right", "none"])
def test_swapped_model_gives_the_logits_of_stock_eager_attention(family, padding):
    assert relative(*stock_and_swapped_outputs(Torch, family, padding, implementation="eager")) <= 1e-6


@pytest.mark.parametrize(
    ("framework", "family", "head"),
    [(framework, family, head) for framework in FRAMEWORKS for family in FAMILIES for head in framework.heads(family)],
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


@families
def test_the_two_frameworks_give_the_same_logits_from_the_same_weights(family):
    outputs = {}
    for framework in FRAMEWORKS:
        outputs[framework.name], _ = stock_and_swapped_outputs(framework, family)
    assert relative(outputs["tensorflow"], outputs["torch"]) <= 1e-5


@both
@families
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
        # The softmax does not see what all keys share, so the gradient of BERT's key bias is rounding alone.
        if np.linalg.norm(gradient) > 1e-6 * total:
            assert relative(swapped[name], gradient) <= 1e-5, name


def without_key_biases(state):
    """A bias on the keys moves all scores of a query alike, so it has no gradient but rounding, and AdamW
    makes steps of that: stock sdpa and stock eager part there by 3e-4 (BERT) and 5e-4 (GPT-2) as well."""
    kept = {}
    for name, value in state.items():
        if "c_attn" in name and "bias" in name:
            query, _, value_bias = np.split(value.ravel(), 3)
            value = np.concatenate([query, value_bias])
        if not name.endswith(("key.bias", "key/bias:0")):
            kept[name] = value
    return kept


@both
@families
def test_training_swapped_and_restoring_is_training_stock(framework, family):
    batch = inputs(family)
    stock, swapped = framework.build(family), framework.build(family)
    framework.train(stock, batch)
    framework.swap().swap_attention(swapped)
    framework.train(swapped, batch)
    framework.swap().restore_attention(swapped)
    before = without_key_biases(framework.state(framework.build(family)))
    after, expected = (without_key_biases(framework.state(model)) for model in (swapped, stock))
    assert relative(expected, before) > 1e-3
    assert relative(after, expected) <= 1e-5
    real = is_real(family, batch, framework.output(stock, batch))
    assert relative(framework.output(swapped, batch)[real], framework.output(stock, batch)[real]) <= 1e-5


@both
@pytest.mark.parametrize("family", ["gpt2", "t5"])
@pytest.mark.parametrize(
    "strategy",
    [dict(do_sample=False), dict(do_sample=False, num_beams=4), dict(do_sample=True)],
    ids=["greedy", "beam", "sampling"],
)
def test_swapped_model_generates_the_stock_tokens(framework, family, strategy):
    # No end-of-sequence token, so that all 64 are compared.
    model = framework.build(family, eos_token_id=None)
    batch = inputs(family, "left")
    batch.pop("decoder_input_ids", None)
    # Sampling in TensorFlow draws by position in the graph: short, because each new length is traced anew.
    length = 64 if not strategy["do_sample"] else 7
    stock = framework.generate(model, batch, max_new_tokens=length, **strategy)
    assert stock.shape[1] >= length
    framework.swap().swap_attention(model)
    np.testing.assert_array_equal(framework.generate(model, batch, max_new_tokens=length, **strategy), stock)


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_generation_with_a_static_cache_is_generation_without_a_cache(family):
    model, batch = Torch.build(family, eos_token_id=None), inputs(family, "left")
    batch.pop("decoder_input_ids", None)
    Torch.swap().swap_attention(model)
    without = Torch.generate(model, batch, max_new_tokens=13, do_sample=False, use_cache=False)
    static = Torch.generate(model, batch, max_new_tokens=13, do_sample=False, cache_implementation="static")
    np.testing.assert_array_equal(static, without)


@both
@families
def test_swap_then_restore_leaves_every_weight_and_name_as_it_was(framework, family):
    model = framework.build(family)
    before = framework.state(model)
    for _ in range(2):
        framework.swap().swap_attention(model)
        swapped = framework.state(model)
        assert sum(value.size for value in swapped.values()) == sum(value.size for value in before.values())
        framework.swap().restore_attention(model)
    after = framework.state(model)
    assert list(after) == list(before)
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)


@families
def test_restored_torch_model_is_saved_as_a_stock_checkpoint(family, tmp_path):
    model, batch = Torch.build(family), inputs(family)
    keys, parameters = list(model.state_dict()), {id(parameter) for parameter in model.parameters()}
    stock = Torch.output(model, batch)
    Torch.swap().swap_attention(model)
    Torch.swap().restore_attention(model)
    assert list(model.state_dict()) == keys
    assert {id(parameter) for parameter in model.parameters()} == parameters
    model.save_pretrained(tmp_path)
    loaded, report = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    np.testing.assert_array_equal(Torch.output(loaded, batch), stock)


@families
def test_restored_tensorflow_model_is_saved_as_a_stock_checkpoint(family, tmp_path):
    model, batch = TensorFlow.build(family), inputs(family)
    stock = TensorFlow.output(model, batch)
    TensorFlow.swap().swap_attention(model)
    TensorFlow.swap().restore_attention(model)
    model.save_pretrained(tmp_path, safe_serialization=False)
    loaded, report = type(model).from_pretrained(tmp_path, output_loading_info=True)
    # The library lists a dropout layer, by whatever number Keras gave it.
    unexpected = [name for name in report["unexpected_keys"] if not name.startswith("dropout_")]
    assert not (report["missing_keys"] or report["mismatched_keys"] or unexpected), report
    np.testing.assert_array_equal(TensorFlow.output(loaded, batch), stock)


@both
@families
def test_rows_that_are_all_padding_stay_finite(framework, family):
    model, batch = framework.build(family), inputs(family, "left")
    batch["attention_mask"][1] = 0
    framework.swap().swap_attention(model)
    assert np.isfinite(framework.output(model, batch)).all()


@both
@families
def test_attention_maps_are_the_stock_ones(framework, family):
    def maps(model):
        outputs = model(**framework.tensors(batch), output_attentions=True)
        t5 = ("encoder_attentions", "decoder_attentions", "cross_attentions")
        names = t5 if family == "t5" else ("attentions",)
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
@families
def test_attention_keeps_the_dropout_rate_of_the_stock_module(framework, family):
    model, batch = framework.build(family, dropout=0.25), inputs(family)
    framework.swap().swap_attention(model)
    sites = [module for module in _modules(framework, model) if hasattr(module, "aside")]
    rate = "p" if framework is Torch else "rate"
    assert {getattr(site.attention.dropout, rate) for site in sites} == {0.25}
    # Off in evaluation: twice the same.
    np.testing.assert_array_equal(framework.output(model, batch), framework.output(model, batch))


def _modules(framework, model):
    return list(model.modules() if framework is Torch else model._flatten_layers())


def test_frozen_weights_mode_and_dtype_are_carried_over_in_torch():
    import torch

    swap = Torch.swap()
    for family, part in (("bert", "layer.0.attention"), ("gpt2", "h.0.attn"), ("t5", "block.0.layer.0")):
        model = Torch.build(family).train().to(torch.bfloat16)
        for name, parameter in model.named_parameters():
            parameter.requires_grad = part not in name
        frozen = sum(not p.requires_grad for p in model.parameters())
        total = sum(p.numel() for p in model.parameters() if p.requires_grad)
        swap.swap_attention(model)
        assert total == sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
        assert all(module.training for module in model.modules())
        model.eval()
        swap.restore_attention(model)
        assert not any(module.training for module in model.modules())
        assert frozen == sum(not p.requires_grad for p in model.parameters())
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
        assert all((part not in name) == p.requires_grad for name, p in model.named_parameters())


# The library's layers around an attention, whose weights a swap moves.
ATTENTION_PARENTS = ("TFBertAttention", "TFBlock", "TFT5LayerSelfAttention", "TFT5LayerCrossAttention")


def test_frozen_layers_are_carried_over_in_tensorflow():
    swap = TensorFlow.swap()
    for family in FAMILIES:
        model = TensorFlow.build(family)
        parent = next(layer for layer in _modules(TensorFlow, model) if type(layer).__name__ in ATTENTION_PARENTS)
        parent.trainable = False
        stock = [variable.name for variable in model.trainable_variables]
        total = sum(variable.shape.num_elements() for variable in model.trainable_variables)
        swap.swap_attention(model)
        assert total == sum(variable.shape.num_elements() for variable in model.trainable_variables)
        names = [variable.name for variable in model.variables]
        assert len(names) == len(set(names))
        swap.restore_attention(model)
        assert [variable.name for variable in model.trainable_variables] == stock


@families
def test_nothing_of_the_stock_module_stays_registered(family):
    model = Torch.build(family)
    Torch.swap().swap_attention(model)
    stock_classes = ("BertSelfAttention", "BertSdpaSelfAttention", "GPT2Attention", "T5Attention")
    assert not [module for module in model.modules() if type(module).__name__ in stock_classes]
    stock_names = ("c_attn", ".self.query", "SelfAttention.q.")
    assert not [key for key in model.state_dict() if any(name in key for name in stock_names)]
    stocks = [module.stock for module in model.modules() if hasattr(module, "aside")]
    own = {id(parameter) for parameter in model.parameters()}
    # What the stock modules hold besides is empty.
    assert not sum(p.numel() for stock in stocks for p in stock.parameters() if id(p) not in own)


@families
def test_a_copied_swapped_model_is_a_model_of_its_own(family):
    model, batch = Torch.build(family), inputs(family)
    Torch.swap().swap_attention(model)
    twin = copy.deepcopy(model)
    before = Torch.output(model, batch)
    Torch.train(twin, batch, steps=1)
    Torch.swap().restore_attention(twin)
    np.testing.assert_array_equal(Torch.output(model, batch), before)
    assert relative(Torch.output(twin, batch), before) > 1e-4


@families
def test_swapping_leaves_the_random_state_alone(family):
    import torch

    model = Torch.build(family)
    torch.manual_seed(17)
    Torch.swap().swap_attention(model)
    Torch.swap().restore_attention(model)
    drawn = torch.rand(3)
    torch.manual_seed(17)
    assert torch.equal(drawn, torch.rand(3))


@families
@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not reentrant"])
def test_gradient_checkpointing_gives_the_same_gradients(family, reentrant):
    swap, batch = Torch.swap(), inputs(family)
    model = Torch.build(family).train()
    stock = Torch.gradients(model, batch, swap)
    model = Torch.build(family).train()
    swap.swap_attention(model)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    if reentrant:
        model.enable_input_require_grads()
    assert relative(Torch.gradients(model, batch, swap), stock) <= 1e-5
    # Each site runs again in the backward pass, or its memory was not saved.
    assert swap.attention_calls(model) == [2] * SITES[family]


@families
def test_autocast_stays_as_near_to_fp32_as_the_stock_model(family):
    import torch

    # BERT's logits are too few to speak of a typical difference.
    head = "Model" if family == "bert" else None
    model, batch = Torch.build(family, head), inputs(family)
    exact = Torch.output(model, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        stock = Torch.output(model, batch)
        Torch.swap().swap_attention(model)
        swapped = Torch.output(model, batch)
        model.train()
        Torch.loss(model, batch).backward()
    real = is_real(family, batch, exact)
    assert relative(swapped[real], exact[real]) <= 1.5 * relative(stock[real], exact[real]) + 1e-3
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@families
def test_mixed_bfloat16_stays_as_near_to_fp32_as_the_stock_model(family):
    import tf_keras

    head = "Model" if family == "bert" else None
    batch = inputs(family)
    exact = TensorFlow.output(TensorFlow.build(family, head), batch)
    tf_keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        model = TensorFlow.build(family, head)
    finally:
        tf_keras.mixed_precision.set_global_policy("float32")
    stock = TensorFlow.output(model, batch)
    TensorFlow.swap().swap_attention(model)
    sites = [layer for layer in _modules(TensorFlow, model) if hasattr(layer, "aside")]
    assert {site.attention.query.compute_dtype for site in sites} == {"bfloat16"}
    assert {site.attention.compute_dtype for site in sites} == {"bfloat16"}
    assert {variable.dtype.name for variable in model.variables} == {"float32"}
    swapped = TensorFlow.output(model, batch)
    real = is_real(family, batch, exact)
    assert relative(swapped[real], exact[real]) <= 1.5 * relative(stock[real], exact[real]) + 1e-3
    TensorFlow.train(model, batch, steps=1)
    assert all(np.isfinite(value).all() for value in TensorFlow.state(model).values())


@families
def test_keras_fit_trains_every_swapped_weight(family):
    import tf_keras

    model, batch = TensorFlow.build(family), inputs(family)
    TensorFlow.swap().swap_attention(model)
    batch["labels"] = np.arange(2) if family == "bert" else batch.get("decoder_input_ids", batch["input_ids"])
    before = TensorFlow.state(model)
    model.compile(tf_keras.optimizers.AdamW(1e-2))  # With the model's own loss.
    model.fit(TensorFlow.tensors(batch), batch_size=2, epochs=2, verbose=0)
    after = TensorFlow.state(model)
    assert list(after) == list(before)
    assert not [name for name in before if (after[name] == before[name]).all()]


def own_attention(framework):
    class Windowed(framework.attention().MultiHeadAttention):
        """Sees no further than two tokens away."""

        def _near(self, queries, bias):
            length = queries.shape[1]
            distance = np.abs(np.arange(length)[:, None] - np.arange(length)[None])
            window = framework.tensor(np.where(distance <= 2, 0, -1e9).astype("f4")[None, None])
            return window if bias is None else bias + window

        def forward(self, queries, source=None, bias=None, past=None, return_weights=False, **training):
            bias = self._near(queries, bias) if source is None else bias
            parent = super()
            call = parent.forward if framework is Torch else parent.call
            return call(queries, source, bias, past, return_weights, **training)

        if framework is TensorFlow:
            call = forward

    return Windowed


@both
@families
def test_an_attention_of_ones_own_runs_in_every_site(framework, family):
    model, batch = framework.build(family), inputs(family)
    stock = framework.output(model, batch)
    swap = framework.swap()
    assert swap.swap_attention(model, own_attention(framework)) == SITES[family]
    assert relative(framework.output(model, batch), stock) > 1e-3
    assert swap.attention_calls(model) == [1] * SITES[family]
    swap.restore_attention(model)
    np.testing.assert_array_equal(framework.output(model, batch), stock)


@both
def test_an_attention_is_found_by_its_dotted_name(framework):
    model, batch = framework.build("bert"), inputs("bert")
    stock = framework.output(model, batch)
    name = framework.attention().__name__
    assert framework.swap().swap_attention(model, f"{name}:MultiHeadAttention") == 2
    assert relative(framework.output(model, batch), stock) <= 1e-6


@both
@pytest.mark.parametrize(
    ("attention", "message"),
    [
        ("handwriten", 'but must be "handwritten" or "package.module:ClassName". Did you mean "handwritten"'),
        ("no_such_module:Attention", "no_such_module cannot be imported"),
        ("fractions:Fractoin", 'has no class Fractoin. Did you mean "Fraction"'),
        ("fractions:Fraction", "cannot be made with width, num_heads"),
        (dict, "has no query, key, value, out"),
    ],
)
def test_an_attention_that_does_not_fit_is_refused_before_anything_changes(framework, attention, message):
    model = framework.build("bert")
    before = framework.state(model)
    with pytest.raises(UserError) as refusal:
        framework.swap().swap_attention(model, attention)
    assert message in str(refusal.value)
    assert list(framework.state(model)) == list(before)
    assert framework.swap().attention_sites(model) == 0


@both
@pytest.mark.parametrize(
    ("family", "overrides", "message"),
    [
        ("gpt2", {"reorder_and_upcast_attn": True}, "reorder_and_upcast_attn is True, but must be False"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
        ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights is False, but must be True"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention is True"),
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ("bert", {"position_embedding_type": "relative_key_query"}, "but must be 'absolute'"),
        ("bert", {"is_decoder": True}, "is_decoder is True, but must be False"),
        ("t5", {"pruned_heads": {0: [1]}}, "pruned_heads is {0: [1]}"),
    ],
)
def test_what_the_module_does_not_implement_is_refused_by_name(framework, family, overrides, message):
    settings = config(family)
    # Set afterwards: building such a model is the library's business, refusing it is ours.
    model = framework.build(family, head="EncoderModel" if family == "t5" else None)
    before = list(framework.state(model))
    for name, value in overrides.items():
        setattr(settings, name, value)
        setattr(model.config, name, value)
    assert message in "; ".join(unsupported(settings))
    with pytest.raises(UserError) as refusal:
        framework.swap().swap_attention(model)
    assert message in str(refusal.value)
    assert "Supported: BERT encoders, GPT-2 decoders, T5 encoders and decoders" in str(refusal.value)
    assert list(framework.state(model)) == before


def test_a_supported_config_has_no_reason_against_it():
    assert [unsupported(config(family)) for family in FAMILIES] == [[], [], []]
    reasons = unsupported(transformers.RobertaConfig())
    assert reasons == ['model_type is "roberta", not one of: bert, gpt2, t5']


@both
@families
def test_swapping_twice_is_refused_and_restoring_a_stock_model_restores_nothing(framework, family):
    model, swap = framework.build(family), framework.swap()
    assert swap.restore_attention(model) == 0
    swap.swap_attention(model)
    with pytest.raises(UserError, match="swapped already"):
        swap.swap_attention(model)
    assert swap.attention_sites(model) == SITES[family]


@both
def test_an_attention_shared_by_two_layers_is_refused(framework):
    model = framework.build("bert")
    model.bert.encoder.layer[1].attention = model.bert.encoder.layer[0].attention
    with pytest.raises(UserError, match="shares weights"):
        framework.swap().swap_attention(model)


def test_a_head_mask_is_refused_at_the_call():
    import torch

    for family in FAMILIES:
        model, batch = Torch.build(family), inputs(family)
        Torch.swap().swap_attention(model)
        names = ("head_mask", "decoder_head_mask") if family == "t5" else ("head_mask",)
        masks = {name: torch.ones(2, 3) for name in names}
        with pytest.raises(UserError, match="head_mask"):
            model(**Torch.tensors(batch), **masks)


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
        monkeypatch.setattr(swap.T5Site, "position_bias", lambda self, mask, *_: mask)
    else:

        def swapped_axes(x_BTN, num_heads):
            x = framework.numpy(split_heads(x_BTN, x_BTN.shape[2] // num_heads))
            return framework.tensor(np.ascontiguousarray(x.transpose(0, 3, 2, 1)))

        monkeypatch.setattr(module, "split_heads", swapped_axes)
    assert relative(*stock_and_swapped_outputs(framework, family)) > 1e-3


def sorting_model():
    """minGPT's sorter where the shared folder is there, else a tiny random GPT-2 that is untied like it."""
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
