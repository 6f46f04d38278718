"""Commands that take a finished run to where it is used: export, deployment, push.

Each configures the process, then imports.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.app import app, tell
from pipeline.cli.options import Debug, RunFolder
from pipeline.utils.environment import configure_process
from pipeline.utils.text import escape_controls


class Weights(StrEnum):
    """What the weights of an export can be turned into."""

    int8 = "int8"


@app.command()
def export(
    run: RunFolder,
    formats: Annotated[
        str, typer.Option("--format", help="pt2 onnx savedmodel litert torchscript aoti; several, separated by spaces.")
    ] = "onnx",
    quantize: Annotated[Weights | None, typer.Option(help="Turn the weights into 8-bit integers.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where the exports' folders go; by default exports/.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace exports that are there.")] = False,
    debug: Debug = False,
) -> None:
    """Convert a finished run for other runtimes, and prove that they answer as it does."""
    tell(configure_process())
    from pipeline.deploy.export import export_run

    exports = export_run(
        run,
        formats.split(),
        quantize=None if quantize is None else "int8",
        out=out,
        overwrite=overwrite,
        on_event=_progress,
    )
    for each in exports:
        proof, manifest = each.manifest.proof, each.manifest
        assert proof is not None, "a finished export has been proved"
        size = f"{manifest.model_bytes / 2**20:.2f} MB"
        if manifest.quantization:
            size += f" ({manifest.model_bytes / manifest.full_bytes:.0%} of fp32)"
        kind = f"{manifest.format}{f' {manifest.quantization}' if manifest.quantization else ''}"
        print(f"{kind:<16}{size}, largest difference {proof.largest_difference:.1e}, agreement {proof.agreement:.2%}")
        print(f"{'':<16}{proof.rows} validation rows in {proof.runtime}: {escape_controls(str(each.path))}")


@app.command()
def deployment(
    run: RunFolder,
    formats: Annotated[
        str | None, typer.Option("--format", help="Formats, separated by spaces; by default all that there are.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The report's folder; by default in reports/deployment.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Make few repeats, and leave out torch.compile.")] = False,
    debug: Debug = False,
) -> None:
    """Measure a finished run in every export format, and eager execution beside graphs; write a report."""
    tell(configure_process())
    from pipeline.deploy.manifest import PORTABLE_FORMATS
    from pipeline.deploy.report.content import answers
    from pipeline.deploy.report.deployment import deployment_report

    names = list(PORTABLE_FORMATS) if formats is None else formats.split()
    report = deployment_report(run, names, out=out, quick=quick, on_event=_progress)
    for question, answer in answers(report.results).items():
        print(escape_controls(f"{question} {answer.word}. {answer.sentence}"))
    print(f"{'report':<21}{escape_controls(str(report.path / 'report.html'))}")


@app.command()
def push(
    run: RunFolder,
    repo: Annotated[str, typer.Option(metavar="USER/NAME", help="The repository of the Hub that is made.")],
    private: Annotated[bool, typer.Option("--private", help="Let nobody else read it.")] = False,
    report: Annotated[
        Path | None,
        typer.Option(help="The report that the card shows; by default the newest in reports/."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Add a commit if the repository exists.")] = False,
    debug: Debug = False,
) -> None:
    """Upload the model of a finished run to the Hub, with its card and its recipe."""
    tell(configure_process())
    from pipeline.deploy.hub import push_run

    print(escape_controls(push_run(run, repo, private=private, report=report, overwrite=overwrite)))


def _progress(text: str) -> None:
    print(text, file=sys.stderr)
