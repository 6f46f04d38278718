"""What the server reads from requests: the body within its limits, rows to predict, and rows as token ids."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request

from pipeline.deploy.serving.inference_protocol import Tensor
from pipeline.deploy.serving.served_model import Description, Tokens
from pipeline.runs.prediction import Line, Row
from pipeline.utils.errors import UserError
from pipeline.utils.text import join_names, one_line

# What is too large is still read, up to this factor, so that its sender gets the answer and not a broken connection.
_DISCARDED = 16
# The status that is logged of a request whose client has gone before the answer.
CLIENT_GONE = 499
# All that a client is told of an error of the server's own.
UNEXPECTED = "the server failed to answer; its log says why"


@dataclass(frozen=True)
class Limits:
    """What the server takes: of one request the bytes and rows, and of all the rows that wait and the connections.

    `batch_rows` are answered together at most. A request's head and its body must each arrive within `read_seconds`,
    and its answer be there within `deadline_seconds`. `drain_seconds` is how long connections are kept open for the
    requests that are already on their way when the server is asked to stop.
    """

    body_bytes: int = 2 * 2**20
    rows: int = 256
    batch_rows: int = 32
    waiting_rows: int = 1024
    read_seconds: float = 10.0
    deadline_seconds: float = 30.0
    drain_seconds: float = 1.0
    connections: int = 512

    def too_late(self) -> Refusal:
        """What a request without an answer at its deadline is told."""
        return Refusal(504, f"there was no answer within {self.deadline_seconds:g} seconds")


class Refusal(Exception):
    """A request that is not answered: the status, what is wrong in one sentence, and more headers."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers or {}


async def read_body(request: Request, limits: Limits) -> bytes:
    """The whole body. Raises Refusal if it is too large, encoded, or does not arrive in time."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Refusal(
            415, "Content-Encoding must be identity: send the body uncompressed", {"Accept-Encoding": "identity"}
        )
    try:
        async with asyncio.timeout(limits.read_seconds):
            return await _read(request, limits.body_bytes)
    except TimeoutError:
        wanted = f"the body did not arrive within {limits.read_seconds:g} seconds"
        raise Refusal(408, wanted, {"Connection": "close"}) from None


async def _read(request: Request, most_bytes: int) -> bytes:
    announced = request.headers.get("content-length", "0")
    too_large = Refusal(413, f"the body has more than the {most_bytes:,} bytes that it may have")
    size, most_read = int(announced), most_bytes * _DISCARDED
    body = bytearray()
    if size > most_read:
        raise Refusal(413, too_large.message, {"Connection": "close"})
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > most_read:
            raise Refusal(413, too_large.message, {"Connection": "close"})
        if size <= most_bytes:
            body += part
    if size > most_bytes:
        raise too_large
    return bytes(body)


@dataclass(frozen=True)
class AskedRows:
    """The rows of a request with their places, and in which form their answers are wanted."""

    rows: list[tuple[str, Row]]
    form: str  # "object", "list" or "lines"


def read_rows(body: bytes, is_json: bool = False) -> AskedRows:
    """The rows of a body: one JSON object, a list of them and of texts, or the lines that `predict` reads.

    With `is_json`, when the sender says that it is JSON, a text must be in a list, so that its quotes are not read too.
    Raises UserError naming the place that is wrong.
    """
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"the body has the byte 0x{body[error.start]:02x}, which is not UTF-8") from error
    if text.lstrip().startswith("["):
        return AskedRows(_rows_of_list(text), "list")
    lines = [(f"line {number}", Line(line)) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not lines:
        raise UserError("the body is empty: send a JSON object, a list of them, or lines")
    if is_json and not text.lstrip().startswith("{"):
        raise UserError("the body must be a JSON object, or a list of objects and texts")
    if text.lstrip().startswith("{") and (whole := _whole_object(text)) is not None:
        return AskedRows([("the body", whole)], "object")
    return AskedRows(list(lines), "lines")


def _rows_of_list(text: str) -> list[tuple[str, Row]]:
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"the body is not a JSON list: {one_line(error)}") from error
    if not rows:
        raise UserError("the list has no rows")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict | str):
            raise UserError(f"row {number} is {one_line(row, 40)!r}, but must be a JSON object or a text")
    return [(f"row {number}", row) for number, row in enumerate(rows, start=1)]


def _whole_object(text: str) -> Row | None:
    """The one JSON object that the text is, or None."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def is_of_texts(tensors: Sequence[Tensor], model: Description) -> bool:
    """Whether the inputs are texts, rather than token ids. Raises UserError if they are not those of the model."""
    names = [tensor.name for tensor in tensors]
    if unknown := [name for name in names if name not in (*model.fields, *model.token_inputs)]:
        raise UserError(
            f"there is no input {unknown[0]}; there are {join_names([*model.fields, *model.token_inputs], 9)}"
        )
    of_texts = [name for name in names if name in model.fields]
    if of_texts and len(of_texts) < len(names):
        raise UserError("inputs are either texts or token ids, but both were sent")
    needed = model.fields if of_texts else model.token_inputs[:1]
    if missing := [name for name in needed if name not in names]:
        raise UserError(f"input {missing[0]} is missing")
    return bool(of_texts)


