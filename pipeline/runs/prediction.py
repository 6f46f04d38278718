"""Prediction: a finished run opened in either framework, rows in, predictions out, a few at a time."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import datasets
import numpy as np
from datasets.table import InMemoryTable
from numpy.typing import NDArray
from transformers import PretrainedConfig, PreTrainedTokenizerFast

from pipeline.backend import Backend, Model, Predictor, load_backend
from pipeline.data import batches
from pipeline.models import checkpoint
from pipeline.models.building import build_model
from pipeline.recipe.schema import Recipe
from pipeline.runs.directory import Run, load_run
from pipeline.runs.model_files import refuse_altered
from pipeline.tasks.base import Examples, Prediction, Task, load_task
from pipeline.utils.environment import preserved_random_state
from pipeline.utils.errors import PipelineError, UserError
from pipeline.utils.text import one_line

# How many rows are read, predicted together and returned before the next are read.
CHUNK_ROWS = 64
# A row to predict: its fields, or a text if the task needs one text.
Row = Mapping[str, object] | str
# What is told of a row that is wrong and left out.
OnBad = Callable[[UserError], None]
# Of a text: a model reads some thousand of them, and the tokenizer would take minutes for a whole library.
MOST_CHARACTERS = 1_000_000
_CHANGEABLE = ("data.max_length", "train.batch_size")


class Opened(Protocol):
    """What predicts for rows: a run's model in a framework, or an export in its runtime."""

    @property
    def task(self) -> Task:
        """The task, with the labels of the model."""
        ...

    def predictor(self) -> Predictor:
        """What answers batches."""
        ...


@dataclass(frozen=True)
class TrainedModel:
    """A run's model in a framework, with its task and tokenizer."""

    backend: Backend
    model: Model
    task: Task
    tokenizer: PreTrainedTokenizerFast
    unverified: Path | None = None
    """The model's folder, if nothing says whether its configuration is the one that the run wrote."""

    def predictor(self) -> Predictor:
        """A predictor of the model; the caller's random generators continue where they were."""
        with preserved_random_state(), self.backend.preserved_generators():  # it may make layers
            return self.backend.Predictor(self.model)


@dataclass(frozen=True)
class Answer:
    """The prediction for a row, and the model's logits or tokens for it; None if the row was read in several parts."""

    prediction: Prediction
    output: NDArray | None


@preserved_random_state()
def open_run(run: Run, framework: str | None = None, changes: Mapping[str, object] | None = None) -> TrainedModel:
    """A finished run's model in a framework, by default its own; `changes` override its recipe. Raises UserError."""
    refuse_altered(run.directory.model_folder, run.record.model_files, thorough=True)
    recipe = prediction_recipe(run.directory.recipe(), run.directory.model_folder, changes)
    config = checkpoint.load_config(recipe)
    tokenizer = checkpoint.load_tokenizer(recipe, config)
    backend = load_backend(framework or run.record.framework)
    with backend.preserved_generators():
        model = build_model(backend, recipe, load_task(recipe).auto_class, config, seed=0)
    unverified = None if "config.json" in run.record.model_files else run.directory.model_folder
    return TrainedModel(backend, model, prediction_task(recipe, config, tokenizer), tokenizer, unverified)


@contextlib.contextmanager
def changes_blamed(trained: Opened) -> Iterator[None]:
    """Turn an error of a model whose configuration may have been changed into a UserError that says so."""
    try:
        yield
    except Exception as error:  # the libraries have no kind of their own for it
        folder = getattr(trained, "unverified", None)
        if isinstance(error, PipelineError) or folder is None:
            raise
        raise UserError(
            f"the model in {folder} cannot be used: {type(error).__name__}: {one_line(error)}. Its config.json is not "
            "verified, so it may have been changed: restore it, or repeat the run"
        ) from error


