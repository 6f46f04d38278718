"""What a run tells while it runs. The base class says nothing; `pipeline.terminal` has the one that a person sees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.rundir import Run


class Progress:
    """Silent progress."""

    def started(self, num_updates: int, num_epochs: int) -> None:
        """Training begins."""

    def update(self, line: dict[str, Any]) -> None:
        """One optimiser update is done; `line` is its line of history.jsonl."""

    def evaluated(self, epoch: int, metrics: dict[str, float]) -> None:
        """Validation was scored after an epoch."""

    def trained(self) -> None:
        """The last update is done."""

    def finished(self, run: Run) -> None:
        """The run directory is complete."""

    def already_done(self, run: Run) -> None:
        """A finished run of the same recipe was found."""
