"""The experiments of the tour in TensorFlow: short functions that are run, measured, and shown as they stand here.

`pipeline/pytorch/tour.py` has the same definitions in the same order; `pipeline/tour` says what is done with them.
"""

# B batch · S source tokens · T target tokens · H heads · K head width · D model width · V vocabulary

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import tensorflow as tf
import tf_keras
from numpy.typing import NDArray
from tensorflow import Tensor
from tensorflow.tsl.profiler.protobuf.xplane_pb2 import XSpace  # pyright: ignore[reportAttributeAccessIssue] -- made at import
from tf_keras import layers, losses, optimizers

from pipeline.models.transformer import TransformerSettings
from pipeline.tensorflow import attention
from pipeline.tensorflow.attention import attend, merge_heads, split_heads
from pipeline.tensorflow.generation import write_texts  # noqa: F401 (the tour writes with it)
from pipeline.tensorflow.model import set_weights
from pipeline.tensorflow.transformer import Transformer, causal_bias, padding_bias

# The ways to execute a function, eager first.
MODES = ("eager", "tf.function", "XLA")
# What `remembers` has noted.
NOTES: list[str] = []


def build(settings: TransformerSettings, weights: dict[str, NDArray]) -> Transformer:
    """The Transformer with these weights, whose names and layout are PyTorch's."""
    model = Transformer(settings)
    set_weights(model, weights)
    return model


def frozen(settings: TransformerSettings) -> Transformer:
    """A Transformer with drawn weights that are not trained."""
    return Transformer(settings)


def tensor(array: NDArray) -> Tensor:
    """An array as the framework's; whole numbers as token ids."""
    return tf.constant(array) if array.dtype.kind == "f" else tf.constant(array, tf.int32)


def array(tensor: Tensor) -> NDArray:
    """A tensor's values."""
    return tensor.numpy()


def train(
    model: Transformer, source_BS: Tensor, mask_BS: Tensor, target_BT: Tensor, steps: int, learning_rate: float
) -> list[float]:
    """The loss of each step; the loop is Keras' own."""
    inputs = [layers.Input([None], dtype=tf.int32) for _ in range(3)]
    trained: Any = tf_keras.Model(inputs, model(*inputs))
    loss = losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=0)
    trained.compile(optimizers.Adam(learning_rate, epsilon=1e-8), loss)
    history = trained.fit(
        [source_BS, mask_BS, target_BT[:, :-1]],
        target_BT[:, 1:],
        batch_size=len(source_BS),
        epochs=steps,
        shuffle=False,
        verbose=0,
    )
    return history.history["loss"]


def read_source(model: Transformer, source_BS: Tensor, mask_BS: Tensor) -> dict[str, Tensor]:
    """The encoder's only layer, each step by itself."""
    layer = model.encoder[0]
    attention = layer.attention
    embedded_BSD = model.embedding(source_BS) * model.settings.width**0.5
    positions_SD = model.positions[: source_BS.shape[1]]
    x_BSD = embedded_BSD + positions_SD
    q_BHSK = split_heads(attention.query(x_BSD), attention.num_heads)
    k_BHSK = split_heads(attention.key(x_BSD), attention.num_heads)
    v_BHSK = split_heads(attention.value(x_BSD), attention.num_heads)
    scores_BHSS = tf.matmul(q_BHSK * attention.scale, k_BHSK, transpose_b=True)
    weights_BHSS = tf.nn.softmax(scores_BHSS + padding_bias(mask_BS), axis=3)
    mixed_BHSK = tf.matmul(weights_BHSS, v_BHSK)
    joined_BSD = attention.out(merge_heads(mixed_BHSK))
    normed_BSD = layer.attention_norm(x_BSD, joined_BSD)
    fed_BSD = layer.feed_forward(normed_BSD)
    encoded_BSD = layer.feed_forward_norm(normed_BSD, fed_BSD)
    return {
        "source tokens": source_BS, "embeddings": embedded_BSD, "positions": positions_SD, "encoder input": x_BSD,
        "queries": q_BHSK, "keys": k_BHSK, "values": v_BHSK, "scores": scores_BHSS, "attention weights": weights_BHSS,
        "mixed values": mixed_BHSK, "heads joined": joined_BSD, "residual and norm": normed_BSD,
        "feed-forward": fed_BSD, "encoder output": encoded_BSD,
    }  # fmt: skip


