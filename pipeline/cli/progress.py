"""What a person sees of a training on the command line: its progress, the results, and the next command."""

from __future__ import annotations

from rich.console import Console

from pipeline.runs.directory import Run
from pipeline.training.callbacks import PrintedProgress


class TerminalProgress(PrintedProgress):
    """The progress of a command, on standard output."""

    how_to_repeat = "--overwrite (OVERWRITE=1)"

    def __init__(self, title: str, console: Console | None = None, next_command: str = "", has_bar: bool = True):
        super().__init__(title, console or Console(highlight=False), has_bar)
        self.next_command = next_command

    def show(self, run: Run) -> None:
        super().show(run)
        if self.next_command:
            self.print(f"Next: {self.next_command}")
