"""The hand-written Transformer computes what the library's Marian computes: logits, gradients, steps, and texts."""

import numpy as np
import pytest
import transformers

from pipeline.models.decoding import beam_search
from pipeline.models.safetensors_files import write_safetensors
from pipeline.models.transformer import (
    TransformerSettings,
    marian_weights,
    sinusoids,
    transformer_name,
    transformer_problems,
)
from pipeline.tasks.numerics import log_softmax
from pipeline.utils.errors import UserError
from tests.helpers.framework_drivers import TensorFlow, Torch
from tests.helpers.tiny_models import config, inputs, relative, writing_weights


class TorchSide:
    """What these tests do with a stock Marian and with the hand-written Transformer, in PyTorch."""

    @staticmethod
    def pair(seed=None):
        from pipeline.pytorch.model import get_weights, set_weights
        from pipeline.pytorch.swap import transformer_of

        stock = Torch.build("marian")
        if seed is not None:
            set_weights(stock, writing_weights(get_weights(stock), seed))
        return stock, transformer_of(stock)

    @staticmethod
    def logits(model, batch):
        tensors = Torch.tensors(batch)
        if isinstance(model, transformers.PreTrainedModel):
            return model(**tensors).logits
        return model(tensors["input_ids"], tensors["attention_mask"], tensors["decoder_input_ids"])

    @classmethod
    def loss(cls, model, batch):
        import torch

        logits = cls.logits(model, batch).flatten(0, 1)
        return torch.nn.functional.cross_entropy(logits, torch.arange(len(logits)) % logits.shape[1])

    @classmethod
    def gradients(cls, model, batch):
        from pipeline.pytorch.model import named_weights

        cls.loss(model, batch).backward()
        return {name: weight.grad.numpy() for name, weight in named_weights(model).items() if weight.requires_grad}

    @classmethod
    def train(cls, model, batch, steps=20):
        import torch

        from pipeline.pytorch.model import get_weights

        optimizer = torch.optim.AdamW([w for w in model.parameters() if w.requires_grad], lr=1e-3, weight_decay=0.01)
        for _ in range(steps):
            optimizer.zero_grad()
            cls.loss(model, batch).backward()
            optimizer.step()
        return get_weights(model)

    @staticmethod
    def marian_weights(transformer, model):
        from pipeline.pytorch.model import get_weights
        from pipeline.pytorch.swap import copy_to_marian

        copy_to_marian(transformer, model)
        return get_weights(model)

    @staticmethod
    def write(model, batch, num_beams, **settings):
        from pipeline.pytorch.generation import write_texts

        tensors = {name: value for name, value in Torch.tensors(batch).items() if name != "decoder_input_ids"}
        if isinstance(model, transformers.PreTrainedModel):
            return model.generate(
                **tensors, num_beams=num_beams, do_sample=False, bad_words_ids=[[96]], **settings
            ).numpy()
        return write_texts(model, *tensors.values(), num_beams=num_beams, **settings)


class TensorFlowSide:
    """The same in TensorFlow."""

    @staticmethod
    def pair(seed=None):
        from pipeline.tensorflow.model import get_weights, set_weights
        from pipeline.tensorflow.swap import transformer_of

        stock = TensorFlow.build("marian")
        if seed is not None:
            set_weights(stock, writing_weights(get_weights(stock), seed))
        return stock, transformer_of(stock)

    @staticmethod
    def logits(model, batch):
        tensors = TensorFlow.tensors(batch)
        if isinstance(model, transformers.TFPreTrainedModel):
            return model(tensors).logits
        return model(tensors["input_ids"], tensors["attention_mask"], tensors["decoder_input_ids"])

    @classmethod
    def loss(cls, model, batch):
        import tensorflow as tf

        logits = cls.logits(model, batch)
        logits = tf.reshape(logits, [-1, logits.shape[-1]])
        classes = tf.range(len(logits)) % logits.shape[1]
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(classes, logits))

    @staticmethod
    def trained(model):
        from pipeline.tensorflow.model import named_weights

        # The library's positions are trained, which its PyTorch model and the paper do not do.
        trainable = {id(variable) for variable in model.trainable_variables}
        return {
            name: weight
            for name, weight in named_weights(model).items()
            if id(weight[0]) in trainable and not name.endswith("embed_positions.weight")
        }

    @classmethod
    def gradients(cls, model, batch):
        import tensorflow as tf
        from transformers.modeling_tf_pytorch_utils import apply_transpose

        weights = cls.trained(model)
        with tf.GradientTape() as tape:
            loss = cls.loss(model, batch)
        gradients = tape.gradient(loss, [variable for variable, _ in weights.values()])
        return {
            name: np.asarray(apply_transpose(transpose, tf.convert_to_tensor(gradient).numpy(), pt_to_tf=False))
            for (name, (_, transpose)), gradient in zip(weights.items(), gradients, strict=True)
        }

    @classmethod
    def train(cls, model, batch, steps=20):
        import tensorflow as tf
        import tf_keras

        from pipeline.tensorflow.model import get_weights

        optimizer = tf_keras.optimizers.AdamW(1e-3, weight_decay=0.01)
        variables = [variable for variable, _ in cls.trained(model).values()]
        for _ in range(steps):
            with tf.GradientTape() as tape:
                loss = cls.loss(model, batch)
            optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return get_weights(model)

    @staticmethod
    def marian_weights(transformer, model):
        from pipeline.tensorflow.model import get_weights
        from pipeline.tensorflow.swap import copy_to_marian

        copy_to_marian(transformer, model)
        return get_weights(model)

    @staticmethod
    def write(model, batch, num_beams, **settings):
        from pipeline.tensorflow.generation import write_texts

        tensors = {name: value for name, value in TensorFlow.tensors(batch).items() if name != "decoder_input_ids"}
        if isinstance(model, transformers.TFPreTrainedModel):
            return model.generate(
                **tensors, num_beams=num_beams, do_sample=False, bad_words_ids=[[96]], **settings
            ).numpy()
        return write_texts(model, *tensors.values(), num_beams=num_beams, **settings)


