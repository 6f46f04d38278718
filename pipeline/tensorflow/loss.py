"""The loss of a batch in TensorFlow. `pipeline/pytorch/loss.py` has the same definitions in the same order."""

# N rows · V classes, which for a language model are the vocabulary

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf


def weighted_loss(
    logits: tf.Tensor,
    labels: tf.Tensor,
    loss_weights: tf.Tensor,
    label_smoothing: float,
    loss: str = "cross_entropy",
) -> tf.Tensor:
    """The loss in fp32, summed with `loss_weights`.

    Labels and weights of cross-entropy have the logits' shape less classes, those of binary cross-entropy have their
    shape, and those of squared error are [B].
    """
    logits = tf.cast(logits, tf.float32)
    if loss == "squared_error":
        return tf.reduce_sum((logits[:, 0] - labels) ** 2 * loss_weights)
    if loss == "binary_cross_entropy":
        return tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(labels, logits) * loss_weights)
    logits_NV = tf.reshape(logits, (-1, tf.shape(logits)[-1]))
    return cross_entropy(logits_NV, tf.reshape(labels, [-1]), tf.reshape(loss_weights, [-1]), label_smoothing)


def cross_entropy(logits_NV: tf.Tensor, labels_N: tf.Tensor, weights_N: tf.Tensor, smoothing: float) -> tf.Tensor:
    """The sum of the rows' cross-entropies times their weights; rows of weight 0 count for nothing.

    Logits of a vocabulary are the largest array of a language model's step by far; TensorFlow's own kernel takes twice
    as long as these operations, which compute the gradient together with the loss. With p = softmax(x), ε of smoothing
    and q = (1 - ε) onehot(label) + ε / V, a row's loss is logsumexp(x) - q·x, and its gradient p - q.
    """

    @tf.custom_gradient
    def with_gradient(x_NV: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        places = tf.stack([tf.range(tf.size(labels_N, labels_N.dtype)), labels_N], axis=1)
        chosen = (1 - smoothing) * tf.gather_nd(x_NV, places)
        if smoothing:
            chosen += smoothing * tf.reduce_mean(x_NV, axis=1)
        largest = tf.reduce_max(x_NV, axis=1)
        exponentials = tf.exp(x_NV - largest[:, None])
        sums = tf.reduce_sum(exponentials, axis=1)
        gradient = exponentials * (weights_N / sums)[:, None]
        if smoothing:
            gradient -= (smoothing / tf.cast(tf.shape(x_NV)[1], tf.float32) * weights_N)[:, None]
        gradient = tf.tensor_scatter_nd_sub(gradient, places, (1 - smoothing) * weights_N)
        total = tf.reduce_sum((tf.math.log(sums) + largest - chosen) * weights_N)
        return total, lambda of_loss: gradient * of_loss

    return with_gradient(logits_NV)
