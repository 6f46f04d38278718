"""Text generation in TensorFlow. `pipeline/pytorch/generation.py` has the same definitions in the same order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow import Tensor
from transformers import TFPreTrainedModel

from pipeline.backend import GenerationSettings, OnToken
from pipeline.data.batches import Features
from pipeline.models.checkpoint import generation_config
from pipeline.models.decoding import beam_search, greedy
from pipeline.models.families import family_of
from pipeline.tensorflow.transformer import HIDDEN, Cache, Transformer, padding_bias


def generate(model: Any, inputs: dict[str, Tensor], settings: GenerationSettings) -> Tensor:
    """Token ids [B, T] that the model writes, greedily or by beam search, as the library does it."""
    return model.generate(**inputs, generation_config=generation_config(model.config, settings))


class GreedyGeneration:
    """Writes the likeliest token each time, as the library does, which runs each operation of a step separately.

    Here the first step is one graph, and the steps that continue from the cached keys and values are another.
    `traced(function, batch)` makes a graph of a function for batches like this one.
    """

    def __init__(self, model: TFPreTrainedModel, traced: Callable[[Callable, Any], Callable]):
        self.model, self.traced = model, traced

    def __call__(self, inputs: Features, max_new_tokens: int, on_token: OnToken | None = None) -> NDArray[np.int32]:
        """Token ids [B, T], the prompt of a decoder included; padding after the end-of-sequence token.

        `on_token` is as in `pipeline.backend.Predictor.generate`.
        """
        config, padding = self.model.config, cast(int, self.model.config.pad_token_id)
        batch, rows = dict(inputs), len(inputs["input_ids"])
        if config.is_encoder_decoder:
            batch["decoder_input_ids"] = np.full((rows, 1), config.decoder_start_token_id, np.int32)
        written = [batch.get("decoder_input_ids", batch["input_ids"])]
        state = self.traced(self.first_step, batch)(batch)
        is_done = np.zeros(rows, bool)
        for step in range(max_new_tokens):
            likeliest: NDArray[np.int32] = state.pop("token").numpy()
            token = np.asarray(np.where(is_done, padding, likeliest), np.int32)
            written.append(token[:, None])
            if on_token is not None:
                on_token(token)
            is_done |= token == config.eos_token_id
            if is_done.all() or step == max_new_tokens - 1:
                break
            state |= {"input_ids": tf.constant(token[:, None])}
            state = self.traced(self.next_step, state)(state)
        return np.concatenate(written, axis=1)

    def first_step(self, batch: dict[str, Tensor]) -> dict[str, Any]:
        """The first token, and the state that later steps continue from."""
        if "decoder_input_ids" in batch:  # some decoders can only be traced for a known number of tokens
            batch = batch | {"decoder_input_ids": tf.ensure_shape(batch["decoder_input_ids"], [None, 1])}
        outputs = self.model(batch, use_cache=True, training=False)
        state = {"token": self.likeliest(outputs), "past": outputs.past_key_values, "mask": batch["attention_mask"]}
        if self.model.config.is_encoder_decoder:
            return state | {"encoded": outputs.encoder_last_hidden_state}
        return state

    def next_step(self, state: dict[str, Any]) -> dict[str, Any]:
        """The token after `input_ids`, and the state that later steps continue from."""
        token, mask, past = tf.ensure_shape(state["input_ids"], [None, 1]), state["mask"], state["past"]
        if self.model.config.is_encoder_decoder:
            inputs = {"input_ids": None, "decoder_input_ids": token, "encoder_outputs": (state["encoded"],)}
        else:
            mask = tf.concat([mask, tf.ones_like(token)], axis=1)
            inputs = {"input_ids": token}
        inputs |= {"attention_mask": mask, "past_key_values": past}
        outputs = self.model(**inputs, use_cache=True, training=False)
        encoded = {key: state[key] for key in ("encoded",) if key in state}
        return encoded | {"token": self.likeliest(outputs), "past": outputs.past_key_values, "mask": mask}

    def likeliest(self, outputs: Any) -> Tensor:
        """The token with the largest logit at the last position, [B], of those that the model may write."""
        logits_BV, config = outputs.logits[:, -1], self.model.config
        if not family_of(config).writes_padding:
            is_padding_V = tf.range(tf.shape(logits_BV)[1]) == config.pad_token_id
            logits_BV = tf.where(is_padding_V, logits_BV.dtype.min, logits_BV)
        return tf.argmax(logits_BV, axis=-1, output_type=tf.int32)


def write_texts(
    model: Transformer,
    source_BS: Tensor,
    mask_BS: Tensor,
    max_new_tokens: int,
    num_beams: int = 1,
    length_penalty: float = 1.0,
) -> NDArray[np.int32]:
    """Token ids [B, T] that the Transformer writes; `pipeline/models/decoding.py` says how."""
    bias_B11S, num_written = padding_bias(mask_BS), 0
    cache: Cache | None = None
    encoded_BSD = model.encode(model.embed(source_BS), bias_B11S)
    encoded_NSD, bias_N11S = (tf.repeat(x, num_beams, axis=0) for x in (encoded_BSD, bias_B11S))

    def next_tokens(tokens_N: NDArray, rows_N: NDArray) -> tuple[NDArray, NDArray]:
        nonlocal cache, num_written
        tokens_N1, rows = (tf.constant(x, tf.int32) for x in (tokens_N[:, None], rows_N))
        if cache is not None:  # the beams of a text have the same source, so only their own keys and values move
            moved = [(tuple(tf.gather(x, rows) for x in past), source_past) for past, source_past in cache if past]
            cache = cast(Cache, moved)
        token_N1D = model.embed(tokens_N1, tf.fill(tokens_N1.shape, num_written))
        decoded_N1D, cache = model.decode(token_N1D, None, (encoded_NSD, bias_N11S), cache)
        num_written += 1
        log_probs_NV = tf.nn.log_softmax(model.logits(decoded_N1D)[:, 0])
        log_probs_NV = tf.where(tf.range(log_probs_NV.shape[1]) == model.settings.padding_id, HIDDEN, log_probs_NV)
        log_probs_NC, ids_NC = tf.math.top_k(log_probs_NV, 2 * num_beams)
        return log_probs_NC.numpy(), ids_NC.numpy()

    if num_beams == 1:
        return greedy(next_tokens, len(source_BS), model.settings, max_new_tokens)
    return beam_search(next_tokens, len(source_BS), model.settings, max_new_tokens, num_beams, length_penalty)
