"""Training in PyTorch: Accelerate and a visible loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

from pipeline.backend import Update
from pipeline.batches import TARGETS, Features, split_update
from pipeline.errors import UserError
from pipeline.optimisation import CLIP_EPSILON, decays
from pipeline.recipe import Train


class Learner:
    """A model in training; see `pipeline.backend.Learner`."""

    def __init__(self, model: torch.nn.Module, settings: Train, rates: NDArray):
        AcceleratorState._reset_state()  # the state outlives a run, and a second run may want another precision
        self.accelerator = Accelerator(mixed_precision="bf16" if settings.precision == "bf16" else "no")
        if self.accelerator.num_processes > 1:
            raise UserError("more than one process is not supported yet; start without `accelerate launch`")
        self.settings, self.rates = settings, rates
        self.weights = [weight for weight in model.parameters() if weight.requires_grad]
        self.model, self.optimizer = self.accelerator.prepare(model, build_optimizer(model, settings))

    def fit(
        self,
        epochs: Sequence[Iterable[Features]],
        on_update: Callable[[Update], None],
        on_epoch: Callable[[int], bool],
    ) -> None:
        """Train on each epoch's updates; `on_epoch` is told the epoch from 1 and returns True to stop."""
        step = 0
        for epoch, updates in enumerate(epochs, start=1):
            for update in updates:
                self.model.train()
                loss, grad_norm = self.train_step(update, self.rates[step])
                step += 1
                on_update(Update(step, float(loss), float(grad_norm)))
            if on_epoch(epoch):
                return

    def train_step(self, update: Features, rate: float) -> tuple[torch.Tensor, torch.Tensor]:
        """One optimiser update on a global batch; returns its loss and the gradient norm before clipping."""
        loss = torch.zeros((), device=self.accelerator.device)
        for part in split_update(update, self.settings.gradient_accumulation):
            batch = self.to_device(part)
            logits = self.forward({key: value for key, value in batch.items() if key not in TARGETS})
            part_loss = weighted_loss(logits, batch["labels"], batch["loss_weights"], self.settings.label_smoothing)
            self.accelerator.backward(part_loss)
            loss += part_loss.detach()
        grad_norm = clip_gradients(self.weights, self.settings.max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = float(rate)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss, grad_norm

    def predict(self, batches: Iterable[Features]) -> Iterator[NDArray[np.float32]]:
        """Logits of each batch in evaluation mode, float32."""
        self.model.eval()
        for batch in batches:
            with torch.inference_mode():
                yield self.forward(self.to_device(batch)).float().cpu().numpy()

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """The model's logits."""
        with self.accelerator.autocast():
            return self.model(**inputs).logits

    def to_device(self, batch: Features) -> dict[str, torch.Tensor]:
        """Arrays as tensors; indices as int64, which PyTorch's embedding and loss want."""
        return {
            key: torch.from_numpy(value).to(
                self.accelerator.device, torch.int64 if value.dtype.kind == "i" else torch.float32
            )
            for key, value in batch.items()
        }

    def snapshot(self) -> list[NDArray]:
        """A copy of the model's present weights."""
        return [weight.detach().cpu().numpy().copy() for weight in self.model.parameters()]

    def restore(self, snapshot: list[NDArray]) -> None:
        """Put a snapshot's weights back."""
        with torch.no_grad():
            for weight, value in zip(self.model.parameters(), snapshot, strict=True):
                weight.copy_(torch.from_numpy(value))


def weighted_loss(
    logits: torch.Tensor, labels: torch.Tensor, loss_weights: torch.Tensor, label_smoothing: float
) -> torch.Tensor:
    """Cross-entropy in fp32, summed with `loss_weights`; labels and weights have the logits' shape less classes."""
    losses = cross_entropy(
        logits.float().flatten(0, -2), labels.flatten(), reduction="none", label_smoothing=label_smoothing
    )
    return (losses * loss_weights.flatten()).sum()


def clip_gradients(weights: list[torch.Tensor], max_grad_norm: float | None) -> torch.Tensor:
    """Scale all gradients so that their global norm is at most `max_grad_norm`; returns the norm before."""
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    grad_norm = torch.nn.utils.get_total_norm(gradients)
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
