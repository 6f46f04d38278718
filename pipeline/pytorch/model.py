"""Models in PyTorch: built through transformers' Auto classes, weights in and out as NumPy.

`pipeline/tensorflow/model.py` has the same definitions in the same order.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import pickle
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils.import_utils import is_flash_attn_2_available

from pipeline.data.batches import Features
from pipeline.models.families import family_of
from pipeline.models.lora import BASE
from pipeline.models.optimization import matching
from pipeline.pytorch.library import FLASH, add_mask_once, no_init_weights, tie_weights
from pipeline.pytorch.sites import swapped_sites
from pipeline.utils.cores import short_openmp_waits, while_cores_are_missing
from pipeline.utils.errors import UserError
from pipeline.utils.text import one_line

# Whether `eager_execution` is asked for, so that nothing may be recorded.
RUNS_EACH_OPERATION = contextvars.ContextVar("RUNS_EACH_OPERATION", default=False)
# What a model class of the library calls whether it has an implementation of attention.
_SUPPORTS = {"sdpa": "_supports_sdpa", FLASH: "_supports_flash_attn"}


def build_model(
    auto_class: str, config: PretrainedConfig, precision: str, seed: int, implementation: str | None = None
) -> PreTrainedModel:
    """A model of the Auto class in fp32 with unset weights; PyTorch's random generators are seeded.

    `precision` is not used: in PyTorch it belongs to predicting and training (autocast). `implementation` is that of
    the library which computes the stock attention, by default the usual one of the family. Raises UserError if the
    family has no such head, or the implementation cannot be used.
    """
    torch.manual_seed(seed)
    if implementation is not None:
        refuse_implementation(auto_class, config, implementation)
    chosen = implementation or family_of(config).attention_implementation
    asked = {} if chosen is None else {"attn_implementation": chosen}
    try:
        with no_init_weights():
            model = getattr(transformers, auto_class).from_config(config, dtype=torch.float32, **asked)
    except Exception as error:  # the library raises what a setting of the config happens to break
        raise UserError(
            f'{auto_class} of type "{config.model_type}" cannot be built in PyTorch from this config.json: '
            f"{type(error).__name__}: {one_line(error)}"
        ) from error
    if chosen == "eager":
        add_mask_once(model)
    align_frameworks(model)
    return model


def align_frameworks(model: PreTrainedModel) -> None:
    """Change the library's model, in place, where it would not do what its config says or what TensorFlow's does."""
    tie_weights(model)  # else output and input embeddings stay separate, since initialization was skipped
    for module in model.modules():
        # Else the embedding of padding, which can be the first token of a text, would be trained in TensorFlow only.
        if isinstance(module, nn.Embedding):
            module.padding_idx = None


def refuse_implementation(auto_class: str, config: PretrainedConfig, implementation: str) -> None:
    """Raise UserError if the library or this machine cannot compute the attention in this way."""
    asked = f'train.attention_implementation is "{implementation}"'
    model_class: Any = getattr(transformers, auto_class)._model_mapping.get(type(config), None)
    if implementation != "eager" and not getattr(model_class, _SUPPORTS[implementation], False):
        name = getattr(model_class, "__name__", f"{auto_class} of a {config.model_type}")
        raise UserError(f"{asked}, which {name} does not have in transformers {transformers.__version__}; use eager")
    if implementation == FLASH and not is_flash_attn_2_available():
        raise UserError(
            f"{asked}, which needs a GPU and the package flash-attn, and this machine lacks one of them; with sdpa, "
            "PyTorch chooses among its own kernels, one of which is a flash attention on a GPU"
        )


def architecture(model: nn.Module) -> str:
    """The name of the stock PyTorch class, as in a checkpoint's config.json: "BertForSequenceClassification"."""
    return type(model).__name__


def weight_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the stock model's weights, tied ones once."""
    return {name: tuple(weight.shape) for name, weight in named_weights(model).items()}


def get_weights(model: nn.Module) -> dict[str, NDArray[np.float32]]:
    """Copies of the stock model's weights, tied ones once."""
    return {name: to_array(weight) for name, weight in named_weights(model).items()}


def set_weights(model: nn.Module, weights: dict[str, NDArray]) -> None:
    """Set every weight of the stock model; names and shapes are those of `weight_shapes`."""
    with torch.no_grad():
        for name, weight in named_weights(model).items():
            weight.copy_(torch.from_numpy(weights[name]))


def named_weights(model: nn.Module) -> dict[str, Tensor]:
    """The stock model's weights by name, tied ones once, with those that are never trained."""
    # Asked for its state_dict, a sharded model would give up the weights that it has put together.
    saved = {
        f"{path}.{name}".removeprefix(".")
        for path, module in model.named_modules()
        for name in module._buffers.keys() - module._non_persistent_buffers_set
    }
    weights = dict(model.named_parameters()) | {name: x for name, x in model.named_buffers() if name in saved}
    return {name.replace(f".{BASE}.", "."): weight for name, weight in weights.items()}


def to_array(weight: Tensor) -> NDArray[np.float32]:
    """A copy of a weight's value; all ranks call it for one of which each holds a part."""
    whole = weight.full_tensor() if isinstance(weight, DTensor) else weight
    # A copy first: of what NumPy has seen, FSDP could not free the memory.
    return whole.detach().float().cpu().clone().numpy()


