"""The interface between the frameworks and all other code, and the loader that imports one framework by name.

All of it is in NumPy: batches go in as dicts of arrays, weights and logits come out as arrays. `pipeline.pytorch`
and `pipeline.tensorflow` each offer the names of `Backend`, from files of the same names.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from pipeline.data.batches import Features
from pipeline.distributed.channel import Channel
from pipeline.distributed.ranks import Ranks
from pipeline.recipe.schema import Train
from pipeline.utils.environment import without_native_noise, without_variable_of_torch
from pipeline.utils.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from transformers import PretrainedConfig

FRAMEWORKS = {"torch": "pipeline.pytorch", "tensorflow": "pipeline.tensorflow"}
Framework = Literal["torch", "tensorflow"]
# The kinds of Transformers.
Architecture = Literal["encoder", "decoder", "encoder-decoder"]
# What else people call them.
_OTHER_NAMES = {"pytorch": "torch", "pt": "torch", "tf": "tensorflow", "keras": "tensorflow"}


@dataclass(frozen=True)
class StepReport:
    """One optimizer step: its number from 1, the loss of its batch, and the gradient norm before clipping.

    `micro_batches` is the number of pieces that the batch was split into: the recipe's gradient_accumulation, or more
    if memory ran short. `stop_asked` is whether one of several ranks was asked to stop; all ranks report the same.
    `compilations` is how many graphs the learner has compiled, or recorded on a GPU, up to this step.
    `attention_implementation` is what computed the stock attention; None for another one, and in TensorFlow.
    """

    step: int
    loss: float
    grad_norm: float
    micro_batches: int
    stop_asked: bool = False
    compilations: int = 0
    attention_implementation: str | None = None


class GenerationSettings(TypedDict):
    """How a model writes text: as many tokens at most, with as many beams, which a penalty compares by length."""

    max_new_tokens: int
    num_beams: int
    length_penalty: float


class WrittenGraph(NamedTuple):
    """A model that was written as a graph: NumPy's type of its inputs, its outputs, its size with weights in fp32."""

    input_type: str
    output_names: tuple[str, ...]
    full_bytes: int
    # If it keeps keys and values in an array [2 * layers, B, heads, P, width]: the first, third and last size.
    past: tuple[int, ...] = ()


@dataclass(frozen=True)
class Adapter:
    """The update of one projection: the name of its module in the stock PyTorch model, and A and B at the start.

    `site` is that of its dropout in shared masks. `reads_source` marks a projection in a decoder of what the encoder
    computed.
    """

    module: str
    first: NDArray[np.float32]
    second: NDArray[np.float32]
    scale: float
    dropout: float
    site: int
    reads_source: bool


# Is called with the next token of each text, [B], as soon as it is written; what it raises ends the writing.
OnToken = Callable[[NDArray], None]


class Model(Protocol):
    """A transformers model of either framework; only the framework's package knows more of it."""

    @property
    def config(self) -> PretrainedConfig:
        """Its configuration."""
        ...


class Predictor(Protocol):
    """A model that predicts, in evaluation mode. It holds nothing that only training needs."""

    def logits(self, inputs: Features) -> NDArray:
        """The logits of one batch, float32: [B, classes], [B, T, classes], or starts and ends of spans, [B, 2, T].

        A large negative number is added to the logits of spans where there is padding, unless the predictor was made
        with `optimize=False`.
        """
        ...

    def token_losses(self, inputs: Features, targets: Features) -> tuple[NDArray, NDArray]:
        """Each label's cross-entropy in nats and each position's likeliest token id, both [B, T].

        `targets` are those of a task; where `loss_weights` are 0, neither means anything.
        """
        ...

    def generate(self, inputs: Features, settings: GenerationSettings, on_token: OnToken | None = None) -> NDArray:
        """Token ids [B, T] that the model writes; `on_token`, which needs num_beams=1, gets each as it is written."""
        ...


