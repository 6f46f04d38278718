"""What a report is made of: findings, which are statements with a state, and tables."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.comparison.records.base import State
from pipeline.comparison.results import Statement

WORDS: dict[str, dict[State, str]] = {
    "notice": {"good": "Note", "unknown": "Caution", "bad": "Fault"},
    "verdict": {"good": "Equivalent", "unknown": "Not settled", "bad": "Different"},
    "check": {"good": "Same", "unknown": "Not settled", "bad": "Different"},
}


@dataclass(frozen=True)
class Finding:
    """A cell or line of a report with a state: the word for it, and what there is to say."""

    state: State
    word: str
    sentence: str = ""


Cell = str | Finding


@dataclass(frozen=True)
class Table:
    """Rows in groups; the first cell of a row is its heading, and the columns after `num_texts` hold numbers."""

    title: str
    columns: list[str]
    groups: dict[str, list[list[Cell]]]
    note: str = ""
    num_texts: int = field(default=1, kw_only=True)
    is_folded: bool = field(default=False, kw_only=True)
    """Whether only its title is seen until a reader opens it."""

    def __bool__(self) -> bool:
        return any(self.groups.values())

    @property
    def num_rows(self) -> int:
        """How many rows all of its groups have."""
        return sum(map(len, self.groups.values()))

    @property
    def is_list(self) -> bool:
        """Whether it is a list of terms with a text for each, rather than columns to compare."""
        return len(self.columns) == self.num_texts == 2


def finding(kind: str, statement: Statement) -> Finding:
    """A statement with the word for its state."""
    return Finding(statement.state, WORDS[kind][statement.state], statement.sentence)
