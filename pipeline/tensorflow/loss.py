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
    """The sum of the rows' cross-entropies times their weights; finite rows of weight 0 count for nothing.

    Loss and gradient are computed together, and only of the rows that count where most do not. With p = softmax(x), ε
    of smoothing and q = (1 - ε) onehot(label) + ε / V, a row's loss is logsumexp(x) - q·x, and its gradient p - q.
    """
    counted = tf.where(weights_N > 0)[:, 0]

    @tf.custom_gradient
    def with_gradient(x_NV: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        def of_all() -> tuple[tf.Tensor, tf.Tensor]:
            return _of_rows(x_NV, labels_N, weights_N, smoothing)

        def of_counted() -> tuple[tf.Tensor, tf.Tensor]:
            rows = (tf.gather(each, counted) for each in (x_NV, labels_N, weights_N))
            loss, gradient = _of_rows(*rows, smoothing)
            return loss, tf.scatter_nd(counted[:, None], gradient, tf.shape(x_NV, counted.dtype))

        loss, gradient = tf.cond(2 * tf.size(counted) < tf.size(weights_N), of_counted, of_all)
        return loss, lambda of_loss: gradient * of_loss

    return with_gradient(logits_NV)


def _of_rows(x: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor, smoothing: float) -> tuple[tf.Tensor, tf.Tensor]:
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
