"""Commands that compare: compare, sweep, report, lockstep, index, tour. Each configures the process, then imports."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.app import add_former_name, app, tell
from pipeline.cli.options import (
    Architecture,
    Attention,
    Debug,
    Framework,
    HubCode,
    Pickle,
    RecipeName,
    ReportFolder,
    Settings,
    Switch,
    attention_of,
    whole_numbers,
)
from pipeline.recipe.loading import LoadedRecipe, load_recipe
from pipeline.utils.environment import NO_FRAMEWORK, configure_process
from pipeline.utils.text import escape_controls


@app.command()
def compare(
    recipe: RecipeName,
    frameworks: Annotated[str, typer.Option(help="The frameworks, separated by spaces.")] = "torch tensorflow",
    attentions: Annotated[str, typer.Option(help="The attentions; also handwritten-model.")] = "stock handwritten",
    seeds: Annotated[str, typer.Option(help="The seeds.")] = "0 1 2",
    settings: Settings = None,
    out: ReportFolder = None,
    rerun: Annotated[bool, typer.Option("--rerun", help="Repeat finished runs.")] = False,
    control: Annotated[
        Switch, typer.Option(help="Whether PyTorch also trains from weights that are off by one rounding.")
    ] = Switch.on,
    allow_hub_code: HubCode = False,
    debug: Debug = False,
) -> None:
    """Run a recipe with each framework, attention and seed, and write a report that compares them."""
    tell(configure_process())
    numbers = whole_numbers(seeds, "--seeds")
    loaded = LoadedRecipe.read(recipe, settings or ())
    from pipeline.api import compare
    from pipeline.cli.comparison_progress import show_comparison
    from pipeline.reporting.progress import ComparisonProgress

    progress = ComparisonProgress(loaded.recipe.name)
    try:
        comparison = compare(
            loaded, frameworks.split(), attentions.split(), numbers, out, rerun=rerun, control=control is Switch.on,
            allow_hub_code=allow_hub_code, callback=progress,
        )  # fmt: skip
    except KeyboardInterrupt:
        progress.close()
        print("stopped; finished runs are kept, and the same command continues from them", file=sys.stderr)
        raise typer.Exit(1) from None
    finally:
        progress.close()
    show_comparison(comparison)
    if any(not run.completed for run in comparison.results.runs):
        raise typer.Exit(1)


@app.command()
def sweep(
    recipe: RecipeName,
    space: Annotated[
        str,
        typer.Option(
            metavar="TEXT", help='"KEY=log(LOW,HIGH) KEY=VALUE,VALUE"; also uniform(LOW,HIGH) and int(LOW,HIGH).'
        ),
    ],
    trials: Annotated[
        int, typer.Option(help="How many trials there are in the end, those of earlier calls included.")
    ] = 20,
    framework: Framework = "torch",
    attention: Attention = "stock",
    architecture: Architecture = "stock",
    seed: Annotated[int, typer.Option(help="Seed of every trial, and of the values that are drawn.")] = 0,
    workers: Annotated[int, typer.Option(help="How many trials train at a time; they share the threads.")] = 1,
    settings: Settings = None,
    out: Annotated[Path | None, typer.Option(help="The sweep's folder; by default sweeps/<recipe>.")] = None,
    allow_hub_code: HubCode = False,
    allow_pickle: Pickle = False,
    debug: Debug = False,
) -> None:
    """Search for the values of some keys with which a recipe scores best; the same command goes on with a sweep."""
    tell(configure_process())
    loaded, attention = LoadedRecipe.read(recipe, settings or ()), attention_of(attention, architecture)
    from pipeline.cli.comparison_progress import show_sweep
    from pipeline.sweeps.progress import SweepProgress
    from pipeline.sweeps.sweep import sweep

    progress = SweepProgress(loaded.recipe.name)
    try:
        found = sweep(
            loaded, space, trials, framework, attention, seed, out, workers=workers, allow_hub_code=allow_hub_code,
            allow_pickle=allow_pickle, callback=progress,
        )  # fmt: skip
    except KeyboardInterrupt:
        progress.close()
        print("stopped; finished trials are kept, and the same command goes on with the others", file=sys.stderr)
        raise typer.Exit(1) from None
    finally:
        progress.close()
    show_sweep(found)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Directories of finished runs.")],
    out: ReportFolder = None,
    debug: Debug = False,
) -> None:
    """Compare finished runs, made on any machine at any time, and write the report."""
    configure_process()
    from pipeline.api import report
    from pipeline.cli.comparison_progress import show_comparison

    show_comparison(report(runs, out))


@app.command()
def lockstep(
    recipe: RecipeName,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps to compare.")] = 50,
    attention: Attention = "stock",
    architecture: Architecture = "stock",
    seed: Annotated[int, typer.Option(help="Seed of the batch order, new weights and dropout.")] = 0,
    dropout: Annotated[Switch, typer.Option(help="The recipe's dropout, or none.")] = Switch.on,
    processes: Annotated[
        str, typer.Option(help='Numbers of processes, such as "1 2 4", whose steps are compared, too.')
    ] = "",
    settings: Settings = None,
    debug: Debug = False,
) -> None:
    """Take the same steps in both frameworks and compare them one by one."""
    tell(configure_process())
    resolved, attention = load_recipe(recipe, settings or ()), attention_of(attention, architecture)
    from pipeline.api import lockstep

    counts = whole_numbers(processes, "--processes")
    differences = lockstep(resolved, steps, attention, seed, dropout=dropout is Switch.on, processes=counts)
    print(differences.as_text())
    if not differences.same:
        raise typer.Exit(1)


@app.command()
def index(
    folder: Annotated[Path, typer.Argument(help="The folder that holds the reports' folders.")] = Path("reports"),
    debug: Debug = False,
) -> None:
    """Write one page over all reports."""
    from pipeline.reporting.index import write_index

    print(write_index(folder))


@app.command()
def tour(
    out: Annotated[Path | None, typer.Option(help="The tour's folder; by default reports/tour.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Make few repeats, and leave out what takes minutes.")] = False,
    debug: Debug = False,
) -> None:
    """Measure on this machine what the frameworks differ in, and follow a sentence through the Transformer in both."""
    tell(configure_process(NO_FRAMEWORK))
    from pipeline.tour.report import tour_report

    finished = tour_report(out, quick=quick, on_event=lambda text: print(text, file=sys.stderr))
    print(f"{'tour':<21}{escape_controls(str(finished.path / 'tour.html'))}")


add_former_name("gallery", "index", index)
