"""Shared dropout masks: the same bits in both frameworks, at every dropout of every model, and good random numbers."""

import contextlib

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.models.dropout import Place, token_keys
from pipeline.pytorch import dropout
from pipeline.pytorch.attention import MultiHeadAttention
from pipeline.pytorch.dropout import DropoutMasks
from pipeline.recipe.schema import Train
from pipeline.utils.errors import UserError
from tests.helpers import dropout_reference as reference
from tests.helpers.classifiers import batch, built, framework_module, tensor, trained, with_targets
from tests.helpers.framework_drivers import TensorFlow, Torch
from tests.helpers.tiny_models import FAMILIES, RELATIVES, inputs

SHARED = Train(dropout_masks="shared")
ENCODER = Place.of("encoder", is_decoder=False, is_cross_attention=False, is_read=False)
CROSS = Place.of("decoder", is_decoder=True, is_cross_attention=True, is_read=False)
HEAD = Place.of("", is_decoder=False, is_cross_attention=False, is_read=True)
# The dropouts of a tiny model: after the embeddings, two to four a layer and six in a decoder that reads a source,
# before or in the head.
SITES = {
    "bert": 1 + 3 * 2 + 1, "distilbert": 1 + 2 * 2 + 1, "roberta": 1 + 3 * 2 + 2, "gpt2": 1 + 3 * 2,
    "t5": (1 + 4 * 2 + 1) + (1 + 6 * 2 + 1), "marian": (1 + 4 * 2) + (1 + 6 * 3),
}  # fmt: skip


def keys_of(rows, tokens, seed=3, step=5):
    return token_keys(seed, step, np.arange(rows)[:, None], np.arange(tokens)[None])


def with_keys(features, step=0):
    """A batch with the keys of its tokens."""
    return features | {"dropout_keys": keys_of(*features["input_ids"].shape, step=step)}


def dropped(framework, values, rate, place=ENCODER, sites_before=0, read=None, **features):
    """What a dropout makes of an array in a batch with these keys, of which the model's head may read only some."""
    masks = framework_module(framework, "dropout").DropoutMasks()
    batch = {name: tensor(framework, value) for name, value in features.items()}
    masks.start(batch, None if read is None else tensor(framework, read))
    masks.site = sites_before
    x = values if not isinstance(values, np.ndarray) else tensor(framework, values)
    return masks.drop(x, rate, place)


@pytest.mark.parametrize("shape", [(2, 3, 5), (1, 1, 1), (3, 7, 8), (2, 11)])
def test_masks_of_hidden_states_are_those_of_the_reference(framework, shape):
    keys = keys_of(shape[0], 7 if len(shape) == 2 else shape[1])
    actual = dropped(framework, np.ones(shape, np.float32), 0.3, sites_before=4, dropout_keys=keys).numpy()
    read = keys[:, :1] if len(shape) == 2 else keys  # one vector a row is that of the first token
    expected = reference.hidden_scales(read, 4, shape[-1], 0.3).reshape(shape)
    assert actual.dtype == np.float32 and (actual == expected).all()


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 1, 1, 1), (2, 4, 3, 3), (1, 5, 2, 1)])
def test_masks_of_attention_weights_are_those_of_the_reference(framework, shape):
    rows, heads, queries, attended = shape
    features = {"dropout_keys": keys_of(rows, attended), "decoder_dropout_keys": keys_of(rows, queries, step=9)}
    actual = dropped(framework, np.ones(shape, np.float32), 0.1, CROSS, 2, **features).numpy()
    expected = reference.attention_scales(features["decoder_dropout_keys"], features["dropout_keys"], 2, heads, 0.1)
    assert (actual == expected).all()


@pytest.mark.parametrize("rate", [0.0, 1e-7, 0.5, 0.99999, 1.0])
def test_no_rate_is_too_low_or_too_high(framework, rate):
    keys = keys_of(5, 7)
    actual = dropped(framework, np.ones((5, 7, 11), np.float32), rate, dropout_keys=keys).numpy()
    if rate == 0.5:
        assert set(np.unique(actual)) == {0, 2}
    else:
        assert (actual == (1 if rate < 0.5 else 0)).all()


