"""Text generation in TensorFlow. `pipeline/pytorch/generation.py` has the same definitions in the same order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow import Tensor
from transformers import TFPreTrainedModel

from pipeline.backend import GenerationSettings
from pipeline.data.batches import Features
from pipeline.models.generation import generation_config


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

    def __call__(self, inputs: Features, max_new_tokens: int) -> NDArray[np.int32]:
        """Token ids [B, T], the prompt of a decoder included; padding after the end-of-sequence token."""
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
            is_done |= token == config.eos_token_id
            if is_done.all() or step == max_new_tokens - 1:
                break
            state |= {"input_ids": tf.constant(token[:, None])}
            state = self.traced(self.next_step, state)(state)
        return np.concatenate(written, axis=1)

    def first_step(self, batch: dict[str, Tensor]) -> dict[str, Any]:
        """The first token, and the state that later steps continue from."""
        outputs = self.model(batch, use_cache=True, training=False)
        state = {"token": self.likeliest(outputs), "past": outputs.past_key_values, "mask": batch["attention_mask"]}
        if self.model.config.is_encoder_decoder:
            return state | {"encoded": outputs.encoder_last_hidden_state}
        return state

    def next_step(self, state: dict[str, Any]) -> dict[str, Any]:
        """The token after `input_ids`, and the state that later steps continue from."""
        token, mask, past = state["input_ids"], state["mask"], state["past"]
        if self.model.config.is_encoder_decoder:
            inputs = {"input_ids": None, "decoder_input_ids": token, "encoder_outputs": (state["encoded"],)}
        else:
            mask = tf.concat([mask, tf.ones_like(token)], axis=1)
            inputs = {"input_ids": token}
        inputs |= {"attention_mask": mask, "past_key_values": past}
        outputs = self.model(**inputs, use_cache=True, training=False)
        encoded = {key: state[key] for key in ("encoded",) if key in state}
        return encoded | {"token": self.likeliest(outputs), "past": outputs.past_key_values, "mask": mask}

    @staticmethod
    def likeliest(outputs: Any) -> Tensor:
        """The token with the largest logit at the last position, [B]."""
        return tf.argmax(outputs.logits[:, -1], axis=-1, output_type=tf.int32)
