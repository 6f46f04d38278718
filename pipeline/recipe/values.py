"""The types of a recipe's values: lists as tuples, paths as text."""

from __future__ import annotations

import os
from typing import Annotated, Any

from pydantic import BeforeValidator


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _as_text(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


# YAML and JSON have lists where a recipe has tuples.
LIST = BeforeValidator(_as_tuple)
Names = Annotated[tuple[str, ...], LIST]
PathText = Annotated[str, BeforeValidator(_as_text)]