def test_masks_keep_the_type_of_values_and_their_zeros(framework):
    values = tensor(framework, np.random.default_rng(0).normal(size=(2, 3, 9)).astype(np.float32))
    if framework == "torch":
        values = values.bfloat16()
        actual = dropped(framework, values, 0.4, dropout_keys=keys_of(2, 3))
        exact = dropped(framework, np.ones((2, 3, 9), np.float32), 0.4, dropout_keys=keys_of(2, 3))
        expected = (values * exact.bfloat16()).float().numpy()
        actual = actual.float().numpy()
    else:
        import tensorflow as tf

        values = tf.cast(values, tf.bfloat16)
        actual = dropped(framework, values, 0.4, dropout_keys=keys_of(2, 3))
        exact = dropped(framework, np.ones((2, 3, 9), np.float32), 0.4, dropout_keys=keys_of(2, 3))
        assert actual.dtype == tf.bfloat16
        expected = tf.cast(values * tf.cast(exact, tf.bfloat16), tf.float32).numpy()
        actual = tf.cast(actual, tf.float32).numpy()
    assert (actual == expected).all() and (actual == 0).any() and (actual != 0).any()


def test_a_mask_does_not_depend_on_where_in_a_row_an_example_lies(framework):
    """Examples of 3 and 4 tokens: each in a row of its own, and one behind the other."""
    alone = keys_of(2, 4)
    packed = np.concatenate([alone[0, :3], alone[1, :4]])[None]
    parts = [(0, slice(0, 3), slice(0, 3)), (1, slice(0, 4), slice(3, 7))]
    for heads in (None, 3):
        one, other = ((2, 4, 5), (1, 7, 5)) if heads is None else ((2, heads, 4, 4), (1, heads, 7, 7))
        first = dropped(framework, np.ones(one, np.float32), 0.5, dropout_keys=alone).numpy()
        second = dropped(framework, np.ones(other, np.float32), 0.5, dropout_keys=packed).numpy()
        for row, ours, theirs in parts:
            if heads is None:
                assert (first[row, ours] == second[0, theirs]).all()
            else:
                assert (first[row, :, ours, ours] == second[0, :, theirs, theirs]).all()


def test_a_head_that_reads_one_token_an_example_drops_by_that_tokens_key(framework):
    alone, width = keys_of(3, 4), 9
    padded = dropped(framework, np.ones((3, width), np.float32), 0.5, HEAD, dropout_keys=alone).numpy()
    packed = np.stack([np.concatenate([alone[0, :3], alone[1]]), np.concatenate([alone[2], alone[2, :3]])])
    read = np.array([0, 3, 7])  # the first tokens of the examples, of which two are in the first row
    ones = np.ones((1, len(read), width), np.float32)
    actual = dropped(framework, ones, 0.5, HEAD, read=read, dropout_keys=packed).numpy()
    assert (actual[0] == padded).all()


@pytest.mark.parametrize("shape", [(2, 5, 7, 3, 3), (2, 6, 7), (3, 5, 7), (7,)])
def test_a_dropout_over_anything_else_is_refused_by_name(shape):
    with pytest.raises(UserError, match=r"encoder is over \[.*train.dropout_masks to framework"):
        dropped("torch", np.ones(shape, np.float32), 0.1, dropout_keys=keys_of(2, 5))


# --- how random the masks are

ROWS, TOKENS, WIDTH = 32, 64, 256


def hidden_mask(step=0, site=0, rate=0.5, seed=3):
    """1 where a value is kept: [rows, tokens, width]."""
    masks = DropoutMasks()
    masks.start({"dropout_keys": torch.tensor(keys_of(ROWS, TOKENS, seed, step))})
    masks.site = site
    return (masks.drop(torch.ones(ROWS, TOKENS, WIDTH), rate, ENCODER) > 0).numpy()


