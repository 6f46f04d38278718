"""Predicting and training in PyTorch, with Accelerate and a visible loop.

`pipeline/tensorflow/train.py` has the same definitions in the same order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from pipeline.backend import GenerationSettings, OnToken, StepReport
from pipeline.data.batches import TARGETS, Features, filled, uncounted_row
from pipeline.models.optimization import more_micro_batches
from pipeline.pytorch.dropout import DropoutMasks, refuse_other_draws, share_dropout
from pipeline.pytorch.fast_modules import counted_tokens, forward, logits_and_targets, prepare_modules
from pipeline.pytorch.generation import generate
from pipeline.pytorch.gpu.recording import RecordedPasses
from pipeline.pytorch.gradient_checkpointing import checkpoint_layers
from pipeline.pytorch.graphs import compiled, compiling
from pipeline.pytorch.group import Group, ShardedModel
from pipeline.pytorch.library import AttentionCalls
from pipeline.pytorch.loss import weighted_loss
from pipeline.pytorch.model import (
    RUNS_EACH_OPERATION,
    head_logits,
    preserved_generators,
    random_generators,
    to_array,
)
from pipeline.pytorch.optimizer import AdamW, clip_gradients
from pipeline.pytorch.packed import tokens_read
from pipeline.pytorch.swap import attention_sites, attentions
from pipeline.recipe.schema import Train
from pipeline.utils.errors import RunFailure, UserError

# The library's attention kernels, the first that can is used.
ANY_SHAPE = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class Predictor:
    """A model that predicts; see `pipeline.backend.Predictor`."""

    def __init__(self, model: PreTrainedModel, precision: str = "fp32", optimize: bool = True):
        self.model, self.optimize = model, optimize
        self.autocast: Callable[..., contextlib.AbstractContextManager] = contextlib.nullcontext
        if optimize:
            AcceleratorState._reset_state()  # it outlives a run, and the next one may have another precision
            self.accelerator = Accelerator(mixed_precision="bf16" if precision == "bf16" else "no")
            prepare_modules(model, precision, self.accelerator.device)
            self.accelerator.prepare_model(model, evaluation_mode=True)  # else wrapped for several processes
            self.autocast = self.accelerator.autocast

    @contextlib.contextmanager
    def forward_pass(self) -> Iterator[None]:
        """Around each forward pass: the precision, and on a GPU the kernels of attention.

        That of cuDNN takes milliseconds to prepare for each new shape, and packed rows have new shapes in every step.
        """
        on_gpu = self.model.device.type == "cuda"
        with self.autocast(), sdpa_kernel(ANY_SHAPE) if on_gpu else contextlib.nullcontext():
            yield

    @torch.inference_mode()
    def logits(self, inputs: Features) -> NDArray[np.float32]:
        """Logits of one batch in evaluation mode; see `pipeline.backend.Predictor`."""
        return self.forward(self.tensors(inputs)).cpu().numpy()

    @torch.inference_mode()
    def token_losses(self, inputs: Features, targets: Features) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Each label's cross-entropy and each position's likeliest id; see `pipeline.backend.Predictor`."""
        self.model.eval()
        batch = self.tensors(inputs | targets)
        labels, weights = (batch.pop(key) for key in TARGETS)
        with self.forward_pass():
            counted = counted_tokens(self.model, weights)
            logits, labels, weights = logits_and_targets(self.model, batch, labels, weights, counted)
        losses = cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none").view(labels.shape)
        return filled(targets, losses.cpu().numpy()), filled(targets, logits.argmax(dim=-1).int().cpu().numpy())

    @torch.inference_mode()
    def generate(
        self, inputs: Features, settings: GenerationSettings, on_token: OnToken | None = None
    ) -> NDArray[np.int32]:
        """Token ids [B, T] that the model writes; see `pipeline.backend.Predictor`."""
        self.model.eval()
        with self.forward_pass():
            return generate(self.model, self.tensors(inputs), settings, on_token).int().cpu().numpy()

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Logits in evaluation mode."""
        self.model.eval()
        with self.forward_pass():
            return forward(self.model, inputs) if self.optimize else head_logits(self.model(**inputs))

    def tensors(self, batch: Features) -> dict[str, Tensor]:
        """Arrays as tensors where the model is; indices as int64, which PyTorch's embedding and loss require."""
        device = self.model.device
        tensors = {key: torch.from_numpy(value) for key, value in batch.items()}
        if device.type == "cuda":  # from pinned memory the copies wait for nothing
            tensors = {key: value.pin_memory() for key, value in tensors.items()}
        return {
            key: value.to(device, torch.float32 if value.is_floating_point() else torch.int64, non_blocking=True)
            for key, value in tensors.items()
        }


