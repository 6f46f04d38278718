"""One page over all reports: a line each, the newest first, with the three answers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pipeline.reporting.findings import Finding, answers
from pipeline.reporting.formatting import date
from pipeline.reporting.writer import environment
from pipeline.utils.errors import UserError
from pipeline.utils.files import atomic_write
from pipeline.utils.text import shorten

MAX_SENTENCE = 160
MARK = '<meta name="generator" content="twinstep gallery">'


@dataclass(frozen=True)
class Entry:
    """A report's line, or what is wrong with it."""

    title: str
    link: str
    created: str
    answers: dict[str, Finding]
    broken: Finding | None = None


def write_gallery(folder: Path = Path("reports")) -> Path:
    """Write <folder>/index.html over <folder>/*/results.json; returns its path.

    A report that cannot be read is named on the page. Raises UserError where the page cannot be written, or would
    replace one that is not a gallery.
    """
    page = folder / "index.html"
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; name the folder that holds the reports")
    if page.exists() and MARK not in page.read_text(encoding="utf-8", errors="replace"):
        raise UserError(f"{page} is not a gallery of reports; move it away, or name another folder")
    found = entries(folder)
    text = (
        environment("html")
        .get_template("gallery.html")
        .render(entries=found, folder=folder.name or str(folder), mark=MARK)
    )
    try:
        with atomic_write(page) as file:
            file.write(text)
    except OSError as error:
        raise UserError(f"{page} cannot be written: {error.strerror}") from error
    return page


def entries(folder: Path) -> list[Entry]:
    """A line for every report, the newest first, broken ones last."""
    # Folders that begin with a dot are reports being written.
    paths = sorted(path for path in folder.glob("*/results.json") if not path.parent.name.startswith("."))
    read = [_read(path) for path in paths]
    whole = sorted((pair for pair in read if pair[1].broken is None), key=lambda pair: pair[0], reverse=True)
    return [entry for _, entry in whole] + [entry for _, entry in read if entry.broken]


def _read(path: Path) -> tuple[str, Entry]:
    """The time to sort by, and the line."""
    folder = path.parent
    link = f"{quote(folder.name)}/report.html" if (folder / "report.html").is_file() else ""
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        if results["schema"] != 1:
            return "", _broken(folder, link, f"its schema is {results['schema']!r}, not 1")
        found = {question: _short(answer) for question, answer in answers(results).items()}
        created: Any = results["created"]
        return str(created), Entry(f"{results['recipe']}", link, date(created), found)
    except (OSError, ValueError) as error:
        return "", _broken(folder, link, f"results.json cannot be read: {error}")
    except (KeyError, TypeError) as error:
        return "", _broken(folder, link, f"results.json is not that of a report: {type(error).__name__} {error}")


def _short(answer: Finding) -> Finding:
    return Finding(answer.state, answer.word, shorten(answer.sentence, MAX_SENTENCE))


def _broken(folder: Path, link: str, why: str) -> Entry:
    return Entry(folder.name, link, "", {}, Finding("bad", "Broken", why))