def write_target(model: Transformer, encoded_BSD: Tensor, mask_BS: Tensor, target_BT: Tensor) -> dict[str, Tensor]:
    """The decoder's only layer and the choice of the next tokens, each step by itself."""
    layer = model.decoder[0]
    bias_B11S = padding_bias(mask_BS)
    x_BTD = model.embed(target_BT)
    attended_BTD, back_BHTT, _ = layer.attention(x_BTD, None, causal_bias(target_BT), None, True)
    x_BTD = layer.attention_norm(x_BTD, attended_BTD)
    crossed_BTD, cross_BHTS, _ = layer.source_attention(x_BTD, encoded_BSD, bias_B11S, None, True)
    x_BTD = layer.source_attention_norm(x_BTD, crossed_BTD)
    decoded_BTD = layer.feed_forward_norm(x_BTD, layer.feed_forward(x_BTD))
    logits_BTV = model.logits(decoded_BTD)
    chances_BTV = tf.nn.softmax(logits_BTV, axis=2)
    return {
        "target tokens": target_BT, "masked self-attention": back_BHTT, "cross-attention": cross_BHTS,
        "decoder output": decoded_BTD, "logits": logits_BTV, "probabilities": chances_BTV,
        "chosen tokens": tf.argmax(chances_BTV, axis=2),
    }  # fmt: skip


def mix(q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor) -> Tensor:
    """Attention alone, to be timed."""
    return attend(q_BHTK, k_BHTK, v_BHTK)[0]


def talks(x_N: Tensor) -> Tensor:
    """Prints."""
    print("Python is here")
    return 2 * x_N


def remembers(x_N: Tensor) -> Tensor:
    """Changes something outside of itself."""
    NOTES.append("Python was here")
    return 2 * x_N


def decides(x_N: Tensor) -> Tensor:
    """Branches on a value that is known only when it is computed."""
    if tf.reduce_sum(x_N) > 0:
        return 2 * x_N
    return -x_N


def halves(x_N: Tensor) -> Tensor:
    """Depends on the number of its values."""
    return x_N[: len(x_N) // 2]


def stops(x_N: Tensor) -> Tensor:
    """Stops in the debugger."""
    doubled_N = 2 * x_N
    breakpoint()
    return doubled_N + 1


def attend_wrongly(q_BHTK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
    """Attention with an error: the keys are not transposed."""
    scores_BHTS = tf.matmul(q_BHTK, k_BHSK)
    weights_BHTS = tf.nn.softmax(scores_BHTS, axis=3)
    return tf.matmul(weights_BHTS, v_BHSK), weights_BHTS


@contextlib.contextmanager
def planted_error() -> Iterator[None]:
    """In the block, every attention computes with `attend_wrongly`."""
    with mock.patch.object(attention, "attend", attend_wrongly):
        yield


def entropy_gradient(weights_T: Tensor) -> Tensor:
    """The gradient of the entropy of attention weights, which is not a number where a weight is 0."""
    with tf.GradientTape() as tape:
        tape.watch(weights_T)
        entropy = -tf.reduce_sum(weights_T * tf.math.log(weights_T))
    return tf.convert_to_tensor(tape.gradient(entropy, weights_T))


def checked_entropy_gradient(weights_T: Tensor) -> Tensor:
    """The same, where TensorFlow looks for NaN."""
    tf.debugging.enable_check_numerics()
    try:
        return entropy_gradient(weights_T)
    finally:
        tf.debugging.disable_check_numerics()


def as_graph(function: Callable[..., Tensor], mode: str, example: tuple[Tensor, ...]) -> Callable[..., Tensor]:
    """The function in one of `MODES`; it is traced at its first call."""
    if mode == "eager":
        return function
    return tf.function(function, jit_compile=mode == "XLA")


@contextlib.contextmanager
def profiled(seconds: dict[str, float]) -> Iterator[None]:
    """Fill in the seconds that each operator took in the block."""
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        try:
            yield
        finally:
            tf.profiler.experimental.stop()
        for file in Path(folder).rglob("*.xplane.pb"):
            for plane in XSpace.FromString(file.read_bytes()).planes:
                for line in plane.lines:
                    for event in line.events:
                        # "gradient_tape/model/MatMul:MatMul" is an operator; other events are the runtime's own.
                        place, _, kind = plane.event_metadata[event.metadata_id].name.partition(":")
                        if kind and "/" in place:
                            seconds[kind] = seconds.get(kind, 0.0) + event.duration_ps / 1e12
