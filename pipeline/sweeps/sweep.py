"""Sweeps for Python: a recipe and a space in, the best recipe and a report of all trials out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.backend import framework_problem
from pipeline.metrics.specs import lower_is_better, scale
from pipeline.models.attention import STOCK, attention_name, name_problem
from pipeline.recipe.loading import LoadedRecipe, RecipeSource, load_recipe, load_resolved
from pipeline.recipe.schema import Recipe
from pipeline.reporting.formatting import score
from pipeline.reporting.writer import html_page
from pipeline.runs.directory import Run, load_run
from pipeline.runs.record import parse_record
from pipeline.sweeps.callbacks import SweepCallback
from pipeline.sweeps.content import content_of
from pipeline.sweeps.folder import BEST, CONTENTS, RECIPE, SETTINGS, run_folder
from pipeline.sweeps.progress import following
from pipeline.sweeps.results import SweepResults, SweepSettings
from pipeline.sweeps.search import Search
from pipeline.sweeps.space import Parameter, read_space, shown
from pipeline.sweeps.trial import RunPlan, check_recipe
from pipeline.training.finetune import seed_problem
from pipeline.utils.errors import UserError
from pipeline.utils.files import atomic_write, locked, reason, write_json
from pipeline.utils.processes import call
from pipeline.utils.text import count

if TYPE_CHECKING:
    import pandas

TRIALS = 20


@dataclass(frozen=True, repr=False)
class Sweep:
    """A finished sweep: its folder, and its results, which are what report/sweep.json holds."""

    path: Path
    results: SweepResults

    @property
    def best_recipe(self) -> Recipe:
        """The recipe with the values of the best trial, which best.yaml holds."""
        return load_recipe(self.path / BEST)

    @property
    def best_run(self) -> Run:
        """The run of the best trial."""
        assert self.results.best is not None, "a sweep has a best trial"
        return load_run(run_folder(self.path, self.results.best))

    @property
    def trials(self) -> pandas.DataFrame:
        """A row for each trial: number, state, score, seconds, and the value of each key."""
        import pandas

        rows = [
            {"trial": each.number, "state": each.state, "score": each.score, "seconds": each.seconds, **each.values}
            for each in self.results.trials
        ]
        return pandas.DataFrame(rows)

    def to_html(self) -> str:
        """The whole report as one page."""
        return html_page(content_of(self.results))

    def __repr__(self) -> str:
        best = self.results.completed[0]
        values = ", ".join(f"{key}={shown(value)}" for key, value in best.values.items())
        found = f"{self.results.settings.metric} {score(best.score, self.results.settings.scale)}"
        num_trials = count(len(self.results.trials), "trial")
        return f"<Sweep {self.results.recipe}: {num_trials}, {found} with {values}; {self.path}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: the trials, the best first."""
        return self.trials.sort_values("score", ascending=self.results.settings.lower_is_better).to_html(index=False)