def attention_mask(step=0, site=0, rate=0.5, seed=3):
    """1 where a weight is kept: [rows, heads, queries, keys]."""
    masks = DropoutMasks()
    masks.start({"dropout_keys": torch.tensor(keys_of(8, TOKENS, seed, step))})
    masks.site = site
    return (masks.drop(torch.ones(8, 12, TOKENS, TOKENS), rate, ENCODER) > 0).numpy()


MASKS = {"hidden states": hidden_mask, "attention weights": attention_mask}


def deviation(share, count, rate):
    """How many standard deviations a share of dropped values is from the rate."""
    return abs(share - rate) / (rate * (1 - rate) / count) ** 0.5


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("kind", MASKS)
def test_the_share_of_dropped_values_is_the_rate_overall_and_along_each_axis(kind, rate):
    gone = ~MASKS[kind](rate=rate)
    assert deviation(gone.mean(), gone.size, rate) < 4
    for axis in range(gone.ndim):
        shares = gone.mean(axis=tuple(other for other in range(gone.ndim) if other != axis))
        worst = max(deviation(share, gone.size / len(shares), rate) for share in shares)
        assert worst < 5, axis


@pytest.mark.parametrize("kind", MASKS)
def test_neighbors_along_each_axis_are_dropped_independently(kind):
    mask = MASKS[kind](rate=0.5)
    for axis in range(mask.ndim):
        for lag in (1, 2, 3, 4, 8, 16):
            if lag >= mask.shape[axis]:
                continue
            first = np.take(mask, range(lag, mask.shape[axis]), axis)
            second = np.take(mask, range(mask.shape[axis] - lag), axis)
            counts = np.bincount((2 * first + second).ravel(), minlength=4)
            chi_square = ((counts - counts.sum() / 4) ** 2 / (counts.sum() / 4)).sum()
            assert chi_square < 30, (axis, lag)  # 3 degrees of freedom: exceeded once in 700,000


@pytest.mark.parametrize("kind", MASKS)
def test_runs_are_as_frequent_as_in_coin_tosses(kind):
    mask = MASKS[kind](rate=0.5)
    for axis in range(mask.ndim):
        sequence = np.moveaxis(mask, axis, -1).ravel()
        ends = np.flatnonzero(np.diff(sequence))
        lengths = np.diff(np.concatenate([[-1], ends, [len(sequence) - 1]]))
        counts = np.array([*((lengths == n).sum() for n in range(1, 10)), (lengths >= 10).sum()])
        expected = len(lengths) * np.array([*(0.5**n for n in range(1, 10)), 0.5**9])
        assert ((counts - expected) ** 2 / expected).sum() < 45, axis  # 9 degrees of freedom: once in a million


@pytest.mark.parametrize("kind", MASKS)
def test_eight_values_in_a_row_take_every_pattern_equally_often(kind):
    mask = MASKS[kind](rate=0.5)
    patterns = np.packbits(mask.reshape(-1, 8), axis=1)[:, 0]
    counts = np.bincount(patterns, minlength=256)
    expected = len(patterns) / 256
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi_square - 255) < 5 * (2 * 255) ** 0.5


@pytest.mark.parametrize("kind", MASKS)
def test_other_steps_sites_and_seeds_have_independent_masks(kind):
    masks = [
        MASKS[kind](**changes)
        for changes in ({}, {"step": 1}, {"step": 2}, {"site": 1}, {"site": 2}, {"seed": 4}, {"step": 1, "site": 1})
    ]
    for i, first in enumerate(masks):
        for second in masks[:i]:
            assert deviation((first == second).mean(), first.size, 0.5) < 5


