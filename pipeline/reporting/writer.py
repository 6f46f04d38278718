"""The report of a comparison: one page that stands alone, the same as Markdown, the numbers, and the figures as PNG."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from pipeline.reporting.content import facts, sections
from pipeline.reporting.figures import pictures
from pipeline.reporting.findings import answers, notices
from pipeline.reporting.formatting import date
from pipeline.utils.errors import UserError
from pipeline.utils.files import json_safe, staged_folder, write_json
from pipeline.utils.text import shorten, visible, visible_lines

Results = dict[str, Any]
FILES = {"report.html", "report.md", "results.json", "figures"}


def write_report(results: Results, folder: Path) -> None:
    """Write report.html, report.md, results.json and figures/*.png into `folder`, all or nothing.

    An older report there is replaced. Raises UserError where the folder holds something else.
    """
    refuse_unless_report(folder)
    results = json_safe(results)
    try:
        with staged_folder(folder) as staging:
            (staging / "figures").mkdir()
            drawn = pictures(results)
            # The page first: its figures are then those that `html` draws, laid out once.
            (staging / "report.html").write_text(_page(results, drawn), encoding="utf-8")
            for picture in drawn:
                picture.save_png(staging / "figures")
            (staging / "report.md").write_text(_markdown(results, drawn), encoding="utf-8")
            write_json(staging / "results.json", results)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}", arguments=("out",)) from error


def refuse_unless_report(folder: Path) -> None:
    """Raise UserError unless `folder` is missing, empty or an older report that may be replaced."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{folder} is a file; choose a folder for the report with out", arguments=("out",))
    names = {entry.name for entry in folder.iterdir()}
    strange = sorted(names - FILES)
    if not strange and (folder / "figures").is_dir():
        strange = sorted(f"figures/{f.name}" for f in (folder / "figures").iterdir() if f.suffix != ".png")
    if strange or (names and names != FILES):
        what = f" ({strange[0]})" if strange else ""
        raise UserError(
            f"{folder} holds something that is not a report{what}; choose another folder with out", arguments=("out",)
        )


def html(results: Results) -> str:
    """The whole report as one page that needs neither network nor scripts."""
    results = json_safe(results)
    return _page(results, pictures(results))


def markdown(results: Results) -> str:
    """The report's answers and tables for a pull request."""
    results = json_safe(results)
    return _markdown(results, pictures(results))


@cache
def environment(escaping: str) -> Environment:
    """Templates whose every value is made visible and escaped, for "html" or "markdown"."""
    finalize = _for_html if escaping == "html" else _for_markdown
    made = Environment(
        loader=PackageLoader("pipeline.reporting"),
        autoescape=escaping == "html",
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["lines"] = lambda text: Markup(escape(visible_lines(text)))
    made.filters["fenced"] = _fenced
    made.filters["brief"] = lambda text: shorten(text, 200)
    made.filters["raw"] = Markup
    made.globals["css"] = Markup(made.loader.get_source(made, "style.css")[0])
    return made


def _page(results: Results, drawn: list) -> str:
    return environment("html").get_template("report.html").render(**_content(results, drawn))


def _markdown(results: Results, drawn: list) -> str:
    text = environment("markdown").get_template("report.md").render(**_content(results, drawn))
    return re.sub(r"\n{3,}", "\n\n", text)


def _content(results: Results, drawn: list) -> dict[str, Any]:
    return {
        "results": results,
        "created": date(results["created"]),
        "facts": facts(results),
        "answers": answers(results),
        "notices": notices(results),
        "sections": sections(results),
        "pictures": drawn,
    }


def _for_html(found: Any) -> Any:
    return visible(found) if isinstance(found, str) and not isinstance(found, Markup) else found


def _for_markdown(found: Any) -> Any:
    """Text that Markdown takes as text, also inside a table's cell."""
    if not isinstance(found, str) or isinstance(found, Markup):
        return found
    text = re.sub(r"([\\`*|\[\]~$])", r"\\\1", visible(found))
    # An underscore inside a word is one; elsewhere it is emphasis.
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _fenced(text: Any) -> Markup:
    """A code block whose fence is longer than any in the text."""
    shown = visible_lines(text)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", shown)), default=0))
    return Markup(f"{fence}text\n{shown}\n{fence}")
