"""Writes the report of a comparison: one HTML page, the same as Markdown, results.json, and the figures as PNG."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from pipeline.comparison.results import Results
from pipeline.reporting import tables
from pipeline.reporting.content import Section, facts, sections, variant_terms
from pipeline.reporting.drawing.picture import Picture
from pipeline.reporting.elements import Finding, Table
from pipeline.reporting.figures import pictures
from pipeline.reporting.first_screen import answers, notices, with_headline, write_headline
from pipeline.reporting.formatting import date
from pipeline.utils.errors import UserError
from pipeline.utils.files import reason, staged_folder, write_json
from pipeline.utils.text import shorten, visible, visible_lines


class Names(NamedTuple):
    """What the files of a report are called, beside its folder `figures`."""

    page: str = "report.html"
    markdown: str = "report.md"
    results: str = "results.json"


REPORT = Names()


@dataclass(frozen=True)
class Content:
    """What a report says, for HTML and Markdown alike: the first screen with its answers, if any, then sections."""

    kind: str
    heading: str
    created: str
    facts: str
    answers: dict[str, Finding]
    sections: list[Section]
    notices: list[Finding] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    summary: list[Table] = field(default_factory=list)
    """Tables of the Markdown that are seen before anything is opened."""
    side_by_side: Table | None = None
    """A table of the page that is seen on its first screen."""
    terms: str = ""
    """What the words mean that all of it uses."""
    toggles: list[str] = field(default_factory=list)
    """The variants that a reader can hide in the figures."""
    names: Names = REPORT


def write_report(results: Results, folder: Path) -> None:
    """Write report.html, report.md, results.json and figures/*.png into `folder`, all or nothing.

    An older report there is replaced. Raises UserError if the folder holds something else.
    """
    refuse_unless_report(folder)
    results = with_headline(results)
    write_pages(folder, content_of(results, pictures(results)), results.to_json())


def write_pages(folder: Path, content: Content, results: Mapping[str, object]) -> None:
    """Write the files of a report, all or nothing; an older report there is replaced. Raises UserError."""
    names = content.names
    refuse_unless_report(folder, names)
    try:
        with staged_folder(folder) as staging:
            (staging / "figures").mkdir()
            # The page first: its figures are then those that `html` draws, laid out once.
            (staging / names.page).write_text(html_page(content), encoding="utf-8")
            for picture in content.pictures:
                picture.save_png(staging / "figures")
            (staging / names.markdown).write_text(markdown_page(content), encoding="utf-8")
            write_json(staging / names.results, results)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {reason(error)}", arguments=("out",)) from error


def refuse_unless_report(folder: Path, own: Names = REPORT) -> None:
    """Raise UserError unless `folder` is missing, empty or an older report that may be replaced."""
    files = {*own, "figures"}
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{folder} is a file; choose a folder for the report with out", arguments=("out",))
    names = {entry.name for entry in folder.iterdir()}
    strange = sorted(names - files)
    if not strange and (folder / "figures").is_dir():
        strange = sorted(f"figures/{f.name}" for f in (folder / "figures").iterdir() if f.suffix != ".png")
    if strange or (names and names != files):
        what = f" ({strange[0]})" if strange else ""
        raise UserError(
            f"{folder} holds something that is not a report{what}; choose another folder with out", arguments=("out",)
        )


def html(results: Results) -> str:
    """The whole report as one page that needs neither network nor scripts."""
    return html_page(content_of(results, pictures(results)))


def markdown(results: Results) -> str:
    """The report's answers and tables for a pull request."""
    return markdown_page(content_of(results, pictures(results)))


def html_page(content: Content) -> str:
    """The content of a report as one page that needs neither network nor scripts."""
    return environment("html").get_template("report.html").render(vars(content))


def markdown_page(content: Content) -> str:
    """The content of a report for a pull request."""
    text = environment("markdown").get_template("report.md").render(vars(content))
    return re.sub(r"\n{3,}", "\n\n", text)


def content_of(results: Results, drawn: list[Picture]) -> Content:
    """What the report of a comparison says."""
    headline, summary = results.headline or write_headline(results), tables.summary(results)
    return Content(
        kind="comparison",
        heading=results.recipe,
        created=date(results.created),
        facts=facts(results),
        terms=variant_terms(results),
        answers=answers(headline),
        notices=notices(headline),
        sections=sections(results),
        pictures=drawn,
        summary=[summary],
        side_by_side=summary if results.compares_recipes else None,
        toggles=[variant.name for variant in results.variants],
    )


@cache
def environment(escaping: str) -> Environment:
    """Templates whose every value is made visible and escaped, for "html" or "markdown"."""
    loader = PackageLoader("pipeline.reporting")
    finalize = _for_html if escaping == "html" else _for_markdown
    templates = Environment(
        loader=loader,
        autoescape=escaping == "html",
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters["lines"] = lambda text: Markup(escape(visible_lines(text)))
    templates.filters["fenced"] = _fenced
    templates.filters["brief"] = lambda text: shorten(text, 200)
    templates.filters["raw"] = Markup
    templates.globals["css"] = Markup(loader.get_source(templates, "style.css")[0])
    return templates


def _for_html(content: object) -> object:
    return visible(content) if isinstance(content, str) and not isinstance(content, Markup) else content


def _for_markdown(content: object) -> object:
    """Text that Markdown takes as text, also inside a table's cell."""
    if not isinstance(content, str) or isinstance(content, Markup):
        return content
    text = re.sub(r"([\\`*|\[\]~$])", r"\\\1", visible(content))
    # An underscore inside a word stays one; elsewhere it would be emphasis.
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _fenced(text: object) -> Markup:
    """A code block whose fence is longer than any in the text."""
    shown = visible_lines(text)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", shown)), default=0))
    return Markup(f"{fence}text\n{shown}\n{fence}")
