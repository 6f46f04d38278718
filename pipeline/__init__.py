"""One recipe, two frameworks, provably the same experiment.

from pipeline import finetune, load_recipe
run = finetune(load_recipe("sentiment_bert"), framework="tensorflow")
run.metrics["accuracy"]
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError
from pipeline.loading import load_recipe
from pipeline.recipe import Data, Files, Limit, Recipe, Train

if TYPE_CHECKING:
    from pipeline.comparison import Comparison, compare, compare_runs
    from pipeline.maps import attention_maps
    from pipeline.prediction import predict
    from pipeline.run import finetune
    from pipeline.rundir import Run

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
    "finetune",
    "load_recipe",
    "predict",
]

# Running a recipe needs datasets and transformers; describing one must not pay for them.
_LAZY = {
    "Comparison": "pipeline.comparison",
    "Run": "pipeline.rundir",
    "attention_maps": "pipeline.maps",
    "compare": "pipeline.comparison",
    "compare_runs": "pipeline.comparison",
    "finetune": "pipeline.run",
    "predict": "pipeline.prediction",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__} has no attribute {name}")
