"""The optimizer and gradient clipping in TensorFlow.

`pipeline/pytorch/optimizer.py` has the same definitions in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras
from numpy.typing import NDArray
from tensorflow import Tensor

from pipeline.models.optimization import CLIP_EPSILON, decays
from pipeline.recipe.schema import Train


def clip_gradients(gradients: list[Tensor], max_grad_norm: float | None) -> tuple[list[Tensor], Tensor]:
    """Scale all gradients so that their global norm is at most `max_grad_norm`; returns them and the norm before."""
    grad_norm = tf.linalg.global_norm(gradients)
    if max_grad_norm is None:
        return gradients, grad_norm
    scale = tf.minimum(max_grad_norm / (grad_norm + CLIP_EPSILON), 1.0)
    return [gradient * scale for gradient in gradients], grad_norm


class AdamW(tf_keras.optimizers.Optimizer):
    """AdamW with epsilon added where PyTorch adds it and decay on matrices only.

    Keras' own adds epsilon before the bias correction, so its first steps differ wherever a gradient is small, and
    computes the correction in fp32, where 1 - 0.999 is off by 5e-5. Source: Loshchilov and Hutter 2019, algorithm 2.
    """

    def __init__(self, settings: Train, learning_rates: NDArray):
        # Keras' own decay runs unless it is None, even if it is 0.
        none: Any = None
        super().__init__(name="AdamW", weight_decay=none, jit_compile=False)
        self.settings, self._built = settings, False
        step = np.arange(1, len(learning_rates) + 1)
        self._learning_rate = self._build_learning_rate(0.0)
        self.learning_rates = tf.constant(learning_rates, tf.float32)
        # The kernel has 1 - β in fp32, which for 0.999 is off by 1e-5; the correction is that of the β it has.
        beta1, beta2 = (1 - float(np.float32(1) - np.float32(beta)) for beta in (settings.beta1, settings.beta2))
        correction = np.sqrt(1 - beta2**step)
        self.corrected_rates = tf.constant(learning_rates * correction / (1 - beta1**step), tf.float32)
        self.corrected_epsilons = tf.constant(settings.epsilon * correction, tf.float32)

    def build(self, var_list: list[tf.Variable]) -> None:
        """Make both moments of each variable; later calls do nothing."""
        if not self._built:
            super().build(var_list)
            self.first_moments = [self.add_variable_from_reference(v, "m") for v in var_list]
            self.second_moments = [self.add_variable_from_reference(v, "v") for v in var_list]
            self._built = True

    def moments(self) -> Iterator[dict[str, tf.Variable]]:
        """The first and second moment of each variable."""
        for first, second in zip(self.first_moments, self.second_moments, strict=True):
            yield {"first": first, "second": second}

    def apply_gradients(self, grads_and_vars: Iterable[tuple[Tensor, tf.Variable]], **options: Any) -> Tensor:
        """One step of every variable, with the learning rate of the current step, which is looked up once for all."""
        schedules = (self.learning_rates, self.corrected_rates, self.corrected_epsilons)
        # By a gather: an index into a slice must be a constant for XLA, which would compile every step anew.
        self.current_rates = [tf.gather(values, self.iterations) for values in schedules]
        # Keras would sum gradients over replicas, of which there is one, by an operation with a gradient of its own: by
        # such a one TensorFlow keeps each graph that calls it, and so the model, until the process ends.
        options.setdefault("skip_gradients_aggregation", True)
        iterations = super().apply_gradients(grads_and_vars, **options)
        del self.current_rates
        return iterations

    def update_step(self, gradient: Tensor, variable: tf.Variable) -> None:
        """Move one variable: shrink it if it decays, then TensorFlow's fused Adam.

        That kernel computes rate · √(1 - β₂ᵗ) / (1 - β₁ᵗ) · m / (√v + ε) in fp32; given β₁ᵗ = β₂ᵗ = 0, the corrections
        come in through its rate and its ε, computed in float64, and ε is added where PyTorch adds it.
        """
        s, index = self.settings, self._index_dict[self._var_key(variable)]
        rate, corrected_rate, corrected_epsilon = self.current_rates
        if s.weight_decay and decays(variable.name.removesuffix(":0"), variable.shape.rank):
            variable.assign(variable * (1 - rate * s.weight_decay))
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle, m=self.first_moments[index].handle, v=self.second_moments[index].handle,
            beta1_power=0.0, beta2_power=0.0, lr=corrected_rate, beta1=s.beta1, beta2=s.beta2,
            epsilon=corrected_epsilon, grad=gradient,
        )  # fmt: skip
