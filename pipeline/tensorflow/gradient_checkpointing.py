"""Gradient checkpointing in TensorFlow: of a layer only its inputs are kept, and the backward pass computes it again.

So the memory that activations take is that of one layer, and a step computes the forward pass twice. Loss and gradients
stay what they are: shared dropout masks are functions of their tokens and sites, and random generators of dropout
layers are set back. `pipeline/pytorch/gradient_checkpointing.py` has the same definitions in the same order.
Source: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost".
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
import tf_keras
from tensorflow import Tensor
from tensorflow.python.eager import record

from pipeline.tensorflow.dropout import DropoutMasks
from pipeline.tensorflow.model import random_generators
from pipeline.tensorflow.sites import stacked_layers


def checkpoint_layers(model: tf_keras.Model, masks: DropoutMasks) -> None:
    """Have each layer of a model's stacks compute again what its backward pass needs, in place.

    Only in training. The tape must watch the variables of the layers, which read them while nothing is recorded.
    """
    for layer in stacked_layers(model):
        layer.call = CheckpointedLayer(layer, masks).compute


class CheckpointedLayer:
    """The call of one layer, and what its backward pass needs to call it again.

    `tf.recompute_grad` does the same by a `tf.custom_gradient`, which keeps each graph that calls it, and with it the
    model, until the process ends; and of what a layer reads besides its inputs, such as the keys of dropout masks,
    TensorFlow would keep what the forward pass computed.
    """

    def __init__(self, layer: Any, masks: DropoutMasks):
        self.layer, self.masks = layer, masks
        self.call, self.signature = layer.call, inspect.signature(layer.call)
        self.is_again = False

    def compute(self, *args: Any, **kwargs: Any) -> Any:
        """The outputs of the layer, without what it computes on the way."""
        if self.is_again or not record.could_possibly_record():
            return self.call(*args, **kwargs)
        arguments, site = self.arguments(*args, **kwargs), self.masks.site
        generators = random_generators(self.layer).values()
        states = [tf.identity(generator.state) for generator in generators]
        with record.stop_recording():
            outputs = self.call(*arguments.args, **arguments.kwargs)
        outputs = tf.nest.map_structure(lambda x: tf.identity(x) if tf.is_tensor(x) else x, outputs)
        given = [arguments.args, arguments.kwargs, self.masks.keys]
        inputs, variables = self.differentiable(given), self.layer.trainable_variables

        def backward(*of_outputs: Tensor) -> list[Tensor | None]:
            after = self.after(given, of_outputs)
            with self.again(site, after[2], states), tf.GradientTape() as tape:
                tape.watch(sources := self.differentiable(after))
                recomputed = self.differentiable(self.layer(*after[0], **after[1]))
            gradients = tape.gradient(recomputed, [*sources, *variables], output_gradients=list(of_outputs))
            return [None if gradient is None else tf.convert_to_tensor(gradient) for gradient in gradients]

        handles = [variable.handle for variable in variables]
        record.record_operation("CheckpointedLayer", self.differentiable(outputs), [*inputs, *handles], backward)
        return outputs

    def arguments(self, *args: Any, **kwargs: Any) -> inspect.BoundArguments:
        """The arguments, without the wish for keys and values, which are for texts that are written."""
        bound = self.signature.bind(*args, **kwargs)
        if "use_cache" in bound.arguments:
            bound.arguments["use_cache"] = False
        return bound

    def after(self, given: list[Any], others: tuple[Tensor, ...]) -> list[Any]:
        """The same tensors, but not before the others are computed.

        Otherwise what a layer computes from them would be computed early, or kept from the forward pass.
        """
        flat = tf.nest.flatten(given)
        tensors = [each for each in flat if tf.is_tensor(each)]
        with tf.control_dependencies(list(others)):
            later = iter([tf.identity(each) for each in tensors])
        return tf.nest.pack_sequence_as(given, [next(later) if tf.is_tensor(each) else each for each in flat])

    @contextlib.contextmanager
    def again(self, site: int, keys: dict[str, Tensor], states: list[Tensor]) -> Iterator[None]:
        """Inside, the layer itself is called, and draws what it drew in the forward pass."""
        masks, variables = self.masks, [each.state for each in random_generators(self.layer).values()]
        before, now = (masks.keys, masks.site), [tf.identity(variable) for variable in variables]
        for variable, state in zip(variables, states, strict=True):
            variable.assign(state)
        masks.keys, masks.site, self.is_again = keys, site, True
        try:
            yield
        finally:
            (masks.keys, masks.site), self.is_again = before, False
            for variable, state in zip(variables, now, strict=True):
                variable.assign(state)

    @staticmethod
    def differentiable(nested: Any) -> list[Tensor]:
        """The tensors with a gradient, of any structure, in its order."""
        return [each for each in tf.nest.flatten(nested) if tf.is_tensor(each) and each.dtype.is_floating]
