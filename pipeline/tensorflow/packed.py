"""Packed batches in TensorFlow: a row holds several examples, and each token sees those of its own example only.

This is what all families share; `pipeline/tensorflow/swap` calls the layers of each.
`pipeline/pytorch/packed.py` has the same definitions in the same order.
"""

# R rows · L positions of a row · P examples that a row may have · S source positions · T target positions · D width
# N tokens that the head reads, of all rows

from __future__ import annotations

import tensorflow as tf
import tf_keras
from tensorflow import Tensor

from pipeline.models.families import family_of, unknown_head
from pipeline.models.optimization import COUNTED_MULTIPLE, HIDDEN_LOGIT
from pipeline.tensorflow.model import architecture
from pipeline.utils.errors import UserError


def tokens_read(model: tf_keras.Model, batch: dict[str, Tensor]) -> Tensor | None:
    """Which tokens the head of the model reads, [N], counted through all rows; None if all, or if nothing is packed.

    A head for whole examples reads a token of each, and that of a masked language model only those with a loss, if
    `loss_weights` are in the batch.
    """
    if "segment_ids" not in batch:
        return None
    if architecture(model).endswith("ForMaskedLM") and "loss_weights" in batch:
        return tokens_with_loss(batch["loss_weights"])
    if "pooled_positions" not in batch or hasattr(model, "qa_outputs"):
        return None
    rows, length = tf.unstack(tf.shape(batch["segment_ids"]))
    starts_R1 = tf.range(0, rows * length, length)[:, None]
    return tf.reshape(starts_R1 + batch["pooled_positions"], [-1])


def tokens_with_loss(loss_weights: Tensor) -> Tensor:
    """The tokens whose weight is not 0, [N], counted through all rows, and behind them up to seven others.

    So N is a multiple of eight if there are enough tokens: on a CPU, operations are prepared and kept for each N.
    """
    has_loss_N = tf.reshape(loss_weights, [-1]) != 0
    counted = tf.where(has_loss_N)[:, 0]
    return tf.concat((counted, tf.where(tf.logical_not(has_loss_N))[: -tf.size(counted) % COUNTED_MULTIPLE, 0]), axis=0)


def chosen(x_RLD: Tensor, tokens_N: Tensor | None) -> Tensor:
    """What `x_RLD` has at these tokens, [1, N, D]; all of it if they are None."""
    return x_RLD if tokens_N is None else tf.gather(tf.reshape(x_RLD, (-1, x_RLD.shape[-1])), tokens_N)[None]


def same_example(queries_RT: Tensor, keys_RS: Tensor) -> Tensor:
    """1 where query and key belong to the same example, else 0, [R, T, S].

    Padding attends to everything: a query that attends to nothing could become NaN.
    """
    queries_RT1 = queries_RT[:, :, None]
    return tf.cast((queries_RT1 == keys_RS[:, None, :]) | (queries_RT1 == 0), tf.int32)


def bias_of(pairs_RTS: Tensor, dtype: tf.DType) -> Tensor:
    """What is added to attention scores: 0 where a pair is 1, a large negative number where it is 0, [R, 1, T, S]."""
    # -1e4 is what the models hide padding with.
    return tf.cast(1 - pairs_RTS[:, None], dtype) * -1e4


def plain_head(model: tf_keras.Model, hidden_BTD: Tensor, training: bool) -> Tensor:
    """The logits of a head that reads hidden states each for itself, by the names that the library gives its heads.

    [..., D] -> [..., classes]. Raises UserError for a head that is not known here.
    """
    if hasattr(model, "qa_outputs"):
        return model.qa_outputs(hidden_BTD)
    if hasattr(model, "score"):
        return model.score(hidden_BTD)
    if hasattr(model, "classifier"):
        return model.classifier(model.dropout(hidden_BTD, training=training))
    raise UserError(unknown_head(model))


def decoder_head(model: tf_keras.Model, hidden_BTD: Tensor, training: bool) -> Tensor:
    """The logits of a head on a decoder, [B, T, classes]."""
    if hasattr(model, "lm_head") or type(model).__name__.removeprefix("TF") in family_of(model.config).tied_outputs:
        return language_model_logits(model, hidden_BTD)
    return plain_head(model, hidden_BTD, training)


def language_model_logits(model: tf_keras.Model, hidden_BTD: Tensor) -> Tensor:
    """The logits [B, T, V] of a causal language model or a sequence-to-sequence model.

    If the output matrix [V, D] is the input embeddings, the library multiplies [B, T, D] by it as B products, so that
    the gradient of the matrix is computed B times, each as large as the matrix, and then added up. Here positions are
    rows of one product, and so is that gradient.
    """
    if not model.config.tie_word_embeddings:
        return model.lm_head(hidden_BTD)
    scale = family_of(model.config).tied_output_scale(model.config)
    if scale != 1:
        hidden_BTD *= scale
    (embeddings_VD,) = model.get_input_embeddings().weights
    batch, length, width = tf.unstack(tf.shape(hidden_BTD))
    hidden_ND = tf.reshape(hidden_BTD, (batch * length, width))
    logits_NV = tf.matmul(hidden_ND, tf.cast(embeddings_VD, hidden_BTD.dtype), transpose_b=True)
    logits_BTV = tf.reshape(logits_NV, (batch, length, embeddings_VD.shape[0]))
    return model.bias_layer(logits_BTV) if hasattr(model, "bias_layer") else logits_BTV


def span_logits(logits_RL2: Tensor, segment_ids_RL: Tensor, most_examples: Tensor) -> Tensor:
    """For each of at most P examples of a row the logits that its span starts or ends at each position, [R, P, 2, L].

    A span cannot leave its example.
    """
    example_P1 = tf.range(1, most_examples + 1)[:, None]
    outside_RPL = tf.cast(segment_ids_RL[:, None, :] != example_P1, tf.float32)
    return tf.transpose(logits_RL2, [0, 2, 1])[:, None] + outside_RPL[:, :, None, :] * HIDDEN_LOGIT
