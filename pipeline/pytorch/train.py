"""Training in PyTorch: Accelerate and a visible loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig

from pipeline.backend import StepReport
from pipeline.data.batches import TARGETS, Features, split_update
from pipeline.models.optimization import CLIP_EPSILON, HIDDEN, SPECIAL_IDS, decays, more_parts
from pipeline.pytorch.fast_modules import quicken
from pipeline.pytorch.loss import weighted_loss
from pipeline.pytorch.model import head_logits
from pipeline.recipe.schema import Train
from pipeline.utils.errors import UserError


class Learner:
    """A model in training; see `pipeline.backend.Learner`."""

    def __init__(self, model: torch.nn.Module, settings: Train, rates: NDArray, loss: str = "cross_entropy"):
        AcceleratorState._reset_state()  # the state outlives a run, and a second run may want another precision
        self.accelerator = Accelerator(mixed_precision="bf16" if settings.precision == "bf16" else "no")
        if self.accelerator.num_processes > 1:
            raise UserError("more than one process is not supported yet; start without `accelerate launch`")
        self.settings, self.rates, self.loss = settings, rates, loss
        self.parts = settings.gradient_accumulation
        self.weights = [weight for weight in model.parameters() if weight.requires_grad]
        quicken(model, settings.precision, self.accelerator.device)
        self.model, self.optimizer = self.accelerator.prepare(model, build_optimizer(model, settings))

    def fit(
        self,
        epochs: Sequence[Iterable[Features]],
        on_step: Callable[[StepReport], None],
        on_epoch: Callable[[int], bool],
        start: tuple[int, int] = (0, 0),
    ) -> None:
        """Train on each epoch's updates; `on_epoch` is told the epoch from 1 and returns True to stop.

        `start` counts the updates and whole epochs that are done already; `epochs` has what remains.
        """
        step, epochs_done = start
        for epoch, updates in enumerate(epochs, start=epochs_done + 1):
            for update in updates:
                self.model.train()
                loss, grad_norm = self.train_step(update, self.rates[step])
                step += 1
                on_step(StepReport(step, float(loss), float(grad_norm), self.parts))
            if on_epoch(epoch):
                return

    def train_step(self, update: Features, rate: float) -> tuple[torch.Tensor, torch.Tensor]:
        """One optimiser update on a global batch; returns its loss and the gradient norm before clipping."""
        while (loss := self.gradients(update)) is None:
            self.optimizer.zero_grad()
            clear_device_cache()
        grad_norm = clip_gradients(self.weights, self.settings.max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = float(rate)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss, grad_norm

    def gradients(self, update: Features) -> torch.Tensor | None:
        """Sum an update's gradients and return its loss; None where memory was short: then there are more parts."""
        loss = torch.zeros((), device=self.accelerator.device)
        try:
            for part in split_update(update, self.parts):
                batch = self.to_device(part)
                inputs = {key: value for key, value in batch.items() if key not in TARGETS}
                with self.accelerator.autocast():
                    logits = forward(self.model, inputs)
                targets = (batch["labels"], batch["loss_weights"])
                part_loss = weighted_loss(logits, *targets, self.settings.label_smoothing, self.loss)
                del logits  # else they, the gradient by now, would be kept until all gradients are there
                self.accelerator.backward(part_loss)
                loss += part_loss.detach()
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            self.parts = more_parts(self.parts, len(update["labels"]), error)
            return None
        return loss

    @torch.inference_mode()
    def logits(self, inputs: Features) -> NDArray[np.float32]:
        """Logits of one batch in evaluation mode, float32; those of spans are [B, 2, T], padding hidden."""
        self.model.eval()
        with self.accelerator.autocast():
            return forward(self.model, self.to_device(inputs)).cpu().numpy()

    @torch.inference_mode()
    def token_losses(self, inputs: Features, labels: NDArray) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Each label's cross-entropy in nats and each position's likeliest id, both [B, T], in evaluation mode."""
        self.model.eval()
        batch = self.to_device(inputs | {"labels": labels})
        targets = batch.pop("labels")
        with self.accelerator.autocast():
            logits = forward(self.model, batch)
        losses = cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)
        return losses.cpu().numpy(), logits.argmax(dim=-1).int().cpu().numpy()

    @torch.inference_mode()
    def generate(self, inputs: Features, settings: dict[str, Any]) -> NDArray[np.int32]:
        """Token ids [B, T] that the model writes; `settings` has max_new_tokens, num_beams and length_penalty."""
        self.model.eval()
        config = self.model.config
        special = {key: getattr(config, key) for key in SPECIAL_IDS if getattr(config, key, None) is not None}
        chosen = GenerationConfig(**settings, **special, do_sample=False)
        with self.accelerator.autocast():
            # Else the library takes beams and lengths of the checkpoint's config for those that equal its own default.
            options = {"generation_config": chosen, "use_model_defaults": False}
            return self.model.generate(**self.to_device(inputs), **options).int().cpu().numpy()

    def to_device(self, batch: Features) -> dict[str, torch.Tensor]:
        """Arrays as tensors; indices as int64, which PyTorch's embedding and loss want."""
        return {
            key: torch.from_numpy(value).to(
                self.accelerator.device, torch.int64 if value.dtype.kind == "i" else torch.float32
            )
            for key, value in batch.items()
        }

    def copy_weights(self) -> list[NDArray]:
        """A copy of the model's present weights."""
        return [weight.detach().cpu().numpy().copy() for weight in self.model.parameters()]

    def restore_weights(self, snapshot: list[NDArray]) -> None:
        """Put a snapshot's weights back."""
        with torch.no_grad():
            for weight, value in zip(self.model.parameters(), snapshot, strict=True):
                weight.copy_(torch.from_numpy(value))

    def state(self) -> dict[str, NDArray]:
        """All that the next update depends on: weights, the optimiser's moments and count, random generators."""
        arrays = {f"weights.{i}": value for i, value in enumerate(self.copy_weights())}
        step = 0
        for index, moments in self.optimizer.state_dict()["state"].items():
            arrays |= {f"optimizer.{index}.{name}": value.cpu().numpy().copy() for name, value in moments.items()}
            step = int(moments["step"])
        arrays["random.cpu"] = torch.get_rng_state().numpy().copy()
        for i, state in enumerate(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else ()):
            arrays[f"random.cuda.{i}"] = state.numpy().copy()
        return arrays | {"step": np.array(step), "parts": np.array(self.parts)}

    def load_state(self, arrays: dict[str, NDArray]) -> None:
        """Put back what `state` gave."""
        # Copies: the arrays are a file's, which the library may hold at any alignment.
        tensors = {key: torch.tensor(value) for key, value in arrays.items()}
        self.restore_weights([arrays[f"weights.{i}"] for i in range(len(list(self.model.parameters())))])
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".")
                moments.setdefault(int(index), {})[name] = value
        self.parts = int(arrays["parts"])
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})
        torch.set_rng_state(tensors["random.cpu"])
        if torch.cuda.is_available():
            torch.cuda.set_rng_state_all([tensors[k] for k in sorted(tensors) if k.startswith("random.cuda.")])


