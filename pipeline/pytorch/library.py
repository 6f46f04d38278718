"""What differs between versions 4.57 and 5 of transformers, for this folder; each difference with its reason.

All other code is the same for both. Whether the library has a thing is asked of the library, not of its version number,
since some changed within version 5. TensorFlow needs no such file: its models ended with version 4.
"""

# T query tokens · S key tokens

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, EncoderDecoderCache, GenerationConfig, PreTrainedModel
from transformers.modeling_outputs import Seq2SeqModelOutput


def _first(*names: str) -> Any:
    """The first module of these that the library has, None without one."""
    return next((importlib.import_module(name) for name in names if importlib.util.find_spec(name)), None)


# Version 5 has it in a module of its own.
no_init_weights = _first("transformers.initialization", "transformers.modeling_utils").no_init_weights
# What records `output_attentions` in version 5, where models no longer do so by themselves.
_output_capturing = _first("transformers.utils.output_capturing")

# What models call the keys and values of earlier tokens, as argument and in their outputs: 5.24 renamed it.
CACHE = "cache" if "cache" in {field.name for field in dataclasses.fields(Seq2SeqModelOutput)} else "past_key_values"
# Whether the library ties weights by a table of their names, as in version 5, rather than each model in its own way.
_HAS_TABLE_OF_TIED_WEIGHTS = hasattr(PreTrainedModel, "get_expanded_tied_weights_keys")
# Whether a cache is told how many tokens it will get, and not, as in 4.57, their positions.
_COUNTS_NEW_TOKENS = "query_length" in inspect.signature(Cache.get_mask_sizes).parameters


def tie_weights(model: Any) -> None:
    """Have the weights of a model that are the same be one tensor; the output matrix only if its config says so.

    In version 5 a config without tied output leaves the other weights apart too, such as the embeddings of an encoder
    and a decoder, and a T5 always ties its output when it is asked.
    """
    if not _HAS_TABLE_OF_TIED_WEIGHTS or model.config.tie_word_embeddings:
        model.tie_weights()
        return
    model.config.tie_word_embeddings = True
    try:
        model.tie_weights()
    finally:
        model.config.tie_word_embeddings = False
    output = model.get_output_embeddings()
    if output is not None and output.weight is model.get_input_embeddings().weight:
        output.weight = nn.Parameter(output.weight.detach().clone())


@contextlib.contextmanager
def settings_of_caller_only(model: Any, options: dict[str, Any]) -> Iterator[None]:
    """Have `model.generate(**options)` in the block take no setting of the checkpoint, but the caller's alone.

    4.57 replaces settings that equal the library's own defaults, unless told not to; version 5 those that are not set.
    """
    if "use_model_defaults" in inspect.signature(model.generate).parameters:
        options["use_model_defaults"] = False
        yield
        return
    before, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = before


def install_recorders(model: PreTrainedModel) -> None:
    """Have version 5 put its hooks for `output_attentions` on the stock attention, which a swap then takes over.

    Else it would do so in the first call that asks, when the attention of its own classes may be gone.
    """
    if _output_capturing is None:
        return
    bodies = [module for module in model.modules() if isinstance(module, PreTrainedModel)]
    # The innermost ones, as the library does: it would put them there a second time for a model around one.
    for body in bodies:
        if not any(isinstance(part, PreTrainedModel) for part in body.modules() if part is not body):
            _output_capturing.maybe_install_capturing_hooks(body)


def asks_for_attention() -> bool:
    """Whether attention weights are recorded in the current call, which the models of version 5 may not pass on."""
    collector: Any = getattr(_output_capturing, "_active_collector", None)
    if collector is None:
        return False
    # torch.compile cannot read a context variable; for it the library keeps a global one.
    collected = collector.global_var if torch.compiler.is_compiling() else collector.get()
    return "attentions" in (collected or {})


def hidden_states_of(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    """What a layer computes: in most layers of version 5 its output, in 4.57 the first of its outputs."""
    return output[0] if isinstance(output, tuple) else output


def additive(mask: Any, num_keys: int) -> Any:
    """What a mask [..., S] adds to the scores, None for None.

    Version 5 passes masks of true and false for a fused attention, where 4.57 passed what is added.
    """
    if mask is None:
        return None
    mask = mask[..., :num_keys]
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=torch.float32).masked_fill(~mask, torch.finfo(torch.float32).min)


def num_keys_after(cache: Cache | EncoderDecoderCache, positions_T: Tensor, layer: int) -> int:
    """How many keys S a layer of a cache has once it got those of T new tokens."""
    new: Any = positions_T.shape[0] if _COUNTS_NEW_TOKENS else positions_T
    return cache.get_mask_sizes(new, layer)[0]