def sweep(
    recipe: RecipeSource,
    space: str | Mapping[str, object],
    trials: int = TRIALS,
    framework: str = "torch",
    attention: str | type = STOCK,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    *,
    workers: int = 1,
    allow_hub_code: bool = False,
    allow_pickle: bool = False,
    callback: SweepCallback | None = None,
    quiet: bool = False,
) -> Sweep:
    """Search for the values of some keys with which a recipe scores best; the sweep is in `out` or sweeps/<recipe>.

    `space` says which values a key may take: "train.learning_rate=log(1e-5,1e-3) train.batch_size=16,32", or a mapping
    {"train.learning_rate": "log(1e-5,1e-3)", "train.batch_size": [16, 32]}. Optuna draws the values of each trial: the
    recipe's own first, then at random, then where scores were good. Each trial is a run of its own in trials/, in a
    process of its own; `workers` of them train at a time and share the threads. A trial whose validation score is below
    the median of the completed ones after the same epoch is stopped, as a run that is asked to stop.

    The same call goes on with a sweep that was interrupted, however it was: finished trials stay, and interrupted ones
    go on from their training checkpoints. `trials` counts all of them, so more can be asked for later.

    Trials are compared by their validation score. None is scored on the test split but the best one, at the end.
    Writes best.yaml, which is a recipe, and report/sweep.html, .md and .json. `callback` follows the sweep; without
    one, its progress is printed, unless `quiet`. Raises UserError before the first trial for anything that is wrong
    with the input, and RunFailure if no trial was completed.

    >>> found = sweep("sentiment_bert", "train.learning_rate=log(1e-5,1e-3)", trials=10)  # doctest: +SKIP
    >>> found.best_recipe.train.learning_rate, found.best_run.metrics["accuracy"]  # doctest: +SKIP
    """
    loaded, name = LoadedRecipe.of(recipe), attention_name(attention)
    _refuse_arguments(trials, workers, framework, name, seed)
    parameters = read_space(space, loaded.recipe)
    plan = RunPlan(framework, name, seed, allow_hub_code, allow_pickle)
    default = Path("sweeps") / f"{loaded.recipe.name}{loaded.recipe.suffix(loaded.original)}"
    folder = Path(out) if out is not None else default
    with locked(folder), following(loaded.recipe.name, callback, quiet) as callback:
        settings = _settings(folder, loaded.recipe, parameters, plan)
        search = Search(folder, loaded.recipe, parameters, plan, settings, callback)
        search.run_trials(trials, workers)
        return Sweep(folder, search.finish())


def _refuse_arguments(trials: int, workers: int, framework: str, attention: str, seed: int) -> None:
    for name, value in (("trials", trials), ("workers", workers)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"{name} is {value!r}, but must be a whole number from 1", arguments=(name,))
    problems = {
        "framework": framework_problem(framework),
        "attention": name_problem(attention),
        "seed": seed_problem(seed),
    }
    for name, problem in problems.items():
        if problem:
            raise UserError(problem, arguments=(name,))


def _settings(folder: Path, recipe: Recipe, space: tuple[Parameter, ...], plan: RunPlan) -> SweepSettings:
    """The settings of the sweep in a folder, written if it is a new one.

    Raises UserError if the recipe cannot be trained, or if the folder holds another sweep or something else.
    """
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if (folder.exists() and not folder.is_dir()) or not names <= CONTENTS:
        raise UserError(
            f"{folder} holds something that is not a sweep; choose another folder with out", arguments=("out",)
        )
    if SETTINGS not in names:  # a new one, or one that was killed before its first trial
        settings = _described(_metric(recipe, plan), space, plan)
        try:
            with atomic_write(folder / RECIPE) as file:
                file.write(recipe.to_yaml())
            write_json(folder / SETTINGS, settings.model_dump())
        except OSError as error:
            raise UserError(f"{folder} cannot be written: {reason(error)}", arguments=("out",)) from error
        return settings
    known = parse_record(SweepSettings, (folder / SETTINGS).read_text(encoding="utf-8"), str(folder / SETTINGS))
    settings = _described(known.metric, space, plan)
    different = [name for name in SweepSettings.model_fields if getattr(known, name) != getattr(settings, name)]
    different += ["recipe"] if load_resolved(folder / RECIPE).experiment() != recipe.experiment() else []
    if different:
        raise UserError(
            f"{folder} holds a sweep of another {' and '.join(different)}; choose another folder with out, or move it "
            "away",
            arguments=("out",),
        )
    return settings


def _described(metric: str, space: tuple[Parameter, ...], plan: RunPlan) -> SweepSettings:
    return SweepSettings(
        framework=plan.framework, attention=plan.attention, seed=plan.seed,
        space={parameter.key: str(parameter) for parameter in space}, metric=metric,
        lower_is_better=lower_is_better(metric), scale=scale(metric),
    )  # fmt: skip


def _metric(recipe: Recipe, plan: RunPlan) -> str:
    """The metric that chooses, once the recipe has been tried for a step. Raises UserError and RunFailure."""
    names = call(check_recipe, recipe, plan, framework=plan.framework)
    return recipe.train.keep_metric or names[0]
