"""The tour's prose: titles, explanations for a newcomer, and what is stated without being measured, from words.toml."""

from __future__ import annotations

import tomllib
from importlib import resources

from pipeline.runs.record import Record
from pipeline.tour.results import Fact


class Words(Record):
    """What words.toml holds; keys are the names of the tour's sections."""

    titles: dict[str, str]
    leads: dict[str, str]
    points: dict[str, dict[str, str]]
    ecosystem: str
    """What follows from the facts."""
    facts: list[Fact]


WORDS = Words.model_validate(tomllib.loads((resources.files("pipeline.tour") / "words.toml").read_text("utf-8")))


def heading(section: str) -> tuple[str, str]:
    """The title of a section and what it begins with."""
    return WORDS.titles[section], WORDS.leads.get(section, "")
