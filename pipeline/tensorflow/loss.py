"""The loss of a batch in TensorFlow. `pipeline/pytorch/loss.py` has the same definitions in the same order."""

# N rows · V classes, which for a language model are the vocabulary

from __future__ import annotations

from typing import Any, cast

import tensorflow as tf
from tensorflow import Tensor


def weighted_loss(
    logits: Tensor,
    labels: Tensor,
    loss_weights: Tensor,
    label_smoothing: float,
    loss: str = "cross_entropy",
) -> tuple[Tensor, Tensor]:
    """The loss in fp32, summed with `loss_weights`, and its gradient by the logits, at which a tape is to begin.

    Labels and weights have the shape of the logits for binary cross-entropy, and without classes for the other losses.
    """
    # A `tf.custom_gradient`, which would tell a tape the gradient, keeps the graph that calls it, and so the model,
    # until the process ends.
    logits = tf.cast(logits, tf.float32)
    if loss == "squared_error":
        errors = tf.squeeze(logits, axis=-1) - labels
        return tf.reduce_sum(errors**2 * loss_weights), tf.expand_dims(2 * errors * loss_weights, axis=-1)
    if loss == "binary_cross_entropy":
        entropies = tf.nn.sigmoid_cross_entropy_with_logits(labels, logits)
        return tf.reduce_sum(entropies * loss_weights), (tf.sigmoid(logits) - labels) * loss_weights
    logits_NV = tf.reshape(logits, (-1, tf.shape(logits)[-1]))
    total, gradient_NV = cross_entropy(
        logits_NV, tf.reshape(labels, [-1]), tf.reshape(loss_weights, [-1]), label_smoothing
    )
    return total, tf.reshape(gradient_NV, tf.shape(logits))


def cross_entropy(logits_NV: Tensor, labels_N: Tensor, weights_N: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """The sum of the rows' cross-entropies times their weights, and its gradient; finite rows of weight 0 add nothing.

    Both are computed together, and if most rows have weight 0, only for the others. With p = softmax(x), ε of smoothing
    and q = (1 - ε) onehot(label) + ε / V, a row's loss is logsumexp(x) - q·x, and its gradient p - q.
    """
    counted = tf.where(weights_N > 0)[:, 0]

    def all_rows() -> tuple[Tensor, Tensor]:
        return loss_and_gradient(logits_NV, labels_N, weights_N, smoothing)

    def counted_rows() -> tuple[Tensor, Tensor]:
        x, labels, weights = (tf.gather(each, counted) for each in (logits_NV, labels_N, weights_N))
        loss, gradient = loss_and_gradient(x, labels, weights, smoothing)
        return loss, tf.scatter_nd(counted[:, None], gradient, tf.shape(logits_NV, counted.dtype))

    return cast(Any, tf.cond(2 * tf.size(counted) < tf.size(weights_N), counted_rows, all_rows))


def loss_and_gradient(x: Tensor, labels: Tensor, weights: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """The weighted loss of these rows and its gradient."""
    places = tf.stack([tf.range(tf.size(labels, labels.dtype)), labels], axis=1)
    x -= tf.reduce_max(x, axis=1, keepdims=True)
    chosen = (1 - smoothing) * tf.gather_nd(x, places)
    if smoothing:
        chosen += smoothing * tf.reduce_mean(x, axis=1)
    exponentials = tf.exp(x)
    sums = tf.reduce_sum(exponentials, axis=1)
    gradient = exponentials * (weights / sums)[:, None]
    if smoothing:
        gradient -= (smoothing / tf.cast(tf.shape(x)[1], tf.float32) * weights)[:, None]
    gradient = tf.tensor_scatter_nd_sub(gradient, places, (1 - smoothing) * weights)
    return tf.reduce_sum((tf.math.log(sums) - chosen) * weights), gradient
