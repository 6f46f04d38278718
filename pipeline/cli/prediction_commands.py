"""Commands that use a finished run: predict, attention-maps. Each configures the process, then imports."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.app import add_former_name, app, configure_for, continue_in_python_of
from pipeline.cli.options import Debug, ModelFolder, Overwrite, OwnFramework, RunFolder, Settings
from pipeline.cli.prediction_files import input_lines, prediction_writer, refuse_output
from pipeline.recipe.overrides import parse_overrides
from pipeline.recipe.schema import Recipe
from pipeline.recipe.values import text_encoding
from pipeline.utils.environment import configure_process
from pipeline.utils.errors import UserError
from pipeline.utils.text import count, escape_controls

if TYPE_CHECKING:
    from pipeline.runs.prediction import Opened


@app.command()
def predict(
    run: ModelFolder,
    text: Annotated[str | None, typer.Option(help="One text, or one JSON object.")] = None,
    source: Annotated[str | None, typer.Option("--input", help="A file of JSON or text lines; - for stdin.")] = None,
    framework: OwnFramework = None,
    settings: Settings = None,
    out: Annotated[Path | None, typer.Option(help="Where JSON lines go; by default standard output.")] = None,
    overwrite: Overwrite = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out lines that are wrong, and count them.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Predict with a finished run or an export: a JSON line for each text."""
    if (text is None) == (source is None):
        raise UserError("predict needs either --text or --input (with make: TEXT= or INPUT=)")
    changes, is_file = parse_overrides(settings or ()), text is None and source != "-"
    opened, encoding = _opened(run, framework, changes, is_file, out, overwrite)
    from pipeline.runs.prediction import predict_lines

    bad: list[UserError] = []
    with input_lines(text, source, encoding) as lines, prediction_writer(out, overwrite) as write:
        for prediction in predict_lines(opened, lines, bad.append if skip_bad else None):
            write(prediction)
    if bad:
        first = escape_controls(f"{count(len(bad), 'line')} left out; the first: {bad[0]}")
        print(first, file=sys.stderr)


def _opened(
    folder: Path,
    framework: str | None,
    changes: dict[str, object],
    is_file: bool,
    out: Path | None,
    overwrite: bool,
) -> tuple[Opened, str | None]:
    """A run or an export, opened, and the encoding of its input if that is a file. Raises UserError."""
    from pipeline.deploy.manifest import is_export, read_manifest
    from pipeline.runs.directory import load_run

    if is_export(folder):
        if framework is not None:
            raise UserError(f"{folder} is an export, which has a runtime of its own; leave the framework out")
        if out is not None:
            refuse_output(out, overwrite)
        continue_in_python_of(read_manifest(folder).facts.framework)
        configure_process()
        from pipeline.deploy.answering import open_export, recipe_of

        encoding = _encoding(changes, recipe_of(folder)) if is_file else None
        return open_export(folder, changes), encoding
    finished = load_run(folder)
    chosen = framework or finished.record.framework
    if out is not None:
        refuse_output(out, overwrite)
    configure_for(chosen)
    from pipeline.runs.prediction import open_run

    encoding = _encoding(changes, finished.directory.recipe()) if is_file else None
    return open_run(finished, chosen, changes), encoding


def _encoding(changes: dict[str, object], recipe: Recipe) -> str | None:
    """The encoding of an input file: that of the recipe, unless `changes` have one, which is then taken out of them."""
    if "data.encoding" not in changes:
        return recipe.data.encoding
    try:
        return text_encoding(changes.pop("data.encoding"))
    except ValueError as error:
        raise UserError(f"data.encoding {error}") from error


@app.command("attention-maps")
def attention_maps(
    run: RunFolder,
    text: Annotated[str, typer.Option(help="The text to look into.")],
    cross: Annotated[
        bool, typer.Option("--cross", help="How the text that the model writes attends to the given one.")
    ] = False,
    framework: OwnFramework = None,
    out: Annotated[Path | None, typer.Option(help="The PNG; by default attention.png in the run.")] = None,
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Draw which token attends to which in a text, a heat map for each layer and head."""
    from pipeline.runs.directory import ATTENTION_MAPS, load_run

    finished = load_run(run)
    chosen = framework or finished.record.framework
    if out is not None:
        refuse_output(out, overwrite)
    configure_for(chosen)
    from pipeline.runs.attention_figure import draw_attention_maps
    from pipeline.runs.attention_maps import maps_of_run

    maps = maps_of_run(finished, text, chosen, cross)
    path = out or run / ATTENTION_MAPS
    draw_attention_maps(maps, path, f"{finished.record.recipe} in {chosen}")
    num_layers, num_heads, num_queries, num_keys = maps.weights.shape
    tokens = f"{num_queries} written tokens, {num_keys} read" if cross else f"{num_keys} tokens"
    print(f"{num_layers} layers, {num_heads} heads, {tokens}: {escape_controls(str(path))}")


add_former_name("attention", "attention-maps", attention_maps)
