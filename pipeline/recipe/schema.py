"""Recipe: everything that defines an experiment, typed, frozen and strict; it knows nothing of frameworks.

A recipe is written in Python (a module with `RECIPE`) or YAML (the same keys). Framework, attention and seed are
not part of it: they are chosen for each run of the experiment.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import (
    BaseModel,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from pipeline.recipe.data import Data, Files, Limit, Split
from pipeline.recipe.messages import explain
from pipeline.recipe.overrides import dotted, merge, resolve_paths
from pipeline.recipe.task_table import TASKS, StrictModel, task_name
from pipeline.recipe.values import LIST, TEXT_OR_LIST, Names, PathText, labels_as_texts
from pipeline.utils.errors import UserError
from pipeline.utils.files import JsonObject
from pipeline.utils.hashing import short_digest

TrackerName = Literal["tensorboard", "wandb", "mlflow"]
# Keys of `train` that say when a run is saved and where it is tracked, and change nothing in its result.
WITHOUT_EFFECT = ("save_every", "keep_checkpoints", "trackers")
# Keys of `data` that older versions did not have: one that is not set says nothing about an experiment, so that the
# digests of older runs stay as they are.
_NEWER_KEYS = ("encoding", "field", "labels", "separator", "split", "split_columns")

# What every run did before these keys existed, which is not what they are by default.
VALUES_BEFORE_KEYS = {"data": {"batching": "sorted"}, "train": {"dropout_masks": "framework"}}


class Lora(StrictModel):
    """LoRA: projections whose own weights stay as they are get an update of low rank, which is trained instead."""

    rank: int = Field(default=8, ge=1, le=4_096)
    """Rank of the update of each projection: so many columns has A, so many rows has B."""
    alpha: float = Field(default=16.0, gt=0)
    """The update is multiplied by `alpha / rank`."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout rate on what the update reads."""
    targets: Annotated[tuple[str, ...], TEXT_OR_LIST] = ()
    """Which projections, by the ends of their names as in `target_modules` of peft, or `all-linear`; by default `query`
    and `value` in BERT and RoBERTa, `q_lin` and `v_lin` in DistilBERT, `c_attn` in GPT-2, `q` and `v` in T5, `q_proj`
    and `v_proj` in Marian.
    """

    def __str__(self) -> str:
        parts = [f"rank {self.rank}", f"alpha {self.alpha:g}"]
        parts += [f"dropout {self.dropout:g}"] if self.dropout else []
        return ", ".join(parts + ([f"targets {' '.join(self.targets)}"] if self.targets else []))


