"""What a person sees of a finished comparison or sweep: the answers, and where the report lies."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from pipeline.reporting.first_screen import answers, notices, write_headline
from pipeline.reporting.formatting import score
from pipeline.utils.text import visible

if TYPE_CHECKING:
    from pipeline.api import Comparison
    from pipeline.sweeps.sweep import Sweep

_STYLES = {"good": "green", "unknown": "yellow", "bad": "red"}


def show_comparison(comparison: Comparison) -> None:
    """The answers, the notices, the means of the first metric, and where the report lies."""
    results = comparison.results
    headline = results.headline or write_headline(results)
    for question, answer in answers(headline).items():
        asked = question if question.endswith("?") else f"{question}:"
        _say(f"{asked} {answer.word}.", f"bold {_STYLES[answer.state]}")
        _say(f"  {answer.sentence}")
    for notice in notices(headline):
        _say(f"{notice.word}: {notice.sentence}", _STYLES[notice.state])
    for name, metric in list(results.metrics.items())[:1]:
        for variant, row in metric.variants.items():
            spread = "" if row.sd is None else f"  sd {score(row.sd, metric.scale)}"
            _say(f"{name} {variant}  {score(row.mean, metric.scale)}{spread}  n {row.n}")
    _say(f"report: {os.path.relpath(comparison.path / 'report.html')}")


def show_sweep(sweep: Sweep) -> None:
    """The answers, and where the best recipe and the report lie."""
    from pipeline.sweeps.content import answers
    from pipeline.sweeps.folder import BEST, REPORT

    for question, answer in answers(sweep.results).items():
        _say(f"{question} {answer.word}.", f"bold {_STYLES[answer.state]}")
        _say(f"  {answer.sentence}")
    _say(f"best recipe: {os.path.relpath(sweep.path / BEST)}")
    _say(f"report: {os.path.relpath(sweep.path / REPORT / 'sweep.html')}")


def _say(text: str, style: str = "") -> None:
    Console(highlight=False).print(Text(visible(text), style=style), soft_wrap=True)
