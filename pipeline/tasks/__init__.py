"""One file per task family; each turns columns into features and logits into predictions, in NumPy."""

from __future__ import annotations

import importlib
from pathlib import Path

from pipeline.errors import UserError, did_you_mean
from pipeline.recipe import Recipe


def task_names() -> list[str]:
    """The task families that a recipe may name."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return [file.stem.replace("_", "-") for file in files if file.stem != "__init__"]


def load_task(recipe: Recipe):
    """The recipe's task, an instance of the `Task` class in the family's file. Raises UserError."""
    if recipe.task not in task_names():
        raise UserError(
            f'recipe {recipe.name}: task is "{recipe.task}", but the tasks are: {", ".join(task_names())}.'
            + did_you_mean(recipe.task, task_names())
        )
    return importlib.import_module(f"pipeline.tasks.{recipe.task.replace('-', '_')}").Task(recipe)