class Learner(Predictor, Protocol):
    """A model in training, which predicts between steps."""

    def fit(
        self,
        epochs: Sequence[Iterable[Features]],
        on_step: Callable[[StepReport], None],
        on_epoch: Callable[[int], bool],
        start: tuple[int, int] = (0, 0),
        example: Features | None = None,
    ) -> None:
        """Train on each epoch's batches, a step for each.

        `on_step` is called after each step, and `on_epoch` after each epoch with its number from 1; training ends if
        it returns True. During both, `state` is the state after the step just reported. `start` is the number of steps
        and of whole epochs that are done already; `epochs` has what remains. A step that runs out of memory is done
        again with twice as many micro-batches, and so are the steps after it. Raises RunFailure if there is not enough
        memory for a single example.

        If the recipe compiles its steps, what is compiled once for all sizes is compiled for `example`, or for the
        first batch: code for another one rounds in another way. Raises UserError if it cannot be compiled.
        """
        ...

    def copy_weights(self) -> list[NDArray]:
        """A copy of the model's current weights; if the recipe trains updates of low rank, of the trained ones."""
        ...

    def restore_weights(self, weights: list[NDArray]) -> None:
        """Put back the weights that `copy_weights` returned."""
        ...

    def state(self) -> dict[str, NDArray]:
        """All that the next step depends on: weights, the optimizer's moments, counts, and random generators.

        The keys are "weights.I", as of `copy_weights`, "optimizer.I.NAME", "step" and "parts", the number of
        micro-batches, and "random.NAME" if dropout masks are not shared.
        """
        ...

    def load_state(self, arrays: dict[str, NDArray]) -> None:
        """Continue from what `state` returned: what follows is equal to the bit."""
        ...


class Group(Protocol):
    """The ranks that train together, over which a learner sums gradients and losses in one exchange a step."""

    ranks: Ranks

    def leave(self) -> None:
        """Close the connections to the other ranks."""
        ...


