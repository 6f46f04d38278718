"""Training in TensorFlow: Keras `compile` and `fit`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras
from numpy.typing import NDArray
from transformers import GenerationConfig

from pipeline.backend import StepReport
from pipeline.data.batches import TARGETS, Features, Pending
from pipeline.models.optimization import CLIP_EPSILON, HIDDEN, SPECIAL_IDS, decays, more_parts
from pipeline.recipe.schema import Train
from pipeline.tensorflow.loss import weighted_loss
from pipeline.tensorflow.model import head_logits, tied_logits


class Learner:
    """A model in training; see `pipeline.backend.Learner`."""

    def __init__(self, model: tf_keras.Model, settings: Train, rates: NDArray, loss: str = "cross_entropy"):
        self.model, self.rates = model, rates
        self.trainee = Trainee(model, settings, loss)
        self.trainee.compile(optimizer=AdamW(settings, rates))
        # Variables that are made while a graph is traced make TensorFlow trace it twice.
        self.trainee.optimizer.build(model.trainable_variables)
        self.generators = dropout_generators(model)
        self._traces: dict[str, Callable] = {}

    def fit(
        self,
        epochs: Sequence[Iterable[Features]],
        on_step: Callable[[StepReport], None],
        on_epoch: Callable[[int], bool],
        start: tuple[int, int] = (0, 0),
    ) -> None:
        """Train on each epoch's updates; `on_epoch` is told the epoch from 1 and returns True to stop.

        `start` counts the updates and whole epochs that are done already; `epochs` has what remains. Keras counts
        whole epochs only, so the rest of one that was broken off is a `fit` of its own.
        """
        step, epochs_done = start
        steps_per_epoch = len(self.rates) // (epochs_done + len(epochs))
        reports = Reports(on_step, on_epoch, step, Pending(itertools.chain.from_iterable(epochs)), self.trainee)
        while reports.step < len(self.rates) and not self.trainee.stop_training:
            try:
                self._fit(reports, steps_per_epoch)
            except tf.errors.ResourceExhaustedError as error:
                if reports.is_scoring or self.trainee.optimizer.iterations.numpy() != reports.step:
                    raise
                self.trainee.split_further(len(reports.pending.first()["labels"]), error)

    def _fit(self, reports: Reports, steps_per_epoch: int) -> None:
        epochs_done, broken_off = divmod(reports.step, steps_per_epoch)
        num_epochs = len(self.rates) // steps_per_epoch
        self.trainee.fit(
            tf.data.Dataset.from_generator(
                reports.pending.again, output_signature=signature(reports.pending.first())
            ).prefetch(2),
            initial_epoch=epochs_done,
            epochs=epochs_done + 1 if broken_off else num_epochs,
            steps_per_epoch=steps_per_epoch - broken_off,
            callbacks=[reports],
            verbose=0,
        )

    def logits(self, inputs: Features) -> NDArray[np.float32]:
        """Logits of one batch in evaluation mode, float32; those of spans are [B, 2, T], padding hidden."""
        return self._traced(self._logits, inputs)(inputs).numpy()

    def token_losses(self, inputs: Features, labels: NDArray) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Each label's cross-entropy in nats and each position's likeliest id, both [B, T], in evaluation mode."""
        batch = inputs | {"labels": labels}
        losses, predicted = self._traced(self._token_losses, batch)(batch)
        return losses.numpy(), predicted.numpy()

    def generate(self, inputs: Features, settings: dict[str, Any]) -> NDArray[np.int32]:
        """Token ids [B, T] that the model writes; `settings` has max_new_tokens, num_beams and length_penalty."""
        if settings["num_beams"] == 1:
            return self._greedy(inputs, settings["max_new_tokens"])
        config = self.model.config
        special = {key: getattr(config, key) for key in SPECIAL_IDS if getattr(config, key, None) is not None}
        chosen = GenerationConfig(**settings, **special, do_sample=False)
        tensors = {key: tf.constant(value) for key, value in inputs.items()}
        return self.model.generate(**tensors, generation_config=chosen).numpy()

    def _greedy(self, inputs: Features, max_new_tokens: int) -> NDArray[np.int32]:
        """The likeliest token each time, as the library writes it, which runs every operation of a step by itself.

        Here the first step is one graph, and each that follows from the cached keys and values is another.
        """
        config = self.model.config
        batch, rows = dict(inputs), len(inputs["input_ids"])
        if config.is_encoder_decoder:
            batch["decoder_input_ids"] = np.full((rows, 1), config.decoder_start_token_id, np.int32)
        written = [batch.get("decoder_input_ids", batch["input_ids"])]
        state = self._traced(self._first_step, batch)(batch)
        is_done = np.zeros(rows, bool)
        for step in range(max_new_tokens):
            token = np.where(is_done, config.pad_token_id, state.pop("token").numpy()).astype(np.int32)
            written.append(token[:, None])
            is_done |= token == config.eos_token_id
            if is_done.all() or step == max_new_tokens - 1:
                break
            state |= {"input_ids": tf.constant(token[:, None])}
            state = self._traced(self._next_step, state)(state)
        return np.concatenate(written, axis=1)

    def _first_step(self, batch: dict[str, tf.Tensor]) -> dict[str, Any]:
        outputs = self.model(batch, use_cache=True, training=False)
        state = {"token": likeliest(outputs), "past": outputs.past_key_values, "mask": batch["attention_mask"]}
        if self.model.config.is_encoder_decoder:
            return state | {"encoded": outputs.encoder_last_hidden_state}
        return state

    def _next_step(self, state: dict[str, Any]) -> dict[str, Any]:
        token, mask, past = state["input_ids"], state["mask"], state["past"]
        if self.model.config.is_encoder_decoder:
            inputs = {"input_ids": None, "decoder_input_ids": token, "encoder_outputs": (state["encoded"],)}
        else:
            mask = tf.concat([mask, tf.ones_like(token)], axis=1)
            inputs = {"input_ids": token}
        inputs |= {"attention_mask": mask, "past_key_values": past}
        outputs = self.model(**inputs, use_cache=True, training=False)
        kept = {key: state[key] for key in ("encoded",) if key in state}
        return kept | {"token": likeliest(outputs), "past": outputs.past_key_values, "mask": mask}

    def _traced(self, function: Callable, batch: Any) -> Callable:
        """The function as a graph, traced once for all batch sizes and widths."""
        if function.__name__ not in self._traces:
            self._traces[function.__name__] = tf.function(function, input_signature=[signature(batch)], autograph=False)
        return self._traces[function.__name__]

    def _logits(self, inputs: dict[str, tf.Tensor]) -> tf.Tensor:
        return forward(self.model, inputs, training=False)

    def _token_losses(self, batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        logits = forward(self.model, inputs, training=False)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["labels"], logits)
        return losses, tf.argmax(logits, axis=-1, output_type=tf.int32)

    def copy_weights(self) -> list[NDArray]:
        """A copy of the model's present weights."""
        return [weight.numpy() for weight in self.model.weights]

    def restore_weights(self, snapshot: list[NDArray]) -> None:
        """Put a snapshot's weights back."""
        for weight, value in zip(self.model.weights, snapshot, strict=True):
            weight.assign(value)

    def state(self) -> dict[str, NDArray]:
        """All that the next update depends on: weights, the optimiser's moments and count, random generators."""
        arrays = {f"weights.{i}": value for i, value in enumerate(self.copy_weights())}
        optimizer = self.trainee.optimizer
        for i, moments in enumerate(zip(optimizer.first_moments, optimizer.second_moments, strict=True)):
            arrays |= {f"optimizer.{i}.{name}": m.numpy() for name, m in zip(("first", "second"), moments, strict=True)}
        arrays |= {f"random.{i}": generator.state.numpy() for i, generator in enumerate(self.generators)}
        return arrays | {"step": np.array(optimizer.iterations.numpy()), "parts": np.array(self.trainee.parts)}

    def load_state(self, arrays: dict[str, NDArray]) -> None:
        """Put back what `state` gave."""
        self.restore_weights([arrays[f"weights.{i}"] for i in range(len(self.model.weights))])
        optimizer = self.trainee.optimizer
        for i, moments in enumerate(zip(optimizer.first_moments, optimizer.second_moments, strict=True)):
            for name, moment in zip(("first", "second"), moments, strict=True):
                moment.assign(arrays[f"optimizer.{i}.{name}"])
        self.trainee.parts = int(arrays["parts"])
        optimizer.iterations.assign(arrays["step"])
        for i, generator in enumerate(self.generators):
            generator.state.assign(arrays[f"random.{i}"])