class Learner(Predictor):
    """A model in training; see `pipeline.backend.Learner`."""

    def __init__(
        self,
        model: PreTrainedModel,
        settings: Train,
        learning_rates: NDArray,
        loss: str = "cross_entropy",
        group: Group | None = None,
    ):
        super().__init__(model, settings.precision)
        self.settings, self.learning_rates, self.task_loss = settings, learning_rates, loss
        self.group, self.stop_asked = group, False
        self.micro_batches = settings.gradient_accumulation
        self.masks, self.has_shared_masks = DropoutMasks(), settings.dropout_masks == "shared"
        self.has_watched_draws = False
        self.attention_implementation: str | None = None
        self.logits_and_targets: Callable[..., tuple[Tensor, Tensor, Tensor]] = logits_and_targets
        self.compilations = 0
        if self.accelerator.device.type == "cpu" and not settings.compile and settings.sharding != "fsdp":
            self.give_gradients_of_rows()
        if self.has_shared_masks:
            share_dropout(model, self.masks)
        if settings.gradient_checkpointing:
            checkpoint_layers(model, self.masks, self.forward_pass, draws=not self.has_shared_masks)
        self.sharded = ShardedModel(model) if group is not None and settings.sharding == "fsdp" else None
        self.weights = [weight for weight in model.parameters() if weight.requires_grad]
        self.optimizer = self.accelerator.prepare(AdamW(self.model, settings))
        if self.sharded is not None:  # which sums gradients by itself
            self.sharded.gather()
        # What the group sums the gradients of.
        self.summed = [] if self.sharded is not None else self.weights
        if group is not None:
            group.reserve(self.summed, self.accelerator.device)
        self.recorded = RecordedPasses(model) if self.can_record() else None

    def can_record(self) -> bool:
        """Whether passes are recorded: on a GPU, if what they compute follows from the shapes of their micro-batches.

        The logits of a masked language model are as many as its targets. Masks without kernels, and layers that set
        random generators back, read from the processor's memory. Modules of others may do something else each time they
        are called. A group sums gradients while others are computed.
        """
        if self.accelerator.device.type != "cuda" or self.group is not None or RUNS_EACH_OPERATION.get():
            return False
        has_fixed_shapes = counted_tokens(self.model, torch.ones(1)) is None
        reads_processor = self.settings.gradient_checkpointing
        if self.has_shared_masks:
            reads_processor = not self.masks.has_kernels()
        packages = {type(module).__module__.partition(".")[0] for module in self.model.modules()}
        return has_fixed_shapes and not reads_processor and packages <= {"torch", "transformers", "pipeline"}

    def give_gradients_of_rows(self) -> None:
        """Have lookups in an embedding whose weight is a linear layer's too give gradients of the rows that they read.

        Otherwise each gives a matrix, zero but for these rows, and all are added to the gradient of the output matrix.
        That one is dense, and so their sum is as before, but for rounding.
        """
        outputs = {id(module.weight) for module in self.model.modules() if isinstance(module, nn.Linear)}
        for module in self.model.modules():
            if isinstance(module, nn.Embedding) and id(module.weight) in outputs:
                module.sparse = True

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
        for epoch, batches in enumerate(epochs, start=epochs_done + 1):
            remaining = iter(batches)
            batch = next(remaining, None)
            if self.sharded is not None:
                self.sharded.scatter()
            if self.settings.compile and batch is not None and not self.compilations:
                self.compile(batch if example is None else example)
            while batch is not None:
                loss, grad_norm = self.train_step(batch, step)
                batch = next(remaining, None)  # made ready while a GPU is still busy with the step
                step += 1
                graphs = self.compilations + (0 if self.recorded is None else self.recorded.num_recorded)
                counts = self.micro_batches, self.stop_asked, graphs
                report = StepReport(step, float(loss), float(grad_norm), *counts, self.attention_implementation)
                on_step(report)
            if self.sharded is not None:
                self.sharded.gather()
            if on_epoch(epoch):
                break
        if self.recorded is not None:
            self.recorded.stop()

    def compile(self, example: Features) -> None:
        """Compile the forward and the backward pass, for any sizes; weights and random generators stay as they are.

        The loss and the update of the weights, whose kernels are fused by hand, are not compiled. Raises UserError.
        """
        self.model.train()
        rows = micro_batch(example, 0, self.micro_batches)
        with preserved_generators(), compiling():
            with torch.no_grad():
                self.loss(self.tensors(rows))  # watches for random numbers, which compiled code does not show
            self.logits_and_targets = compiled(logits_and_targets, self.on_compilation)
            self.compute(self.tensors(rows))
            self.clear_gradients()

    def on_compilation(self) -> None:
        """Count a graph that is compiled."""
        self.compilations += 1

    def clear_gradients(self) -> None:
        """Forget the gradients of the last step; for recorded passes, which add to them, they become zeros in place."""
        self.optimizer.zero_grad(set_to_none=self.recorded is None)

    def train_step(self, batch: Features, step: int) -> tuple[Tensor, Tensor]:
        """One step on a global batch, after `step` others; returns its loss and the gradient norm before clipping."""
        self.model.train()
        while (loss := self.gradients_of_batch(batch)) is None:
            self.clear_gradients()
            clear_device_cache()
        sum_over_ranks = None if self.sharded is None else distributed.all_reduce
        grad_norm = clip_gradients(self.weights, self.settings.max_grad_norm, sum_over_ranks)
        for group in self.optimizer.param_groups:
            group["lr"] = float(self.learning_rates[step])
        self.optimizer.step()
        self.clear_gradients()
        return loss, grad_norm

    def gradients_of_batch(self, batch: Features) -> Tensor | None:
        """As `gradients_of_share`, of which the gradients and losses of all ranks are summed."""
        loss = self.gradients_of_share(batch)
        if self.group is None:
            return loss
        sums = self.group.sum(self.summed, loss)
        self.stop_asked = sums.stop_asked
        if not sums.is_short:
            return sums.loss
        if loss is not None:  # another rank's memory was short, and all split alike
            self.micro_batches *= 2
        return None

    def gradients_of_share(self, batch: Features) -> Tensor | None:
        """Sum the gradients of all micro-batches and return the loss; None if memory was short and there are more now.

        The next attempt is the caller's: what the error refers to is freed only when this function is left.
        """
        loss = torch.zeros((), device=self.accelerator.device)
        try:
            for i in range(self.micro_batches):
                rows = micro_batch(batch, i, self.micro_batches)
                if self.group is not None and i == self.micro_batches - 1:  # which has rows if any has
                    self.group.begin()
                if self.sharded is not None and not len(rows["labels"]):
                    rows = uncounted_row(batch)  # all ranks compute at the same time
                if len(rows["labels"]):
                    loss += self.gradients(rows)
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            if self.recorded is not None and self.recorded.recordings:  # without them it may be enough
                self.recorded.stop()
                return None
            self.split_further(len(batch["labels"]), error)
            return None
        return loss

    def gradients(self, batch: Features) -> Tensor:
        """Add the gradients of a micro-batch to those of the weights; returns its loss."""
        tensors = self.tensors(batch)
        return self.compute(tensors) if self.recorded is None else self.recorded.gradients(tensors, self.compute)

    def compute(self, tensors: dict[str, Tensor]) -> Tensor:
        """As `gradients`, operation by operation."""
        loss = self.loss(tensors) if self.sharded is None else self.sharded(lambda: self.loss(tensors))
        self.accelerator.backward(loss)
        return loss.detach()

    def loss(self, tensors: dict[str, Tensor]) -> Tensor:
        """The loss of a micro-batch."""
        self.masks.start(tensors, tokens_read(self.model, tensors))
        inputs = {key: value for key, value in tensors.items() if key not in TARGETS}
        counted = counted_tokens(self.model, tensors["loss_weights"])
        with self.watched_draws(), self.watched_attention(), self.forward_pass():
            targets = self.logits_and_targets(self.model, inputs, *(tensors[key] for key in TARGETS), counted)
        # The logits hold the gradient afterwards; they are not kept until all gradients are computed.
        return weighted_loss(*targets, self.settings.label_smoothing, self.task_loss)

    def watched_draws(self) -> contextlib.AbstractContextManager:
        """With shared dropout masks, refuses any random number in the first forward pass."""
        if not self.has_shared_masks or self.has_watched_draws:
            return contextlib.nullcontext()
        self.has_watched_draws = True
        return refuse_other_draws(self.model)

    @contextlib.contextmanager
    def watched_attention(self) -> Iterator[None]:
        """Notes in the first forward pass what computes the stock attention. Raises UserError if it is not as asked."""
        if self.attention_implementation is not None or attention_sites(self.model):
            yield
            return
        with AttentionCalls() as calls:
            yield
        found = calls.implementation(self.masks.unfused, len(attentions(self.model)))
        if self.settings.attention_implementation not in (None, found):
            raise UserError(
                f"train.attention_implementation is {self.settings.attention_implementation}, but {found} computes the "
                "attention in a training step: shared masks drop attention weights, which a fused attention does not "
                "compute. Set train.dropout_masks to framework or train.dropout to 0, or use eager"
            )
        self.attention_implementation = found

    def split_further(self, num_rows: int, error: Exception) -> None:
        """Split each batch into twice as many micro-batches from now on.

        Raises RunFailure if they are single rows, or if ranks exchange weights while they compute.
        """
        if self.sharded is not None:
            raise RunFailure(
                f"memory is short in a step, whose number of micro-batches is {self.micro_batches}. With sharded "
                "weights the processes compute together, and none can begin a step again; raise "
                "train.gradient_accumulation, of which the number follows"
            ) from error
        self.micro_batches = more_micro_batches(self.micro_batches, num_rows, error)

    def saved(self, weights: Iterable[nn.Parameter]) -> list[nn.Parameter]:
        """Those of the model's weights that `copy_weights` copies; with LoRA the others never change."""
        return [weight for weight in weights if weight.requires_grad or self.settings.lora is None]

    def copy_weights(self) -> list[NDArray]:
        """A copy of the model's current weights; see `pipeline.backend.Learner`."""
        return [to_array(weight) for weight in self.saved(self.model.parameters())]

    def restore_weights(self, weights: list[NDArray]) -> None:
        """Put back the weights that `copy_weights` returned."""
        with torch.no_grad():
            for weight, value in zip(self.saved(self.model.parameters()), weights, strict=True):
                weight.copy_(torch.from_numpy(value))
            if self.sharded is not None:
                for part, value in zip(self.saved(self.sharded.parts), weights, strict=True):
                    part.copy_(ShardedModel.part(torch.from_numpy(value), part))

    def state(self) -> dict[str, NDArray]:
        """All that the next step depends on; see `pipeline.backend.Learner`."""
        arrays = {f"weights.{i}": value for i, value in enumerate(self.copy_weights())}
        step = 0
        for index, moments in self.optimizer.state_dict()["state"].items():
            arrays |= {f"optimizer.{index}.{name}": to_array(value) for name, value in moments.items()}
            step = int(moments["step"])
        for name, generator in self.generators().items():
            arrays[f"random.{name}"] = generator.get_state().numpy().copy()
        return arrays | {"step": np.array(step), "parts": np.array(self.micro_batches)}

    def load_state(self, arrays: dict[str, NDArray]) -> None:
        """Continue from what `state` returned. Raises ValueError, before anything changes, if moments do not fit."""
        # Copies: the arrays are a file's, which the library may hold at any alignment.
        tensors = {key: torch.tensor(value) for key, value in arrays.items()}
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".")
                moments.setdefault(int(index), {})[name] = value
        own = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        for index, found in moments.items():
            shapes, shape = {name: tuple(value.shape) for name, value in found.items()}, tuple(own[index].shape)
            if shapes != {"step": (), "exp_avg": shape, "exp_avg_sq": shape}:
                raise ValueError(f"optimizer.{index} is {shapes}, which are not the moments of a weight {shape}")
            moments[index] = {name: ShardedModel.part(value, own[index]) for name, value in found.items()}
        self.restore_weights([arrays[f"weights.{i}"] for i in range(len(self.saved(self.model.parameters())))])
        self.micro_batches = arrays["parts"].item()
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})
        for name, generator in self.generators().items():
            generator.set_state(tensors[f"random.{name}"])

    def generators(self) -> dict[str, torch.Generator]:
        """The random generators on which the next step depends; none with shared dropout masks."""
        return {} if self.has_shared_masks else random_generators(self.model)


def micro_batch(batch: Features, index: int, count: int) -> Features:
    """The rows of the micro-batch `index` of `count`; none if there are fewer rows than micro-batches."""
    num_rows = len(batch["labels"])
    start, end = num_rows * index // count, num_rows * (index + 1) // count
    return {key: value[start:end] for key, value in batch.items()}