def prediction_recipe(recipe: Recipe, model_folder: Path, changes: Mapping[str, object] | None = None) -> Recipe:
    """The recipe with which a model of this folder predicts, in fp32 and with the usual implementation of attention.

    `changes` override it. Raises UserError.
    """
    recipe = recipe.override({"checkpoint": str(model_folder.resolve()), "weights": "pretrained"})
    if idle := [key for key in changes or {} if not key.startswith("options.") and key not in _CHANGEABLE]:
        raise UserError(
            f"{idle[0]} would be ignored: a prediction takes {', '.join(_CHANGEABLE)} and options.*",
            arguments=("overrides",),
        )
    return recipe.override({"train.precision": "fp32", "train.attention_implementation": None, **(changes or {})})


def prediction_task(recipe: Recipe, config: PretrainedConfig, tokenizer: PreTrainedTokenizerFast) -> Task:
    """The task of a recipe as it predicts for rows, with the labels of a trained model's configuration."""
    task = load_task(recipe.override(load_task(recipe).prediction_changes(config)))
    task.setup(config, tokenizer)
    return task


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


def predict_rows(
    trained: Opened, rows: Iterable[Row], chunk_rows: int = CHUNK_ROWS, on_bad: OnBad | None = None
) -> Iterator[Prediction]:
    """Predictions of an opened run or export; see `predict`. A wrong row is left out if `on_bad` can be told."""
    return _predict(trained, ((f"row {number}", row) for number, row in enumerate(rows, start=1)), chunk_rows, on_bad)


def predict_lines(trained: Opened, lines: Iterable[str], on_bad: OnBad | None = None) -> Iterator[Prediction]:
    """Predictions for lines, each a JSON object or, if the task needs one text, that text; blank lines are skipped.

    Lines that a person types are predicted one by one. Raises UserError naming a line that is wrong, after the
    predictions for those before it; with `on_bad`, it is told what is wrong with the line, which is left out.
    """
    is_typed = getattr(lines, "isatty", lambda: False)()
    return _predict(trained, _numbered_lines(lines), 1 if is_typed else CHUNK_ROWS, on_bad)


def _numbered_lines(lines: Iterable[str]) -> Iterator[tuple[str, Line]]:
    """Each line that is not blank with its place in the file. Raises UserError for one that is not text."""
    number = 0
    try:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield f"line {number}", Line(line)
    except UnicodeDecodeError as error:
        wrong = f"the byte 0x{error.object[error.start]:02x}, which is not {error.encoding}"
        raise UserError(f"after line {number} comes {wrong}") from error


class Line(str):
    """A line of a file, which may be a row's JSON object."""


def _predict(
    trained: Opened, rows: Iterable[tuple[str, Row]], chunk_rows: int, on_bad: OnBad | None
) -> Iterator[Prediction]:
    """Predictions for rows with their places, a few at a time.

    If one of them is wrong, those with it are predicted one by one: it costs no prediction but its own.
    """
    with changes_blamed(trained):
        predictor = trained.predictor()
    index = 0
    for chunk in _chunks(rows, chunk_rows):
        try:
            with changes_blamed(trained):
                answers = list(answer_rows(trained.task, predictor, chunk, index))
        except UserError:
            answers = _one_by_one(trained, predictor, chunk, index, on_bad)
        for answer in answers:
            yield answer.prediction
        index += len(chunk)


def _one_by_one(
    trained: Opened, predictor: Predictor, chunk: list[tuple[str, Row]], index: int, on_bad: OnBad | None
) -> Iterator[Answer]:
    for i, row in enumerate(chunk):
        try:
            with changes_blamed(trained):
                answers = list(answer_rows(trained.task, predictor, [row], index + i))
            yield from answers
        except UserError as error:
            if on_bad is None:
                raise
            on_bad(error)


