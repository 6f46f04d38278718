"""The base class of all tasks: from rows to batches, and from a model's outputs to scores and predictions, in NumPy."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar, cast

import datasets
import numpy as np
from numpy.typing import NDArray

from pipeline.backend import Architecture, Predictor
from pipeline.data.batches import Batch, Features
from pipeline.data.ragged import Ragged, TextLists, Texts
from pipeline.data.table import columns_in, joined_text, value_at
from pipeline.metrics.specs import Outcome, metrics_for
from pipeline.recipe.schema import Recipe
from pipeline.recipe.task_table import Options
from pipeline.utils.errors import UserError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerFast


@dataclass(frozen=True)
class Examples:
    """One tokenized split, ready for batches; each task adds in a subclass what it needs for targets and scores.

    `features` by the name of the model's input; `lengths` [N], or [N, 2] for sources and targets, in tokens;
    `num_targets` [N], how many losses each example has; `counts` for people: rows, truncated, dropped and so on.
    `truncated` [N] marks the examples that lost text; `rows_read` numbers the rows, from 0, that have tokens at all.
    Both are None where the task does not count them, or reads every row.
    """

    features: dict[str, Ragged]
    lengths: NDArray[np.int64]
    num_targets: NDArray[np.int64]
    counts: dict[str, int]
    truncated: NDArray[np.bool_] | None = None
    rows_read: NDArray[np.int64] | None = None


# What a model returns for a batch: logits, losses, tokens, as the task has asked for.
Output = NDArray | tuple[NDArray, ...] | list[NDArray]
ExamplesT = TypeVar("ExamplesT", bound=Examples)
# What a task keeps of each row of a batch: to score it, and to predict for it.
ScoreT = TypeVar("ScoreT")
AnswerT = TypeVar("AnswerT")
Value = TypeVar("Value")


# What is predicted for a row, by the names of its parts, as `predict` returns it.
Prediction = dict[str, object]


@dataclass(frozen=True)
class ScoredExample:
    """One scored example: its line of predictions.jsonl, the columns that metrics read, its summed loss in nats."""

    line: Mapping[str, object]
    columns: Mapping[str, object]
    loss: float
    num_targets: int


class Task(ABC, Generic[ExamplesT, ScoreT, AnswerT]):
    """What every task offers; a file of this folder completes it, and `options.py` has its options in a recipe.

    The order of calls, in training: `validate` the splits; put `config_changes` into the config; `setup` with config
    and tokenizer; `encode` each split; `for_epoch` in each epoch; for each batch `inputs` and `targets`, and to
    evaluate it `outputs` and `score_batch`; `aggregate` all scores of the split.

    In prediction: `setup`; `prediction_row` for each row; `encode`; for each batch `inputs`, `outputs` without
    targets, and `decode_batch`; `format_predictions` of all of them.
    """

    # The head, as a transformers Auto class, and the kinds of models that have one for this task.
    auto_class: ClassVar[str]
    architectures: ClassVar[tuple[Architecture, ...]]
    # What its scored examples hold, which decides the metrics that fit; and the metrics of a recipe that lists none.
    outcomes: tuple[Outcome, ...]
    default_metrics: tuple[str, ...]
    # What `encode` returns.
    examples_class: type[ExamplesT]
    # Those of the recipe; a task that has some says of which class.
    options: Options
    # Those of the model, from `setup` on.
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerFast
    # Fields of a row that training must have, those that it may have, and those that a prediction must have.
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    prediction_fields: tuple[str, ...] = ("text",)
    # Fields that a prediction carries over from its row as text, if the row has them.
    carried_fields: tuple[str, ...] = ()
    # The part of a prediction that the model writes token by token, if there is one.
    written_field: str | None = None
    # Whether a truncated text can still be predicted for, from its beginning.
    reads_beginnings = True
    # What the learner minimizes: cross_entropy, binary_cross_entropy or squared_error.
    loss = "cross_entropy"
    # Whether each example has labels as a whole, rather than each of its tokens.
    labels_whole_examples = False
    # Whether each validation row has a line of its own in predictions.jsonl, in the same order.
    has_prediction_per_row = True
    # Whether predictions and references are classes, so that agreement between models can be counted.
    predicts_classes = False

    def __init__(self, recipe: Recipe):
        """Make the task of a recipe."""
        assert isinstance(recipe.options, Options), "the recipe has validated them"
        self.recipe, self.options = recipe, recipe.options
        self.labels: tuple[str, ...] = ()

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that fit."""
        return metrics_for(self.outcomes)

    def validate(self, splits: dict[str, datasets.Dataset], checkpoint_labels: dict[str, int]) -> None:
        """Check all rows, and take the labels from the training split. Raises UserError with every problem."""
        problems = [text for split, rows in splits.items() for text in self.row_problems(split, rows)]
        if not problems:
            problems = self.fit_labels(splits, checkpoint_labels)
        if problems:
            raise UserError("\n".join(f"recipe {self.recipe.name}: {text}" for text in problems))

    @abstractmethod
    def row_problems(self, split: str, rows: datasets.Dataset) -> Iterable[str]:
        """What is wrong with a split's rows; each problem names its row."""

    def fit_labels(self, splits: dict[str, datasets.Dataset], checkpoint_labels: dict[str, int]) -> list[str]:
        """Take what the task must know from rows that are sound; returns problems. By default there is nothing."""
        return self.setting_problems()

    def setting_problems(self, allowed: tuple[str, ...] = ()) -> list[str]:
        """The settings for classes that this task would ignore, except the `allowed` ones."""
        train, data = self.recipe.train, self.recipe.data
        is_given = {
            "train.label_smoothing": train.label_smoothing != 0,
            "train.class_weights": train.class_weights is not None,
            "data.labels": data.labels is not None,
        }
        return [
            f"{key} does not apply to {self.recipe.task}: leave it out"
            for key in is_given
            if is_given[key] and key not in allowed
        ]

    def config_changes(self) -> dict[str, object]:
        """The settings that the model's config must have for this task."""
        return {}

    def setup(self, config: PretrainedConfig, tokenizer: PreTrainedTokenizerFast) -> None:
        """Take the final config and the tokenizer. Raises UserError if the tokenizer lacks what the task needs."""
        self.config, self.tokenizer = config, tokenizer

    @abstractmethod
    def encode(self, rows: datasets.Dataset) -> ExamplesT:
        """Tokenize rows; without targets if the rows have none, as when they are to be predicted."""

    def for_epoch(self, examples: ExamplesT, key: list[int]) -> ExamplesT:
        """The split as an epoch sees it, a pure function of `key`, such as [seed, epoch]; by default as it is."""
        return examples

    def inputs(self, examples: ExamplesT, batch: Batch) -> Features:
        """Inputs of the model, each [R, L]: R rows of width L.

        Where each example has a row of its own, `attention_mask` marks its tokens. In packed rows `segment_ids` says
        which example of the row a token belongs to, from 1, with 0 for padding, and `position_ids` counts the tokens
        of each example from 0.
        """
        layout = batch.layout(examples.lengths)
        (stream,) = layout.streams
        features = {
            key: ragged.laid_out(batch.rows, stream, token_id(self.tokenizer, "pad") if key == "input_ids" else 0)
            for key, ragged in examples.features.items()
        }
        if layout.packing is None:
            return features | {"attention_mask": stream.is_real.astype(np.int32)}
        return features | {"position_ids": stream.positions, "segment_ids": stream.segments}

    @abstractmethod
    def targets(self, examples: ExamplesT, batch: Batch) -> Features:
        """`labels` and `loss_weights` of the same shape, the weights summing to 1 over the rows of one step.

        Labels of tokens are [R, L], like the inputs. Labels of whole examples are [B, ...], in the order of the batch's
        rows, whether these are packed or not.

        The loss of a step is the weighted sum of its targets' losses, so splitting the step into micro-batches or
        among processes cannot change it.
        """

    def outputs(self, model: Predictor, inputs: Features, targets: Features | None) -> Output:
        """Ask the model for what `score_batch`, or without targets `decode_batch`, reads; by default its logits."""
        return model.logits(inputs)

    @abstractmethod
    def score_batch(self, output: Output, examples: ExamplesT, rows: NDArray) -> list[ScoreT]:
        """Score the model's output for each row; `aggregate` reads the results."""

    def aggregate(self, examples: ExamplesT, scored: list[ScoreT]) -> list[ScoredExample]:
        """One scored example for each example of the split, in file order; by default each row is one already."""
        return cast(list[ScoredExample], scored)

    @abstractmethod
    def decode_batch(self, output: Output, examples: ExamplesT, rows: NDArray) -> list[AnswerT]:
        """The prediction for each row of a batch without targets; `format_predictions` reads them."""

    def text_of(self, ids: NDArray) -> str:
        """The text of the tokens that a model has written."""
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def format_predictions(self, examples: ExamplesT, decoded: list[AnswerT]) -> Iterator[Prediction]:
        """One prediction for each row asked about, in order, as `predict` returns it."""
        return iter(cast(list[Prediction], decoded))

    def prediction_row(self, row: Mapping[str, object] | str, place: str) -> dict[str, object]:
        """The task's fields of a row to predict, which may have them under the recipe's column names.

        Raises UserError naming the row's `place`, such as "row 1".
        """
        row = self.row_from_text(row) if isinstance(row, str) else row
        fields: dict[str, object] = {}
        for name in self.prediction_fields:
            value = self.field_of_row(name, row)
            if value is None:
                needed = ", ".join(self.prediction_fields)
                raise UserError(f'{place} has no "{name}"; {self.recipe.task} needs: {needed}')
            if problem := self.field_problem(name, value):
                raise UserError(f"{place}: {name} {problem}")
            fields[name] = value
        return fields | {name: str(row[name]) for name in self.carried_fields if name in row}

    def field_of_row(self, name: str, row: Mapping[str, object]) -> object:
        """A field's value in a row, under its own name or the recipe's; None if the row has neither."""
        value = row.get(name)
        if value is not None:
            return value
        column = self.recipe.data.columns.get(name, name)
        parts = [value_at(row, str(part)) for part in columns_in(column)]
        return joined_text(parts, self.recipe.data.separator) if isinstance(column, tuple) else parts[0]

    def field_problem(self, name: str, value: object) -> str | None:
        """What is wrong with a field of a row to predict; by default it must be a text that is not blank."""
        if not isinstance(value, str):
            return f"is {str(value)[:60]!r}, but must be text"
        return None if value.strip() else "is empty"

    def row_from_text(self, text: str) -> dict[str, object]:
        """A plain text as a row to predict. Raises UserError if the task needs more than one text."""
        first, *others = self.prediction_fields
        if others:
            fields = ", ".join(f'"{name}": "..."' for name in self.prediction_fields)
            raise UserError(f"{self.recipe.task} predicts for JSON objects such as {{{fields}}}")
        return {first: text}

    def words_to_show(self, row: Mapping[str, object]) -> list[str]:
        """The words of a row's first field, of which attention maps are drawn."""
        return str(row[self.prediction_fields[0]]).split()

    def prediction_changes(self, config: PretrainedConfig) -> dict[str, object]:
        """Overrides of the recipe with which rows are predicted, for a model of this config."""
        return {}

    def sample_logits(self, logits: NDArray, inputs: Features, most: int) -> NDArray:
        """What a run keeps of a batch's logits: [B, classes], or at most `most` real positions, evenly spaced."""
        if logits.ndim == 2:
            return logits
        real = np.argwhere(self.real_positions(inputs))
        chosen = real[np.linspace(0, len(real) - 1, min(most, len(real))).round().astype(int)]
        return logits[chosen[:, 0], chosen[:, 1]]

    def real_positions(self, inputs: Features) -> NDArray[np.bool_]:
        """Which positions of token-level logits are real, [B, T]."""
        return inputs["attention_mask"] != 0


