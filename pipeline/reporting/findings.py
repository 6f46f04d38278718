"""What a report is made of: findings with a state, tables of words, and the answers of the first screen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Finding:
    """A cell or line with a state: "good", "unknown" or "bad", the word for it and what is to be said."""

    state: str
    word: str
    sentence: str = ""


@dataclass(frozen=True)
class Table:
    """Rows in groups; the first cell of a row is its heading, the columns after `texts` hold numbers."""

    title: str
    columns: list[str]
    groups: dict[str, list[list[str | Finding]]]
    note: str = ""
    texts: int = field(default=1, kw_only=True)

    def __bool__(self) -> bool:
        return any(self.groups.values())

    @property
    def is_list(self) -> bool:
        """Whether it is a list of terms with what is said of each, rather than columns to compare."""
        return len(self.columns) == self.texts == 2


Results = dict[str, Any]
WORDS = {
    "same": {"good": "Yes", "unknown": "Not settled", "bad": "No"},
    "speed": {"good": "Measured", "unknown": "Not settled", "bad": "Not comparable"},
    "memory": {"good": "Measured", "unknown": "Not settled", "bad": "Not comparable"},
    "notice": {"good": "Note", "unknown": "Caution", "bad": "Fault"},
    "verdict": {"good": "Equivalent", "unknown": "Not settled", "bad": "Different"},
    "check": {"good": "Same", "unknown": "Not settled", "bad": "Different"},
}
QUESTIONS = {
    "same": "Did they do the same thing?",
    "speed": "Which was faster, and by how much?",
    "memory": "What did it cost in memory?",
}


def answers(results: Results) -> dict[str, Finding]:
    """The three questions with their answers."""
    headline = results["headline"]
    return {QUESTIONS[kind]: finding(kind, headline[kind]) for kind in QUESTIONS}


def notices(results: Results) -> list[Finding]:
    """What a reader must know besides, the worst first."""
    found = [finding("notice", notice) for notice in results["headline"]["notices"]]
    return sorted(found, key=lambda notice: ("bad", "unknown", "good").index(notice.state))


def finding(kind: str, found: dict[str, str]) -> Finding:
    """A state and sentence with the word that goes with it."""
    return Finding(found["state"], WORDS[kind][found["state"]], found["sentence"])
