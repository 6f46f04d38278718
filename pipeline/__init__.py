"""One recipe, two frameworks, provably the same experiment.

>>> from pipeline import finetune, load_recipe
>>> run = finetune(load_recipe("sentiment_bert"), framework="tensorflow")  # doctest: +SKIP
>>> run.metrics["accuracy"]  # doctest: +SKIP
0.919
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import pipeline.tasks.options  # noqa: F401 (makes the tasks known to recipes)
from pipeline.recipe.loading import load_recipe
from pipeline.recipe.schema import Data, Files, Limit, Recipe, Train
from pipeline.utils.environment import without_variable_of_torch
from pipeline.utils.errors import ProofError, RunFailure, Stopped, UserError

if TYPE_CHECKING:
    from pipeline.api import Comparison, check, compare, compare_runs, lockstep, report
    from pipeline.deploy.export import export_run
    from pipeline.deploy.hub import push_run
    from pipeline.deploy.report.deployment import deployment_report
    from pipeline.runs.attention_maps import attention_maps
    from pipeline.runs.directory import Run, load_run
    from pipeline.runs.prediction import predict
    from pipeline.sweeps.callbacks import SweepCallback
    from pipeline.sweeps.sweep import Sweep, sweep
    from pipeline.tour.report import tour_report
    from pipeline.training.callbacks import TrainingCallback
    from pipeline.training.drafting.recipe_text import draft_recipe
    from pipeline.training.finetune import finetune
    from pipeline.utils.environment import configure_process

__all__ = [
    "Comparison",
    "Data",
    "Files",
    "Limit",
    "ProofError",
    "Recipe",
    "Run",
    "RunFailure",
    "Stopped",
    "Sweep",
    "SweepCallback",
    "Train",
    "TrainingCallback",
    "UserError",
    "attention_maps",
    "check",
    "compare",
    "compare_runs",
    "configure_process",
    "deployment_report",
    "draft_recipe",
    "export_run",
    "finetune",
    "load_recipe",
    "load_run",
    "lockstep",
    "predict",
    "push_run",
    "report",
    "sweep",
    "tour_report",
]

# Running a recipe needs datasets and transformers; describing one must not pay for their import.
_LAZY = {
    "Comparison": "pipeline.api",
    "Run": "pipeline.runs.directory",
    "Sweep": "pipeline.sweeps.sweep",
    "SweepCallback": "pipeline.sweeps.callbacks",
    "TrainingCallback": "pipeline.training.callbacks",
    "attention_maps": "pipeline.runs.attention_maps",
    "check": "pipeline.api",
    "compare": "pipeline.api",
    "compare_runs": "pipeline.api",
    "configure_process": "pipeline.utils.environment",
    "deployment_report": "pipeline.deploy.report.deployment",
    "draft_recipe": "pipeline.training.drafting.recipe_text",
    "export_run": "pipeline.deploy.export",
    "finetune": "pipeline.training.finetune",
    "load_run": "pipeline.runs.directory",
    "lockstep": "pipeline.api",
    "predict": "pipeline.runs.prediction",
    "push_run": "pipeline.deploy.hub",
    "report": "pipeline.api",
    "sweep": "pipeline.sweeps.sweep",
    "tour_report": "pipeline.tour.report",
}


def __getattr__(name: str) -> object:
    if name in _LAZY:
        with without_variable_of_torch():  # transformers imports it
            return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__} has no attribute {name}")


def __dir__() -> list[str]:
    helpers = {"TYPE_CHECKING", "annotations", "importlib", "without_variable_of_torch"}
    return sorted({*globals(), *_LAZY} - helpers)
