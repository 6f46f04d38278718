"""What all records of a comparison's results share."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict


def _defined(number: object) -> object:
    return None if isinstance(number, float) and not math.isfinite(number) else number


Number = Annotated[float | None, BeforeValidator(_defined)]
State = Literal["good", "unknown", "bad"]


class Record(BaseModel):
    """A part of the results: immutable, and without keys that are not described."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, populate_by_name=True)


class PairAndSeed(Record):
    """Two variants in one seed."""

    first: str
    second: str
    seed: int
