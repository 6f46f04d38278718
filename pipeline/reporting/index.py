"""One page over all reports: a line each, the newest first; of a comparison with the answers of its first screen."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from pydantic import ValidationError

from pipeline.comparison.results import READABLE_SCHEMAS, Headline, Statement
from pipeline.reporting.elements import Finding
from pipeline.reporting.first_screen import answers
from pipeline.reporting.formatting import date
from pipeline.reporting.writer import environment
from pipeline.runs.record import RunIdentity
from pipeline.utils.errors import UserError
from pipeline.utils.files import atomic_write, reason
from pipeline.utils.text import one_line, shorten

MAX_SENTENCE = 160
# Headlines of earlier schemas: the questions, and the words for the states of their answers.
EARLIER_SCHEMAS = (1, 2, 3)
EARLIER_QUESTIONS = {
    "same": ("Did they do the same thing?", {"good": "Yes", "unknown": "Not settled", "bad": "No"}),
    "speed": (
        "Which was faster, and by how much?",
        {"good": "Measured", "unknown": "Not settled", "bad": "Not comparable"},
    ),
    "memory": (
        "What did it cost in memory?",
        {"good": "Measured", "unknown": "Not settled", "bad": "Not comparable"},
    ),
}


class Place(NamedTuple):
    """Where reports of a kind lie in the folder of all reports: their results, and the page beside them."""

    pattern: str
    page: str = "report.html"


PLACES = (
    Place("*/results.json"), Place("deployment/*/*/results.json"), Place("*/tour.json", "tour.html"),
    Place("*/sweep.json", "sweep.html"),
)  # fmt: skip
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
    """Write <folder>/index.html over all reports in <folder>, of every kind; returns its path.

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
    found = sorted((path, place.page) for place in PLACES for path in folder.glob(place.pattern))
    # Folders that begin with a dot are reports that are being written.
    read = [_read(path, folder, page) for path, page in found if not path.parent.name.startswith(".")]
    whole = sorted((pair for pair in read if pair[1].broken is None), key=lambda pair: pair[0], reverse=True)
    return [entry for _, entry in whole] + [entry for _, entry in read if entry.broken]


def _read(path: Path, reports: Path, page: str) -> tuple[str, Entry]:
    """The time to sort by, and the entry."""
    folder = path.parent
    # A name need not be text.
    link = f"{quote(os.fsencode(folder.relative_to(reports)))}/{page}" if (folder / page).is_file() else ""
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        if title := _title_of_another_kind(path.name, results):
            created = str(results["created"])
            return created, Entry(title, link, date(created), {})
        if results["schema"] in EARLIER_SCHEMAS:
            found = _earlier_answers(results["headline"])
        elif results["schema"] in READABLE_SCHEMAS:
            found = answers(Headline.model_validate(results["headline"]))
        else:
            known = " or ".join(map(str, (*EARLIER_SCHEMAS, *READABLE_SCHEMAS)))
            return "", _broken(folder, link, f"its schema is {results['schema']!r}, but must be {known}")
        shortened = {question: _shortened(answer) for question, answer in found.items()}
        created = str(results["created"])
        return created, Entry(str(results["recipe"]), link, date(created), shortened)
    except (KeyError, TypeError, ValidationError) as error:
        why = f"{path.name} is not that of a report: {type(error).__name__} {one_line(error)}"
        return "", _broken(folder, link, why)
    except (OSError, ValueError, RecursionError) as error:
        return "", _broken(folder, link, f"{path.name} cannot be read: {error}")


def _title_of_another_kind(name: str, results: dict[str, object]) -> str:
    """What a report that is no comparison is called; "" for a comparison."""
    if name == "tour.json":
        return "Tour of both frameworks"
    if name == "sweep.json":
        return f"Sweep of {results['recipe']}"
    if "formats" in results and "run" in results:
        run = RunIdentity.model_validate(results["run"])
        return f"Deployment of {run.label}"
    return ""


def _earlier_answers(headline: dict[str, object]) -> dict[str, Finding]:
    found = {}
    for kind, (question, words) in EARLIER_QUESTIONS.items():
        answer = Statement.model_validate(headline[kind])
        found[question] = Finding(answer.state, words[answer.state], answer.sentence)
    return found


def _shortened(answer: Finding) -> Finding:
    return Finding(answer.state, answer.word, shorten(answer.sentence, MAX_SENTENCE))


def _broken(folder: Path, link: str, why: str) -> Entry:
    return Entry(folder.name, link, "", {}, Finding("bad", "Broken", why))
