"""Models in TensorFlow: built through transformers' Auto classes, weights in and out as NumPy."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras
import transformers
from numpy.typing import NDArray
from transformers.modeling_tf_outputs import TFCausalLMOutputWithCrossAttentions
from transformers.modeling_tf_pytorch_utils import apply_transpose, convert_tf_weight_name_to_pt_weight_name

from pipeline.data.batches import Features
from pipeline.models.optimization import matching
from pipeline.utils.environment import usable_cores
from pipeline.utils.errors import UserError

# Classes whose output matrix can be their input embeddings: the output that has their last hidden states.
TIED = {"TFGPT2LMHeadModel": "hidden_states", "TFT5ForConditionalGeneration": "decoder_hidden_states"}

if tf.keras.Model is not tf_keras.Model:
    raise UserError("TensorFlow was imported with Keras 3; set TF_USE_LEGACY_KERAS=1 before TensorFlow is imported")
# Keras dropout then draws from generators that set_random_seed governs, the same way eagerly and in tf.function.
tf_keras.backend.experimental.enable_tf_random_generator()


def build_model(auto_class: str, config: Any, precision: str, seed: int) -> tf_keras.Model:
    """A model of the Auto class with unset weights, random generators seeded.

    With `precision` bf16 its layers compute in bfloat16 on fp32 weights. Raises UserError where the family has no
    such head.
    """
    tf_keras.backend.clear_session()  # else the second model of a process is named "..._1", and so are its weights
    tf_keras.utils.set_random_seed(seed)
    policy = tf_keras.mixed_precision.global_policy()
    tf_keras.mixed_precision.set_global_policy("mixed_bfloat16" if precision == "bf16" else "float32")
    try:
        if auto_class == "AutoModelForCausalLM" and config.model_type == "gpt2" and not config.tie_word_embeddings:
            model = TFUntiedGPT2LMHeadModel(config, name="tfgpt2lm_head_model")
        else:
            model = getattr(transformers, f"TF{auto_class}").from_config(config)
        model.build_in_name_scope()
    except ValueError as error:
        raise UserError(f'a checkpoint of type "{config.model_type}" has no {auto_class} in TensorFlow') from error
    finally:
        tf_keras.mixed_precision.set_global_policy(policy)
    return model


def weight_shapes(model: tf_keras.Model) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the stock model's weights in the PyTorch layout."""
    return {name: weight.shape for name, weight in get_weights(model).items()}


def get_weights(model: tf_keras.Model) -> dict[str, NDArray[np.float32]]:
    """Copies of the stock model's weights in the PyTorch layout."""
    return {name: to_pytorch(variable, transpose) for name, variable, transpose in pytorch_names(model)}


def set_weights(model: tf_keras.Model, weights: dict[str, NDArray]) -> None:
    """Set every weight of the stock model from arrays in the PyTorch layout."""
    for name, variable, transpose in pytorch_names(model):
        variable.assign(apply_transpose(transpose, weights[name], tuple(variable.shape)))


def freeze(model: tf_keras.Model, patterns: Iterable[str]) -> list[str]:
    """Exclude the weights whose names match a pattern from training. Raises UserError for a pattern without match."""
    names = {name: variable for name, variable, _ in pytorch_names(model)}
    frozen, idle = matching(list(names), tuple(patterns))
    if idle:
        raise UserError(f'train.freeze: "{idle[0]}" matches no weight; names look like {next(iter(names))}')
    if len(frozen) == len(names):
        raise UserError("train.freeze leaves nothing to train")
    ids = {id(names[name]) for name in frozen}
    for layer in model.submodules:
        freeze_variables(layer, [v for v in getattr(layer, "_trainable_weights", ()) if id(v) in ids])
    return sorted(frozen)


def freeze_variables(layer: tf_keras.layers.Layer, variables: list[tf.Variable]) -> None:
    """Exclude some of a layer's own variables from training; Keras itself can only freeze whole layers.

    The lists change in place: Keras tracks what is assigned to a layer and would list it as trained again.
    """
    ids = {id(variable) for variable in variables}
    if ids:
        layer._trainable_weights[:] = [v for v in layer._trainable_weights if id(v) not in ids]
        layer._non_trainable_weights.extend(variables)


def read_pickle(file: str) -> dict[str, NDArray[np.float32]]:
    """Pickled weights are PyTorch's own format, which nothing here reads. Raises UserError."""
    raise UserError(
        f"{file} is a pickle, which only PyTorch can read safely: use --framework torch, or convert it once with "
        "save_pretrained, which writes model.safetensors"
    )


def logits(model: tf_keras.Model, batch: Features) -> NDArray[np.float32]:
    """Logits of one batch, eagerly, in evaluation mode, float32."""
    inputs = {key: tf.constant(value) for key, value in batch.items()}
    return head_logits(model(inputs, training=False)).numpy()


