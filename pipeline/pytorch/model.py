"""Models in PyTorch: built through transformers' Auto classes, weights in and out as NumPy."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from transformers.modeling_utils import no_init_weights

from pipeline.data.batches import Features
from pipeline.models.optimization import matching
from pipeline.utils.errors import UserError


def build_model(auto_class: str, config: Any, precision: str, seed: int) -> torch.nn.Module:
    """A model of the Auto class in fp32 with unset weights, random generators seeded.

    `precision` is the learner's business here (autocast). Raises UserError where the family has no such head.
    """
    torch.manual_seed(seed)
    try:
        with no_init_weights():
            model = getattr(transformers, auto_class).from_config(config, dtype=torch.float32)
    except ValueError as error:
        raise UserError(f'a checkpoint of type "{config.model_type}" has no {auto_class} in PyTorch') from error
    model.tie_weights()  # without initialisation the library leaves output and input embeddings apart
    return model


def weight_shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the stock model's weights, tied ones once."""
    return {name: tuple(weight.shape) for name, weight in model.named_parameters()}


def get_weights(model: torch.nn.Module) -> dict[str, NDArray[np.float32]]:
    """Copies of the stock model's weights, tied ones once."""
    return {name: weight.detach().float().cpu().numpy().copy() for name, weight in model.named_parameters()}


def set_weights(model: torch.nn.Module, weights: dict[str, NDArray]) -> None:
    """Set every weight of the stock model; names and shapes are those of `weight_shapes`."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(torch.from_numpy(weights[name]))


def freeze(model: torch.nn.Module, patterns: Iterable[str]) -> list[str]:
    """Exclude the weights whose names match a pattern from training. Raises UserError for a pattern without match."""
    frozen, idle = matching(list(weight_shapes(model)), tuple(patterns))
    if idle:
        raise UserError(f'train.freeze: "{idle[0]}" matches no weight; names look like {list(weight_shapes(model))[0]}')
    if len(frozen) == len(weight_shapes(model)):
        raise UserError("train.freeze leaves nothing to train")
    for name, weight in model.named_parameters():
        weight.requires_grad_(name not in frozen)
    return sorted(frozen)


def read_pickle(file: str) -> dict[str, NDArray[np.float32]]:
    """The tensors of a pickled checkpoint; anything else in it is refused, not run. Raises UserError."""
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        return {name: tensor.float().numpy() for name, tensor in state.items()}
    except (pickle.UnpicklingError, RuntimeError, EOFError, AttributeError, ValueError, KeyError) as error:
        cause = " ".join(str(error).split())[:200]
        raise UserError(f"{file} holds something else than tensors, or is torn, and was not run: {cause}") from error


def logits(model: torch.nn.Module, batch: Features) -> NDArray[np.float32]:
    """Logits of one batch, eagerly, in evaluation mode, float32."""
    model.eval()
    inputs = {key: torch.from_numpy(value).to(model.device, torch.int64) for key, value in batch.items()}
    with torch.inference_mode():
        return head_logits(model(**inputs)).cpu().numpy()


def head_logits(outputs: Any) -> torch.Tensor:
    """What a head says, in fp32: [B, classes], [B, T, classes], or of spans the starts and ends, [B, 2, T]."""
    if "start_logits" in outputs:
        return torch.stack((outputs.start_logits, outputs.end_logits), dim=1).float()
    return outputs.logits.float()


def attention_weights(model: torch.nn.Module, batch: Features) -> NDArray[np.float32]:
    """Attention weights of one text, eagerly, in evaluation mode: [layers, heads, T, S]; T5: its encoder's."""
    model.eval()
    reader = model.get_encoder() if model.config.is_encoder_decoder else model
    inputs = {key: torch.from_numpy(value).to(model.device, torch.int64) for key, value in batch.items()}
    with torch.inference_mode():
        layers = reader(**inputs, output_attentions=True).attentions
    return np.stack([weights[0].float().cpu().numpy() for weights in layers])


def versions() -> dict[str, str]:
    """Versions, threads and device of the framework."""
    return {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": str(torch.get_num_threads()),
    }
