"""Names of attentions, the classes that they stand for, and the models whose attention can be swapped.

Both frameworks read these rules from here. "handwritten-model" is the hand-written attention in a model whose whole
body is written by hand, too.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeVar

from pipeline.models.families import FAMILIES, family_of
from pipeline.models.transformer import MODEL_TYPE, transformer_problems
from pipeline.utils.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from transformers import PretrainedConfig

AttentionT = TypeVar("AttentionT")

STOCK, HANDWRITTEN, HANDWRITTEN_MODEL = "stock", "handwritten", "handwritten-model"
# What every family has, and what is compared unless a comparison says otherwise.
ATTENTIONS = (STOCK, HANDWRITTEN)
NAMES = (*ATTENTIONS, HANDWRITTEN_MODEL)
PROJECTIONS = ("query", "key", "value", "out")
SUPPORTED = ", ".join(family.title for family in FAMILIES.values())


def name_problem(attention: str) -> str | None:
    """What is wrong with the name of an attention: it must be one of NAMES or "module:Class"."""
    if attention in NAMES or ":" in attention:
        return None
    return (
        f'attention is "{attention}", but must be {", ".join(NAMES)} or module:Class.{did_you_mean(attention, NAMES)}'
    )


def is_ours(attention: str) -> bool:
    """Whether the attention is the one that is written by hand here, which must compute what the stock one does."""
    return attention in (HANDWRITTEN, HANDWRITTEN_MODEL)


def described(attention: str) -> str:
    """The attention of a run in words, such as "stock attention"."""
    return "handwritten model" if attention == HANDWRITTEN_MODEL else f"{attention} attention"


def supported(attention: str) -> str:
    """The families that can have this attention."""
    return FAMILIES[MODEL_TYPE].title if attention == HANDWRITTEN_MODEL else SUPPORTED


def attention_name(attention: str | type) -> str:
    """The name of an attention that may be given as a class: "module:Class" for a class that can be imported.

    Raises UserError for a class of a script or notebook, or one inside a function: a run could not be made again; and
    for what is neither a name nor a class.
    """
    if isinstance(attention, str):
        return attention
    if not isinstance(attention, type):
        raise UserError(
            f"attention is {attention!r}, but must be {', '.join(NAMES)}, or a class", arguments=("attention",)
        )
    module, name = attention.__module__, attention.__qualname__
    if module == "__main__" or not name.isidentifier():
        raise UserError(
            f"attention is the class {name} of {module}, which other processes cannot import; put it at the top level "
            f'of a module, and give the class or "module:{attention.__name__}"'
        )
    return f"{module}:{name}"


def unsupported(config: PretrainedConfig, attention: str = HANDWRITTEN) -> list[str]:
    """The reasons why a model of this transformers config cannot have this attention; empty if it can.

    Each names the field, its value, and the value that it must have.
    """
    if attention == HANDWRITTEN_MODEL and (problems := transformer_problems(config)):
        return problems
    if config.model_type not in FAMILIES:
        return [f'model_type is "{config.model_type}", not one of: {", ".join(FAMILIES)}']
    return list(_unsupported_fields(config))


def _unsupported_fields(config: PretrainedConfig) -> Iterator[str]:
    for name, value in family_of(config).swap_requires.items():
        if getattr(config, name, value) != value:
            yield f"{name} is {getattr(config, name)!r}, but must be {value!r}"
    pruned = getattr(config, "pruned_heads", {})  # which version 5 of transformers no longer knows
    if any(pruned.values()):
        yield f"pruned_heads is {pruned}, but must be empty"
    # Only PyTorch models have one; None there means that the model is not built yet.
    implementation = getattr(config, "_attn_implementation", None)
    if implementation not in (None, "eager", "sdpa"):
        yield f'attn_implementation is "{implementation}", but must be "eager" or "sdpa"'


def refuse_unsupported(model: object, attention: str | type) -> None:
    """Raise UserError, with every reason, unless the model can have this attention."""
    name = attention if isinstance(attention, str) else attention.__name__
    config = getattr(model, "config", None)
    if config is None or not hasattr(config, "model_type"):
        raise UserError(f"swap_attention: {type(model).__name__} has no config: not a transformers model")
    if reasons := unsupported(config, name):
        raise UserError(
            f"swap_attention: {type(model).__name__} is not supported: {'; '.join(reasons)}. "
            f"Supported: {supported(name)}, without the options named here."
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
        known = '"handwritten", "handwritten-model" or "package.module:ClassName"'
        hint = did_you_mean(attention, [HANDWRITTEN, HANDWRITTEN_MODEL])
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
