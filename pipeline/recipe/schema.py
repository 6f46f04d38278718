"""Recipe: everything that defines an experiment, typed, frozen and strict; it knows nothing of frameworks.

A recipe is written in Python (a module with `RECIPE`) or YAML (the same keys). Framework, attention and seed are
not part of it: they say who runs the experiment, not which experiment it is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from pipeline.recipe.formats import FORMATS, SPLITS
from pipeline.recipe.messages import explain
from pipeline.recipe.overrides import dotted, merge, resolve_paths
from pipeline.recipe.task_table import TASKS, StrictModel, task_name
from pipeline.utils.errors import UserError
from pipeline.utils.hashing import short_digest

# Keys of `train` that say when a run is saved, and change nothing in its result.
SAVING = ("save_every", "keep_checkpoints")

# YAML and JSON have lists where a recipe has tuples.
_tuple = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
Names = Annotated[tuple[str, ...], _tuple]
PathText = Annotated[str, BeforeValidator(lambda value: os.fspath(value) if isinstance(value, os.PathLike) else value)]


class Files(StrictModel):
    """Local files of the splits, absolute or relative to the recipe's file."""

    train: PathText | None = None
    validation: PathText | None = None
    test: PathText | None = None


class Limit(StrictModel):
    """Keep the first N rows of a split."""

    train: int | None = Field(default=None, ge=1)
    validation: int | None = Field(default=None, ge=1)
    test: int | None = Field(default=None, ge=1)


class Data(StrictModel):
    """Where the examples come from and how columns become the task's fields.

    `path` is a Hub id, or a format (csv, json, parquet, text, squad, conll) whose `files` are local. `columns` maps a
    field of the task to a column's name ("translation.en" reaches into a nested one), or to its position from 0 in a
    file without a header.
    """

    path: str = Field(min_length=1)
    name: str | None = None
    revision: str | None = None
    files: Files = Files()
    train: str = "train"
    validation: str = "validation"
    test: str | None = None
    columns: dict[str, str | Annotated[int, Field(ge=0)]] = Field(default_factory=dict)
    max_length: int = Field(default=128, ge=4)
    pad_to_multiple_of: int = Field(default=1, ge=1)
    limit: Limit = Limit()
    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    quoting: bool | None = None

    @property
    def is_local(self) -> bool:
        return self.path in FORMATS

    @model_validator(mode="after")
    def _files_belong_to_a_format(self) -> Data:
        given = [split for split in SPLITS if getattr(self.files, split)]
        if not self.is_local:
            if given:
                raise ValueError(f"files are given, so path must be one of {', '.join(FORMATS)}, not a Hub id")
            ignored = [key for key in ("delimiter", "quoting") if getattr(self, key) is not None]
        else:
            missing = [f"files.{split}" for split in ("train", "validation") if split not in given]
            if missing:
                raise ValueError(f"path is {self.path}, so these must name a file: {', '.join(missing)}")
            if "test" in given and self.test is None:
                object.__setattr__(self, "test", "test")
            if self.test is not None and "test" not in given:
                raise ValueError("test is set, so files.test must name a file")
            ignored = [key for key in ("name", "revision") if getattr(self, key) is not None]
            if FORMATS[self.path] != "csv":
                ignored += [key for key in ("delimiter", "quoting") if getattr(self, key) is not None]
        if ignored:
            raise ValueError(f"{' and '.join(ignored)} would be ignored with path {self.path}: leave out")
        if self.limit.test is not None and self.test is None:
            raise ValueError("limit.test would be ignored: there is no test split")
        return self


