"""A drawn figure of a report, with its words: inline SVG for the page, and PNG."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from pipeline.reporting.drawing import svg
from pipeline.utils.drawing import plain_texts


@dataclass(frozen=True)
class Picture:
    """A drawn figure with its caption and what it shows in words."""

    name: str
    section: str
    title: str
    caption: str
    description: str
    figure: Figure

    def svg(self) -> str:
        """An inline SVG element with its text alternative."""
        return svg.inline(self.figure, self.name, self.title, self.description)

    def numbers(self) -> list[tuple[int, str]]:
        """What the figure says under the pointer, each with the number of its variant, or 0."""
        return svg.numbers(self.figure)

    def save_png(self, folder: Path) -> None:
        """Write <folder>/<name>.png on white."""
        with plain_texts():
            self.figure.savefig(folder / f"{self.name}.png", dpi=200, facecolor="white")
