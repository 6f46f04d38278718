"""Commands that train, or get ready to: finetune, watch, check, init, list, schema, clean-cache, kill-test.

Each configures the process, then imports.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.app import add_former_name, app, configure_for, tell
from pipeline.cli.explanations import finetune_command, make_command
from pipeline.cli.options import (
    Architecture,
    Attention,
    Debug,
    Framework,
    HubCode,
    Overwrite,
    Pickle,
    Processes,
    RecipeName,
    Seed,
    Settings,
    attention_of,
    named_folder,
)
from pipeline.cli.prediction_files import refuse_output
from pipeline.recipe.loading import LoadedRecipe, load_recipe, load_shipped, recipe_names
from pipeline.utils.environment import configure_process
from pipeline.utils.errors import UserError
from pipeline.utils.files import atomic_write
from pipeline.utils.text import count, escape_controls


@app.command()
def finetune(
    recipe: RecipeName,
    framework: Framework = "torch",
    attention: Attention = "stock",
    architecture: Architecture = "stock",
    seed: Seed = 0,
    settings: Settings = None,
    out: Annotated[Path | None, typer.Option(help="The run's directory.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run, finished or not.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the newest training checkpoint.")] = False,
    processes: Processes = 1,
    restarts: Annotated[int, typer.Option(help="How often to resume by itself after a process has died.")] = 0,
    change_processes: Annotated[
        bool, typer.Option("--change-processes", help="Resume in another number of processes; sums are rounded anew.")
    ] = False,
    debug_eager: Annotated[
        bool, typer.Option("--debug-eager", help="Run each operation by itself; breakpoint() stops in a model.")
    ] = False,
    allow_hub_code: HubCode = False,
    allow_pickle: Pickle = False,
    debug: Debug = False,
) -> None:
    """Fine-tune a recipe and write its run directory."""
    tell(configure_for(framework))
    loaded, attention = LoadedRecipe.read(recipe, settings or ()), attention_of(attention, architecture)
    from pipeline.cli.progress import TerminalProgress
    from pipeline.training.finetune import finetune
    from pipeline.training.signals import StopOnSignal

    other = "tensorflow" if framework == "torch" else "torch"
    # A class of one's own is of one framework; two runs need two folders.
    both = attention if ":" not in attention else "stock"
    following = finetune_command(
        recipe, other, both, seed, settings or (), out and Path(f"{out}-{other}"), processes,
        allow_hub_code=allow_hub_code, allow_pickle=allow_pickle,
    )  # fmt: skip
    title = f"{loaded.recipe.name} {framework}/{attention} seed {seed}"
    # A bar is drawn again and again, over what a debugger asks.
    progress = TerminalProgress(title, next_command=following, has_bar=not debug_eager)
    try:
        finetune(
            loaded, framework, attention, seed, out, overwrite=overwrite, resume=resume, processes=processes,
            restarts=restarts, change_processes=change_processes, debug_eager=debug_eager,
            allow_hub_code=allow_hub_code, allow_pickle=allow_pickle, stop=StopOnSignal(), callback=progress,
        )  # fmt: skip
    finally:
        progress.close()


@app.command()
def watch(
    run: Annotated[
        Path, typer.Argument(parser=named_folder, metavar="RUN", help="The directory of a run, finished or not.")
    ],
    debug: Debug = False,
) -> None:
    """Show how a run goes on until it ends: its loss as a chart, its scores, and the time that is left."""
    from pipeline.cli.watching import watch

    try:
        if not watch(run):
            raise typer.Exit(1)
    except KeyboardInterrupt:  # which ends the watching, not the run
        return


@app.command()
def check(
    recipe: RecipeName,
    framework: Framework = "torch",
    attention: Attention = "stock",
    architecture: Architecture = "stock",
    settings: Settings = None,
    allow_hub_code: HubCode = False,
    allow_pickle: Pickle = False,
    debug: Debug = False,
) -> None:
    """Validate recipe, data, checkpoint and metrics, and try one step on the largest batch; nothing is written."""
    configure_for(framework)
    resolved, attention = load_recipe(recipe, settings or ()), attention_of(attention, architecture)
    from pipeline.api import check

    checked = check(resolved, framework, attention, allow_hub_code=allow_hub_code, allow_pickle=allow_pickle)
    print(escape_controls(str(checked)))
    command = finetune_command(
        recipe, framework, attention, settings=settings or (), allow_hub_code=allow_hub_code, allow_pickle=allow_pickle
    )
    print(escape_controls(f"{resolved.name} is ready: {command}"))


@app.command()
def init(
    file: Annotated[Path, typer.Argument(help="A file of data: csv, tsv, json, jsonl, parquet, txt or conll.")],
    out: Annotated[Path | None, typer.Option(help="The recipe to write; by default <file's name>.yaml.")] = None,
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Look at a file of data and write a recipe for it, with comments."""
    configure_process()
    from pipeline.training.drafting.recipe_text import draft_recipe

    path = draft_recipe(file, out, overwrite=overwrite)
    print(escape_controls(path.read_text(encoding="utf-8")), end="")
    print(escape_controls(f"This is {path}. Next: {make_command('check', {'RECIPE': path})}"), file=sys.stderr)


