"""The arguments and options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pipeline.backend import FRAMEWORKS, framework_problem
from pipeline.models.attention import ATTENTIONS, HANDWRITTEN, HANDWRITTEN_MODEL, NAMES, STOCK
from pipeline.recipe.loading import recipe_names
from pipeline.utils.errors import UserError, did_you_mean


def _known_framework(framework: str | None) -> str | None:
    """The framework as it is given. Raises UserError."""
    if framework is not None and (problem := framework_problem(framework)):
        raise UserError(problem)
    return framework


def named_folder(path: str) -> Path:
    """A folder as it is given. Raises UserError if its name is empty, as make passes RUN where it is left out."""
    if not path.strip():
        raise UserError("no run is named; name its directory (with make: RUN=runs/...)")
    return Path(path)


_NAMES = "|".join(FRAMEWORKS)


class Switch(StrEnum):
    """What is on or off."""

    on = "on"
    off = "off"


RecipeName = Annotated[
    str,
    typer.Argument(help="A name in recipes/, or the path of a .py or .yaml file.", autocompletion=recipe_names),
]
RunFolder = Annotated[Path, typer.Argument(parser=named_folder, metavar="RUN", help="The directory of a finished run.")]
ModelFolder = Annotated[
    Path, typer.Argument(parser=named_folder, metavar="RUN", help="The directory of a finished run or of an export.")
]
Framework = Annotated[str, typer.Option(metavar=_NAMES, callback=_known_framework, help="The framework that trains.")]
OwnFramework = Annotated[
    str | None, typer.Option(metavar=_NAMES, callback=_known_framework, help="The framework; by default the run's own.")
]
Attention = Annotated[str, typer.Option(help="stock, handwritten, handwritten-model, or module:Class of your own.")]
Architecture = Annotated[
    str,
    typer.Option(metavar="stock|handwritten", help="handwritten: all of the model, as --attention handwritten-model."),
]
Seed = Annotated[int, typer.Option(help="Seed of the batch order, new weights and dropout.")]
Processes = Annotated[int, typer.Option(help="How many processes train together; they share the threads.")]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key; repeatable.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
HubCode = Annotated[bool, typer.Option("--allow-hub-code", help="Let hub:NAME@REVISION metrics run their code.")]
Pickle = Annotated[bool, typer.Option("--allow-pickle", help="Let PyTorch read the tensors of pickled weights.")]
ReportFolder = Annotated[Path | None, typer.Option("--out", help="The report's folder; by default reports/<recipe>.")]


def attention_of(attention: str, architecture: str) -> str:
    """The attention that both options ask for together. Raises UserError."""
    if architecture == STOCK:
        return attention
    if architecture != HANDWRITTEN:
        hint = did_you_mean(architecture, ATTENTIONS)
        raise UserError(f'architecture is "{architecture}", but must be {" or ".join(ATTENTIONS)}.{hint}')
    if attention not in NAMES:
        raise UserError(
            f"architecture is handwritten, which has the hand-written attention, but attention is {attention}; leave "
            "one of them out",
            arguments=("architecture", "attention"),
        )
    return HANDWRITTEN_MODEL


def whole_numbers(text: str, option: str) -> list[int]:
    """ "0 1 2" as numbers. Raises UserError."""
    numbers = []
    for word in text.split():
        if not (word.isascii() and word.isdecimal()):
            raise UserError(f'{option} has "{word}", but needs whole numbers separated by spaces, as in "0 1 2"')
        numbers.append(int(word))
    return numbers