class Train(StrictModel):
    """The optimization, the same in both frameworks. `batch_size` is the number of examples in one optimizer step."""

    epochs: int = Field(default=3, ge=1)
    batch_size: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=2e-5, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    epsilon: float = Field(default=1e-8, gt=0)
    warmup_ratio: float = Field(default=0.06, ge=0, le=1)
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    max_grad_norm: float | None = Field(default=1.0, gt=0)
    precision: Literal["fp32", "bf16"] = "fp32"
    gradient_accumulation: int = Field(default=1, ge=1)
    dropout: float | None = Field(default=None, ge=0, lt=1)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    class_weights: (
        Literal["balanced"]
        | Annotated[tuple[Annotated[float, Field(gt=0)], ...], _tuple]
        | dict[str, Annotated[float, Field(gt=0)]]
        | None
    ) = None
    freeze: Names = ()
    keep: Literal["last", "best"] = "last"
    keep_metric: str | None = None
    early_stopping: int | None = Field(default=None, ge=1)
    save_every: int | None = Field(default=None, ge=1)
    keep_checkpoints: int = Field(default=2, ge=1)

    @field_validator("precision", mode="before")
    @classmethod
    def _no_fp16(cls, value: Any) -> Any:
        if value == "fp16":
            raise ValueError(
                'is "fp16", but that overflows at 65504, which T5\'s activations exceed (the loss turns NaN), and its '
                "gradients vanish without loss scaling; bf16 has the range of fp32: use that"
            )
        return value

    @model_validator(mode="after")
    def _settings_agree(self) -> Train:
        if self.batch_size % self.gradient_accumulation:
            raise ValueError(
                f"gradient_accumulation is {self.gradient_accumulation}, but must divide batch_size {self.batch_size}"
            )
        if self.keep_metric is not None and self.keep == "last" and self.early_stopping is None:
            raise ValueError("keep_metric would be ignored: set keep to best, or early_stopping")
        return self


class Recipe(StrictModel):
    """One experiment: a task, a pretrained checkpoint, a data set and how to train.

    Raises pydantic's ValidationError on an unknown key or a wrong type; `load_recipe` turns that into a UserError.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")
    task: str
    checkpoint: PathText = Field(min_length=1)
    weights: Literal["pretrained", "random"] = "pretrained"
    data: Data
    train: Train = Train()
    metrics: Names = ()
    # How far apart two variants may score and still be called equivalent: 0.01 is one point of 100; for a metric
    # without a scale, such as perplexity, it is a share of its value. Comparisons read it, runs do not.
    margin: float = Field(default=0.01, gt=0, lt=1)
    options: Any = Field(default=None, validate_default=True)

    @field_validator("task")
    @classmethod
    def _known_task(cls, task: str) -> str:
        return task_name(task)

    @field_validator("options", mode="before")
    @classmethod
    def _options_of_the_task(cls, value: Any, info: ValidationInfo) -> Any:
        task = info.data.get("task")
        if task is None or isinstance(value, TASKS[task].options):
            return value
        return TASKS[task].read_options(task, value)

    def override(self, changes: Mapping[str, Any]) -> Recipe:
        """A copy with some keys changed: {"train.epochs": 1}, or {"train": {"epochs": 1}}, which keeps other keys.

        Relative paths are relative to the working directory. Another `data.path` clears what belonged to the old
        source, another `task` the options. Raises UserError naming an unknown key or a value of the wrong type.
        """
        flat = dotted(changes, self)
        return validated(resolve_paths(merge(self.model_dump(), flat), Path.cwd(), only=flat), self.name)

    def to_yaml(self) -> str:
        """The whole resolved recipe as YAML, itself a recipe."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    def experiment(self) -> dict[str, Any]:
        """What decides the result: every value except when a run is saved, and the margin of comparisons."""
        values = self.model_dump(mode="json")
        del values["margin"]
        for key in SAVING:
            del values["train"][key]
        return values

    def digest(self) -> str:
        """Eight hex digits that identify the experiment of the resolved recipe."""
        canonical = json.dumps(self.experiment(), sort_keys=True)
        return short_digest(canonical, 8)


# The models by the title that pydantic gives its errors.
_MODELS: dict[str, type[BaseModel]] = {model.__name__: model for model in (Recipe, Data, Train, Files, Limit)}


def validated(values: dict[str, Any], name: str) -> Recipe:
    """The recipe with these values. Raises UserError naming every key that is wrong."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise UserError(explain_error(error, str(values.get("name", name)))) from error


def explain_error(error: ValidationError, name: str) -> str:
    """The message for a ValidationError of the recipe `name`."""
    return explain(error, name, _MODELS)