def _chunks(rows: Iterable[tuple[str, Row]], size: int) -> Iterator[list[tuple[str, Row]]]:
    """The rows, `size` at a time; also those that were read before reading fails."""
    chunk: list[tuple[str, Row]] = []
    try:
        for row in rows:
            chunk.append(row)
            if len(chunk) == size:
                yield chunk
                chunk = []
    except UserError:
        if chunk:
            yield chunk
        raise
    if chunk:
        yield chunk


def answer_rows(task: Task, predictor: Predictor, rows: Sequence[tuple[str, Row]], index: int = 0) -> Iterator[Answer]:
    """Answers to a few rows, given with their places, the first of which has the number `index`, counted from 0.

    Raises UserError naming the place of a row that is wrong.
    """
    places = [place for place, _ in rows]
    fields = [fields_of(task, row, place) for place, row in rows]
    examples = _encode(task, fields, places)
    decoded: list[object] = [None] * len(examples.lengths)
    outputs: list[NDArray | None] = [None] * len(rows)
    for batch in batches.evaluation_batches(examples.lengths, task.recipe.train.batch_size):
        output = task.outputs(predictor, task.inputs(examples, batch), None)
        for row, each in zip(batch.rows, task.decode_batch(output, examples, batch.rows), strict=True):
            decoded[row] = each
        if isinstance(output, np.ndarray) and len(decoded) == len(rows):
            for row, each in zip(batch.rows, output, strict=True):
                outputs[row] = each
    truncated = [False] * len(rows) if examples.truncated is None else examples.truncated
    predictions = task.format_predictions(examples, decoded)
    for i, (given, prediction, is_truncated) in enumerate(zip(fields, predictions, truncated, strict=True)):
        line = {"index": index + i} | given | prediction | ({"truncated": True} if is_truncated else {})
        yield Answer(line, outputs[i])


def fields_of(task: Task, row: Row, place: str) -> dict[str, object]:
    """The task's fields of a row. Raises UserError naming the row's place and the field that is wrong."""
    fields = task.prediction_row(_parsed(row, place) if isinstance(row, Line) else row, place)
    for name, value in fields.items():
        if isinstance(value, str) and len(value) > MOST_CHARACTERS:
            raise UserError(
                f"{place}: {name} has {len(value):,} characters, but may have {MOST_CHARACTERS:,}; split it"
            )
        if isinstance(value, str) and not _is_unicode(value):
            raise UserError(f"{place}: {name} has half of a surrogate pair, which is no character; is it UTF-8?")
    return fields


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _encode(task: Task, fields: list[dict[str, object]], places: list[str]) -> Examples:
    """Rows as token ids. Raises UserError naming a row that cannot be read, or not be read in full if it must be."""
    try:
        examples = task.encode(_dataset(fields))
    except UserError as error:
        where = places[0] if len(places) == 1 else f"{places[0]} to {places[-1]}, counted among these"
        raise UserError(f"{where}: {error}") from error
    rows_read = range(len(fields)) if examples.rows_read is None else examples.rows_read.tolist()
    if missed := set(range(len(fields))) - set(rows_read):
        raise UserError(f"{places[min(missed)]} has no text that the tokenizer knows")
    if examples.truncated is not None and examples.truncated.any() and not task.reads_beginnings:
        place, most = places[int(examples.truncated.argmax())], task.recipe.data.max_length
        raise UserError(f"{place} is longer than the {most} tokens that leave room for what follows")
    return examples


def _dataset(rows: list[dict[str, object]]) -> datasets.Dataset:
    """Rows as the library has them, but without the fingerprint that it would take milliseconds to compute."""
    columns = {name: [row.get(name) for row in rows] for name in rows[0]}
    return datasets.Dataset(InMemoryTable.from_pydict(columns), fingerprint="rows to predict")


def _parsed(line: str, place: str) -> Row:
    """A line as a row: its JSON object, or its text. Raises UserError."""
    text = line.strip("\r\n")
    if not text.lstrip().startswith("{"):
        return str(text)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place} is not a JSON object: {one_line(error)}") from error
