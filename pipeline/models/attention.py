"""Names of attentions, the classes that they stand for, and the models whose attention can be swapped.

Both frameworks read these rules from here.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeVar

from pipeline.models.families import FAMILIES, family_of
from pipeline.utils.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from transformers import PretrainedConfig

AttentionT = TypeVar("AttentionT")

STOCK, HANDWRITTEN = "stock", "handwritten"
ATTENTIONS = (STOCK, HANDWRITTEN)
PROJECTIONS = ("query", "key", "value", "out")
SUPPORTED = ", ".join(family.title for family in FAMILIES.values())


def name_problem(attention: str) -> str | None:
    """What is wrong with the name of an attention: it must be "stock", "handwritten" or "module:Class"."""
    if attention in ATTENTIONS or ":" in attention:
        return None
    return (
        f'attention is "{attention}", but must be {", ".join(ATTENTIONS)} or module:Class.'
        f"{did_you_mean(attention, ATTENTIONS)}"
    )


def attention_name(attention: str | type) -> str:
    """The name of an attention that may be given as a class: "module:Class" for a class that can be imported.

    Raises UserError for a class of a script or notebook, or one inside a function: a run could not be made again.
    """
    if not isinstance(attention, type):
        return attention
    module, name = attention.__module__, attention.__qualname__
    if module == "__main__" or not name.isidentifier():
        raise UserError(
            f"attention is the class {name} of {module}, which other processes cannot import; put it at the top level "
            f'of a module, and give the class or "module:{attention.__name__}"'
        )
    return f"{module}:{name}"


def unsupported(config: PretrainedConfig) -> list[str]:
    """The reasons why a model of this transformers config cannot be swapped; empty if it can.

    Each names the field, its value, and the value that it must have.
    """
    if config.model_type not in FAMILIES:
        return [f'model_type is "{config.model_type}", not one of: {", ".join(FAMILIES)}']
    return list(_unsupported_fields(config))


def _unsupported_fields(config: PretrainedConfig) -> Iterator[str]:
    for name, value in family_of(config).swap_requires.items():
        if getattr(config, name, value) != value:
            yield f"{name} is {getattr(config, name)!r}, but must be {value!r}"
    if any(config.pruned_heads.values()):
        yield f"pruned_heads is {config.pruned_heads}, but must be empty"
    # Only PyTorch models have one; None there means that the model is not built yet.
    implementation = getattr(config, "_attn_implementation", None)
    if implementation not in (None, "eager", "sdpa"):
        yield f'attn_implementation is "{implementation}", but must be "eager" or "sdpa"'


def refuse_unsupported(model: object) -> None:
    """Raise UserError, with every reason, unless the model's attention can be swapped."""
    config = getattr(model, "config", None)
    if config is None or not hasattr(config, "model_type"):
        raise UserError(f"swap_attention: {type(model).__name__} has no config: not a transformers model")
    if reasons := unsupported(config):
        raise UserError(
            f"swap_attention: {type(model).__name__} is not supported: {'; '.join(reasons)}. "
            f"Supported: {SUPPORTED}, without the options named here."
        )


def attention_class(attention: str | type, handwritten: type) -> type:
    """The class that `attention` names: "handwritten", "package.module:ClassName", or a class itself.

    Raises UserError if there is no such class.
    """
    if isinstance(attention, type):
        return attention
    if attention == HANDWRITTEN:
        return handwritten
    module_name, colon, class_name = str(attention).partition(":")
    is_a_name = all(part.isidentifier() for part in module_name.split("."))
    if not (colon and is_a_name and class_name):
        known = '"handwritten" or "package.module:ClassName"'
        hint = did_you_mean(attention, [HANDWRITTEN])
        raise UserError(f'attention is "{attention}", but must be {known}.{hint}')
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        message = f'attention is "{attention}", but {module_name} cannot be imported: {error}'
        raise UserError(message) from error
    cls = getattr(module, class_name, None)
    if not isinstance(cls, type):
        classes = [name for name, value in vars(module).items() if isinstance(value, type)]
        hint = did_you_mean(class_name, classes)
        raise UserError(f'attention is "{attention}", but {module_name} has no class {class_name}.{hint}')
    return cls


def new_attention(cls: type[AttentionT], **arguments: object) -> AttentionT:
    """Make an attention, and check that it is one; `arguments` are those of `MultiHeadAttention`.

    Raises UserError if the class has another constructor or lacks a projection that the swap must fill.
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


def refuse_arguments(family: str, **arguments: object) -> None:
    """Raise UserError for an argument of a call that a swapped model does not support."""
    if given := [name for name, value in arguments.items() if value is not None]:
        names = ", ".join(given)
        raise UserError(f"{family} with swapped attention does not take {names}; call the stock model")
