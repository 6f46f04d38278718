"""What makes a forward pass in TensorFlow fast.

`pipeline/pytorch/fast_modules.py` has the same five definitions in the same order, then the modules that it exchanges.
"""

from __future__ import annotations

import tensorflow as tf
import tf_keras
from tensorflow import Tensor
from tf_keras import activations

from pipeline.models.families import family_of
from pipeline.models.optimization import HIDDEN_LOGIT
from pipeline.tensorflow.model import architecture, head_logits
from pipeline.tensorflow.packed import chosen, span_logits, tokens_read, tokens_with_loss
from pipeline.tensorflow.swap import head, packed_hidden_states
from pipeline.tensorflow.transformer import ACTIVATIONS


def prepare_modules(model: tf_keras.Model) -> None:
    """Make the random generators of dropout layers, which the layers would otherwise make at their first call.

    Variables that are made while a graph is traced make TensorFlow trace it twice. Layers that call `tf.nn.silu` get a
    function that computes the same, for the reason that `ACTIVATIONS` gives.
    """
    for layer in model.submodules:
        if hasattr(layer, "_random_generator"):
            layer._random_generator._maybe_init()
        for name, value in list(vars(layer).items()):
            if value is activations.swish:
                setattr(layer, name, ACTIVATIONS["swish"])


def forward(model: tf_keras.Model, inputs: dict[str, Tensor], training: bool) -> Tensor:
    """The model's logits in fp32, as in `head_logits`; padding can be neither start nor end of a span.

    Those of a packed batch, which has `segment_ids`, are as in `packed_logits`, and so are those of a family whose
    stock model cannot be traced for texts of any length.
    """
    if "segment_ids" in inputs or family_of(model.config).traced_by_layers:
        return packed_logits(model, inputs, training)
    key = family_of(model.config).tied_outputs.get(type(model).__name__.removeprefix("TF"))
    if key is not None and model.config.tie_word_embeddings:
        # The model's own logits are traced too; nothing uses them, so TensorFlow does not compute them.
        return head(model, model(inputs, output_hidden_states=True, training=training)[key][-1], training)
    outputs = model(inputs, training=training)
    logits = head_logits(outputs)
    if "start_logits" in outputs:
        logits += tf.cast(1 - inputs["attention_mask"][:, None, :], tf.float32) * HIDDEN_LOGIT
    return logits


def packed_logits(model: tf_keras.Model, inputs: dict[str, Tensor], training: bool) -> Tensor:
    """The model's logits of a packed batch in fp32, [R, L, classes]; with `pooled_positions`, those of examples.

    These positions [R, P] are where each example of a row is read: the logits are [R, P, classes], or of starts and
    ends of spans [R, P, 2, L].
    """
    positions_RP, read_N = inputs.get("pooled_positions"), tokens_read(model, inputs)
    logits = head(model, packed_hidden_states(model, inputs, training, read_N), training)
    if positions_RP is None:
        return logits
    if read_N is None:
        return span_logits(logits, inputs["segment_ids"], tf.shape(positions_RP)[1])
    return tf.reshape(logits, [*tf.unstack(tf.shape(positions_RP)), logits.shape[-1]])


def counted_tokens(model: tf_keras.Model, loss_weights: Tensor) -> Tensor | None:
    """Of a masked language model the tokens of `tokens_with_loss`, [N]; None for other models.

    Such a model predicts about one token in seven, and needs to compute logits for these only.
    """
    return tokens_with_loss(loss_weights) if architecture(model).endswith("ForMaskedLM") else None


def logits_and_targets(
    model: tf_keras.Model,
    inputs: dict[str, Tensor],
    labels: Tensor,
    loss_weights: Tensor,
    counted: Tensor | None,
    training: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The logits of `forward`, labels and loss weights; with `counted`, those of these tokens only, [N, V] and [N]."""
    if counted is None:
        return forward(model, inputs, training), labels, loss_weights
    if "segment_ids" in inputs:
        hidden_1ND = packed_hidden_states(model, inputs, training, counted)
    else:  # The model's own logits are traced too; nothing uses them, so TensorFlow does not compute them.
        hidden_BTD = model(inputs, output_hidden_states=True, training=training).hidden_states[-1]
        hidden_1ND = chosen(hidden_BTD, counted)
    (logits_NV,) = tf.unstack(head(model, hidden_1ND, training), num=1)
    return logits_NV, *(tf.gather(tf.reshape(each, [-1]), counted) for each in (labels, loss_weights))