@app.command("list")
def list_recipes(debug: Debug = False) -> None:
    """Show every recipe: its task, checkpoint and data."""
    for name in recipe_names():
        try:
            recipe = load_shipped(name)
        except UserError as error:
            print(escape_controls(f"{name:<22} broken: {error}"))
            continue
        local = Path(recipe.checkpoint)
        checkpoint = f"bundled {local.name}" if local.is_absolute() else recipe.checkpoint
        source = "bundled" if recipe.data.is_local else recipe.data.path
        source += f" ({recipe.data.name})" if recipe.data.name else ""
        print(escape_controls(f"{name:<22} {recipe.task:<27} {checkpoint:<32} {source}"))


@app.command()
def schema(
    out: Annotated[Path | None, typer.Option(help="A file to write; by default standard output.")] = None,
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Print the JSON Schema of recipes, with which editors complete keys and mark mistakes."""
    from pipeline.recipe.json_schema import schema_text

    if out is None:
        print(schema_text(), end="")
        return
    refuse_output(out, overwrite)
    with atomic_write(out) as file:
        file.write(schema_text())
    print(escape_controls(str(out)))


@app.command("clean-cache")
def clean_cache(debug: Debug = False) -> None:
    """Remove the tokenized data that were kept for later runs, and what killed runs left, except what is in use."""
    configure_process()
    from pipeline.utils.array_cache import entries, make_room
    from pipeline.utils.mapped_arrays import cache_folder

    folder = cache_folder()
    removed = make_room(folder, 0)
    in_use = len(entries(folder))
    note = f"; {in_use:,} more are in use by running processes" if in_use else ""
    num_megabytes = sum(entry.num_bytes for entry in removed) / 1e6
    print(f"removed {count(len(removed), 'cached item')}, {num_megabytes:,.1f} MB, from {folder}{note}")


@app.command("kill-test")
def kill_test(
    recipe: RecipeName,
    framework: Framework = "torch",
    kills: Annotated[int, typer.Option(min=1, help="How often to kill the run.")] = 5,
    attention: Attention = "stock",
    architecture: Architecture = "stock",
    seed: Annotated[int, typer.Option(help="Seed of the run and of the moments when it is killed.")] = 0,
    settings: Settings = None,
    processes: Processes = 1,
    debug: Debug = False,
) -> None:
    """Kill a run again and again, resume it, and compare it with one that never stopped."""
    configure_process()
    resolved, attention = load_recipe(recipe, settings or ()), attention_of(attention, architecture)
    from pipeline.training.kill_test import kill_test

    report = kill_test(resolved, framework, kills, attention, seed, processes=processes)
    print(report.as_text())
    if not report.passed:
        raise typer.Exit(1)


add_former_name("drill", "kill-test", kill_test)
