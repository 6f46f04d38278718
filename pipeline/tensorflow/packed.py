"""Packed batches in TensorFlow: a row holds several examples, and each token sees those of its own example only.

`pipeline/pytorch/packed.py` has the same definitions in the same order. The library's BERT and GPT-2 take a mask that
is the same for all tokens of a row, so here their layers are called one after another.
"""

# R rows · L positions of a row · P examples that a row may have · S source positions · T target positions · D width

from __future__ import annotations

import tensorflow as tf
import tf_keras
from tensorflow import Tensor

from pipeline.models.families import family_of, unknown_head
from pipeline.models.optimization import HIDDEN_LOGIT
from pipeline.utils.errors import UserError


def packed_logits(model: tf_keras.Model, inputs: dict[str, Tensor], training: bool) -> Tensor:
    """The model's logits of a packed batch in fp32, [R, L, classes]; with `pooled_positions`, those of examples.

    These positions [R, P] are where each example of a row is read: the logits are [R, P, classes], or of starts and
    ends of spans [R, P, 2, L].
    """
    hidden_RLD = packed_hidden_states(model, inputs, training)
    positions_RP = inputs.get("pooled_positions")
    if positions_RP is None:
        return head(model, hidden_RLD, training)
    if hasattr(model, "qa_outputs"):
        return span_logits(head(model, hidden_RLD, training), inputs["segment_ids"], tf.shape(positions_RP)[1])
    hidden_RPD = tf.gather(hidden_RLD, positions_RP, batch_dims=1)
    return head(model, hidden_RPD, training)


def packed_hidden_states(model: tf_keras.Model, inputs: dict[str, Tensor], training: bool) -> Tensor:
    """The last hidden states of a packed batch, [R, L, D], those of the decoder if there is one."""
    states_of = {"bert": bert_hidden_states, "gpt2": gpt2_hidden_states, "t5": t5_hidden_states}
    return states_of[model.config.model_type](model, inputs, training)


def bert_hidden_states(model: tf_keras.Model, inputs: dict[str, Tensor], training: bool) -> Tensor:
    """What BERT's embeddings and layers compute, [R, L, D]."""
    segment_ids = inputs["segment_ids"]
    hidden_RLD = model.bert.embeddings(
        input_ids=inputs["input_ids"],
        position_ids=inputs["position_ids"],
        token_type_ids=inputs.get("token_type_ids"),
        training=training,
    )
    outputs = model.bert.encoder(
        hidden_states=hidden_RLD,
        attention_mask=bias_of(same_example(segment_ids, segment_ids), hidden_RLD.dtype),
        head_mask=[None] * model.config.num_hidden_layers,
        encoder_hidden_states=None,
        encoder_attention_mask=None,
        past_key_values=None,
        use_cache=False,
        output_attentions=False,
        output_hidden_states=False,
        return_dict=True,
        training=training,
    )
    return outputs.last_hidden_state


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
