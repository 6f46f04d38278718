"""A finished run opened again, in either framework, and asked: rows in, predictions out, a few at a time."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import datasets
import numpy as np

from pipeline.backend import Backend, load_backend
from pipeline.data import batches
from pipeline.models import checkpoint
from pipeline.models.building import build_model
from pipeline.recipe.loading import load_shipped
from pipeline.runs.directory import Run, load_run
from pipeline.tasks.base import Task, load_task
from pipeline.utils.environment import preserved_random_state
from pipeline.utils.errors import UserError
from pipeline.utils.files import atomic_write, json_safe
from pipeline.utils.text import escape_controls

# So many rows are read, predicted together, and written before the next are read.
CHUNK_ROWS = 64
_CHANGEABLE = ("data.max_length", "train.batch_size")


@dataclass(frozen=True)
class Trained:
    """A run's model with the task that it has learned."""

    backend: Backend
    model: Any
    task: Task
    tokenizer: Any


@preserved_random_state()
def open_run(run: Run, framework: str | None = None, changes: Mapping[str, Any] | None = None) -> Trained:
    """A finished run's model in a framework, by default its own; `changes` override its recipe. Raises UserError."""
    recipe = load_shipped(run.path / "recipe.yaml")
    recipe = recipe.override({"checkpoint": str((run.path / "model").resolve()), "weights": "pretrained"})
    if idle := [key for key in changes or {} if not key.startswith("options.") and key not in _CHANGEABLE]:
        raise UserError(f"--set {idle[0]} would be ignored: a prediction takes {', '.join(_CHANGEABLE)} and options.*")
    recipe = recipe.override({"train.precision": "fp32", **(changes or {})})
    config, tokenizer = checkpoint.load_config(recipe), checkpoint.load_tokenizer(recipe)
    task = load_task(recipe)
    backend = load_backend(framework or run.record.framework)
    model = build_model(backend, recipe, task.auto_class, config, seed=0)
    task = load_task(recipe.override(task.prediction_changes(config)))
    task.setup(config, tokenizer)
    return Trained(backend, model, task, tokenizer)


def predict(
    run: Run | str | os.PathLike, rows: Iterable[Mapping[str, Any] | str], framework: str | None = None
) -> Iterator[dict[str, Any]]:
    """Predictions of a finished run for `rows`, in order, a dict each.

    A row is a dict with the task's fields (or the columns that the recipe maps to them), or a text where the task asks
    for one. Rows are read and predicted a few at a time; "truncated" marks those of which only the beginning, of
    `data.max_length` tokens, was read. Raises UserError naming a row that is wrong.
    """
    trained = open_run(run if isinstance(run, Run) else load_run(run), framework)
    yield from predict_rows(trained, rows)


def predict_rows(
    trained: Trained, rows: Iterable[Mapping[str, Any] | str], chunk_rows: int = CHUNK_ROWS
) -> Iterator[dict[str, Any]]:
    """Predictions of an opened run; see `predict`."""
    task, recipe = trained.task, trained.task.recipe
    predictor = trained.backend.Predictor(trained.model)
    numbered = enumerate(rows, start=1)
    while chunk := list(itertools.islice(numbered, chunk_rows)):
        asked = [task.prediction_row(row, number) for number, row in chunk]
        try:
            examples = task.encode(datasets.Dataset.from_list(asked))
        except UserError as error:
            raise UserError(f"rows {chunk[0][0]} to {chunk[-1][0]}, counted among these: {error}") from error
        read = range(len(chunk)) if examples.rows_read is None else examples.rows_read
        if missed := set(range(len(chunk))) - set(read):
            raise UserError(f"row {chunk[min(missed)][0]} has no text that the tokenizer knows")
        cut = np.zeros(len(chunk), dtype=bool) if examples.truncated is None else examples.truncated
        if cut.any() and not task.reads_beginnings:
            number, most = chunk[int(cut.argmax())][0], recipe.data.max_length
            raise UserError(f"row {number} is longer than the {most} tokens that leave room for what follows")
        found: list[Any] = [None] * len(examples.lengths)
        for batch in batches.evaluation_batches(examples.lengths, recipe.train.batch_size):
            output = task.outputs(predictor, task.inputs(examples, batch), None)
            for row, response in zip(batch.rows, task.decode_batch(output, examples, batch.rows), strict=True):
                found[row] = response
        answers = zip(chunk, asked, task.format_predictions(examples, found), cut, strict=True)
        for (number, _), given, answer, is_cut in answers:
            yield {"index": number - 1} | given | answer | ({"truncated": True} if is_cut else {})


def predict_lines(trained: Trained, lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Predictions for lines of text, each a JSON object or, where the task asks for one text, that text."""
    is_typed = getattr(lines, "isatty", lambda: False)()
    written = (line for line in lines if line.strip())
    rows = (_parsed(line, number) for number, line in enumerate(written, start=1))
    return predict_rows(trained, rows, chunk_rows=1 if is_typed else CHUNK_ROWS)


@contextlib.contextmanager
def lines_of(text: str | None, source: str | None) -> Iterator[Iterable[str]]:
    """The lines to predict: a text, the lines of a file, or those of standard input for "-". Raises UserError."""
    if text is not None:
        yield [text]
    elif source == "-":
        yield sys.stdin
    else:
        if not os.access(source, os.R_OK) or not os.path.isfile(source):
            raise UserError(f"--input {source} is no file that can be read")
        with open(source, encoding="utf-8-sig") as file:
            yield file


@contextlib.contextmanager
def sink(out: Path | None) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Writes JSON lines to standard output as they come, or to a file that appears when all are there."""
    if out is None:
        yield lambda answer: write_prediction(sys.stdout, answer)
        return
    if not os.access(out.parent, os.W_OK) or out.is_dir():
        raise UserError(f"--out {out} cannot be written; name a file in a folder that is there")
    with atomic_write(out) as file:
        yield lambda answer: write_prediction(file, answer)


def write_prediction(file: IO[str], answer: dict[str, Any]) -> None:
    """Write one prediction as a JSON line that cannot change a terminal."""
    file.write(escape_controls(json.dumps(json_safe(answer), ensure_ascii=False)) + "\n")
    file.flush()


def _parsed(line: str, number: int) -> dict[str, Any] | str:
    text = line.strip("\r\n")
    if not text.lstrip().startswith("{"):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"row {number} is not a JSON object: {error}") from error