def test_no_two_tokens_or_sites_share_a_mask():
    masks = np.concatenate([hidden_mask(site=site, rate=0.1).reshape(-1, WIDTH) for site in range(11)])
    assert len(np.unique(np.packbits(masks, axis=1), axis=0)) == 11 * ROWS * TOKENS
    rows = np.concatenate([attention_mask(site=site).reshape(-1, TOKENS) for site in range(3)])
    assert len(np.unique(np.packbits(rows, axis=1), axis=0)) == len(rows)


def test_pairs_of_tokens_agree_as_often_as_chance_says():
    """Over all pairs of 512 tokens: a pair whose masks are alike or opposite would stand out."""
    tokens = hidden_mask().reshape(-1, WIDTH)[:512].astype(np.float32) * 2 - 1
    agreement = (tokens @ tokens.T / WIDTH**0.5)[np.triu_indices(512, 1)]
    assert np.abs(agreement).max() < 6.5
    assert agreement.std() == pytest.approx(1, abs=0.02) and abs(agreement.mean()) < 0.02
    rows = attention_mask()[:, :, :, :].reshape(-1, TOKENS)[:1024].astype(np.float32) * 2 - 1
    agreement = (rows @ rows.T / TOKENS**0.5)[np.triu_indices(1024, 1)]
    assert np.abs(agreement).max() < 6.5
    assert agreement.std() == pytest.approx(1, abs=0.02) and abs(agreement.mean()) < 0.02


# --- in models


def training_logits(driver, family, attention, **settings):
    """Logits in training mode with shared masks, and how many dropouts ran."""
    module = framework_module(driver.name, "dropout")
    model, masks, features = driver.build(family, dropout=0.2, **settings), module.DropoutMasks(), inputs(family)
    if attention != "stock":
        driver.swap().swap_attention(model, attention)
    module.share_dropout(model, masks)
    keys = {"dropout_keys": keys_of(*features["input_ids"].shape)}
    if "decoder_input_ids" in features:
        keys["decoder_dropout_keys"] = keys_of(*features["decoder_input_ids"].shape)

    def forward(features):
        masks.start({name: tensor(driver.name, value) for name, value in keys.items()})
        with module.refuse_other_draws(model):
            return model(**features).logits if driver is Torch else model(features, training=True).logits

    if driver is Torch:
        logits = forward(Torch.tensors(features)) if model.train() else None
        return logits.detach().numpy(), masks.site
    import tensorflow as tf

    values = {name: tf.constant(value, tf.int32) for name, value in features.items()}
    return tf.function(forward, autograph=False)(values).numpy(), masks.site


@pytest.mark.slow
@pytest.mark.parametrize(
    "family", [*FAMILIES, *(pytest.param(family, marks=pytest.mark.heavy) for family in RELATIVES)]
)
def test_every_dropout_of_every_model_has_the_same_mask_in_both_frameworks_and_attentions(family):
    """One dropout with another mask would change the logits by a tenth."""
    expected, sites = training_logits(Torch, family, "stock")
    assert sites == SITES[family]
    runs = [(Torch, "handwritten", {}), (TensorFlow, "stock", {}), (TensorFlow, "handwritten", {})]
    runs += [(Torch, "stock", {"implementation": "eager"})] if family != "t5" else []
    for driver, attention, settings in runs:
        actual, sites = training_logits(driver, family, attention, **settings)
        assert sites == SITES[family], (driver.name, attention)
        assert np.abs(actual - expected).max() < 5e-6 * np.abs(expected).max(), (driver.name, attention)


class ByFunction(MultiHeadAttention):
    """An attention by PyTorch's own function."""

    function = None

    def forward(self, queries_BTD, source_BSD=None, bias_BHTS=None, past=None, return_weights=False):
        def heads(x_BTN):
            return x_BTN.unflatten(2, (self.num_heads, -1)).transpose(1, 2)

        query, key, value = (heads(part(queries_BTD)) for part in (self.query, self.key, self.value))
        rate = self.dropout.p if self.training else 0.0
        function = self.function or functional.scaled_dot_product_attention
        mixed = function(query, key, value, bias_BHTS, rate, scale=self.scale)
        return self.out(mixed.transpose(1, 2).flatten(2)), None, (key, value)


