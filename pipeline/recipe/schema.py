"""Recipe: everything that defines an experiment, typed, frozen and strict; it knows nothing of frameworks.

A recipe is written in Python (a module with `RECIPE`) or YAML (the same keys). Framework, attention and seed are
not part of it: they say who runs the experiment, not which experiment it is.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from pipeline.recipe.task_options import OPTIONS
from pipeline.utils.errors import UserError, did_you_mean
from pipeline.utils.hashing import short_digest

FORMATS = {"csv": "csv", "tsv": "csv", "json": "json", "jsonl": "json", "parquet": "parquet", "text": "text",
           "txt": "text", "squad": "squad", "conll": "conll"}  # fmt: skip
SPLITS = ("train", "validation", "test")
# Keys of `train` that say how a run is saved on its way, and change nothing of what comes out.
SAVING = ("save_every", "keep_checkpoints")

# YAML and JSON have lists where a recipe has tuples.
_tuple = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
Names = Annotated[tuple[str, ...], _tuple]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Files(_Strict):
    """Local files of the splits, absolute or relative to the recipe's file."""

    train: str | None = None
    validation: str | None = None
    test: str | None = None


class Limit(_Strict):
    """Keep the first N rows of a split."""

    train: int | None = Field(None, ge=1)
    validation: int | None = Field(None, ge=1)
    test: int | None = Field(None, ge=1)


class Data(_Strict):
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
    max_length: int = Field(128, ge=4)
    pad_to_multiple_of: int = Field(1, ge=1)
    limit: Limit = Limit()
    delimiter: str | None = Field(None, min_length=1, max_length=1)
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