SIDES = {"torch": TorchSide, "tensorflow": TensorFlowSide}
both = pytest.mark.parametrize("side", SIDES.values(), ids=SIDES)


def numpy(logits):
    return (logits.detach() if hasattr(logits, "detach") else logits).numpy()


def renamed(state):
    return {transformer_name(name): value for name, value in state.items()}


@both
@pytest.mark.parametrize("padding", ["left", "right", "none"])
def test_the_transformer_gives_the_logits_of_marian(side, padding):
    stock, ours = side.pair()
    batch = inputs("marian", padding)
    assert relative(numpy(side.logits(ours, batch)), numpy(side.logits(stock, batch))) <= 1e-6


def test_the_transformers_of_both_frameworks_give_the_same_logits():
    batch = inputs("marian", "left")
    logits = [numpy(side.logits(side.pair()[1], batch)) for side in (TensorFlowSide, TorchSide)]
    assert relative(*logits) <= 1e-6


@both
def test_the_transformer_gives_the_gradients_of_marian(side):
    stock, ours = side.pair()
    batch = inputs("marian", "right")
    theirs, gradients = renamed(side.gradients(stock, batch)), side.gradients(ours, batch)
    assert gradients.keys() == theirs.keys()
    assert relative(gradients, theirs) <= 1e-5
    total = np.sqrt(sum(np.square(gradient).sum() for gradient in theirs.values()))
    for name, gradient in theirs.items():
        # The softmax does not see what all keys share, so the gradient of the keys' bias is rounding alone.
        if np.linalg.norm(gradient) > 1e-6 * total:
            assert relative(gradients[name], gradient) <= 1e-5, name


@pytest.mark.slow
@both
def test_twenty_steps_of_the_transformer_are_twenty_steps_of_marian(side):
    stock, ours = side.pair()
    batch = inputs("marian", "right")
    expected, after = renamed(side.train(stock, batch)), side.train(ours, batch)
    # A bias of the keys has no gradient but rounding, of which AdamW makes steps.
    kept = [name for name in after if not name.endswith((".key.bias", "output_bias", "positions"))]
    assert relative({name: after[name] for name in kept}, {name: expected[name] for name in kept}) <= 1e-5


def without_padding(texts):
    """Each text without the padding after it; the first token is padding too."""
    return [[int(token) for token in text[1:] if token != 96] for text in texts]


def sources():
    """Seven texts, two of them padded."""
    mask = np.ones((7, 11), np.int64)
    mask[2, 7:] = mask[5, :3] = 0
    return {"input_ids": np.random.default_rng(29).integers(2, 96, (7, 11)), "attention_mask": mask}


@pytest.mark.parametrize("seed", [2, 5, 9, 12])
@pytest.mark.parametrize(
    "settings", [dict(num_beams=1), dict(num_beams=4), dict(num_beams=3, length_penalty=0.6)], ids=str
)
def test_the_transformer_writes_the_tokens_of_marian(seed, settings):
    stock, _ = TorchSide.pair(seed)
    texts = TorchSide.write(stock, sources(), max_new_tokens=17, **settings)
    np.testing.assert_array_equal(
        TorchSide.write(TorchSide.pair(seed)[1], sources(), max_new_tokens=17, **settings), texts
    )


@pytest.mark.parametrize(("drops_unfinished", "first"), [(False, [0, 1, 0, 0]), (True, [0, 7, 7, 1])])
def test_a_text_whose_search_is_over_changes_only_by_the_rules_of_tensorflow(drops_unfinished, first):
    end, word, settings = 1, 7, TransformerSettings(vocab_size=11, start_id=0, end_id=1, padding_id=0)
    # Of the first text the end is likely at once: -0.1, where going on has -5. Later it could end with
    # -5 / 3 ** 5 = -0.02, but by then its search is over; only the second text is still written. In the library's
    # TensorFlow, the searches of a batch end together.
    steps = [
        ([[-0.1, -5.0], [-0.2, -9.0]], [[end, word], [word, end]]),
        ([[-0.0, -9.0], [-0.2, -9.0]], [[word, end], [word, end]]),
        ([[-0.0, -9.0], [-0.2, -9.0]], [[end, word], [end, word]]),
    ]
    given = iter([(np.array(scores, np.float32), np.array(ids)) for scores, ids in steps])
    texts = beam_search(lambda tokens, rows: next(given), 2, settings, 3, 1, 5.0, drops_unfinished)
    np.testing.assert_array_equal(texts, [first, [0, word, word, end]])


