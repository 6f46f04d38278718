"""Models in TensorFlow: built through transformers' Auto classes, weights in and out as NumPy.

`pipeline/pytorch/model.py` has the same definitions in the same order.
"""

from __future__ import annotations

import contextlib
import os
import random
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras
import transformers
from numpy.typing import NDArray
from tensorflow import Tensor
from tensorflow.python.eager import context
from tf_keras import mixed_precision
from tf_keras.mixed_precision import Policy
from tf_keras.src import backend as keras_backend
from transformers import PretrainedConfig, TFPreTrainedModel
from transformers.modeling_tf_outputs import TFCausalLMOutputWithCrossAttentions
from transformers.modeling_tf_pytorch_utils import (
    TransposeType,
    apply_transpose,
    convert_tf_weight_name_to_pt_weight_name,
)

from pipeline.data.batches import Features
from pipeline.models.families import family_of
from pipeline.models.optimization import matching
from pipeline.utils.cores import usable_cores
from pipeline.utils.errors import UserError
from pipeline.utils.text import one_line

if tf.keras.Model is not tf_keras.Model:
    raise UserError("TensorFlow was imported with Keras 3; call pipeline.configure_process() before importing it")

# A weight, and how its layout is transposed to get PyTorch's.
Weight = tuple[tf.Variable, TransposeType]


def build_model(
    auto_class: str, config: PretrainedConfig, precision: str, seed: int, implementation: str | None = None
) -> TFPreTrainedModel:
    """A model of the Auto class with unset weights; TensorFlow's and Keras' random generators are seeded.

    With `precision` bf16 its layers compute in bfloat16 on fp32 weights. Raises UserError if the family has no such
    head, or for an `implementation` of attention, which only PyTorch has several of.
    """
    if implementation is not None:
        refuse_implementation(auto_class, config, implementation)
    tf_keras.backend.clear_session()  # else the second model of a process is named "..._1", and so are its weights
    python_state, numpy_state = random.getstate(), np.random.get_state()
    tf_keras.utils.set_random_seed(seed)  # Python's and NumPy's generators too, which are the caller's
    random.setstate(python_state)
    np.random.set_state(numpy_state)
    try:
        with layer_defaults("mixed_bfloat16" if precision == "bf16" else "float32"):
            if auto_class == "AutoModelForCausalLM" and config.model_type == "gpt2" and not config.tie_word_embeddings:
                model = TFUntiedGPT2LMHeadModel(config, name="tfgpt2lm_head_model")
            else:
                model = getattr(transformers, f"TF{auto_class}").from_config(config)
            model.build_in_name_scope()
            align_frameworks(model)
    except Exception as error:  # the library raises what a setting of the config happens to break
        raise UserError(
            f'{auto_class} of type "{config.model_type}" cannot be built in TensorFlow from this config.json: '
            f"{type(error).__name__}: {one_line(error)}"
        ) from error
    return model


def align_frameworks(model: TFPreTrainedModel) -> None:
    """Change the library's model, in place, where it would not do what its config says or what PyTorch's does."""
    for layer in model.submodules:
        # A tensor in fp32 can only scale fp32.
        if isinstance(scale := getattr(layer, "embed_scale", None), Tensor):
            layer.embed_scale = float(scale)
    name = family_of(model.config).masked_output
    if name and architecture(model).endswith("ForMaskedLM") and not model.config.tie_word_embeddings:
        # The library's class reads the embeddings, as if they were tied.
        head, path = model.get_lm_head(), name.removesuffix(".weight").split(".")
        embeddings = head.get_output_embeddings()
        matrix = tf_keras.layers.Layer(name=path[-1])
        with tf.name_scope(f"{'/'.join([model.name, *path])}/"):
            matrix.weight = matrix.add_weight("weight", embeddings.weight.shape)
        attribute = next(attribute for attribute, layer in vars(head).items() if layer is embeddings)
        setattr(head, attribute, matrix)


def refuse_implementation(auto_class: str, config: PretrainedConfig, implementation: str) -> None:
    """Raise UserError: the library's TensorFlow models compute their attention in one way."""
    raise UserError(
        f'train.attention_implementation is "{implementation}", but the library has several implementations in PyTorch '
        "only; leave it out in TensorFlow"
    )