class ByImportedFunction(ByFunction):
    """The same, of which PyTorch's function is a name of its own."""

    function = staticmethod(functional.scaled_dot_product_attention)


@pytest.mark.parametrize("attention", [ByFunction, ByImportedFunction])
def test_an_attention_class_that_drops_by_a_function_has_the_same_masks(attention):
    expected, sites = training_logits(Torch, "bert", "handwritten")
    actual, own_sites = training_logits(Torch, "bert", attention)
    assert sites == own_sites and np.abs(actual - expected).max() < 5e-6 * np.abs(expected).max()


# Sites of a forward pass: the number of heads of attention weights in both streams, or the width of hidden states.
PASS = [{"width": 6}, {"heads": 3}, {"width": 5}, {"width": 6}, {"heads": 3}, {"width": 6}, {"width": 6}]


@pytest.mark.parametrize(("elements", "batches"), [(2**19, 3), (2 * 3 * 8 * 6, 5), (0, 7)])
def test_masks_that_are_computed_ahead_are_those_of_the_reference(monkeypatch, elements, batches):
    """In the second forward pass of the same sites, in a third of other sites, and in batches of other shapes."""
    monkeypatch.setattr(dropout, "ELEMENTS_AHEAD", elements)
    computed = []
    for name in ("hidden_scales", "attention_scales"):
        function = getattr(dropout, name)
        monkeypatch.setattr(dropout, name, lambda *args, function=function: computed.append(1) or function(*args))
    masks = DropoutMasks()
    for step, sites in enumerate([PASS, PASS, PASS[::-1], PASS[::-1], PASS[::-1][:2]]):
        rows, tokens = 2 + step % 2, 7 + step // 4
        own, source = keys_of(rows, tokens, step=step), keys_of(rows, tokens + 1, step=step + 100)
        masks.start({"decoder_dropout_keys": torch.tensor(own), "dropout_keys": torch.tensor(source)})
        computed.clear()
        for site, what in enumerate(sites):
            if "width" in what:
                place, shape = ENCODER, (rows, tokens + 1, what["width"])
                expected = reference.hidden_scales(source, site, what["width"], 0.3)
            else:
                place, shape = CROSS, (rows, what["heads"], tokens, tokens + 1)
                expected = reference.attention_scales(own, source, site, what["heads"], 0.3)
            assert (masks.drop(torch.ones(shape), 0.3, place).numpy() == expected).all(), (step, site)
        if step == 1:
            assert len(computed) == batches
            assert not masks.ahead


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_functions_of_the_library_are_its_own_again_after_a_forward_pass(implementation):
    """Also if it fails."""
    before = functional.dropout, functional.scaled_dot_product_attention
    model, masks, features = Torch.build("t5", dropout=0.2, implementation=implementation), DropoutMasks(), inputs("t5")
    dropout.share_dropout(model, masks)
    inside = []
    block = model.encoder.block[1].layer[0].SelfAttention
    block.o.register_forward_pre_hook(lambda *_: inside.append(functional.dropout is before[0]))
    keys = {"dropout_keys": keys_of(*features["input_ids"].shape)}
    keys["decoder_dropout_keys"] = keys_of(*features["decoder_input_ids"].shape)
    for fails in (False, True):
        masks.start({name: tensor("torch", value) for name, value in keys.items()})
        if fails:
            block.q.weight.data = block.q.weight.data[:, 1:]
        with pytest.raises(RuntimeError) if fails else contextlib.nullcontext():
            model.train()(**Torch.tensors(features))
        assert (functional.dropout, functional.scaled_dot_product_attention) == before
    assert inside == [False]


class MyDropout(nn.Module):
    """A dropout that nothing knows."""

    def forward(self, values):
        return values * (torch.rand_like(values) > 0.3) if self.training else values