class Train(StrictModel):
    """The optimization, the same in both frameworks. `batch_size` is the number of examples in one optimizer step."""

    epochs: int = Field(default=3, ge=1, le=10_000)
    """Passes over the training rows."""
    # More examples would share keys of dropout; see models/dropout.py.
    batch_size: int = Field(default=32, ge=1, le=65_536)
    """Examples of one optimizer step."""
    learning_rate: float = Field(default=2e-5, gt=0)
    """Highest learning rate."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW, on matrices and embeddings; not on biases or LayerNorm."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """AdamW."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """AdamW."""
    epsilon: float = Field(default=1e-8, gt=0)
    """AdamW."""
    warmup_ratio: float = Field(default=0.06, ge=0, le=1)
    """Share of the steps in which the learning rate rises from 0."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """`linear`, `cosine` or `constant` after the warm-up."""
    max_grad_norm: float | None = Field(default=1.0, gt=0)
    """Clip gradients to this global norm; `null` does not clip."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """`fp32` or `bf16`."""
    gradient_accumulation: int = Field(default=1, ge=1, le=10_000)
    """Number of micro-batches into which each step is split, to save memory; must divide `batch_size`."""
    gradient_checkpointing: bool = False
    """Keep of each layer nothing but its inputs, and compute it again in the backward pass: less memory, more time, the
    same numbers.
    """
    dropout: float | None = Field(default=None, ge=0, lt=1)
    """Sets every dropout rate of the model; by default those of the checkpoint."""
    dropout_masks: Literal["shared", "framework"] = "shared"
    """`shared`: both frameworks drop the same values, since each mask is computed from seed, step, example and
    position; `framework`: each framework draws its own.
    """
    sharding: Literal["fsdp"] | None = None
    """`fsdp`: of several processes, each holds a part of every weight, gradient and moment; only in PyTorch. In one
    process it changes nothing.
    """
    attention_implementation: Literal["eager", "sdpa", "flash_attention_2"] | None = None
    """How the library computes the stock attention, only in PyTorch: `eager`, operation by operation; `sdpa`, PyTorch's
    fused attention, which cannot drop weights by shared masks; `flash_attention_2`, the package flash-attn, on GPUs, in
    bf16 and without packing. By default `sdpa`, in T5 `eager`, and operation by operation where shared masks drop
    weights.
    """
    deterministic: bool = False
    """Whether a GPU computes the same bits each time, which some operations do slower. A processor always does."""
    compile: bool = False
    """Compile the training steps: `torch.compile` in PyTorch, XLA in TensorFlow. The batches are padded to six shapes
    at most; the updates are the same but for rounding.
    """
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Not for regression, multi-label classification and question answering."""
    class_weights: (
        Literal["balanced"]
        | Annotated[tuple[Annotated[float, Field(gt=0)], ...], LIST]
        | dict[str, Annotated[float, Field(gt=0)]]
        | None
    ) = None
    """`balanced`, a list, or a mapping from label to weight; single-label classification."""
    freeze: Names = ()
    """Shell-style patterns of weight names that are not trained, such as `bert.embeddings.*`."""
    lora: Lora | None = None
    """Trains an update of low rank of some projections and a new head, and nothing else; `null` trains all weights.
    `train.lora.rank=8` is enough.
    """
    keep: Literal["last", "best"] = "last"
    """`best` saves the weights of the best epoch."""
    keep_metric: str | None = None
    """Metric (or `loss`) that chooses the best epoch; by default the first metric."""
    early_stopping: int | None = Field(default=None, ge=1)
    """Stop after this number of epochs without improvement."""
    save_every: int | None = Field(default=None, ge=1)
    """Write a training checkpoint every N steps."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """Number of training checkpoints to keep."""
    trackers: Annotated[tuple[TrackerName, ...], TEXT_OR_LIST] = ()
    """Where steps and scores can be followed while a run trains: any of `tensorboard`, `wandb`, `mlflow`."""

    @field_validator("class_weights", mode="before")
    @classmethod
    def _weights_by_text(cls, weights: object) -> object:
        if isinstance(weights, dict):
            return labels_as_texts(weights)
        if weights is None or weights == "balanced" or isinstance(weights, list | tuple):
            return weights
        raise ValueError(
            f'is {weights!r}, but must be "balanced", a list with a weight for each label, or a mapping from label to '
            "weight"
        )

    @field_validator("precision", mode="before")
    @classmethod
    def _no_fp16(cls, value: object) -> object:
        if value == "fp16":
            raise ValueError(
                'is "fp16", but that overflows at 65504, which activations of some models exceed (the loss turns NaN), '
                "and gradients vanish without loss scaling; bf16 has the range of fp32: use that"
            )
        return value

    @model_validator(mode="after")
    def _settings_agree(self) -> Train:
        if self.batch_size % self.gradient_accumulation:
            raise ValueError(
                f"gradient_accumulation is {self.gradient_accumulation}, but must divide batch_size {self.batch_size}"
            )
        if self.attention_implementation == "flash_attention_2" and self.precision != "bf16":
            raise ValueError(
                "attention_implementation is flash_attention_2, which computes in 16 bits: set precision to bf16"
            )
        if self.gradient_checkpointing and self.compile:
            raise ValueError(
                "gradient_checkpointing computes layers again, and compile would make one pass of both computations: "
                "leave one of them out"
            )
        if self.keep_metric is not None and self.keep == "last" and self.early_stopping is None:
            raise ValueError("keep_metric would be ignored: set keep to best, or early_stopping")
        return self


class Recipe(StrictModel):
    """One experiment: a task, a pretrained checkpoint, a data set and how to train.

    Raises pydantic's ValidationError on an unknown key or a wrong type; `load_recipe` turns that into a UserError.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")
    """Letters, digits, `.`, `_`, `-`; names the folder of its runs."""
    task: str
    """One of the tasks."""
    checkpoint: PathText = Field(min_length=1)
    """A Hub id, or a local folder with a config, a tokenizer and safetensors weights."""
    weights: Literal["pretrained", "random"] = "pretrained"
    """`random` draws new weights from the seed and uses only config and tokenizer of the checkpoint."""
    # How far such a start takes a training says how much two trainings differ by rounding alone.
    perturb_weights: bool = False
    """Move each weight of the start to the next fp32 number, up or down at random, but leave zeros: the control of a
    comparison.
    """
    keep_head: bool = False
    """Start from the checkpoint's own head although its classes have other names; otherwise such a head is drawn anew.
    """
    data: Data
    """Where the examples come from and how columns become the task's fields."""
    train: Train = Train()
    """The optimization, the same in both frameworks."""
    metrics: Names = ()
    """Names of metrics; the defaults of the task if empty."""
    # Comparisons read it, runs do not.
    margin: float = Field(default=0.01, gt=0, lt=1)
    """Difference up to which a comparison calls two scores equivalent: 0.01 is one point of a metric from 0 to 1 (or 0
    to 100), and 1% of a metric without such a range.
    """
    # The options of the task: `task` says of which class, which no annotation can.
    options: object = Field(default=None, validate_default=True)
    """Settings of the task."""

    @field_validator("task")
    @classmethod
    def _known_task(cls, task: str) -> str:
        return task_name(task)

    @model_validator(mode="after")
    def _adapts_something(self) -> Recipe:
        if self.train.lora is not None and self.weights == "random":
            raise ValueError(
                "train.lora keeps the weights of the checkpoint, but weights is random: leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _can_mask_pairs(self) -> Recipe:
        if self.train.attention_implementation == "flash_attention_2" and self.data.batching == "packed":
            raise ValueError(
                "train.attention_implementation is flash_attention_2, which cannot keep the examples of a packed row "
                "apart: set data.batching to padded or sorted, or use sdpa"
            )
        return self

    @field_validator("options", mode="before")
    @classmethod
    def _options_of_the_task(cls, value: object, info: ValidationInfo) -> object:
        task = info.data.get("task")
        if task is None or isinstance(value, TASKS[task].options):
            return value
        return TASKS[task].read_options(task, value)

    def override(self, changes: Mapping[str, object]) -> Recipe:
        """A copy with some keys changed: {"train.epochs": 1}, or {"train": {"epochs": 1}}, which keeps other keys.

        Relative paths are relative to the working directory. Another `data.path` clears what belonged to the old
        source, another `task` the options. Raises UserError naming an unknown key or a value of the wrong type.
        """
        flat = dotted(changes, self)
        return validated(resolve_paths(merge(self.model_dump(), flat), Path.cwd(), only=flat), self.name)

    def to_yaml(self) -> str:
        """The whole resolved recipe as YAML, itself a recipe."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    def experiment(self) -> JsonObject:
        """What decides the result: every value but when a run is saved, where it is tracked, and the margin."""
        values = self.model_dump(mode="json")
        del values["margin"]
        for key in WITHOUT_EFFECT:
            del values["train"][key]
        if not values["perturb_weights"]:  # as in older versions, which did not have the key
            del values["perturb_weights"]
        if not values["keep_head"]:
            del values["keep_head"]
        for key in (
            "sharding", "attention_implementation", "deterministic", "compile", "lora", "gradient_checkpointing",
        ):  # fmt: skip
            if not values["train"][key]:
                del values["train"][key]
        for key in _NEWER_KEYS:
            if not values["data"][key]:
                del values["data"][key]
        return values

    def digest(self) -> str:
        """Eight hex digits that identify the experiment of the resolved recipe."""
        canonical = json.dumps(self.experiment(), sort_keys=True)
        return short_digest(canonical, 8)

    def suffix(self, original: Recipe) -> str:
        """What default folders append to their name: the digest if overrides changed the experiment, else nothing."""
        return "" if self.experiment() == original.experiment() else f"-{self.digest()}"


# The models by the title that pydantic gives its errors.
_MODELS: dict[str, type[BaseModel]] = {
    model.__name__: model for model in (Recipe, Data, Train, Lora, Files, Limit, Split)
}


def validated(values: Mapping[str, object], name: str) -> Recipe:
    """The recipe with these values. Raises UserError naming every key that is wrong."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise UserError(explain_error(error, str(values.get("name", name)))) from error


def explain_error(error: ValidationError, name: str) -> str:
    """The message for a ValidationError of the recipe `name`."""
    return explain(error, name, _MODELS)