def architecture(model: tf_keras.Model) -> str:
    """The name of the stock PyTorch class, as in a checkpoint's config.json: "BertForSequenceClassification"."""
    return type(model).__name__.removeprefix("TF").removeprefix("Untied")


def weight_shapes(model: tf_keras.Model) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the stock model's weights in the PyTorch layout."""
    return {name: weight.shape for name, weight in get_weights(model).items()}


def get_weights(model: tf_keras.Model) -> dict[str, NDArray[np.float32]]:
    """Copies of the stock model's weights in the PyTorch layout."""
    return {name: to_array(weight) for name, weight in named_weights(model).items()}


def set_weights(model: tf_keras.Model, weights: dict[str, NDArray]) -> None:
    """Set every weight of the stock model from arrays in the PyTorch layout."""
    for name, (variable, transpose) in named_weights(model).items():
        variable.assign(apply_transpose(transpose, weights[name], tuple(variable.shape)))


def named_weights(model: tf_keras.Model) -> dict[str, Weight]:
    """The stock model's weights by their names in the PyTorch model."""
    weights = {}
    for variable in model.weights:
        name, transpose = convert_tf_weight_name_to_pt_weight_name(variable.name, tf_weight_shape=variable.shape)
        weights[name] = (variable, transpose)
    return weights


def to_array(weight: Weight) -> NDArray[np.float32]:
    """A copy of a weight's value in the PyTorch layout: there Linear is [out, in], and GPT-2's biases are flat."""
    variable, transpose = weight
    value = apply_transpose(transpose, variable.numpy(), pt_to_tf=False)
    is_bias = variable.name.endswith("/bias:0") and value.ndim == 2 and value.shape[0] == 1
    return np.array(value[0] if is_bias else value, dtype=np.float32)


def freeze(model: tf_keras.Model, patterns: Iterable[str]) -> list[str]:
    """Exclude the weights whose names match a pattern from training; returns their names.

    Raises UserError for a pattern that matches no weight, and if nothing is left to train.
    """
    weights = named_weights(model)
    frozen, unmatched = matching(list(weights), tuple(patterns))
    if unmatched:
        raise UserError(f'train.freeze: "{unmatched[0]}" matches no weight; names look like {next(iter(weights))}')
    if len(frozen) == len(weights):
        raise UserError("train.freeze leaves nothing to train")
    ids = {id(weights[name][0]) for name in frozen}
    for layer in model.submodules:
        freeze_weights(layer, [v for v in getattr(layer, "_trainable_weights", ()) if id(v) in ids])
    return sorted(frozen)


def freeze_weights(layer: tf_keras.layers.Layer, variables: list[tf.Variable]) -> None:
    """Exclude some of a layer's own variables from training; Keras itself can only freeze whole layers.

    The lists change in place: Keras tracks what is assigned to a layer and would list it as trained again.
    """
    ids = {id(variable) for variable in variables}
    if ids:
        layer._trainable_weights[:] = [v for v in layer._trainable_weights if id(v) not in ids]
        layer._non_trainable_weights.extend(variables)


def read_pickle(file: str) -> dict[str, NDArray[np.float32]]:
    """Pickled weights are PyTorch's own format, which TensorFlow cannot read. Raises UserError."""
    raise UserError(
        f"{file} is a pickle, which only PyTorch can read safely: use framework='torch', or convert it once with "
        "save_pretrained, which writes model.safetensors",
        arguments=("framework",),
    )


def head_logits(outputs: Any) -> Tensor:
    """The logits in fp32: [B, classes], [B, T, classes], or starts and ends of spans, [B, 2, T]."""
    if "start_logits" in outputs:
        return tf.cast(tf.stack((outputs.start_logits, outputs.end_logits), axis=1), tf.float32)
    return tf.cast(outputs.logits, tf.float32)


def attention_weights(model: Any, batch: Features) -> NDArray[np.float32]:
    """Attention weights of one text in evaluation mode; see `pipeline.backend.Backend`."""
    is_cross = "decoder_input_ids" in batch
    reader = model.get_encoder() if model.config.is_encoder_decoder and not is_cross else model
    inputs = {key: tf.constant(value) for key, value in batch.items()}
    outputs = reader(inputs, output_attentions=True, training=False)
    layers = outputs.cross_attentions if is_cross else outputs.attentions
    return np.stack([weights[0].numpy().astype(np.float32) for weights in layers])


