"""The verbs of `python -m pipeline`; thin: each reads its options, calls one function and shows the result."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pipeline.recipe.loading import LoadedRecipe, load_recipe, load_shipped, recipe_names
from pipeline.recipe.overrides import parse_overrides
from pipeline.utils.environment import configure_process
from pipeline.utils.errors import ProofError, RunFailure, Stopped, UserError
from pipeline.utils.text import escape_controls

# What the option parser makes of Ctrl-C, and what a person reads.
INTERRUPTED = 130
STOPPED = "stopped; nothing was written"

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Fine-tune one recipe in PyTorch or TensorFlow, provably the same experiment.",
)


class FrameworkName(StrEnum):
    """The frameworks that a run may use."""

    torch = "torch"
    tensorflow = "tensorflow"


RecipeName = Annotated[str, typer.Argument(help="A name in recipes/, or the path of a .py or .yaml file.")]
Framework = Annotated[FrameworkName, typer.Option(help="Who runs the experiment.")]
Attention = Annotated[str, typer.Option(help="stock, handwritten, or module:Class of your own.")]
Settings = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a key; repeatable.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
HubCode = Annotated[bool, typer.Option("--allow-hub-code", help="Let hub:NAME@REVISION metrics run their code.")]

Pickle = Annotated[bool, typer.Option("--allow-pickle", help="Let PyTorch read the tensors of pickled weights.")]


@app.command()
def finetune(
    recipe: RecipeName,
    framework: Framework = FrameworkName.torch,
    attention: Attention = "stock",
    seed: Annotated[int, typer.Option(help="Seed of the batch order, new weights and dropout.")] = 0,
    settings: Settings = (),
    out: Annotated[Path | None, typer.Option(help="The run's directory.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run, finished or not.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest whole checkpoint.")] = False,
    allow_hub_code: HubCode = False,
    allow_pickle: Pickle = False,
    debug: Debug = False,
) -> None:
    """Fine-tune a recipe and write its run directory."""
    configure_process(framework.value)
    loaded = LoadedRecipe.read(recipe, settings)
    from pipeline.cli.progress import TerminalProgress
    from pipeline.runs.directory import RunDirectory
    from pipeline.training import finetune as run
    from pipeline.training.signals import StopOnSignal

    resolved = loaded.recipe
    out = out or RunDirectory.default(resolved, loaded.original, framework.value, attention, seed).path

    progress = TerminalProgress(f"{resolved.name} {framework.value}/{attention} seed {seed}")
    try:
        run.finetune(
            resolved, framework.value, attention, seed, out, overwrite=overwrite, resume=resume,
            allow_hub_code=allow_hub_code, allow_pickle=allow_pickle, stop=StopOnSignal(), callback=progress,
        )  # fmt: skip
    finally:
        progress.close()


@app.command()
def check(
    recipe: RecipeName,
    framework: Framework = FrameworkName.torch,
    attention: Attention = "stock",
    settings: Settings = (),
    allow_hub_code: HubCode = False,
    allow_pickle: Pickle = False,
    debug: Debug = False,
) -> None:
    """Validate recipe, data, checkpoint and metrics without training."""
    configure_process(framework.value)
    resolved = load_recipe(recipe, settings)
    from pipeline.training.experiment import check as check_recipe

    experiment = check_recipe(resolved, framework.value, attention, allow_hub_code, allow_pickle)
    for split, examples in experiment.examples.items():
        counts = ", ".join(f"{count} {name}" for name, count in examples.counts.items())
        longest = " and ".join(map(str, examples.lengths.reshape(len(examples.lengths), -1).max(axis=0)))
        print(f"{split}: {counts}, longest {longest} tokens")
    if experiment.task.labels:
        print(escape_controls(f"labels: {', '.join(experiment.task.labels)}"))
    print(escape_controls(f"metrics: {', '.join(experiment.metric_names)}"))
    print(escape_controls(f"{resolved.name} is ready: make finetune RECIPE={recipe}"))


@app.command("list")
def list_recipes(debug: Debug = False) -> None:
    """Show every recipe: task, checkpoint and data."""
    for name in recipe_names():
        try:
            recipe = load_shipped(name)
        except UserError as error:
            print(escape_controls(f"{name:<20} broken: {error}"))
            continue
        local = Path(recipe.checkpoint)
        checkpoint = f"embedded {local.name}" if local.is_absolute() else recipe.checkpoint
        source = "bundled" if recipe.data.is_local else recipe.data.path
        source += f" ({recipe.data.name})" if recipe.data.name else ""
        print(escape_controls(f"{name:<20} {recipe.task:<27} {checkpoint:<32} {source}"))


@app.command()
def lockstep(
    recipe: RecipeName,
    steps: Annotated[int, typer.Option(min=1, help="Updates to compare.")] = 50,
    attention: Attention = "stock",
    seed: Annotated[int, typer.Option(help="Seed of the batch order and new weights.")] = 0,
    settings: Settings = (),
    debug: Debug = False,
) -> None:
    """Take the same updates in both frameworks and compare them one by one."""
    configure_process()
    from pipeline.comparison import lockstep as lockstep_module

    report = lockstep_module.compare_frameworks(load_recipe(recipe, settings), steps, attention, seed)
    print(report.as_text())
    if not report.same:
        raise typer.Exit(1)


@app.command()
def drill(
    recipe: RecipeName,
    framework: Framework = FrameworkName.torch,
    kills: Annotated[int, typer.Option(min=1, help="How often to kill the run.")] = 5,
    attention: Attention = "stock",
    seed: Annotated[int, typer.Option(help="Seed of the run and of the moments.")] = 0,
    settings: Settings = (),
    debug: Debug = False,
) -> None:
    """Kill a run again and again, resume it, and compare it with one that never stopped."""
    configure_process()
    from pipeline.training import kill_test as drill_module

    report = drill_module.kill_test(load_recipe(recipe, settings), framework.value, kills, attention, seed)
    print(report.as_text())
    if not report.passed:
        raise typer.Exit(1)


@app.command()
def attention(
    run: Annotated[Path, typer.Argument(help="The directory of a finished run.")],
    text: Annotated[str, typer.Option(help="The text to look into.")],
    framework: Annotated[FrameworkName | None, typer.Option(help="By default the run's own.")] = None,
    out: Annotated[Path | None, typer.Option(help="The PNG; by default attention.png in the run.")] = None,
    debug: Debug = False,
) -> None:
    """Draw who attends to whom in a text, a heat map for each layer and head."""
    from pipeline.runs.directory import load_run

    finished = load_run(run)
    chosen = framework.value if framework else finished.record.framework
    configure_process(chosen)
    from pipeline.runs.attention_figure import draw_attention_maps
    from pipeline.runs.attention_maps import maps_of_run

    maps = maps_of_run(finished, text, chosen)
    path = out or run / "attention.png"
    if not path.parent.is_dir():
        raise UserError(f"--out {path}: there is no folder {path.parent}")
    draw_attention_maps(maps, path, f"{finished.record.recipe} in {chosen}")
    num_layers, num_heads, num_tokens, _ = maps.weights.shape
    print(f"{num_layers} layers, {num_heads} heads, {num_tokens} tokens: {escape_controls(str(path))}")


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="The directory of a finished run.")],
    text: Annotated[str | None, typer.Option(help="One text, or one JSON object.")] = None,
    source: Annotated[str | None, typer.Option("--input", help="A file of JSON or text lines; - for stdin.")] = None,
    framework: Annotated[FrameworkName | None, typer.Option(help="By default the run's own.")] = None,
    settings: Settings = (),
    out: Annotated[Path | None, typer.Option(help="Where JSON lines go; by default standard output.")] = None,
    debug: Debug = False,
) -> None:
    """Predict with a finished run: a JSON line for each text."""
    if (text is None) == (source is None):
        raise UserError("predict wants either --text or --input (TEXT= or INPUT=)")
    from pipeline.runs.directory import load_run

    finished = load_run(run)
    chosen = framework.value if framework else finished.record.framework
    configure_process(chosen)
    from pipeline.runs import prediction

    trained = prediction.open_run(finished, chosen, parse_overrides(settings))
    with prediction.lines_of(text, source) as lines, prediction.sink(out) as write:
        for answer in prediction.predict_lines(trained, lines):
            write(answer)


@app.command()
def compare(
    recipe: RecipeName,
    frameworks: Annotated[str, typer.Option(help="Who runs it, separated by spaces.")] = "torch tensorflow",
    attentions: Annotated[str, typer.Option(help="With which attentions.")] = "stock handwritten",
    seeds: Annotated[str, typer.Option(help="With which seeds.")] = "0 1 2",
    settings: Settings = (),
    out: Annotated[Path | None, typer.Option(help="The report's folder; by default reports/<recipe>.")] = None,
    rerun: Annotated[bool, typer.Option("--rerun", help="Repeat finished runs.")] = False,
    allow_hub_code: HubCode = False,
    debug: Debug = False,
) -> None:
    """Run a recipe with each framework, attention and seed, and write a report that compares them."""
    configure_process()
    numbers = _whole_numbers(seeds)
    loaded = LoadedRecipe.read(recipe, settings)
    from pipeline import api as comparison
    from pipeline.cli.comparison_progress import ComparisonProgress

    progress = ComparisonProgress(loaded.recipe.name)
    try:
        found = comparison.compare_loaded(
            loaded, frameworks.split(), attentions.split(), numbers, out, rerun=rerun,
            allow_hub_code=allow_hub_code, callback=progress,
        )  # fmt: skip
    except KeyboardInterrupt:
        progress.close()
        print("stopped; finished runs are kept, and the same command goes on from them", file=sys.stderr)
        raise typer.Exit(1) from None
    finally:
        progress.close()
    progress.show(found)
    if any(run["status"] == "failed" for run in found.results["runs"]):
        raise typer.Exit(1)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Directories of finished runs.")],
    out: Annotated[Path | None, typer.Option(help="The report's folder; by default reports/<recipe>.")] = None,
    debug: Debug = False,
) -> None:
    """Compare finished runs, made on any machine at any time, and write the report."""
    configure_process()
    from pipeline import api as comparison
    from pipeline.cli.comparison_progress import ComparisonProgress

    ComparisonProgress("").show(comparison.compare_runs(runs, out))


@app.command()
def gallery(
    folder: Annotated[Path, typer.Argument(help="The folder that holds the reports' folders.")] = Path("reports"),
    debug: Debug = False,
) -> None:
    """Write one page over all reports."""
    from pipeline.reporting.index import write_gallery

    print(write_gallery(folder))


def _whole_numbers(text: str) -> list[int]:
    """ "0 1 2" as numbers. Raises UserError."""
    numbers = []
    for word in text.split():
        if not (word.isascii() and word.isdecimal()):
            raise UserError(f'--seeds has "{word}", want whole numbers separated by spaces, as in "0 1 2"')
        numbers.append(int(word))
    return numbers


def main() -> None:
    """The console script: run the verb on the command line and leave with its exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.path.insert(0, os.getcwd())  # where --attention my_module:MyAttention is looked for
    code = execute(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # Both frameworks hold threads that can take seconds to end, or crash, when Python waits for them.
    os._exit(code)


def execute(arguments: list[str]) -> int:
    """Run a verb; a user's mistake becomes one message and exit code 2, anything else that fails exit code 1."""
    debug = "--debug" in arguments
    try:
        code = app(arguments, standalone_mode=False)
    except UserError as error:
        return _end(str(error), 2, debug)
    except (ProofError, RunFailure, Stopped) as error:
        return _end(str(error), 1, debug)
    except typer.Exit as error:
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _end(STOPPED, 1, debug)
    except Exception as error:
        return _end_of(error, debug)
    if code == INTERRUPTED:
        return _end(STOPPED, 1, debug)
    return code if isinstance(code, int) else 0


def _end_of(error: Exception, debug: bool) -> int:
    """Usage errors of the option parser keep their own words and code."""
    if hasattr(error, "format_message"):
        return _end(f"{error.format_message()} (see --help)", 2, debug)
    cause = error
    while cause is not None:
        if isinstance(cause, KeyboardInterrupt):
            return _end(STOPPED, 1, debug)
        cause = cause.__cause__ or cause.__context__
    return _end(f"{type(error).__name__}: {error}\nThis is not your input's fault; --debug shows where.", 1, debug)


def _end(message: str, code: int, debug: bool) -> int:
    if debug:
        print(escape_controls(traceback.format_exc()), file=sys.stderr)
    print(escape_controls(message), file=sys.stderr)
    return code