class Backend(Protocol):
    """What a framework's package offers."""

    name: str
    MODES: tuple[str, ...]

    def build_model(
        self, auto_class: str, config: PretrainedConfig, precision: str, seed: int, implementation: str | None = None
    ) -> Model:
        """A model of the Auto class with unset weights; the framework's random generators are seeded.

        `implementation` is that of the library which computes the stock attention; None is the usual one. Raises
        UserError if the family has no such head, or the implementation cannot be used.
        """
        ...

    def architecture(self, model: Model) -> str:
        """The name of the stock PyTorch class: "BertForSequenceClassification"."""
        ...

    def weight_shapes(self, model: Model) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the stock model's weights in the PyTorch layout, tied ones once."""
        ...

    def get_weights(self, model: Model) -> dict[str, NDArray]:
        """Copies of the stock model's weights in the PyTorch layout."""
        ...

    def set_weights(self, model: Model, weights: dict[str, NDArray]) -> None:
        """Set every weight of the stock model."""
        ...

    def add_adapters(self, model: Model, adapters: Iterable[Adapter]) -> None:
        """Give projections of the stock model updates of low rank, in place.

        A and B are weights of the model from then on: "MODULE.lora_A" [in, rank] and "MODULE.lora_B" [rank, out].
        """
        ...

    def freeze(self, model: Model, patterns: Iterable[str]) -> list[str]:
        """Exclude the stock weights whose names match a shell-style pattern from training; returns their names.

        Raises UserError for a pattern that matches no weight, and if nothing is left to train.
        """
        ...

    def read_pickle(self, file: str) -> dict[str, NDArray]:
        """The tensors of a checkpoint pickled by PyTorch, and nothing else in it. Raises UserError."""
        ...

    def attention_weights(self, model: Model, batch: Features) -> NDArray:
        """Attention weights of one text in evaluation mode, [layers, heads, T, S].

        Of an encoder-decoder model they are those of its encoder, or, if the batch has `decoder_input_ids`, those with
        which its decoder reads the encoder: T tokens that are written, S that are read.
        """
        ...

    def Predictor(self, model: Model, precision: str = "fp32", optimize: bool = True) -> Predictor:
        """A predictor for the model, which may be changed to be faster: other modules, another device.

        With `optimize=False` the model stays as and where it is, each operation runs by itself, and the padding of
        spans is not hidden.
        """
        ...

    def Learner(
        self,
        model: Model,
        settings: Train,
        learning_rates: NDArray,
        loss: str = "cross_entropy",
        group: Group | None = None,
    ) -> Learner:
        """A learner with the recipe's `train` settings, the learning rate of every step, and the task's loss.

        With a group, each rank gives its learner its share of each batch, and all learners take the same steps.
        """
        ...

    def Group(self, channel: Channel, stop_asked: Callable[[], bool]) -> Group:
        """The ranks of the channel, connected; `stop_asked` is asked in each step."""
        ...

    def swap_attention(self, model: Model, attention: str) -> int:
        """Replace the stock attention; returns the number of sites."""
        ...

    def restore_attention(self, model: Model) -> int:
        """Put the stock attention back with the trained weights; returns the number of sites."""
        ...

    def attention_calls(self, model: Model) -> list[int]:
        """How often each swapped site was called."""
        ...

    def write_graph(
        self, model: Model, format: str, path: Path, input_names: Sequence[str], quantize: bool = False
    ) -> WrittenGraph:
        """Write the stock model in one of the framework's export formats, with int8 weights if `quantize`.

        `input_names` are those of its batches; number of rows and length stay open.
        """
        ...

    def write_writer(self, model: Model, path: Path, settings: GenerationSettings) -> WrittenGraph:
        """Write a stock model that writes texts in the framework's format for these: ONNX, or a SavedModel.

        Number of rows and length stay open.
        """
        ...

    def execution(
        self, model: Model, mode: str, example: Features, settings: Train | None = None
    ) -> Callable[[Features], NDArray]:
        """A function that computes one batch of the stock model in one of `MODES`, for measurements.

        It makes a forward pass in evaluation mode and returns the logits, or, with `settings`, a training step, which
        moves the weights, and returns the loss. A graph is traced with `example`, now or at the first call; raises
        what the framework does if it cannot be.
        """
        ...

    def preserved_generators(self) -> AbstractContextManager[None]:
        """Restore the framework's random generators after the block, which `build_model` seeds and training uses."""
        ...

    def threads(self, number: int | None) -> contextlib.AbstractContextManager[None]:
        """Compute with this many threads in the block; results depend on it in the last digits. None changes nothing.

        TensorFlow can change the number only before it has computed anything, and keeps it after the block.
        """
        ...

    def deterministic(self, wanted: bool) -> AbstractContextManager[None]:
        """If it is wanted, a GPU computes the same bits each time in the block, which some operations do slower.

        TensorFlow goes on so after the block.
        """
        ...

    def eager_execution(self, asked: bool) -> AbstractContextManager[None]:
        """With `asked`, run each operation by itself in the block: a debugger stops in a model, and sees numbers.

        Nothing is compiled or traced to a graph; results differ in the last digits.
        """
        ...

    def versions(self) -> dict[str, str]:
        """Versions and device of the framework."""
        ...


def framework_problem(framework: object) -> str | None:
    """What is wrong with the name of a framework."""
    if not isinstance(framework, str):
        return f"framework is {framework!r}, but must be one of {', '.join(FRAMEWORKS)}"
    if framework in FRAMEWORKS:
        return None
    meant = _OTHER_NAMES.get(framework.lower())
    hint = f' Did you mean "{meant}"?' if meant else did_you_mean(framework, FRAMEWORKS)
    return f'framework is "{framework}", but must be one of {", ".join(FRAMEWORKS)}.{hint}'


def load_backend(framework: str) -> Backend:
    """Import a framework's package and return it. Raises UserError if it is unknown or not installed."""
    if problem := framework_problem(framework):
        raise UserError(problem)
    for package in ("torch", "accelerate") if framework == "torch" else ("tensorflow", "tf_keras"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"framework {framework}: {package} is not installed; pip install '.[{framework}]'")
    with without_native_noise(), without_variable_of_torch():
        return cast(Backend, importlib.import_module(FRAMEWORKS[framework]))
