"""One file per task family; each turns columns into features and a model's outputs into predictions, in NumPy."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray

from pipeline.data.batches import Batch, Features, Ragged
from pipeline.recipe.schema import Recipe
from pipeline.utils.errors import UserError


@dataclass(frozen=True)
class Examples:
    """One tokenised split, ready for batches.

    `features` by model input name; `lengths` [N], or [N, 2] for sources and targets, in tokens; `num_targets` [N],
    how many losses each row has; `counts` what a person must know of the split (rows, truncated, dropped ...);
    `extra` what the family keeps to score it, by name, and `cut` [N], which rows lost text to truncation.
    """

    features: dict[str, Ragged]
    lengths: NDArray[np.int64]
    num_targets: NDArray[np.int64]
    counts: dict[str, int]
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ScoredExample:
    """One scored example: its line of predictions.jsonl, the columns that metrics read, its summed loss in nats."""

    line: dict[str, Any]
    columns: dict[str, Any]
    loss: float
    num_targets: int


def cut_rows(encoded: Any) -> NDArray[np.bool_]:
    """Which rows of a tokenizer's output were truncated, [N]."""
    return np.array([bool(encoding.overflowing) for encoding in encoded.encodings], dtype=bool)


class Task(ABC):
    """What every task family offers. A file of this folder completes it in a class of its own.

    The order of calls: `examine` the splits, change the config, `bind` config and tokenizer, `encode` each split; then
    for every batch `inputs` and `targets`, and for evaluation `outputs`, `judge` and `conclude`.
    """

    auto_class: str
    # Fields of a row: those that training must have, may have, and those that a prediction must have.
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    asked: tuple[str, ...] = ("text",)
    # Whether a prediction for the beginning of a text is one for the text.
    reads_beginnings = True
    # What the learner minimises: cross_entropy, binary_cross_entropy or squared_error.
    loss = "cross_entropy"
    metrics: tuple[str, ...]
    default_metrics: tuple[str, ...]

    def __init__(self, recipe: Recipe):
        self.recipe, self.options = recipe, recipe.options
        self.labels: tuple[str, ...] = ()
        self.config: Any = None
        self.tokenizer: Any = None

    def validate(self, splits: dict[str, datasets.Dataset], checkpoint_labels: dict[str, int]) -> None:
        """Find every fault of the rows, and learn the labels from training. Raises UserError with all of them."""
        problems = [text for split, rows in splits.items() for text in self.row_problems(split, rows)]
        if not problems:
            problems = self.fit_labels(splits, checkpoint_labels)
        if problems:
            raise UserError("\n".join(f"recipe {self.recipe.name}: {text}" for text in problems))

    @abstractmethod
    def row_problems(self, split: str, rows: datasets.Dataset) -> Iterable[str]:
        """What is wrong with a split's rows, each by its number."""

    def fit_labels(self, splits: dict[str, datasets.Dataset], checkpoint_labels: dict[str, int]) -> list[str]:
        """Take what the task must know from rows that are sound; returns problems. By default there is nothing."""
        return self.setting_problems(())

    def setting_problems(self, allowed: tuple[str, ...]) -> list[str]:
        """The settings of `train` for classes that this family would ignore, except the `allowed` ones."""
        train = self.recipe.train
        given = {"label_smoothing": train.label_smoothing != 0, "class_weights": train.class_weights is not None}
        return [
            f"train.{key} does not apply to {self.recipe.task}: leave it out"
            for key, is_given in given.items()
            if is_given and key not in allowed
        ]

    def config_changes(self) -> dict[str, Any]:
        """What the model's config must say."""
        return {}

    def setup(self, config: Any, tokenizer: Any) -> None:
        """Take the final config and the tokenizer. Raises UserError where the tokenizer lacks what the task needs."""
        self.config, self.tokenizer = config, tokenizer

    @abstractmethod
    def encode(self, rows: datasets.Dataset) -> Examples:
        """Tokenise rows; without their targets where they have none, as when they are to be predicted."""

    def for_epoch(self, examples: Examples, key: list[int]) -> Examples:
        """The split as an epoch sees it, a pure function of `key`, such as [seed, epoch]; by default as it is."""
        return examples

    def inputs(self, examples: Examples, batch: Batch) -> Features:
        """Inputs of the model, each [B, width]."""
        (width,) = batch.widths
        filled = {
            key: ragged.padded(batch.rows, width, self.tokenizer.pad_token_id if key == "input_ids" else 0)
            for key, ragged in examples.features.items()
        }
        real = np.arange(width) < examples.lengths[batch.rows][:, None]
        return filled | {"attention_mask": real.astype(np.int32)}

    @abstractmethod
    def targets(self, examples: Examples, batch: Batch) -> Features:
        """`labels` and `loss_weights` of the same shape, the weights summing to 1 over these rows: one whole update.

        The loss of an update is the weighted sum of its targets' losses, so splitting the update into micro-batches
        or among processes cannot change it.
        """

    def outputs(self, learner: Any, inputs: Features, targets: Features | None) -> Any:
        """Ask the model for what `judge`, or without targets `respond`, reads; by default its logits."""
        return learner.logits(inputs)

    @abstractmethod
    def score_batch(self, output: Any, examples: Examples, rows: NDArray) -> list[Any]:
        """What the model's output says of each row; `conclude` reads it."""

    def aggregate(self, examples: Examples, found: list[Any]) -> list[ScoredExample]:
        """One example for each example in file order; by default a row is an example and is judged already."""
        return found

    @abstractmethod
    def decode_batch(self, output: Any, examples: Examples, rows: NDArray) -> list[Any]:
        """What is predicted for rows without targets; `answers` reads it."""

    def format_predictions(self, examples: Examples, found: list[Any]) -> Iterator[dict[str, Any]]:
        """One prediction for each row asked, in order, as `make predict` writes it."""
        return iter(found)

    def prediction_fields(self) -> tuple[str, ...]:
        """The fields that a row to predict must have."""
        return self.asked

    def row_from_text(self, text: str) -> dict[str, Any]:
        """A plain text as a row to predict. Raises UserError where one text is not enough."""
        if len(self.prediction_fields()) > 1:
            fields = ", ".join(f'"{name}": "..."' for name in self.prediction_fields())
            raise UserError(f"{self.recipe.task} is asked with JSON: {{{fields}}}")
        return {self.prediction_fields()[0]: text}

    def prediction_changes(self, config: Any) -> dict[str, Any]:
        """Overrides of the recipe under which rows are predicted, for a model of this config."""
        return {}

    def real_positions(self, inputs: Features) -> NDArray[np.bool_]:
        """Which positions of token-level logits are real, [B, T]."""
        return inputs["attention_mask"] != 0


