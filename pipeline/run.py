"""One recipe, one framework, one attention, one seed -> one run directory."""

from __future__ import annotations

import os
import platform
import sys
import time
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from pipeline import checkpoint, metrics, rundir
from pipeline.backend import Backend, load_backend, set_environment
from pipeline.errors import UserError
from pipeline.experiment import prepare, start_swapped
from pipeline.loading import load_shipped, recipe_names
from pipeline.progress import Progress
from pipeline.recipe import Recipe
from pipeline.rundir import Run, write_json
from pipeline.training import Training


def finetune(
    recipe: Recipe,
    framework: str = "torch",
    attention: str = "stock",
    seed: int = 0,
    out: str | os.PathLike | None = None,
    *,
    overwrite: bool = False,
    allow_hub_code: bool = False,
    shipped: Recipe | None = None,
    progress: Progress | None = None,
) -> Run:
    """Fine-tune a recipe and return its run directory, `out` or runs/<recipe>/<framework>-<attention>-seed<seed>.

    A finished run of the same recipe is returned as it is unless `overwrite`. `shipped` is the recipe before
    overrides, from which the default directory's name is made; by default the one of that name in recipes/.
    Raises UserError before the first step for anything that is wrong with the input.
    """
    set_environment()
    launched = time.perf_counter()
    if seed < 0 or seed >= 2**32:
        raise UserError(f"seed is {seed}, want a whole number from 0 to 2^32 - 1")
    if shipped is None:
        shipped = load_shipped(recipe.name) if recipe.name in recipe_names() else recipe
    progress = progress or Progress()
    folder = Path(out) if out is not None else rundir.default_folder(recipe, shipped, framework, attention, seed)
    identity = {"recipe": recipe.name, "framework": framework, "attention": attention, "seed": seed}
    finished = rundir.finished(folder, recipe, identity, overwrite)
    if finished is not None:
        progress.already_done(finished)
        return finished
    experiment = prepare(recipe, attention, allow_hub_code)
    backend = load_backend(framework)
    scorers = metrics.load_metrics(experiment.metric_names)
    model, proof = start_swapped(experiment, backend, seed, attention)
    with rundir.staged(folder) as staging:
        (staging / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
        environment = _environment(backend) | {"startup_seconds": round(time.perf_counter() - launched, 3)}
        write_json(staging / "environment.json", environment)
        training = Training(experiment, backend, model, seed, scorers, progress)
        report = training.run(staging)
        report |= {"attention_sites": proof.sites, "attention_max_difference": proof.max_difference}
        backend.restore_attention(model)
        config = experiment.config
        config.architectures = [type(model).__name__.removeprefix("TF").removeprefix("Untied")]
        weights = backend.get_weights(model)
        card = rundir.model_card(recipe, experiment.task.auto_class, identity, report["metrics"])
        checkpoint.save_checkpoint(staging / "model", weights, config, experiment.tokenizer, card)
        write_json(staging / "metrics.json", identity | {"status": "completed"} | report)
    run = Run.load(folder)
    progress.finished(run)
    return run


def _environment(backend: Backend) -> dict[str, Any]:
    packages = ("twinstep", "transformers", "tokenizers", "datasets", "evaluate", "safetensors", "numpy", "accelerate")
    installed = {distribution.name.lower(): distribution.version for distribution in distributions()}
    framework = backend.versions()
    return {
        "versions": {"python": platform.python_version()}
        | {name: installed[name] for name in packages if name in installed},
        "framework": framework,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": framework["threads"],
        "platform": platform.platform(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def _processor() -> str:
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