def random_generators(model: tf_keras.Model) -> dict[str, tf.random.Generator]:
    """The generators that training draws from, which in TensorFlow are those of the dropout layers."""
    layers = [layer for layer in model.submodules if hasattr(layer, "_random_generator")]
    return {str(i): layer._random_generator._generator for i, layer in enumerate(layers)}


@contextlib.contextmanager
def preserved_generators() -> Iterator[None]:
    """Restore the random generators of the process after the block: `build_model` seeds them, training draws.

    They are those from which TensorFlow and Keras take the seed of an operation or a layer that has none; there is no
    public way to read them. Operations with a seed of their own count from their beginning again.
    """
    process: Any = context.context()
    keras = keras_backend._SEED_GENERATOR
    seed, generator, keras_generator = process._seed, getattr(process, "_rng", None), getattr(keras, "generator", None)
    states = [(each, each.getstate()) for each in (generator, keras_generator) if each is not None]
    try:
        yield
    finally:
        process._seed, process._rng, keras.generator = seed, generator, keras_generator
        for each, state in states:
            each.setstate(state)


@contextlib.contextmanager
def threads(number: int | None) -> Iterator[None]:
    """Compute with this many threads from now on; results depend on it in the last digits. None changes nothing.

    Once anything was computed TensorFlow cannot change the number any more, and it stays as it is.
    """
    if number is not None:
        with contextlib.suppress(RuntimeError):
            tf.config.threading.set_intra_op_parallelism_threads(number)
            tf.config.threading.set_inter_op_parallelism_threads(number)
    yield


@contextlib.contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """If it is wanted, a GPU computes the same bits each time from now on; without, some kernels add in any order.

    An operation that has no such kernel raises TensorFlow's UnimplementedError. There is no public way back.
    """
    if wanted and tf.config.list_physical_devices("GPU"):
        tf.config.experimental.enable_op_determinism()
    yield


@contextlib.contextmanager
def eager_execution(asked: bool) -> Iterator[None]:
    """With `asked`, run each operation by itself in the block, also of graphs, so that a debugger sees its numbers.

    It is a setting of the process, which is put back.
    """
    if not asked:
        yield
        return
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        with warnings.catch_warnings():
            # The functions that read batches ahead stay graphs; no code of a model is in them.
            warnings.filterwarnings("ignore", message="Even though the `tf.config.experimental_run_functions_eagerly`")
            yield
    finally:
        tf.config.run_functions_eagerly(before)


def versions() -> dict[str, str]:
    """Versions, threads and device of the framework, and whether each operation runs by itself."""
    # The API does not tell what TensorFlow reads from the environment; left alone it takes every core it may use.
    threads = tf.config.threading.get_intra_op_parallelism_threads() or os.environ.get("TF_NUM_INTRAOP_THREADS")
    gpus = tf.config.list_physical_devices("GPU")
    return {
        "tensorflow": tf.__version__,
        "tf-keras": tf_keras.__version__,
        "device": tf.config.experimental.get_device_details(gpus[0]).get("device_name", "gpu") if gpus else "cpu",
        "threads": str(threads or usable_cores()),
    } | ({"execution": "eager"} if tf.config.functions_run_eagerly() else {})


@contextlib.contextmanager
def layer_defaults(policy: str | Policy) -> Iterator[None]:
    """Layers made inside compute in this dtype policy, and their dropout draws from generators of its own.

    Such generators are seeded by `build_model` and give the same numbers eagerly and in a graph. Both are settings of
    the process, which are put back.
    """
    settings = tf_keras.backend.experimental
    policy_before, had_generators = mixed_precision.global_policy(), settings.is_tf_random_generator_enabled()
    mixed_precision.set_global_policy(policy)
    settings.enable_tf_random_generator()
    try:
        yield
    finally:
        mixed_precision.set_global_policy(policy_before)
        if not had_generators:
            settings.disable_tf_random_generator()


class TFUntiedGPT2LMHeadModel(transformers.TFGPT2LMHeadModel):
    """GPT-2 with an output matrix of its own, which the library's TensorFlow class ignores.

    That class uses the input embeddings for the output too, whatever `tie_word_embeddings` says, so a checkpoint
    with a trained `lm_head` would load without a warning and give wrong logits.
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
