"""THE interface between the rest and a framework; loads one lazily by name.

What crosses it is NumPy: batches go in as dicts of arrays, weights and logits come out as arrays. `pipeline.pytorch`
and `pipeline.tensorflow` each offer the names below, from files of the same names;
PyTorch has one more, of modules that are exchanged for quicker ones.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from pipeline.data.batches import Features
from pipeline.utils.environment import without_native_noise
from pipeline.utils.errors import UserError, did_you_mean

FRAMEWORKS = {"torch": "pipeline.pytorch", "tensorflow": "pipeline.tensorflow"}
Framework = Literal["torch", "tensorflow"]


@dataclass(frozen=True)
class StepReport:
    """What one optimiser update reports: `step` from 1, the global batch's loss, the gradient norm before clipping.

    `parts` is into how many micro-batches it was split: gradient_accumulation, or more where memory was short.
    """

    step: int
    loss: float
    grad_norm: float
    parts: int


class Learner(Protocol):
    """A model in training."""

    def fit(
        self,
        epochs: Sequence[Iterable[Features]],
        on_step: Callable[[StepReport], None],
        on_epoch: Callable[[int], bool],
        start: tuple[int, int] = (0, 0),
    ) -> None:
        """Train on each epoch's updates; `on_epoch` is told the epoch from 1 and returns True to stop.

        `start` counts the updates and whole epochs that are done already; `epochs` has what remains. While `on_step`
        or `on_epoch` is called, `state` is that of the update just reported. An update for which memory is short is
        done again in twice as many micro-batches, and so are those that follow. Raises RunFailure where one example
        is too much.
        """

    def logits(self, inputs: Features) -> NDArray:
        """Logits of one batch in evaluation mode, float32; those of spans are [B, 2, T], padding hidden."""

    def token_losses(self, inputs: Features, labels: NDArray) -> tuple[NDArray, NDArray]:
        """Each label's cross-entropy in nats and each position's likeliest id, both [B, T], in evaluation mode."""

    def generate(self, inputs: Features, settings: dict[str, Any]) -> NDArray:
        """Token ids [B, T] that the model writes; `settings` has max_new_tokens, num_beams and length_penalty."""

    def copy_weights(self) -> list[NDArray]:
        """A copy of the model's present weights."""

    def restore_weights(self, snapshot: list[NDArray]) -> None:
        """Put a snapshot's weights back."""

    def state(self) -> dict[str, NDArray]:
        """All that the next update depends on: weights, the optimiser's moments, random generators, "step", "parts"."""

    def load_state(self, arrays: dict[str, NDArray]) -> None:
        """Put back what `state` gave: what follows is bit-identical to what would have followed."""


class Backend(Protocol):
    """What a framework's package offers."""

    name: str

    def build_model(self, auto_class: str, config: Any, precision: str, seed: int) -> Any:
        """A model of the Auto class with unset weights, random generators seeded. Raises UserError."""

    def weight_shapes(self, model: Any) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the stock model's weights in the PyTorch layout, tied ones once."""

    def get_weights(self, model: Any) -> dict[str, NDArray]:
        """Copies of the stock model's weights in the PyTorch layout."""

    def set_weights(self, model: Any, weights: dict[str, NDArray]) -> None:
        """Set every weight of the stock model."""

    def freeze(self, model: Any, patterns: Iterable[str]) -> list[str]:
        """Exclude the stock weights whose names match a shell-style pattern from training; returns their names."""

    def read_pickle(self, file: str) -> dict[str, NDArray]:
        """The tensors of a checkpoint pickled by PyTorch, and nothing else of it. Raises UserError."""

    def logits(self, model: Any, batch: Features) -> NDArray:
        """Logits of one batch, eagerly, in evaluation mode, float32."""

    def attention_weights(self, model: Any, batch: Features) -> NDArray:
        """Attention weights of one text, eagerly, in evaluation mode: [layers, heads, T, S]; T5: its encoder's."""

    def Learner(self, model: Any, settings: Any, rates: NDArray, loss: str = "cross_entropy") -> Learner:
        """A learner with the recipe's `train` settings, the learning rate of every update, and the task's loss."""

    def swap_attention(self, model: Any, attention: str) -> int:
        """Replace the stock attention; returns the number of sites."""

    def restore_attention(self, model: Any) -> int:
        """Put the stock attention back with the trained weights; returns the number of sites."""

    def attention_calls(self, model: Any) -> list[int]:
        """How often each swapped site was called."""

    def versions(self) -> dict[str, str]:
        """Versions and device of the framework."""


def load_backend(framework: str) -> Backend:
    """Import a framework's package and return it. Raises UserError if it is unknown or not installed."""
    if framework not in FRAMEWORKS:
        raise UserError(
            f'framework is "{framework}", but there are: {", ".join(FRAMEWORKS)}.{did_you_mean(framework, FRAMEWORKS)}'
        )
    for package in ("torch", "accelerate") if framework == "torch" else ("tensorflow", "tf_keras"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"framework {framework}: {package} is not installed; pip install '.[{framework}]'")
    with without_native_noise():
        return importlib.import_module(FRAMEWORKS[framework])
