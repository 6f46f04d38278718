"""One recipe, two frameworks, provably the same experiment.

from pipeline import finetune, load_recipe
run = finetune(load_recipe("sentiment_bert"), framework="tensorflow")
run.metrics["accuracy"]
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import pipeline.tasks.options  # noqa: F401 (makes the tasks known to recipes)
from pipeline.recipe.loading import load_recipe
from pipeline.recipe.schema import Data, Files, Limit, Recipe, Train
from pipeline.utils.errors import UserError

if TYPE_CHECKING:
    from pipeline.api import Comparison, compare, compare_runs
    from pipeline.runs.attention_maps import attention_maps
    from pipeline.runs.directory import Run, load_run
    from pipeline.runs.prediction import predict
    from pipeline.training.finetune import finetune
    from pipeline.utils.environment import configure_process

__all__ = [
    "Comparison",
    "Data",
    "Files",
    "Limit",
    "Recipe",
    "Run",
    "Train",
    "UserError",
    "attention_maps",
    "compare",
    "compare_runs",
    "configure_process",
    "finetune",
    "load_recipe",
    "load_run",
    "predict",
]

# Running a recipe needs datasets and transformers; describing one must not pay for them.
_LAZY = {
    "Comparison": "pipeline.api",
    "Run": "pipeline.runs.directory",
    "attention_maps": "pipeline.runs.attention_maps",
    "compare": "pipeline.api",
    "compare_runs": "pipeline.api",
    "configure_process": "pipeline.utils.environment",
    "finetune": "pipeline.training.finetune",
    "load_run": "pipeline.runs.directory",
    "predict": "pipeline.runs.prediction",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__} has no attribute {name}")