def load_task(recipe: Recipe) -> Task:
    """The recipe's task, an instance of the class in its file."""
    module = recipe.task.replace("-", "_").replace("modelling", "modeling")
    name = "".join(word.capitalize() for word in module.split("_"))
    return getattr(importlib.import_module(f"pipeline.tasks.{module}"), name)(recipe)


def first_problems(split: str, problems: Iterable[str], most: int = 3) -> list[str]:
    """The first few, and a word that there are more."""
    found = []
    for text in problems:
        if len(found) == most:
            return [*found, f"{split}: more rows like these follow"]
        found.append(text)
    return found


def text_problems(split: str, field_name: str, rows: datasets.Dataset, blank_is_wrong: bool = True) -> list[str]:
    """Rows whose text is null, blank or no text at all."""

    def problems() -> Iterator[str]:
        for number, text in enumerate(rows[field_name][:], start=1):
            if text is None:
                yield f"{split} row {number}: {field_name} is null; mend or remove the row"
            elif not isinstance(text, str):
                yield f"{split} row {number}: {field_name} is {text!r}, want text"
            elif blank_is_wrong and not text.strip():
                yield f"{split} row {number}: {field_name} is empty; mend or remove the row"

    return first_problems(split, problems())


def class_names(rows: datasets.Dataset, column: str) -> tuple[str, ...] | None:
    """The names of a ClassLabel column, or of a column of lists of them; None for another type."""
    feature = rows.features[column]
    feature = getattr(feature, "feature", feature)
    return tuple(feature.names) if isinstance(feature, datasets.ClassLabel) else None


def in_checkpoint_order(names: tuple[str, ...], checkpoint_labels: dict[str, int]) -> tuple[str, ...]:
    """The label names in the order of a checkpoint that has the same ones."""
    return tuple(sorted(names, key=checkpoint_labels.get)) if set(names) == set(checkpoint_labels) else names


def label_maps(labels: tuple[str, ...]) -> dict[str, Any]:
    """What a config says of labels."""
    return {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {name: i for i, name in enumerate(labels)},
    }


def equal_weights(mask: NDArray) -> NDArray[np.float32]:
    """Weights of the targets where `mask` is set, equal and summing to 1."""
    weights = mask.astype(np.float64)
    return (weights / max(weights.sum(), 1.0)).astype(np.float32)


def log_softmax(logits: NDArray) -> NDArray[np.float64]:
    """Over the last axis, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def listed(names: Iterable[str]) -> str:
    """Names for a message, the first ten of many."""
    names = list(names)
    return ", ".join(names[:10]) + (f", ... ({len(names)} in all)" if len(names) > 10 else "")
