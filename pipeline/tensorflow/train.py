"""Predicting and training in TensorFlow, with Keras' `compile` and `fit`.

`pipeline/pytorch/train.py` has the same definitions in the same order.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

import numpy as np
import tensorflow as tf
import tf_keras
from numpy.typing import NDArray
from tensorflow import Tensor
from transformers import TFPreTrainedModel

from pipeline.backend import GenerationSettings, OnToken, StepReport
from pipeline.data.batches import TARGETS, Features, filled
from pipeline.models.optimization import more_micro_batches
from pipeline.recipe.schema import Train
from pipeline.tensorflow.dropout import DropoutMasks, refuse_other_draws, share_dropout
from pipeline.tensorflow.fast_modules import counted_tokens, forward, logits_and_targets, prepare_modules
from pipeline.tensorflow.generation import GreedyGeneration, generate
from pipeline.tensorflow.gradient_checkpointing import checkpoint_layers
from pipeline.tensorflow.graphs import compiled
from pipeline.tensorflow.group import Group, ShardedModel, Sums
from pipeline.tensorflow.loss import weighted_loss
from pipeline.tensorflow.model import head_logits, random_generators
from pipeline.tensorflow.optimizer import AdamW, clip_gradients
from pipeline.tensorflow.packed import tokens_read
from pipeline.utils.errors import UserError


class Predictor:
    """A model that predicts; see `pipeline.backend.Predictor`.

    `precision` is not used: `build_model` gave it to the layers.
    """

    def __init__(self, model: TFPreTrainedModel, precision: str = "fp32", optimize: bool = True):
        self.model, self.optimize = model, optimize
        self.graphs: dict[str, Callable] = {}
        self.greedy = GreedyGeneration(model, self.traced)
        if optimize:
            prepare_modules(model)

    def logits(self, inputs: Features) -> NDArray[np.float32]:
        """Logits of one batch in evaluation mode; see `pipeline.backend.Predictor`."""
        return self.traced(self.forward, inputs)(self.tensors(inputs)).numpy()

    def token_losses(self, inputs: Features, targets: Features) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Each label's cross-entropy and each position's likeliest id; see `pipeline.backend.Predictor`."""
        batch = inputs | targets
        losses, likeliest = self.traced(self.losses_and_likeliest, batch)(self.tensors(batch))
        return filled(targets, losses.numpy()), filled(targets, likeliest.numpy())

    def generate(
        self, inputs: Features, settings: GenerationSettings, on_token: OnToken | None = None
    ) -> NDArray[np.int32]:
        """Token ids [B, T] that the model writes; see `pipeline.backend.Predictor`."""
        if settings["num_beams"] == 1 and self.optimize:
            return self.greedy(inputs, settings["max_new_tokens"], on_token)
        assert on_token is None, "the library's generate tells of no token before the last"
        return generate(self.model, self.tensors(inputs), settings).numpy()

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Logits in evaluation mode."""
        if self.optimize:
            return forward(self.model, inputs, training=False)
        return head_logits(self.model(inputs, training=False))

    def losses_and_likeliest(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Each label's cross-entropy and each position's likeliest id, of the positions in `logits_and_targets`."""
        inputs = {key: value for key, value in batch.items() if key not in TARGETS}
        labels, weights = (batch[key] for key in TARGETS)
        counted = counted_tokens(self.model, weights)
        logits, labels, _ = logits_and_targets(self.model, inputs, labels, weights, counted, training=False)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        return losses, tf.argmax(logits, axis=-1, output_type=tf.int32)

    def traced(self, function: Callable, batch: Any) -> Callable:
        """The function as a graph, traced once for all batch sizes and lengths; with `optimize=False` the function."""
        if not self.optimize:
            return function
        name = function.__name__
        if name not in self.graphs:
            specs = tf.nest.map_structure(self.tensor_spec, batch)
            self.graphs[name] = self.as_graph(function, input_signature=[specs])
        return self.graphs[name]

    @staticmethod
    def as_graph(function: Callable, **settings: Any) -> Callable:
        """The function as a graph, without AutoGraph: what that writes to the temporary folder stays there."""
        return tf.function(tf.autograph.experimental.do_not_convert(function), autograph=False, **settings)

    @staticmethod
    def tensor_spec(value: Tensor | NDArray) -> tf.TensorSpec:
        """A tensor's type with every size left open but the last of three or more, which is a width of the model."""
        sizes: list[int | None] = [None] * len(value.shape)
        if len(sizes) > 2:
            sizes[-1] = value.shape[-1]
        return tf.TensorSpec(sizes, value.dtype)

    def tensors(self, batch: Features) -> dict[str, Tensor]:
        """Arrays as tensors."""
        return {key: tf.constant(value) for key, value in batch.items()}