def searched(stock, max_new_tokens, **settings):
    """What `beam_search` writes with the library's Marian in TensorFlow, which reads all tokens again each time."""
    beams = settings["num_beams"]
    batch = {name: np.repeat(values, beams, axis=0) for name, values in sources().items()}
    texts = np.zeros((len(batch["input_ids"]), 0), np.int64)

    def next_tokens(tokens, rows):
        nonlocal texts
        texts = np.concatenate([texts[rows], tokens[:, None]], axis=1)
        log_probs = log_softmax(numpy(TensorFlowSide.logits(stock, batch | {"decoder_input_ids": texts}))[:, -1])
        log_probs[:, 96] = -np.inf
        best = np.argsort(-log_probs, axis=1)[:, : 2 * beams]
        return np.take_along_axis(log_probs, best, axis=1), best

    marian = TransformerSettings(96, start_id=96, end_id=0, padding_id=96)
    return beam_search(next_tokens, 7, marian, max_new_tokens, drops_unfinished=True, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 9])
@pytest.mark.parametrize("max_new_tokens", [3, 9])
def test_beams_that_drop_unfinished_texts_are_those_of_the_librarys_tensorflow(seed, max_new_tokens):
    stock, _ = TensorFlowSide.pair(seed)
    for settings in (dict(num_beams=4, length_penalty=1.0), dict(num_beams=3, length_penalty=0.6)):
        found = searched(stock, max_new_tokens, **settings)
        expected = TensorFlowSide.write(stock, sources(), max_new_tokens=max_new_tokens, **settings)
        assert without_padding(found) == without_padding(expected)


@pytest.mark.slow
@pytest.mark.parametrize("num_beams", [1, 4])
def test_the_transformer_writes_the_same_tokens_in_tensorflow(num_beams):
    (torch_stock, _), (stock, ours) = TorchSide.pair(9), TensorFlowSide.pair(9)
    texts = TensorFlowSide.write(ours, sources(), num_beams=num_beams, max_new_tokens=17)
    np.testing.assert_array_equal(
        texts, TorchSide.write(torch_stock, sources(), num_beams=num_beams, max_new_tokens=17)
    )
    # The library's beam search in TensorFlow is not that of PyTorch once the longest text is reached.
    assert without_padding(texts) == without_padding(
        TensorFlowSide.write(stock, sources(), num_beams=num_beams, max_new_tokens=17)
    )


@pytest.mark.slow
@both
def test_a_trained_transformer_is_saved_as_a_stock_marian_checkpoint(side, tmp_path):
    batch = inputs("marian")
    stock, ours = side.pair()
    side.train(ours, batch, steps=1)
    write_safetensors(tmp_path / "model.safetensors", side.marian_weights(ours, stock), {"format": "pt"})
    stock.config.save_pretrained(tmp_path)
    read = transformers.MarianMTModel.from_pretrained(tmp_path)
    assert relative(numpy(TorchSide.logits(read, batch)), numpy(side.logits(ours, batch))) <= 1e-6


def test_the_names_of_weights_are_mapped_one_to_one_and_back():
    shapes = {
        name: tuple(p.shape) for name, p in Torch.build("marian").state_dict().items() if name.startswith("model.")
    }
    names = [name for name in shapes if "embed_" not in name]
    assert len({transformer_name(name) for name in names}) == len(names)
    state = {name: np.full(shapes[name], float(i), np.float32) for i, name in enumerate(names)}
    ours = {transformer_name(name): value for name, value in state.items()}
    back = marian_weights(ours, {name: shapes[name] for name in names})
    assert all((back[name] == state[name]).all() for name in names)


def test_positions_are_those_of_the_paper_with_all_sines_first():
    table = sinusoids(5, 6)
    for position in range(5):
        for i in range(3):
            angle = position / 10_000 ** (2 * i / 6)
            assert table[position, i] == pytest.approx(np.sin(angle), abs=1e-6)
            assert table[position, 3 + i] == pytest.approx(np.cos(angle), abs=1e-6)


@pytest.mark.parametrize(
    "setting",
    [
        dict(scale_embedding=False), dict(share_encoder_decoder_embeddings=False), dict(tie_word_embeddings=False),
        dict(encoder_layerdrop=0.1), dict(decoder_ffn_dim=29), dict(activation_function="tanh"),
    ],
    ids=lambda setting: next(iter(setting)),
)  # fmt: skip
def test_another_architecture_is_refused_by_the_name_of_its_setting(setting):
    (problem,) = transformer_problems(config("marian", **setting))
    assert next(iter(setting)) in problem


def test_a_model_of_another_family_is_refused():
    from pipeline.pytorch.swap import transformer_of

    with pytest.raises(UserError, match='model_type is "t5"'):
        transformer_of(Torch.build("t5"))