class Trainee(tf_keras.Model):
    """Gives `fit` the update of the recipe: weighted loss, accumulation, clipping by the true global norm."""

    def __init__(self, model: tf_keras.Model, settings: Train, loss: str):
        super().__init__(name="trainee")
        self.model, self.settings, self.kind = model, settings, loss
        self.parts = settings.gradient_accumulation
        self.stop_training = False

    def split_further(self, num_rows: int, error: Exception) -> None:
        """Split updates into twice as many parts from now on. Raises RunFailure where they are single rows already."""
        self.parts = more_parts(self.parts, num_rows, error)
        self.train_function = None  # traced anew by the next fit

    @tf.autograph.experimental.do_not_convert
    def train_step(self, update: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One optimiser update on a global batch; returns its loss and the gradient norm before clipping."""
        parts, num_rows = self.parts, tf.shape(update["labels"])[0]

        def part(i: tf.Tensor | int) -> dict[str, tf.Tensor]:
            start, end = num_rows * i // parts, num_rows * (i + 1) // parts
            return {key: value[start:end] for key, value in update.items()}

        def add_part(i: tf.Tensor, loss: tf.Tensor, sums: list[tf.Tensor]) -> tuple:
            part_loss, found = self.gradients(part(i), variables)
            return i + 1, loss + part_loss, [a + b for a, b in zip(sums, found, strict=True)]

        loss, gradients = self.gradients(part(0), self.model.trainable_variables)
        # Like PyTorch's, weights that the loss does not depend on have no gradient and are left alone.
        pairs = zip(gradients, self.model.trainable_variables, strict=True)
        variables = [variable for gradient, variable in pairs if gradient is not None]
        gradients = [gradient for gradient in gradients if gradient is not None]
        if parts > 1:  # a loop in the graph: the model is traced for its first part and once for all others
            _, loss, gradients = tf.while_loop(
                lambda i, *_: i < parts, add_part, (1, loss, gradients), parallel_iterations=1
            )
        gradients, grad_norm = clip_gradients(gradients, self.settings.max_grad_norm)
        # Nothing moves before every gradient is there, so that an update for which memory was short can be done again.
        with tf.control_dependencies([grad_norm, *gradients]):
            self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return {"loss": loss, "grad_norm": grad_norm}

    def gradients(
        self, batch: dict[str, tf.Tensor], variables: list[tf.Variable]
    ) -> tuple[tf.Tensor, list[tf.Tensor | None]]:
        """The loss of a micro-batch, and its gradients; None where the loss does not depend on a weight."""
        with tf.GradientTape() as tape:
            inputs = {key: value for key, value in batch.items() if key not in TARGETS}
            logits = forward(self.model, inputs, training=True)
            targets = (batch["labels"], batch["loss_weights"])
            loss = weighted_loss(logits, *targets, self.settings.label_smoothing, self.kind)
        # An embedding's gradient is a list of rows with repeats; as one array each row counts once in the norm.
        return loss, [g if g is None else tf.convert_to_tensor(g) for g in tape.gradient(loss, variables)]


class Reports(tf_keras.callbacks.Callback):
    """Hands what `fit` did to the run; `step` counts the updates that are done."""

    def __init__(
        self,
        on_step: Callable[[StepReport], None],
        on_epoch: Callable[[int], bool],
        step: int,
        pending: Pending,
        trainee: Trainee,
    ):
        super().__init__()
        self.on_step, self.on_epoch, self.step = on_step, on_epoch, step
        self.pending, self.trainee, self.is_scoring = pending, trainee, False

    def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        self.step += 1
        self.pending.done()
        self.on_step(StepReport(self.step, float(logs["loss"]), float(logs["grad_norm"]), self.trainee.parts))

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        self.is_scoring = True
        self.trainee.stop_training = self.on_epoch(epoch + 1)
        self.is_scoring = False


def forward(model: tf_keras.Model, inputs: dict[str, tf.Tensor], training: bool) -> tf.Tensor:
    """The model's logits in fp32; a span must not lie in padding."""
    if (logits := tied_logits(model, inputs, training)) is not None:
        return logits
    outputs = model(inputs, training=training)
    logits = head_logits(outputs)
    if "start_logits" in outputs:
        logits += tf.cast(1 - inputs["attention_mask"][:, None, :], tf.float32) * HIDDEN
    return logits


def clip_gradients(gradients: list[tf.Tensor], max_grad_norm: float | None) -> tuple[list[tf.Tensor], tf.Tensor]:
    """Scale all gradients so that their global norm is at most `max_grad_norm`; returns them and the norm before."""
    grad_norm = tf.linalg.global_norm(gradients)
    if max_grad_norm is None:
        return gradients, grad_norm
    scale = tf.minimum(max_grad_norm / (grad_norm + CLIP_EPSILON), 1.0)
    return [gradient * scale for gradient in gradients], grad_norm


class AdamW(tf_keras.optimizers.Optimizer):
    """AdamW with PyTorch's placing of epsilon and decay on matrices only.

    Keras' own adds epsilon before the bias correction, so its first updates differ wherever a gradient is small, and
    computes the correction in fp32, where 1 - 0.999 is off by 5e-5. Source: Loshchilov and Hutter 2019, algorithm 2.
    """

    def __init__(self, settings: Train, rates: NDArray):
        super().__init__(name="AdamW", weight_decay=None, jit_compile=False)  # Keras decays by 0 where it is not None
        self.settings, self._built = settings, False
        step = np.arange(1, len(rates) + 1)
        self._learning_rate = self._build_learning_rate(0.0)
        self.rates = tf.constant(rates, tf.float32)
        # The kernel has 1 - β in fp32, which for 0.999 is off by 1e-5; the correction is that of the β it has.
        beta1, beta2 = (1 - float(np.float32(1) - np.float32(beta)) for beta in (settings.beta1, settings.beta2))
        correction = np.sqrt(1 - beta2**step)
        self.corrected_rates = tf.constant(rates * correction / (1 - beta1**step), tf.float32)
        self.corrected_epsilons = tf.constant(settings.epsilon * correction, tf.float32)

    def build(self, var_list: list[tf.Variable]) -> None:
        """Make room for both moments of each variable; a later call finds it made."""
        if not self._built:
            super().build(var_list)
            self.first_moments = [self.add_variable_from_reference(v, "m") for v in var_list]
            self.second_moments = [self.add_variable_from_reference(v, "v") for v in var_list]
            self._built = True

    def apply_gradients(self, grads_and_vars: Iterable[tuple[tf.Tensor, tf.Variable]], **options: Any) -> tf.Tensor:
        """One update of every variable, with the rates of the present step, which are looked up once for all."""
        schedules = (self.rates, self.corrected_rates, self.corrected_epsilons)
        self.present_rates = [values[self.iterations] for values in schedules]
        done = super().apply_gradients(grads_and_vars, **options)
        del self.present_rates
        return done

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable) -> None:
        """Move one variable: shrink it where it decays, then TensorFlow's fused Adam.

        That kernel computes rate · √(1 - β₂ᵗ) / (1 - β₁ᵗ) · m / (√v + ε) in fp32; given β₁ᵗ = β₂ᵗ = 0, the corrections
        come in through its rate and its ε, computed in float64, and ε stands where PyTorch has it.
        """
        s, index = self.settings, self._index_dict[self._var_key(variable)]
        rate, corrected_rate, corrected_epsilon = self.present_rates
        if s.weight_decay and decays(variable.name.removesuffix(":0"), variable.shape.rank):
            variable.assign(variable * (1 - rate * s.weight_decay))
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle, m=self.first_moments[index].handle, v=self.second_moments[index].handle,
            beta1_power=0.0, beta2_power=0.0, lr=corrected_rate, beta1=s.beta1, beta2=s.beta2,
            epsilon=corrected_epsilon, grad=gradient,
        )  # fmt: skip


def dropout_generators(model: tf_keras.Model) -> list[tf.random.Generator]:
    """The random generator that each dropout layer keeps, made if need be; `model.variables` does not list them."""
    found = [layer._random_generator for layer in model.submodules if hasattr(layer, "_random_generator")]
    for generator in found:
        generator._maybe_init()
    return [generator._generator for generator in found]


def likeliest(outputs: Any) -> tf.Tensor:
    """The token with the largest logit at the last position, [B]."""
    return tf.argmax(outputs.logits[:, -1], axis=-1, output_type=tf.int32)


def signature(batch: Any) -> Any:
    """A batch's keys and types with every size left open but the last of floats, which is a width of the model."""

    def spec(value: Any) -> tf.TensorSpec:
        sizes = [None] * len(value.shape)
        if len(sizes) > 2:
            sizes[-1] = value.shape[-1]
        return tf.TensorSpec(sizes, value.dtype)

    return tf.nest.map_structure(spec, batch)