class Learner(Predictor, tf_keras.Model):
    """A model in training, which is a Keras model with the training step of the recipe; see `pipeline.backend.Learner`.

    The step: weighted loss, gradients summed over micro-batches, clipping by their true global norm.
    """

    def __init__(
        self,
        model: TFPreTrainedModel,
        settings: Train,
        learning_rates: NDArray,
        loss: str = "cross_entropy",
        group: Group | None = None,
    ):
        if settings.sharding is not None:
            ShardedModel(model)
        tf_keras.Model.__init__(self, name="learner")
        Predictor.__init__(self, model, settings.precision)
        self.settings, self.learning_rates, self.task_loss = settings, learning_rates, loss
        self.group, self.stop_asked = group, False
        self.micro_batches = settings.gradient_accumulation
        self.masks, self.has_shared_masks = DropoutMasks(), settings.dropout_masks == "shared"
        if self.has_shared_masks:
            share_dropout(model, self.masks)
        if settings.gradient_checkpointing:
            checkpoint_layers(model, self.masks)
        self.stop_training, self.compilations = False, 0
        self.compile(optimizer=AdamW(settings, learning_rates))
        # Variables that are made while a graph is traced make TensorFlow trace it twice.
        self.optimizer.build(model.trainable_variables)
        if group is not None:
            group.reserve(model.trainable_variables)

    def fit(
        self,
        epochs: Sequence[Iterable[Features]],
        on_step: Callable[[StepReport], None],
        on_epoch: Callable[[int], bool],
        start: tuple[int, int] = (0, 0),
        example: Features | None = None,
    ) -> None:
        """Train on the steps of each epoch; see `pipeline.backend.Learner`."""
        step, epochs_done = start
        steps_per_epoch = len(self.learning_rates) // (epochs_done + len(epochs))
        progress = FitProgress(itertools.chain.from_iterable(epochs), on_step, on_epoch, step)
        while progress.step < len(self.learning_rates) and not self.stop_training:
            try:
                self.keras_fit(progress, steps_per_epoch)
            except tf.errors.ResourceExhaustedError as error:
                if progress.is_evaluating or self.optimizer.iterations.numpy() != progress.step:
                    raise
                self.split_further(len(progress.next_batch()["labels"]), error)

    def keras_fit(self, progress: FitProgress, steps_per_epoch: int) -> None:
        """Train on the steps that remain; of an epoch that was interrupted, on the rest of it alone.

        Keras counts whole epochs only, so an interrupted one is a `fit` of its own.
        """
        epochs_done, steps_done = divmod(progress.step, steps_per_epoch)
        signature = tf.nest.map_structure(self.tensor_spec, progress.next_batch())
        try:
            super().fit(
                tf.data.Dataset.from_generator(progress.batches_to_do, output_signature=signature).prefetch(2),
                initial_epoch=epochs_done,
                epochs=epochs_done + 1 if steps_done else len(self.learning_rates) // steps_per_epoch,
                steps_per_epoch=steps_per_epoch - steps_done,
                callbacks=[progress],
                verbose=cast(Any, 0),  # Keras' types know only its default, a text
            )
        except Exception as error:
            if isinstance(error.__context__, UserError):  # raised while a graph was traced, and wrapped by TensorFlow
                raise error.__context__ from None
            raise

    def make_train_function(self, force: bool = False) -> Callable:
        """What Keras' `fit` calls for each step: a graph, or with a group two, between which its ranks sum."""
        if self.train_function is None or force:
            update, compiled_step = self.as_graph(self.update), compiled(self.train_step, self.on_compilation)

            def step_by_xla(batches: Iterator[dict[str, Tensor]]) -> dict[str, Tensor]:
                return compiled_step(next(batches))

            def step_of_ranks(batches: Iterator[dict[str, Tensor]]) -> dict[str, Tensor]:
                sums = self.sums_of_batch(next(batches))
                return update(sums.loss, sums.gradients)

            own_step = self.as_graph(lambda batches: self.train_step(next(batches)))
            own_step = step_by_xla if self.settings.compile else own_step
            self.train_function = own_step if self.group is None else step_of_ranks
        return self.train_function

    def on_compilation(self) -> None:
        """Count a graph that is compiled."""
        self.compilations += 1

    def sums_of_batch(self, batch: dict[str, Tensor]) -> Sums:
        """The loss and gradients of all ranks, computed again in more micro-batches if the memory of one was short."""
        assert self.group is not None
        name = self.gradients_of_batch.__name__
        while True:
            if self.settings.compile:
                self.graphs.setdefault(name, compiled(self.gradients_of_batch, self.on_compilation))
            try:
                loss, gradients = self.traced(self.gradients_of_batch, batch)(batch)
            except tf.errors.ResourceExhaustedError as error:
                self.micro_batches = more_micro_batches(self.micro_batches, len(batch["labels"]), error)
                loss, gradients = None, []
            sums = self.group.sum(gradients, loss)
            self.stop_asked = sums.stop_asked
            if not sums.is_short:
                return sums
            if loss is not None:  # another rank's memory was short, and all split alike
                self.micro_batches *= 2
            del self.graphs[name]  # the next attempt traces it anew

    def train_step(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """One step on a global batch; returns its loss and the gradient norm before clipping."""
        return self.update(*self.gradients_of_batch(batch))

    def gradients_of_batch(self, batch: dict[str, Tensor]) -> tuple[Tensor, list[Tensor | None]]:
        """The loss, and the gradients of all trained variables, each summed over the micro-batches.

        A gradient is None for weights that the loss does not depend on.
        """
        # None is empty: the library's T5 cannot compute a batch without rows.
        count = tf.minimum(self.micro_batches, tf.shape(batch["labels"])[0])
        piece = functools.partial(micro_batch, batch, count=count)
        if self.settings.compile:
            count = min(self.micro_batches, cast(int, batch["labels"].shape[0]))
            piece = functools.partial(self.micro_batch_of_fixed_size, batch, count)

        def add_micro_batch(i: Tensor, loss: Tensor, sums: list[Tensor]) -> tuple:
            more_loss, more = self.gradients(piece(i), variables)
            return i + 1, loss + more_loss, [a + b for a, b in zip(sums, more, strict=True) if b is not None]

        loss, of_all = self.gradients(piece(0), self.model.trainable_variables)
        # Like PyTorch's, weights that the loss does not depend on have no gradient and are left alone.
        pairs = zip(of_all, self.model.trainable_variables, strict=True)
        variables = [variable for gradient, variable in pairs if gradient is not None]
        gradients = [gradient for gradient in of_all if gradient is not None]
        if self.micro_batches > 1:  # a loop in the graph: the model is traced for the first one and once for all others
            _, loss, gradients = tf.while_loop(
                lambda i, *_: i < count, add_micro_batch, (1, loss, gradients), parallel_iterations=1
            )
        remaining = iter(gradients)
        return loss, [None if gradient is None else next(remaining) for gradient in of_all]

    @staticmethod
    def micro_batch_of_fixed_size(batch: dict[str, Tensor], count: int, index: Tensor | int) -> dict[str, Tensor]:
        """As `micro_batch`, of as many rows as any other, for XLA; rows of zeros at the end count for nothing."""
        missing = -cast(int, batch["labels"].shape[0]) % count
        filled = {k: tf.pad(value, [(0, missing), *[(0, 0)] * (value.shape.rank - 1)]) for k, value in batch.items()}
        pieces = {key: tf.reshape(value, [count, -1, *value.shape[1:]]) for key, value in filled.items()}
        return {key: tf.gather(value, index) for key, value in pieces.items()}

    def update(self, loss: Tensor, of_all: list[Tensor | None]) -> dict[str, Tensor]:
        """Move the weights by the gradients of a batch; returns its loss and the gradient norm before clipping."""
        pairs = zip(of_all, self.model.trainable_variables, strict=True)
        variables = [variable for gradient, variable in pairs if gradient is not None]
        gradients = [gradient for gradient in of_all if gradient is not None]
        gradients, grad_norm = clip_gradients(gradients, self.settings.max_grad_norm)
        # Nothing moves before all gradients are computed, so that a step that ran out of memory can be done again.
        with tf.control_dependencies([grad_norm, *gradients]):
            self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return {"loss": loss, "grad_norm": grad_norm}

    def gradients(self, batch: dict[str, Tensor], variables: list[tf.Variable]) -> tuple[Tensor, list[Tensor | None]]:
        """The loss of a micro-batch and its gradients, None for weights that the loss does not depend on."""
        labels, weights = (batch[key] for key in TARGETS)
        read, counted = tokens_read(self.model, batch), counted_tokens(self.model, weights)
        if self.settings.compile and counted is not None:
            read = counted = None  # that is all tokens: in XLA no size of an array can depend on numbers
        self.masks.start(batch, read)
        with self.watched_draws():
            with tf.GradientTape() as tape:
                tape.watch(variables)
                inputs = {key: value for key, value in batch.items() if key not in TARGETS}
                logits, labels, weights = logits_and_targets(
                    self.model, inputs, labels, weights, counted, training=True
                )
            loss, of_logits = weighted_loss(logits, labels, weights, self.settings.label_smoothing, self.task_loss)
        gradients = tape.gradient([logits], variables, output_gradients=[of_logits])
        # An embedding's gradient is a list of rows with repeats; as one array each row counts once in the norm.
        return loss, [g if g is None else tf.convert_to_tensor(g) for g in gradients]

    def watched_draws(self) -> contextlib.AbstractContextManager:
        """With shared dropout masks, refuses any random number in a forward pass that is traced inside."""
        return refuse_other_draws(self.model) if self.has_shared_masks else contextlib.nullcontext()

    def split_further(self, num_rows: int, error: Exception) -> None:
        """Split each batch into twice as many micro-batches from now on. Raises RunFailure if they are single rows."""
        self.micro_batches = more_micro_batches(self.micro_batches, num_rows, error)
        self.train_function = None  # the next fit traces it anew

    def saved(self) -> list[tf.Variable]:
        """Those of the model's weights that `copy_weights` copies; with LoRA the others never change."""
        return self.model.weights if self.settings.lora is None else self.model.trainable_variables

    def copy_weights(self) -> list[NDArray]:
        """A copy of the model's current weights; see `pipeline.backend.Learner`."""
        return [weight.numpy() for weight in self.saved()]

    def restore_weights(self, weights: list[NDArray]) -> None:
        """Put back the weights that `copy_weights` returned."""
        for weight, value in zip(self.saved(), weights, strict=True):
            weight.assign(value)

    def state(self) -> dict[str, NDArray]:
        """All that the next step depends on; see `pipeline.backend.Learner`."""
        arrays = {f"weights.{i}": value for i, value in enumerate(self.copy_weights())}
        for i, moments in enumerate(self.optimizer.moments()):
            arrays |= {f"optimizer.{i}.{name}": moment.numpy() for name, moment in moments.items()}
        for name, generator in self.generators().items():
            arrays[f"random.{name}"] = generator.state.numpy()
        step = self.optimizer.iterations.numpy()
        return arrays | {"step": np.array(step), "parts": np.array(self.micro_batches)}

    def load_state(self, arrays: dict[str, NDArray]) -> None:
        """Continue from what `state` returned."""
        self.restore_weights([arrays[f"weights.{i}"] for i in range(len(self.saved()))])
        for i, moments in enumerate(self.optimizer.moments()):
            for name, moment in moments.items():
                moment.assign(arrays[f"optimizer.{i}.{name}"])
        self.micro_batches = arrays["parts"].item()
        self.optimizer.iterations.assign(arrays["step"])
        for name, generator in self.generators().items():
            generator.state.assign(arrays[f"random.{name}"])

    def generators(self) -> dict[str, tf.random.Generator]:
        """The random generators on which the next step depends; none with shared dropout masks."""
        return {} if self.has_shared_masks else random_generators(self.model)


def micro_batch(batch: dict[str, Tensor], index: Tensor | int, count: Tensor | int) -> dict[str, Tensor]:
    """The rows of the micro-batch `index` of `count`; none if there are fewer rows than micro-batches."""
    num_rows = tf.shape(batch["labels"])[0]
    start, end = num_rows * index // count, num_rows * (index + 1) // count
    return {key: value[start:end] for key, value in batch.items()}


class FitProgress(tf_keras.callbacks.Callback):
    """The state of a training by Keras' `fit`: gives it the batches that remain, and reports its steps.

    `fit` reads batches ahead, from another thread. If a step runs out of memory, a second `fit` begins with the batches
    of that step and of all that were read but not done.
    """

    def __init__(
        self,
        batches: Iterable[Features],
        on_step: Callable[[StepReport], None],
        on_epoch: Callable[[int], bool],
        step: int,
    ):
        super().__init__()
        self.model: Any = None  # set by Keras: the learner
        self.on_step, self.on_epoch, self.step, self.is_evaluating = on_step, on_epoch, step, False
        self.batches, self.waiting, self.lock = iter(batches), deque(), threading.Lock()
        self.reader = 0

    def next_batch(self) -> Features:
        """The batch of the next step."""
        with self.lock:
            if not self.waiting:
                self.waiting.append(next(self.batches))
            return self.waiting[0]

    def batches_to_do(self) -> Iterator[Features]:
        """The batches of all steps that are not done; an earlier reader, whose thread may still run, gets no more."""
        with self.lock:
            self.reader += 1
            reader, waiting = self.reader, list(self.waiting)
        yield from waiting
        while True:
            with self.lock:
                batch = next(self.batches, None) if reader == self.reader else None
                if batch is None:
                    return
                self.waiting.append(batch)
            yield batch

    def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        """Report a step."""
        self.step += 1
        with self.lock:
            self.waiting.popleft()
        learner, loss, grad_norm = self.model, float(logs["loss"]), float(logs["grad_norm"])
        self.on_step(
            StepReport(self.step, loss, grad_norm, learner.micro_batches, learner.stop_asked, learner.compilations)
        )

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Report an epoch, and stop if the answer is True."""
        self.is_evaluating = True
        self.model.stop_training = self.on_epoch(epoch + 1)
        self.is_evaluating = False
