"""Prediction: a finished run opened in either framework, rows in, predictions out, a few at a time."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import datasets
from transformers import PreTrainedTokenizerFast

from pipeline.backend import Backend, Model, Predictor, load_backend
from pipeline.data import batches
from pipeline.models import checkpoint
from pipeline.models.building import build_model
from pipeline.runs.directory import Run, load_run
from pipeline.tasks.base import Examples, Prediction, Task, load_task
from pipeline.utils.environment import preserved_random_state
from pipeline.utils.errors import UserError

# How many rows are read, predicted together and returned before the next are read.
CHUNK_ROWS = 64
# A row to predict: its fields, or a text if the task needs one text.
Row = Mapping[str, object] | str
_CHANGEABLE = ("data.max_length", "train.batch_size")


@dataclass(frozen=True)
class TrainedModel:
    """A run's model in a framework, with its task and tokenizer."""

    backend: Backend
    model: Model
    task: Task
    tokenizer: PreTrainedTokenizerFast


@preserved_random_state()
def open_run(run: Run, framework: str | None = None, changes: Mapping[str, object] | None = None) -> TrainedModel:
    """A finished run's model in a framework, by default its own; `changes` override its recipe. Raises UserError."""
    checkpoint_path = str(run.directory.model_folder.resolve())
    recipe = run.directory.recipe().override({"checkpoint": checkpoint_path, "weights": "pretrained"})
    if idle := [key for key in changes or {} if not key.startswith("options.") and key not in _CHANGEABLE]:
        raise UserError(
            f"{idle[0]} would be ignored: a prediction takes {', '.join(_CHANGEABLE)} and options.*",
            arguments=("overrides",),
        )
    recipe = recipe.override({"train.precision": "fp32", **(changes or {})})
    config, tokenizer = checkpoint.load_config(recipe), checkpoint.load_tokenizer(recipe)
    task = load_task(recipe)
    backend = load_backend(framework or run.record.framework)
    with backend.preserved_generators():
        model = build_model(backend, recipe, task.auto_class, config, seed=0)
    task = load_task(recipe.override(task.prediction_changes(config)))
    task.setup(config, tokenizer)
    return TrainedModel(backend, model, task, tokenizer)


def predict(run: Run | str | os.PathLike, rows: Iterable[Row], framework: str | None = None) -> Iterator[Prediction]:
    """Predictions of a finished run for `rows`, in order, a dict for each.

    A row is a dict with the task's fields (or the columns that the recipe maps to them), or a text if the task needs
    one text. Rows are read and predicted a few at a time; "truncated" marks a row of which only the beginning, of
    `data.max_length` tokens, was read. Raises UserError naming a row that is wrong.

    >>> list(predict("runs/sentiment_bert/torch-stock-seed0", ["The food was great."]))  # doctest: +SKIP
    [{'index': 0, 'text': 'The food was great.', 'prediction': 'positive', 'score': 0.963656}]
    """
    if isinstance(rows, str | Mapping):
        raise UserError("predict takes several rows; put a single one into a list: predict(run, [row])")
    return predict_rows(open_run(run if isinstance(run, Run) else load_run(run), framework), rows)


def predict_rows(trained: TrainedModel, rows: Iterable[Row], chunk_rows: int = CHUNK_ROWS) -> Iterator[Prediction]:
    """Predictions of an opened run; see `predict`."""
    with preserved_random_state(), trained.backend.preserved_generators():  # it may make layers
        predictor = trained.backend.Predictor(trained.model)
    numbered = enumerate(rows, start=1)
    while chunk := list(itertools.islice(numbered, chunk_rows)):
        yield from _predict_chunk(trained.task, predictor, chunk)


def _predict_chunk(task: Task, predictor: Predictor, chunk: list[tuple[int, Row]]) -> Iterator[Prediction]:
    """Predictions for a few rows with their numbers, counted from 1."""
    numbers = [number for number, _ in chunk]
    fields = [task.prediction_row(row, number) for number, row in chunk]
    examples = _encode(task, fields, numbers)
    outputs: list[object] = [None] * len(examples.lengths)
    for batch in batches.evaluation_batches(examples.lengths, task.recipe.train.batch_size):
        output = task.outputs(predictor, task.inputs(examples, batch), None)
        for row, decoded in zip(batch.rows, task.decode_batch(output, examples, batch.rows), strict=True):
            outputs[row] = decoded
    truncated = [False] * len(chunk) if examples.truncated is None else examples.truncated
    predictions = task.format_predictions(examples, outputs)
    for number, given, prediction, is_truncated in zip(numbers, fields, predictions, truncated, strict=True):
        yield {"index": number - 1} | given | prediction | ({"truncated": True} if is_truncated else {})


def _encode(task: Task, fields: list[dict[str, object]], numbers: list[int]) -> Examples:
    """Rows as token ids. Raises UserError naming a row that cannot be read, or not be read in full if it must be."""
    try:
        examples = task.encode(datasets.Dataset.from_list(fields))
    except UserError as error:
        raise UserError(f"rows {numbers[0]} to {numbers[-1]}, counted among these: {error}") from error
    rows_read = range(len(fields)) if examples.rows_read is None else examples.rows_read
    if missed := set(range(len(fields))) - set(rows_read):
        raise UserError(f"row {numbers[min(missed)]} has no text that the tokenizer knows")
    if examples.truncated is not None and examples.truncated.any() and not task.reads_beginnings:
        number, most = numbers[int(examples.truncated.argmax())], task.recipe.data.max_length
        raise UserError(f"row {number} is longer than the {most} tokens that leave room for what follows")
    return examples


def predict_lines(trained: TrainedModel, lines: Iterable[str]) -> Iterator[Prediction]:
    """Predictions for lines, each a JSON object or, if the task needs one text, that text; blank lines are skipped.

    Lines that a person types are predicted one by one. Raises UserError naming a row that is wrong.
    """
    is_typed = getattr(lines, "isatty", lambda: False)()
    written = (line for line in lines if line.strip())
    rows = (_parsed(line, number) for number, line in enumerate(written, start=1))
    return predict_rows(trained, rows, chunk_rows=1 if is_typed else CHUNK_ROWS)


def _parsed(line: str, number: int) -> Row:
    """A line as a row: its JSON object, or its text."""
    text = line.strip("\r\n")
    if not text.lstrip().startswith("{"):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"row {number} is not a JSON object: {error}") from error