class Train(_Strict):
    """The optimisation, the same in both frameworks. `batch_size` is the examples in one optimiser update."""

    epochs: int = Field(3, ge=1)
    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(2e-5, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    epsilon: float = Field(1e-8, gt=0)
    warmup_ratio: float = Field(0.06, ge=0, le=1)
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    max_grad_norm: float | None = Field(1.0, gt=0)
    precision: Literal["fp32", "bf16"] = "fp32"
    gradient_accumulation: int = Field(1, ge=1)
    dropout: float | None = Field(None, ge=0, lt=1)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    class_weights: (
        Literal["balanced"]
        | Annotated[tuple[Annotated[float, Field(gt=0)], ...], _tuple]
        | dict[str, Annotated[float, Field(gt=0)]]
        | None
    ) = None
    freeze: Names = ()
    keep: Literal["last", "best"] = "last"
    keep_metric: str | None = None
    early_stopping: int | None = Field(None, ge=1)
    save_every: int | None = Field(None, ge=1)
    keep_checkpoints: int = Field(2, ge=1)

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


class Recipe(_Strict):
    """One experiment: a task, a pretrained checkpoint, a data set and how to train.

    Raises pydantic's ValidationError on an unknown key or a wrong type; `load_recipe` turns that into a UserError.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")
    task: str
    checkpoint: str = Field(min_length=1)
    weights: Literal["pretrained", "random"] = "pretrained"
    data: Data
    train: Train = Train()
    metrics: Names = ()
    # How far apart two variants may score and still be called equivalent: of 1, that is 0.01 for one point; of a metric
    # without a scale, such as perplexity, the share of its value. Comparisons read it, runs do not.
    margin: float = Field(0.01, gt=0, lt=1)
    options: Any = Field(default=None, validate_default=True)

    @field_validator("task")
    @classmethod
    def _known_task(cls, task: str) -> str:
        if task not in OPTIONS:
            raise ValueError(f'is "{task}", but the tasks are: {", ".join(OPTIONS)}.{did_you_mean(task, OPTIONS)}')
        return task

    @field_validator("options", mode="before")
    @classmethod
    def _options_of_the_task(cls, value: Any, info: ValidationInfo) -> Any:
        kind = OPTIONS.get(info.data.get("task"))
        if kind is None or isinstance(value, kind):
            return value
        known = kind.model_fields
        for key in value if isinstance(value, dict) else ():
            if key not in known:
                there = f"{info.data['task']} has: {', '.join(known)}" if known else f"{info.data['task']} has none"
                raise ValueError(f'has no key "{key}"; {there}.{did_you_mean(key, known)}')
        return kind.model_validate({} if value is None else value)

    def override(self, changes: Mapping[str, Any]) -> Recipe:
        """A copy with dotted keys replaced, as `--set` does; relative paths are relative to the working directory.

        Raises UserError naming an unknown key or a value of the wrong type.
        """
        return validated(resolve_paths(_merged(self, changes), Path.cwd(), only=changes), self.name)

    def to_yaml(self) -> str:
        """The whole resolved recipe as YAML, itself a recipe."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    def experiment(self) -> dict[str, Any]:
        """What decides the outcome: every value but how often a run saves itself, and the margin of comparisons."""
        values = self.model_dump(mode="json")
        del values["margin"]
        for key in SAVING:
            del values["train"][key]
        return values

    def digest(self) -> str:
        """Eight hex digits that identify the experiment of the resolved recipe."""
        canonical = json.dumps(self.experiment(), sort_keys=True)
        return short_digest(canonical, 8)


def _merged(recipe: Recipe, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's values with `changes` laid over them; a new source clears what belonged to the old one."""
    values = recipe.model_dump()
    changes = dict(changes)
    files = {key: value for key, value in changes.items() if key.startswith("data.files.")}
    if files and "data.path" not in changes and not recipe.data.is_local:
        suffix = Path(str(next(iter(files.values())))).suffix.lstrip(".")
        if suffix not in FORMATS:
            raise UserError(
                f'{next(iter(files))}: cannot tell the format from ".{suffix}"; set data.path=csv or the like'
            )
        changes["data.path"] = suffix
    if changes.get("data.path", recipe.data.path) != recipe.data.path:
        for key in ("name", "revision", "train", "validation", "test", "files", "delimiter", "quoting"):
            values["data"].pop(key, None)
    if changes.get("task", recipe.task) != recipe.task:
        values.pop("options")
    for key, value in changes.items():
        target, parts = values, key.split(".")
        for depth, part in enumerate(parts[:-1]):
            target = target.setdefault(part, {})
            if not isinstance(target, dict):
                raise UserError(f'--set {key}: "{".".join(parts[: depth + 1])}" is a single value and has no keys')
        target[parts[-1]] = value
    return values


def resolve_paths(values: dict[str, Any], base: Path, only: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Make the local paths in `values` absolute; with `only`, just those that its dotted keys name."""

    def mine(key: str) -> bool:
        return only is None or any(key == k or key.startswith(k + ".") for k in only)

    checkpoint = values.get("checkpoint")
    if isinstance(checkpoint, str) and mine("checkpoint"):
        expanded = os.path.expanduser(checkpoint)
        if (base / expanded).exists() or expanded.startswith((".", os.sep)):
            values["checkpoint"] = os.path.normpath(base / expanded)
    files = values.get("data", {}).get("files") if isinstance(values.get("data"), dict) else None
    if isinstance(files, dict):
        for split, file in files.items():
            if isinstance(file, str) and mine(f"data.files.{split}"):
                files[split] = os.path.normpath(base / os.path.expanduser(file))
    return values


def validated(values: dict[str, Any], name: str) -> Recipe:
    """The recipe of these values. Raises UserError."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise UserError(explain(error, str(values.get("name", name)))) from error


def explain(error: ValidationError, name: str) -> str:
    """Each of pydantic's errors as a line that names the key, what came, and what was wanted."""
    lines = {}
    for fault in error.errors():
        location = [part for part in fault["loc"] if isinstance(part, int) or part.isidentifier()]
        if fault["type"] == "extra_forbidden":  # such a key can be any text
            location = [*(part for part in location if part != fault["loc"][-1]), fault["loc"][-1]]
        key = ".".join(map(str, location)) or error.title.lower()
        if fault["type"] == "extra_forbidden":
            parent = _model_at(error.title, location[:-1])
            known = list(parent.model_fields) if parent else []
            text = f"no such key.{did_you_mean(location[-1], known)} Known: {', '.join(known)}."
        elif fault["type"] == "missing":
            text = "is missing"
        elif fault["type"] == "value_error":
            text = str(fault["ctx"]["error"])
        else:
            text = f"is {_shown(fault['input'])}, but: {fault['msg'][0].lower()}{fault['msg'][1:]}"
        lines.setdefault(key, f"recipe {name}: {key}{':' if ' ' in text and not text.startswith('is') else ''} {text}")
    return "\n".join(lines.values())


def _model_at(title: str, location: Iterable[str | int]) -> type[BaseModel] | None:
    """The model that a key such as ("data", "limit") leads to, to know its neighbours."""
    model: Any = {"Recipe": Recipe, "Data": Data, "Train": Train, "Files": Files, "Limit": Limit}[title]
    for part in location:
        field = model.model_fields.get(part) if isinstance(part, str) else None
        options = [] if field is None else _union(field.annotation)
        model = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
        if model is None:
            return None
    return model


def _union(annotation: Any) -> list[Any]:
    return list(get_args(annotation)) if get_origin(annotation) in (Union, UnionType) else [annotation]


def _shown(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    text = json.dumps(value, default=str, ensure_ascii=True)
    return text if len(text) <= 80 else text[:77] + "..."
