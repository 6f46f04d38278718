"""Takes the picture of a report's first screen, with the scores below it, that the main README shows.

    python -m tests.helpers.first_screen reports/sentiment_bert recipes/bundled/sentiment/report.png

It needs Chromium.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image

from tests.helpers.browser import browser

WIDTH = 1100


def take(report: Path, picture: Path) -> None:
    """Write the beginning of report.html, down to the end of its first plot, as a PNG of few colors."""
    with tempfile.TemporaryDirectory() as profile, browser(Path(profile)) as page:
        page.open(report / "report.html", WIDTH, 800)
        end = page.evaluate("document.querySelector('figure svg').getBoundingClientRect().bottom")
        page.open(report / "report.html", WIDTH, round(end))
        page.screenshot(picture)
    with Image.open(picture) as image:
        few_colors = image.convert("RGB").quantize(128)
    few_colors.save(picture, optimize=True)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit((__doc__ or "").strip())
    take(Path(sys.argv[1]), Path(sys.argv[2]))