def rows_of_tensors(tensors: Sequence[Tensor], model: Description) -> list[tuple[str, Row]]:
    """Rows of tensors of texts: [N] or [N, 1], and of lists of words [N, W] with empty texts behind the last one.

    Raises UserError naming the input that is wrong.
    """
    columns: dict[str, list[object]] = {}
    for tensor in tensors:
        if tensor.values.dtype != object:
            raise UserError(f"input {tensor.name} must be of type BYTES")
        if tensor.name == model.list_field:
            columns[tensor.name] = list(_word_lists(tensor))
        elif tensor.values.ndim not in (1, 2) or tensor.values.shape[1:] not in ((), (1,)):
            raise UserError(
                f"input {tensor.name} has the shape {list(tensor.values.shape)}, but must have [N] or [N, 1]"
            )
        else:
            columns[tensor.name] = tensor.values.ravel().tolist()
    sizes = {name: len(values) for name, values in columns.items()}
    if len(set(sizes.values())) > 1:
        raise UserError("the inputs have different numbers of rows: " + ", ".join(f"{k} {v}" for k, v in sizes.items()))
    if not any(sizes.values()):
        raise UserError("the inputs have no rows")
    rows = zip(*columns.values(), strict=True)
    return [(f"row {number}", dict(zip(columns, row, strict=True))) for number, row in enumerate(rows, start=1)]


def _word_lists(tensor: Tensor) -> Iterator[list[str]]:
    if tensor.values.ndim != 2:
        raise UserError(f"input {tensor.name} has the shape {list(tensor.values.shape)}, but must have [N, words]")
    for row in tensor.values.tolist():
        words = list(row)
        while words and not words[-1]:
            words.pop()
        yield words


def tokens_of_tensors(tensors: Sequence[Tensor], model: Description) -> list[Tokens]:
    """Rows of token ids [N, T] with all inputs of the model. Raises UserError naming the input that is wrong.

    A mask that is missing is 1 for each token; any other input that is missing is 0.
    """
    given = {tensor.name: tensor.values for tensor in tensors}
    ids = given[model.token_inputs[0]]
    if ids.ndim != 2 or 0 in ids.shape:
        raise UserError(f"input {model.token_inputs[0]} has the shape {list(ids.shape)}, but must have [rows, tokens]")
    if ids.shape[1] > model.max_length:
        raise UserError(
            f"input {model.token_inputs[0]} has rows of {ids.shape[1]} tokens, but may have {model.max_length}"
        )
    inputs: dict[str, NDArray] = {}
    for name in model.token_inputs:
        values = given.get(name, np.full(ids.shape, int(name == "attention_mask")))
        most = model.vocabulary if name == "input_ids" else 2
        if values.dtype == object or values.shape != ids.shape:
            raise UserError(f"input {name} must have whole numbers in the shape {list(ids.shape)} of the token ids")
        if values.min() < 0 or values.max() >= most:
            raise UserError(f"input {name} has the number {_outside(values, most)}, but may have 0 to {most - 1}")
        inputs[name] = values
    if not inputs["attention_mask"].any(axis=1).all():
        raise UserError("input attention_mask hides every token of a row")
    return [{name: values[i] for name, values in inputs.items()} for i in range(len(ids))]


def _outside(values: NDArray, most: int) -> int:
    return int(values.min()) if values.min() < 0 else int(values.max())