def freeze(model: nn.Module, patterns: Iterable[str]) -> list[str]:
    """Exclude the weights whose names match a pattern from training; returns their names.

    Raises UserError for a pattern that matches no weight, and if nothing is left to train.
    """
    weights = named_weights(model)
    frozen, unmatched = matching(list(weights), tuple(patterns))
    if unmatched:
        raise UserError(f'train.freeze: "{unmatched[0]}" matches no weight; names look like {next(iter(weights))}')
    if len(frozen) == len(weights):
        raise UserError("train.freeze leaves nothing to train")
    freeze_weights(model, [weights[name] for name in frozen])
    return sorted(frozen)


def freeze_weights(module: nn.Module, weights: list[Tensor]) -> None:
    """Exclude some of a module's weights from training."""
    for weight in weights:
        weight.requires_grad_(False)


def read_pickle(file: str) -> dict[str, NDArray[np.float32]]:
    """The tensors of a pickled checkpoint; anything else in it is refused, not run. Raises UserError."""
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        return {name: tensor.float().numpy() for name, tensor in state.items()}
    except (pickle.UnpicklingError, RuntimeError, EOFError, AttributeError, ValueError, KeyError) as error:
        cause = " ".join(str(error).split())[:200]
        raise UserError(
            f"{file} is incomplete or holds something other than tensors; nothing in it was run: {cause}"
        ) from error


def head_logits(outputs: Any) -> Tensor:
    """The logits in fp32: [B, classes], [B, T, classes], or starts and ends of spans, [B, 2, T]."""
    if "start_logits" in outputs:
        return torch.stack((outputs.start_logits, outputs.end_logits), dim=1).float()
    return outputs.logits.float()


def attention_weights(model: Any, batch: Features) -> NDArray[np.float32]:
    """Attention weights of one text in evaluation mode; see `pipeline.backend.Backend`."""
    model.eval()
    is_cross = "decoder_input_ids" in batch
    reader = model.get_encoder() if model.config.is_encoder_decoder and not is_cross else model
    inputs = {key: torch.from_numpy(value).to(model.device, torch.int64) for key, value in batch.items()}
    layers: list[Tensor] = []

    def ask(attention: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        return args, kwargs | {"return_weights": True}

    def keep(attention: nn.Module, args: tuple[Any, ...], outputs: tuple[Any, ...]) -> None:
        if (args[1] is not None) == is_cross:
            layers.append(outputs[1])

    # By hooks of our own: which models and layers pass `output_attentions` on differs between versions of the library.
    with contextlib.ExitStack() as hooks, torch.inference_mode():
        for site in swapped_sites(model):
            attention: Any = getattr(site, "attention", site)
            hooks.enter_context(attention.register_forward_pre_hook(ask, with_kwargs=True))
            hooks.enter_context(attention.register_forward_hook(keep))
        reader(**inputs)
    return np.stack([weights[0].float().cpu().numpy() for weights in layers])


def random_generators(model: PreTrainedModel) -> dict[str, torch.Generator]:
    """The generators that training draws from, which in PyTorch are those of the process, one for each device."""
    on_gpus = torch.cuda.default_generators if torch.cuda.is_available() else ()
    return {"cpu": torch.default_generator} | {f"cuda.{i}": generator for i, generator in enumerate(on_gpus)}


@contextlib.contextmanager
def preserved_generators() -> Iterator[None]:
    """Restore the random generators of the process after the block: `build_model` seeds them, training draws."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        yield


@contextlib.contextmanager
def threads(number: int | None) -> Iterator[None]:
    """Compute with this many threads in the block; results depend on it in the last digits. None changes nothing.

    While other processes use cores that several threads need, those that wait for each other sleep at once.
    """
    before = torch.get_num_threads()
    threads = number or before
    torch.set_num_threads(threads)
    libraries = Path(torch.__file__).parent / "lib"
    watched = while_cores_are_missing(threads, lambda: short_openmp_waits(libraries))
    try:
        with watched if threads > 1 else contextlib.nullcontext():
            yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """If it is wanted, a GPU computes the same bits each time in the block; without, some kernels add in any order.

    An operation that has no such kernel raises PyTorch's RuntimeError.
    """
    if not wanted or not torch.cuda.is_available():
        yield
        return
    memory: Any = torch.utils.deterministic
    was_wanted, fills = torch.are_deterministic_algorithms_enabled(), memory.fill_uninitialized_memory
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for cuBLAS, when it is first used
    torch.use_deterministic_algorithms(True)
    memory.fill_uninitialized_memory = False  # it takes time, and nothing here reads what was not written
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was_wanted, warn_only=only_warns)
        memory.fill_uninitialized_memory = fills


@contextlib.contextmanager
def eager_execution(asked: bool) -> Iterator[None]:
    """With `asked`, run each operation by itself in the block, also of what is compiled, so that a debugger sees it."""
    before = RUNS_EACH_OPERATION.set(asked or RUNS_EACH_OPERATION.get())
    try:
        with torch.compiler.set_stance("force_eager") if asked else contextlib.nullcontext():
            yield
    finally:
        RUNS_EACH_OPERATION.reset(before)


def versions() -> dict[str, str]:
    """Versions, threads and device of the framework."""
    return {
        "torch": str(torch.__version__),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": str(torch.get_num_threads()),
    }