def head_logits(outputs: Any) -> tf.Tensor:
    """What a head says, in fp32: [B, classes], [B, T, classes], or of spans the starts and ends, [B, 2, T]."""
    if "start_logits" in outputs:
        return tf.cast(tf.stack((outputs.start_logits, outputs.end_logits), axis=1), tf.float32)
    return tf.cast(outputs.logits, tf.float32)


def tied_logits(model: tf_keras.Model, inputs: dict[str, tf.Tensor], training: bool) -> tf.Tensor | None:
    """The logits [B, T, V] in fp32 where the output matrix is the input embeddings [V, D]; None where it is not.

    The library multiplies [B, T, D] by [V, D] as B products, so that the gradient of the matrix is computed B times,
    each as large as the matrix, and then added up. Here positions are rows of one product, and so is that gradient.
    """
    key = TIED.get(type(model).__name__)
    if key is None or not model.config.tie_word_embeddings:
        return None
    # The model's own logits are traced too; nobody asks for them, so TensorFlow does not compute them.
    hidden_BTD = model(inputs, output_hidden_states=True, training=training)[key][-1]
    if model.config.model_type == "t5":
        hidden_BTD *= model.config.d_model**-0.5
    (embeddings_VD,) = model.get_input_embeddings().weights
    batch, length, width = tf.unstack(tf.shape(hidden_BTD))
    hidden_ND = tf.reshape(hidden_BTD, (batch * length, width))
    logits_NV = tf.matmul(hidden_ND, tf.cast(embeddings_VD, hidden_BTD.dtype), transpose_b=True)
    return tf.cast(tf.reshape(logits_NV, (batch, length, embeddings_VD.shape[0])), tf.float32)


def attention_weights(model: tf_keras.Model, batch: Features) -> NDArray[np.float32]:
    """Attention weights of one text, eagerly, in evaluation mode: [layers, heads, T, S]; T5: its encoder's."""
    reader = model.get_encoder() if model.config.is_encoder_decoder else model
    inputs = {key: tf.constant(value) for key, value in batch.items()}
    layers = reader(inputs, output_attentions=True, training=False).attentions
    return np.stack([weights[0].numpy().astype(np.float32) for weights in layers])


def versions() -> dict[str, str]:
    """Versions, threads and device of the framework."""
    # The API does not tell what TensorFlow reads from the environment; left alone it takes every core it may use.
    threads = tf.config.threading.get_intra_op_parallelism_threads() or os.environ.get("TF_NUM_INTRAOP_THREADS")
    gpus = tf.config.list_physical_devices("GPU")
    return {
        "tensorflow": tf.__version__,
        "tf-keras": tf_keras.__version__,
        "device": tf.config.experimental.get_device_details(gpus[0]).get("device_name", "gpu") if gpus else "cpu",
        "threads": str(threads or usable_cores()),
    }


def pytorch_names(model: tf_keras.Model) -> Iterator[tuple[str, tf.Variable, Any]]:
    """Each weight's name in the PyTorch model, its variable, and how the two layouts are transposed."""
    for variable in model.weights:
        name, transpose = convert_tf_weight_name_to_pt_weight_name(variable.name, tf_weight_shape=variable.shape)
        yield name, variable, transpose


def to_pytorch(variable: tf.Variable, transpose: Any) -> NDArray[np.float32]:
    """A variable's value in the PyTorch layout: Linear weights are [out, in] there, and GPT-2's biases are flat."""
    value = apply_transpose(transpose, variable.numpy(), pt_to_tf=False)
    is_bias = variable.name.endswith("bias:0") and value.ndim == 2 and value.shape[0] == 1
    return np.array(value[0] if is_bias else value, dtype=np.float32)


class TFUntiedGPT2LMHeadModel(transformers.TFGPT2LMHeadModel):
    """GPT-2 with an output matrix of its own, which the library's TensorFlow class ignores.

    That class takes the input embeddings for the output too whatever `tie_word_embeddings` says, so a checkpoint
    with a trained `lm_head` would load without a word and give wrong logits.
    """

    def __init__(self, config: Any, *inputs: Any, **kwargs: Any):
        super().__init__(config, *inputs, **kwargs)
        self.lm_head = tf_keras.layers.Dense(config.vocab_size, use_bias=False, name="lm_head")

    def build(self, input_shape: Any = None) -> None:
        """Build the stock parts and the output matrix, under the name that PyTorch's has."""
        if not self.lm_head.built:
            with tf.name_scope(self.lm_head.name):
                self.lm_head.build([None, None, self.config.n_embd])
        super().build(input_shape)

    def call(
        self,
        input_ids: Any = None,
        past_key_values: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        training: bool = False,
    ) -> Any:
        """The library's outputs with logits [B, T, vocabulary] from the output matrix."""
        if isinstance(input_ids, dict):
            return self.call(**input_ids, training=training)
        outputs = self.transformer(
            input_ids=input_ids,
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            use_cache=self.config.use_cache if use_cache is None else use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            training=training,
        )
        return TFCausalLMOutputWithCrossAttentions(
            logits=self.lm_head(outputs.last_hidden_state),
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
