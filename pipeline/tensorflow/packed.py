"""Packed batches in TensorFlow: a row holds several examples, and each token sees those of its own example only.

`pipeline/pytorch/packed.py` has the same definitions in the same order. The library's BERT and GPT-2 take a mask that
is the same for all tokens of a row, so here their layers are called one after another. The last layer of BERT computes
only the tokens that the head reads, where that is not all of them.
"""

# R rows · L positions of a row · P examples that a row may have · S source positions · T target positions · D width
# N tokens that the head reads, of all rows

from __future__ import annotations

import tensorflow as tf
import tf_keras
from tensorflow import Tensor
from transformers import TFBertForMaskedLM

from pipeline.models.families import family_of, unknown_head
from pipeline.models.optimization import HIDDEN_LOGIT
from pipeline.utils.errors import UserError


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


def tokens_read(model: tf_keras.Model, batch: dict[str, Tensor]) -> Tensor | None:
    """Which tokens the head of the model reads, [N], counted through all rows; None if all, or if nothing is packed.

    A head for whole examples reads a token of each, and that of a masked language model only those with a loss, if
    `loss_weights` are in the batch.
    """
    if "segment_ids" not in batch:
        return None
    if isinstance(model, TFBertForMaskedLM) and "loss_weights" in batch:
        return tf.where(tf.reshape(batch["loss_weights"], [-1]) > 0)[:, 0]
    if "pooled_positions" not in batch or hasattr(model, "qa_outputs"):
        return None
    rows, length = tf.unstack(tf.shape(batch["segment_ids"]))
    starts_R1 = tf.range(0, rows * length, length)[:, None]
    return tf.reshape(starts_R1 + batch["pooled_positions"], [-1])


def chosen(x_RLD: Tensor, tokens_N: Tensor | None) -> Tensor:
    """What `x_RLD` has at these tokens, [1, N, D]; all of it if they are None."""
    return x_RLD if tokens_N is None else tf.gather(tf.reshape(x_RLD, (-1, x_RLD.shape[-1])), tokens_N)[None]


def packed_hidden_states(
    model: tf_keras.Model, inputs: dict[str, Tensor], training: bool, read_N: Tensor | None = None
) -> Tensor:
    """The last hidden states of a packed batch, [R, L, D], those of the decoder if there is one.

    With `read_N` only those of the tokens that `tokens_read` returned, [1, N, D].
    """
    if model.config.model_type == "bert":
        return bert_hidden_states(model, inputs, training, read_N)
    states_of = {"gpt2": gpt2_hidden_states, "t5": t5_hidden_states}
    return chosen(states_of[model.config.model_type](model, inputs, training), read_N)


def bert_hidden_states(
    model: tf_keras.Model, inputs: dict[str, Tensor], training: bool, read_N: Tensor | None
) -> Tensor:
    """What BERT's embeddings and layers compute, [R, L, D] or [1, N, D]."""
    segment_ids = inputs["segment_ids"]
    hidden_RLD = model.bert.embeddings(
        input_ids=inputs["input_ids"],
        position_ids=inputs["position_ids"],
        token_type_ids=inputs.get("token_type_ids"),
        training=training,
    )
    arguments = dict(
        attention_mask=bias_of(same_example(segment_ids, segment_ids), hidden_RLD.dtype),
        head_mask=None,
        encoder_hidden_states=None,
        encoder_attention_mask=None,
        past_key_value=None,
        output_attentions=False,
        training=training,
    )
    *layers, last = model.bert.encoder.layer
    for layer in layers:
        hidden_RLD = layer(hidden_RLD, **arguments)[0]
    # After its attention, a layer computes each token for itself.
    mixed_RLD = last.attention.self_attention(hidden_RLD, **arguments)[0]
    attended = last.attention.dense_output(
        chosen(mixed_RLD, read_N), input_tensor=chosen(hidden_RLD, read_N), training=training
    )
    return last.bert_output(last.intermediate(attended), input_tensor=attended, training=training)