def forward(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The model's logits in fp32; a span must not lie in padding."""
    outputs = model(**inputs)
    logits = head_logits(outputs)
    if "start_logits" in outputs:
        logits = logits + (1 - inputs["attention_mask"][:, None, :]) * HIDDEN
    return logits


def clip_gradients(weights: list[torch.Tensor], max_grad_norm: float | None) -> torch.Tensor:
    """Scale all gradients so that their global norm is at most `max_grad_norm`; returns the norm before."""
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    # Over millions of entries at once the library's fp32 sum is off by 4e-4; row by row by 1e-6.
    rows = [torch.linalg.vector_norm(g, dim=-1) if g.ndim > 1 else g for g in gradients]
    grad_norm = torch.nn.utils.get_total_norm(rows)
    if max_grad_norm is not None:
        scale = torch.clamp(max_grad_norm / (grad_norm + CLIP_EPSILON), max=1.0)
        torch._foreach_mul_(gradients, scale)
    return grad_norm


def build_optimizer(model: torch.nn.Module, settings: Train) -> torch.optim.AdamW:
    """Fused AdamW with decay on matrices only. Source: Loshchilov and Hutter 2019, algorithm 2."""
    trainable = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    decayed = [weight for name, weight in trainable.items() if decays(name, weight.ndim)]
    plain = [weight for name, weight in trainable.items() if not decays(name, weight.ndim)]
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        fused=True,
    )
