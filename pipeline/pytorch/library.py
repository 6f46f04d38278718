"""What differs between versions 4.57 and 5 of transformers, for this folder; each difference with its reason.

What computes the library's attention is another in each version, and is watched here. All other code is the same for
both. Whether the library has a thing is asked of the library, not of its version number, since some changed within
version 5. TensorFlow needs no such file: its models ended with version 4.
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
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from transformers import Cache, EncoderDecoderCache, GenerationConfig, PreTrainedModel
from transformers.modeling_outputs import Seq2SeqModelOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


def _first(*names: str) -> Any:
    """The first module of these that the library has, None without one."""
    return next((importlib.import_module(name) for name in names if importlib.util.find_spec(name)), None)


# Version 5 has it in a module of its own.
no_init_weights = _first("transformers.initialization", "transformers.modeling_utils").no_init_weights
# What records `output_attentions` in version 5, where models no longer do so by themselves.
_output_capturing = _first("transformers.utils.output_capturing")

# PyTorch's own: a dropout with shared masks exchanges them while a module computes.
DROPOUT, FUSED_ATTENTION = functional.dropout, functional.scaled_dot_product_attention
# The library's name of the attention of the package flash-attn.
FLASH = "flash_attention_2"
# What models call the keys and values of earlier tokens, as argument and in their outputs: 5.24 renamed it.
CACHE = "cache" if "cache" in {field.name for field in dataclasses.fields(Seq2SeqModelOutput)} else "past_key_values"
# Whether the library ties weights by a table of their names, as in version 5, rather than each model in its own way.
_HAS_TABLE_OF_TIED_WEIGHTS = hasattr(PreTrainedModel, "get_expanded_tied_weights_keys")
# Whether a cache is told how many tokens it will get, and not, as in 4.57, their positions.
_COUNTS_NEW_TOKENS = "query_length" in inspect.signature(Cache.get_mask_sizes).parameters


def accepted(function: Any, **arguments: Any) -> dict[str, Any]:
    """Those of these arguments that a function has by name."""
    names = inspect.signature(function).parameters
    return {name: value for name, value in arguments.items() if name in names}


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


def is_recorder(hook: Any) -> bool:
    """Whether a hook is one of those, with which a module computes the same."""
    return _output_capturing is not None and getattr(hook, "__module__", None) == _output_capturing.__name__


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


def add_mask_once(model: nn.Module) -> None:
    """Have eager attention with a position bias get the mask in that bias, which all layers share, as in 4.57.

    Version 5 adds bias and mask to the scores in each layer. So it sums the gradients of the bias in another order, and
    after 50 steps the losses of a T5 differ by 3e-4.
    """
    for module in model.modules():
        compute_bias = getattr(module, "compute_bias", None)
        if compute_bias is not None and "past_seen_tokens" in inspect.signature(compute_bias).parameters:
            module.register_forward_pre_hook(_with_mask_in_bias, with_kwargs=True)


def _with_mask_in_bias(
    attention: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """The arguments of an attention, with the mask in the position bias; a bias that is given has it already.

    None leaves those of a swapped attention as they are, which does the same by itself.
    """
    mask, bias = kwargs.get("mask"), kwargs.get("position_bias")
    if mask is None or not hasattr(attention, "compute_bias"):
        return None
    if bias is None:
        bias = mask
        if attention.has_relative_attention_bias:
            cache = kwargs.get(CACHE)
            num_earlier = 0 if cache is None else cache.get_seq_length(attention.layer_idx)
            sizes = args[0].shape[1], mask.shape[-1]
            bias = attention.compute_bias(*sizes, device=mask.device, past_seen_tokens=num_earlier) + mask
    return args, kwargs | {"mask": None, "position_bias": bias}


def fit_causal_mask(attention: Any, num_keys: int) -> None:
    """Let a stock attention of a decoder take as many keys, also if the model has fewer positions.

    In 4.57 the eager attention cuts its causal mask from a buffer as wide as the longest text. A packed row may be
    wider.
    """
    buffer = getattr(attention, "bias", None)
    if buffer is not None and num_keys > buffer.shape[-1]:
        attention.bias = buffer.new_ones(num_keys, num_keys).tril()[None, None]


class AttentionCalls(TorchFunctionMode):
    """Counts within its block how often attention is computed by PyTorch's fused one and by flash-attn's."""

    def __init__(self):
        super().__init__()
        self.fused = self.flash = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count calls of the fused attention; call all functions as they are."""
        self.fused += func is FUSED_ATTENTION
        return func(*args, **kwargs or {})

    def __enter__(self) -> AttentionCalls:
        self.flash_function = ALL_ATTENTION_FUNCTIONS[FLASH]
        ALL_ATTENTION_FUNCTIONS[FLASH] = self.count_flash
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        ALL_ATTENTION_FUNCTIONS[FLASH] = self.flash_function
        super().__exit__(*error)

    def count_flash(self, *args: Any, **kwargs: Any) -> Any:
        """Count a call of flash-attn's attention."""
        self.flash += 1
        return self.flash_function(*args, **kwargs)

    def implementation(self, unfused: int, sites: int) -> str:
        """What computed the attention of a model with this number of sites, of which `unfused` were sdpa unfused."""
        counts = {"sdpa": self.fused, FLASH: self.flash, "unfused sdpa": unfused}
        found = [name for name, number in counts.items() if number]
        if sum(counts.values()) < sites:
            found.append("eager")
        return " and ".join(found)
