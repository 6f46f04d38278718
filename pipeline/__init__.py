"""One recipe, two frameworks, provably the same experiment.

from pipeline import finetune, load_recipe
run = finetune(load_recipe("sentiment_bert"), framework="tensorflow")
run.metrics["accuracy"]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError
from pipeline.recipe import Data, Files, Limit, Recipe, Train, load_recipe

if TYPE_CHECKING:
    from pipeline.run import Run, finetune

__all__ = ["Data", "Files", "Limit", "Recipe", "Run", "Train", "UserError", "finetune", "load_recipe"]


def __getattr__(name: str) -> Any:
    # Running a recipe needs datasets and transformers; describing one must not pay for them.
    if name in ("Run", "finetune"):
        from pipeline import run

        return getattr(run, name)
    raise AttributeError(f"module {__name__} has no attribute {name}")
