"""Which models take another attention, and which class a name stands for: the same in both frameworks."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from pipeline.utils.errors import UserError, did_you_mean

SUPPORTED = {"bert": "BERT encoders", "gpt2": "GPT-2 decoders", "t5": "T5 encoders and decoders"}
PROJECTIONS = ("query", "key", "value", "out")


def unsupported(config) -> list[str]:
    """Reasons why a model of this transformers config cannot be swapped; empty where there are none.

    Each names the field, what it is, and what was wanted.
    """
    if config.model_type not in SUPPORTED:
        return [f'model_type is "{config.model_type}", not one of: {", ".join(SUPPORTED)}']
    return list(_unsupported_fields(config))


def _unsupported_fields(config) -> Iterator[str]:
    wanted = {
        "bert": {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False},
        # TensorFlow's stock GPT-2 ignores the first three, so the two frameworks would part.
        "gpt2": {
            "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False,
            "reorder_and_upcast_attn": False,
            "add_cross_attention": False,
        },
        "t5": {},
    }
    for field, value in wanted[config.model_type].items():
        if getattr(config, field, value) != value:
            yield f"{field} is {getattr(config, field)!r}, wanted {value!r}"
    if any(config.pruned_heads.values()):
        yield f"pruned_heads is {config.pruned_heads}, wanted none"
    # Only PyTorch models have one; None there means that the model is not built yet.
    implementation = getattr(config, "_attn_implementation", None)
    if implementation not in (None, "eager", "sdpa"):
        yield f'attn_implementation is "{implementation}", wanted "eager" or "sdpa"'


def refuse_unsupported(model) -> None:
    """Raise UserError, with every reason, unless the model's attention can be swapped."""
    config = getattr(model, "config", None)
    if not hasattr(config, "model_type"):
        raise UserError(f"swap_attention: {type(model).__name__} has no config: not a transformers model")
    if reasons := unsupported(config):
        raise UserError(
            f"swap_attention: {type(model).__name__} is not supported: {'; '.join(reasons)}. "
            f"Supported: {', '.join(SUPPORTED.values())}, without the options named here."
        )


def attention_class(attention, handwritten: type) -> type:
    """The class that `attention` means: "handwritten", "package.module:ClassName", or a class itself.

    Raises UserError where the name leads nowhere.
    """
    if isinstance(attention, type):
        return attention
    if attention == "handwritten":
        return handwritten
    module_name, colon, class_name = str(attention).partition(":")
    is_a_name = all(part.isidentifier() for part in module_name.split("."))
    if not (colon and is_a_name and class_name):
        wanted = '"handwritten" or "package.module:ClassName"'
        hint = did_you_mean(attention, ["handwritten"])
        raise UserError(f'attention is "{attention}", wanted {wanted}.{hint}')
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        message = f'attention is "{attention}", but {module_name} cannot be imported: {error}'
        raise UserError(message) from error
    found = getattr(module, class_name, None)
    if not isinstance(found, type):
        classes = [name for name, value in vars(module).items() if isinstance(value, type)]
        hint = did_you_mean(class_name, classes)
        raise UserError(f'attention is "{attention}", but {module_name} has no class {class_name}.{hint}')
    return found


def new_attention(cls: type, **arguments):
    """Make one attention, and check that it is one; `arguments` are those of `MultiHeadAttention`.

    Raises UserError where the class has another constructor or lacks a projection that the swap must fill.
    """
    try:
        attention = cls(**arguments)
    except TypeError as error:
        raise UserError(
            f"attention {cls.__name__} cannot be made with {', '.join(arguments)} "
            f"(the constructor of MultiHeadAttention): {error}"
        ) from error
    if missing := [name for name in PROJECTIONS if not hasattr(attention, name)]:
        raise UserError(
            f"attention {cls.__name__} has no {', '.join(missing)}: the trained weights go into its "
            f"projections {', '.join(PROJECTIONS)}"
        )
    return attention


def refuse_arguments(family: str, **arguments) -> None:
    """Raise UserError for a call-time argument that a swapped model does not serve."""
    if given := [name for name, value in arguments.items() if value is not None]:
        names = ", ".join(given)
        raise UserError(f"{family} with swapped attention does not take {names}; call the stock model")
