"""One page over all reports: a line each, the newest first, with the three answers."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from pydantic import ValidationError

from pipeline.comparison.results import SCHEMA_VERSION, Headline
from pipeline.reporting.formatting import date
from pipeline.reporting.sentences import Finding, answers
from pipeline.reporting.writer import environment
from pipeline.utils.errors import UserError
from pipeline.utils.files import atomic_write, reason
from pipeline.utils.text import one_line, shorten

MAX_SENTENCE = 160
# Their headlines have the same form.
READABLE_SCHEMAS = (1, 2, SCHEMA_VERSION)
# How an index is recognized before it is replaced; written by every version.
MARK = '<meta name="generator" content="twinstep gallery">'


@dataclass(frozen=True)
class Entry:
    """One report on the page, or what is wrong with it."""

    title: str
    link: str
    created: str
    answers: dict[str, Finding]
    broken: Finding | None = None


def write_index(folder: Path = Path("reports")) -> Path:
    """Write <folder>/index.html over <folder>/*/results.json; returns its path.

    A report that cannot be read is named on the page. Raises UserError if the page cannot be written, or if it would
    replace a page of another kind.
    """
    page = folder / "index.html"
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; name the folder that holds the reports")
    if page.exists() and not _is_index(page):
        raise UserError(f"{page} is not an index of reports; move it away, or name another folder")
    template = environment("html").get_template("index.html")
    text = template.render(entries=entries(folder), folder=folder.name or str(folder), mark=MARK)
    try:
        with atomic_write(page) as file:
            file.write(text)
    except OSError as error:
        raise UserError(f"{page} cannot be written: {reason(error)}") from error
    return page


def _is_index(page: Path) -> bool:
    try:
        return page.is_file() and MARK in page.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def entries(folder: Path) -> list[Entry]:
    """An entry for every report, the newest first, broken ones last."""
    # Folders that begin with a dot are reports that are being written.
    paths = sorted(path for path in folder.glob("*/results.json") if not path.parent.name.startswith("."))
    read = [_read(path) for path in paths]
    whole = sorted((pair for pair in read if pair[1].broken is None), key=lambda pair: pair[0], reverse=True)
    return [entry for _, entry in whole] + [entry for _, entry in read if entry.broken]


def _read(path: Path) -> tuple[str, Entry]:
    """The time to sort by, and the entry."""
    folder = path.parent
    # A name need not be text.
    link = f"{quote(os.fsencode(folder.name))}/report.html" if (folder / "report.html").is_file() else ""
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        if results["schema"] not in READABLE_SCHEMAS:
            known = " or ".join(map(str, READABLE_SCHEMAS))
            return "", _broken(folder, link, f"its schema is {results['schema']!r}, but must be {known}")
        headline = Headline.model_validate(results["headline"])
        shortened = {question: _shortened(answer) for question, answer in answers(headline).items()}
        created = str(results["created"])
        return created, Entry(str(results["recipe"]), link, date(created), shortened)
    except (KeyError, TypeError, ValidationError) as error:
        why = f"results.json is not that of a report: {type(error).__name__} {one_line(error)}"
        return "", _broken(folder, link, why)
    except (OSError, ValueError, RecursionError) as error:
        return "", _broken(folder, link, f"results.json cannot be read: {error}")


def _shortened(answer: Finding) -> Finding:
    return Finding(answer.state, answer.word, shorten(answer.sentence, MAX_SENTENCE))


def _broken(folder: Path, link: str, why: str) -> Entry:
    return Entry(folder.name, link, "", {}, Finding("bad", "Broken", why))
