"""LoRA in TensorFlow: a projection that is kept as it is, and an update of low rank that is trained instead.

`pipeline/models/lora.py` says which projections get one. `pipeline/pytorch/lora.py` has the same definitions in the
same order.
"""

# B batch · T tokens · I inputs of a projection · R rank of the update · O outputs

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow import Tensor
from tf_keras import initializers, layers
from transformers import TFPreTrainedModel
from transformers.modeling_tf_utils import TFConv1D

from pipeline.backend import Adapter
from pipeline.models.lora import FIRST, SECOND
from pipeline.tensorflow.model import layer_defaults, named_weights
from pipeline.tensorflow.sites import put


class LoraLinear(layers.Layer):
    """Replaces a projection of the library: what that computes, plus scale · dropout(x) A B.

    Its kernel and bias are the projection's own. Source: Hu et al. 2021, equation 3.
    """

    def __init__(self, base: Any, adapter: Adapter, first_IR: tf.Variable | NDArray, second_RO: NDArray):
        super().__init__(name=base.name, dtype=base._dtype_policy)
        self.base_layer, self.adapter = base, adapter
        with tf.name_scope(f"{base.weights[0].name.rpartition('/')[0]}/"):
            is_shared = isinstance(first_IR, tf.Variable)
            self.lora_A = first_IR if is_shared else self.variable(FIRST, first_IR)
            self.lora_B = self.variable(SECOND, second_RO)
        with layer_defaults(base._dtype_policy):
            self.dropout = layers.Dropout(adapter.dropout)

    def variable(self, name: str, value: NDArray) -> tf.Variable:
        """A trained variable with this value."""
        start: Any = value  # Keras' types know numbers only
        return self.add_weight(name, value.shape, initializer=initializers.Constant(start))

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """[B, T, I] -> [B, T, O]."""
        reduced_BTR = tf.tensordot(self.dropout(inputs, training=training), self.lora_A, 1) * self.adapter.scale
        return self.base_layer(inputs) + tf.tensordot(reduced_BTR, self.lora_B, 1)  # [B, T, O]

    @property
    def kernel(self) -> tf.Variable:
        """The projection's matrix, without the update."""
        return self.base_layer.weight if isinstance(self.base_layer, TFConv1D) else self.base_layer.kernel

    @property
    def bias(self) -> tf.Variable | None:
        """The projection's bias."""
        return self.base_layer.bias

    @property
    def use_bias(self) -> bool:
        """Whether it has one."""
        return self.bias is not None


def add_adapters(model: TFPreTrainedModel, adapters: Iterable[Adapter]) -> None:
    """Give projections of a stock model their updates, in place."""
    by_module = {adapter.module: adapter for adapter in adapters}
    names = {id(variable): name for name, (variable, _) in named_weights(model).items()}
    for parent in (model, *model.submodules):
        for attribute, base in list(vars(parent).items()):
            if type(base) in (layers.Dense, TFConv1D):
                module = names.get(id(base.weights[0]), "").removesuffix(".weight")
                if adapter := by_module.get(module):
                    put(parent, attribute, LoraLinear(base, adapter, adapter.first, adapter.second))


def base_of(projection: Any) -> Any:
    """The projection of the library, also where it has an update."""
    return projection.base_layer if isinstance(projection, LoraLinear) else projection


def cut_adapter(merged: Any, parent: Any, names: Sequence[str]) -> None:
    """Give the projections `names` of `parent` their parts of the update that one of them all has, if it has one.

    A is shared, since all of them read the same, and the columns of B are dealt out.
    """
    if not isinstance(merged, LoraLinear):
        return
    for name, part_RO in zip(names, np.split(merged.lora_B.numpy(), len(names), axis=1), strict=True):
        put(parent, name, LoraLinear(getattr(parent, name), merged.adapter, merged.lora_A, part_RO))


def join_adapter(merged: Any, parent: Any, names: Sequence[str]) -> None:
    """Undo `cut_adapter`, with the parts of B as they are now."""
    if isinstance(merged, LoraLinear):
        merged.lora_B.assign(tf.concat([getattr(parent, name).lora_B for name in names], axis=1))
