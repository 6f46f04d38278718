"""Compiling a training step in TensorFlow; forward pass and step of a model, eagerly and as graphs, to measure them.

`pipeline/pytorch/graphs.py` has the same definitions in the same order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow import Tensor
from transformers import TFPreTrainedModel

from pipeline.data.batches import Features
from pipeline.recipe.schema import Train
from pipeline.tensorflow.model import head_logits
from pipeline.tensorflow.optimizer import AdamW, clip_gradients
from pipeline.utils.errors import UserError
from pipeline.utils.text import one_line

# The modes of execution, eager first.
MODES = ("eager", "tf.function", "XLA")
# More steps than anyone measures: the optimizer looks up the learning rate of each.
MOST_STEPS = 100_000


def compiled(function: Callable, on_compilation: Callable[[], None]) -> Callable:
    """The function, compiled by XLA for each shape of its batch; `on_compilation` is called for each graph."""

    def traced(*arguments: Any) -> Any:  # which TensorFlow calls for each shape, and never again
        on_compilation()
        return function(*arguments)

    graph = tf.function(tf.autograph.experimental.do_not_convert(traced), autograph=False, jit_compile=True)

    def call(*arguments: Any) -> Any:
        with compiling():
            return graph(*arguments)

    return call


@contextlib.contextmanager
def compiling() -> Iterator[None]:
    """Inside, a step is compiled: raises UserError, with the cause and the way out, if that fails."""
    try:
        yield
    except tf.errors.ResourceExhaustedError:
        raise
    except tf.errors.OpError as error:
        raise UserError(
            "train.compile is true, but XLA cannot compile a step of this model with this attention; leave "
            f"train.compile out. {type(error).__name__}: {one_line(error)}"
        ) from error


class Pass:
    """One pass of a stock model over tokens [B, T]; the decoder of an encoder-decoder reads the same tokens."""

    def __init__(self, model: TFPreTrainedModel, training: bool):
        self.model, self.training = model, training

    def __call__(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The logits in fp32, as in `head_logits`."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        inputs |= {"decoder_input_ids": input_ids} if self.model.config.is_encoder_decoder else {}
        return head_logits(self.model(inputs, training=self.training))


def execution(
    model: TFPreTrainedModel, mode: str, example: Features, settings: Train | None = None
) -> Callable[[Features], NDArray]:
    """A function that computes one batch in a mode of execution; see `pipeline.backend.Backend`."""
    logits_of = Pass(model, training=settings is not None)
    function = logits_of if settings is None else training_step(model, logits_of, settings)
    computed = graph(function, mode, tensors(example))

    def compute(batch: Features) -> NDArray:
        return computed(*tensors(batch)).numpy()

    return compute


def graph(function: Callable[..., Tensor], mode: str, example: tuple[Tensor, ...]) -> Callable[..., Tensor]:
    """The function in a mode of execution; number of rows and length stay open."""
    if mode == "eager":
        return function
    signature = [tf.TensorSpec([None, None], tensor.dtype) for tensor in example]
    return tf.function(function, input_signature=signature, autograph=False, jit_compile=mode == "XLA")


def training_step(model: TFPreTrainedModel, logits_of: Callable[..., Tensor], settings: Train) -> Callable[..., Tensor]:
    """A step: forward pass, cross-entropy with made-up labels, backward pass, clipping, AdamW; returns the loss."""
    optimizer = AdamW(settings, np.full(MOST_STEPS, settings.learning_rate))
    optimizer.build(model.trainable_variables)

    def train(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        with tf.GradientTape() as tape:
            logits = logits_of(input_ids, attention_mask)
            num_rows, num_classes = tf.size(logits) // logits.shape[-1], logits.shape[-1]
            labels_N = tf.range(num_rows) % num_classes
            logits_NV = tf.reshape(logits, [num_rows, num_classes])
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels_N, logits_NV))
        pairs = zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables, strict=True)
        used = [(tf.convert_to_tensor(gradient), variable) for gradient, variable in pairs if gradient is not None]
        gradients, _ = clip_gradients([gradient for gradient, _ in used], settings.max_grad_norm)
        optimizer.apply_gradients(zip(gradients, [variable for _, variable in used], strict=True))
        return loss

    return train


def tensors(batch: Features) -> tuple[Tensor, Tensor]:
    """The token ids and the attention mask of a batch."""
    return tf.constant(batch["input_ids"], tf.int32), tf.constant(batch["attention_mask"], tf.int32)