def parts_of_tokens_read(model: tf_keras.Model) -> list[tf_keras.layers.Layer]:
    """The layers that compute only the tokens of `tokens_read`: the model with its head, and the end of BERT."""
    if model.config.model_type != "bert":
        return [model]
    last = model.bert.encoder.layer[-1]
    return [model, last.attention.dense_output, last.bert_output]


def gpt2_hidden_states(model: tf_keras.Model, inputs: dict[str, Tensor], training: bool) -> Tensor:
    """What GPT-2's embeddings and blocks compute, [R, L, D]; its attention adds causality itself."""
    body, segment_ids = model.transformer, inputs["segment_ids"]
    hidden_RLD = body.wte(inputs["input_ids"]) + body.wpe(inputs["position_ids"])
    hidden_RLD = body.drop(hidden_RLD, training=training)
    bias_R1LL = bias_of(same_example(segment_ids, segment_ids), hidden_RLD.dtype)
    for block in body.h:
        hidden_RLD, _ = block(
            hidden_RLD,
            layer_past=None,
            attention_mask=bias_R1LL,
            head_mask=None,
            encoder_hidden_states=None,
            encoder_attention_mask=None,
            use_cache=False,
            output_attentions=False,
            training=training,
        )
    return body.ln_f(hidden_RLD)


def t5_hidden_states(model: tf_keras.Model, inputs: dict[str, Tensor], training: bool) -> Tensor:
    """What T5's decoder computes, [R, T, D]; each target sees the source of its own example."""
    sources_RS, targets_RT = inputs["segment_ids"], inputs["decoder_segment_ids"]
    encoded = model.encoder(
        inputs["input_ids"], attention_mask=same_example(sources_RS, sources_RS), training=training
    ).last_hidden_state
    decoded = model.decoder(
        inputs["decoder_input_ids"],
        # Hides later tokens too, since a mask of pairs replaces the causal one.
        attention_mask=tf.linalg.band_part(same_example(targets_RT, targets_RT), -1, 0),
        encoder_hidden_states=encoded,
        encoder_attention_mask=same_example(targets_RT, sources_RS),
        use_cache=False,
        training=training,
    )
    return decoded.last_hidden_state


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


def head(model: tf_keras.Model, hidden_BTD: Tensor, training: bool) -> Tensor:
    """The logits in fp32 that the model's head computes from hidden states, each for itself: [B, T, classes].

    Raises UserError for a head that is not known here.
    """
    pooler = getattr(getattr(model, "bert", None), "pooler", None)
    if pooler is not None:  # heads for whole examples have one, those for tokens have none
        hidden_BTD = pooler.dense(hidden_BTD)
    if hasattr(model, "mlm") or hasattr(model, "nsp"):
        logits = (model.mlm if hasattr(model, "mlm") else model.nsp)(hidden_BTD)
    elif hasattr(model, "qa_outputs"):
        logits = model.qa_outputs(hidden_BTD)
    elif hasattr(model, "score"):
        logits = model.score(hidden_BTD)
    elif hasattr(model, "classifier"):
        logits = model.classifier(model.dropout(hidden_BTD, training=training))
    elif hasattr(model, "lm_head") or type(model).__name__.removeprefix("TF") in family_of(model.config).tied_outputs:
        logits = language_model_logits(model, hidden_BTD)
    else:
        raise UserError(unknown_head(model))
    return tf.cast(logits, tf.float32)


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
    return tf.reshape(logits_NV, (batch, length, embeddings_VD.shape[0]))


def span_logits(logits_RL2: Tensor, segment_ids_RL: Tensor, most_examples: Tensor) -> Tensor:
    """For each of at most P examples of a row the logits that its span starts or ends at each position, [R, P, 2, L].

    A span cannot leave its example.
    """
    example_P1 = tf.range(1, most_examples + 1)[:, None]
    outside_RPL = tf.cast(segment_ids_RL[:, None, :] != example_P1, tf.float32)
    return tf.transpose(logits_RL2, [0, 2, 1])[:, None] + outside_RPL[:, :, None, :] * HIDDEN_LOGIT