def joined(parts: Sequence[ExamplesT]) -> ExamplesT:
    """The examples of several parts of a split, in order, as one; what is counted is summed."""
    first = parts[0]
    if len(parts) == 1:
        return first
    values = {field.name: _joined([getattr(part, field.name) for part in parts]) for field in fields(first)}
    return replace(first, **values)


def _joined(values: Sequence[object]) -> object:
    first = values[0]
    if isinstance(first, np.ndarray):
        return np.concatenate(cast(Sequence[NDArray], values))
    if isinstance(first, Ragged | Texts | TextLists):
        return type(first).joined(cast(Sequence, values))
    if isinstance(first, dict):
        return {key: _joined([cast(dict[str, object], each)[key] for each in values]) for key in first}
    return sum(cast(Sequence[int], values)) if isinstance(first, int) else first


def token_id(tokenizer: PreTrainedTokenizerFast, name: str) -> int:
    """The id of a special token, such as "pad", which the tokenizer must have."""
    number = getattr(tokenizer, f"{name}_token_id")
    assert isinstance(number, int), f"the tokenizer has no {name}_token"
    return number


def known(value: Value | None) -> Value:
    """A part of the examples that only rows with targets have; asserts that it is there."""
    assert value is not None, "these rows have no targets"
    return value


def load_task(recipe: Recipe) -> Task:
    """The recipe's task."""
    return task_class(recipe.task)(recipe)


def task_class(name: str) -> type[Task]:
    """The class of a task, such as `TokenClassification` in token_classification.py of "token-classification"."""
    module = name.replace("-", "_")
    class_name = "".join(word.capitalize() for word in module.split("_"))
    return getattr(importlib.import_module(f"pipeline.tasks.{module}"), class_name)