class OwnDropout(MultiHeadAttention):
    """An attention with such a dropout."""

    def __init__(self, *arguments, dropout=0.0, **settings):
        super().__init__(*arguments, dropout=dropout, **settings)
        self.dropout = MyDropout()


def own_dropout():
    """The same in TensorFlow."""
    from tf_keras import layers

    from pipeline.tensorflow.attention import MultiHeadAttention

    class MyDropout(layers.Dropout):
        pass

    class OwnDropout(MultiHeadAttention):
        def __init__(self, *arguments, dropout=0.0, **settings):
            super().__init__(*arguments, dropout=dropout, **settings)
            self.dropout = MyDropout(0.3, name="my_dropout")

    return OwnDropout


def test_random_numbers_of_another_source_are_refused_by_name(framework):
    driver, attention = (Torch, OwnDropout) if framework == "torch" else (TensorFlow, own_dropout())
    place = "encoder.layer.0.attention.self.attention.dropout .MyDropout" if driver is Torch else "my_dropout/"
    with pytest.raises(UserError, match=place + ".*train.dropout_masks to framework"):
        training_logits(driver, "bert", attention)


@pytest.mark.slow
def test_a_learner_refuses_them_in_its_first_step_and_leaves_them_alone_if_asked_to(framework):
    attention = OwnDropout if framework == "torch" else own_dropout()
    batches = [[with_targets(batch())]]
    backend, model = built(framework, "bert")
    backend.swap_attention(model, attention)
    with pytest.raises(UserError, match="draws random numbers of its own"):
        backend.Learner(model, SHARED, np.full(1, 1e-3)).fit(batches, lambda report: None, lambda epoch: False)
    backend, model = built(framework, "bert")
    backend.swap_attention(model, attention)
    reports, batches[0][0] = [], with_targets(batch())
    learner = backend.Learner(model, Train(dropout_masks="framework"), np.full(1, 1e-3))
    learner.fit(batches, reports.append, lambda epoch: False)
    assert np.isfinite(reports[0].loss)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.slow
def test_micro_batches_have_the_masks_of_the_step(framework, family):
    batches = [with_targets(batch(rows=7, seed=s), seed=s) for s in range(2)]

    def reports(framework, count):
        settings = Train(batch_size=8, gradient_accumulation=count, dropout_masks="shared")
        return trained(framework, family, settings, batches)[1]

    whole = reports("torch", 1)  # whose masks are those of TensorFlow too
    for count in (2, 4) if framework == "torch" else (4,):
        for step, expected in zip(reports(framework, count), whole, strict=True):
            assert step.loss == pytest.approx(expected.loss, rel=1e-5)
            assert step.grad_norm == pytest.approx(expected.grad_norm, rel=1e-4)
    _, still = trained("torch", family, SHARED, [with_keys(with_targets(batch(rows=7, seed=0), seed=0), 9)])
    assert abs(still[0].loss - whole[0].loss) > 1e-3  # the masks of another step make another loss


def test_a_learner_with_shared_masks_draws_nothing_and_saves_no_generator(framework):
    backend, model = built(framework, "gpt2")
    generators = framework_module(framework, "model").random_generators
    learner = backend.Learner(model, SHARED, np.full(1, 1e-3))

    def states():
        read = "get_state" if framework == "torch" else "state"
        values = [getattr(generator, read) for generator in generators(model).values()]
        return [(value() if callable(value) else value).numpy().tolist() for value in values]

    before = states()
    learner.fit([[with_targets(batch())]], lambda report: None, lambda epoch: False)
    assert states() == before
    assert not [name for name in learner.state() if name.startswith("random")]


def test_dropout_rests_in_evaluation(framework):
    backend, model = built(framework, "bert")
    features = batch()
    expected = backend.Predictor(model, optimize=False).logits(features)
    learner = backend.Learner(model, SHARED, np.full(1, 1e-3))
    assert np.abs(learner.logits(features) - expected).max() < 1e-5
