"""The server's endpoints: `predict`, the Open Inference Protocol, metrics, and a page to try the model."""

from __future__ import annotations

import asyncio
import hmac
import time
import traceback
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from ipaddress import ip_address
from typing import TypeVar
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from pipeline.deploy.serving import inference_protocol as protocol
from pipeline.deploy.serving.batcher import Batcher, Job, QueueFull
from pipeline.deploy.serving.metrics import CONTENT_TYPE, Metrics, RequestLog
from pipeline.deploy.serving.page import PAGE_POLICY, page
from pipeline.deploy.serving.requests import (
    CLIENT_GONE,
    UNEXPECTED,
    AskedRows,
    Limits,
    Refusal,
    is_of_texts,
    read_body,
    read_rows,
    rows_of_tensors,
    tokens_of_tensors,
)
from pipeline.deploy.serving.served_model import Description, Outputs, ServedModel, Spec
from pipeline.deploy.serving.streams import TextStream
from pipeline.runs.prediction import Answer
from pipeline.tasks.base import Prediction
from pipeline.utils.errors import UserError
from pipeline.utils.files import json_line
from pipeline.utils.text import shorten

RowT = TypeVar("RowT")
AnswerT = TypeVar("AnswerT")
# A model is served in one version.
VERSION = "1"
# What anybody may ask for: whether the server works, and the page, which asks for the token.
_OPEN = ("/", "/v2/health/live", "/v2/health/ready")


class ServerApp:
    """The ASGI application that serves one model.

    With a `token`, requests must have it as their bearer token. Without one, and if `is_local`, a request must name
    this machine as its host, so that no page of another host can read answers in a browser of this machine.
    """

    def __init__(
        self, model: ServedModel, limits: Limits, token: str | None = None, is_local: bool = True,
        log: RequestLog | None = None,
    ):  # fmt: skip
        self.model, self.limits, self.token, self.is_local = model, limits, token, is_local
        self.log, self.metrics, self.is_draining = log or RequestLog(), Metrics(), False
        self.batcher = Batcher(limits.batch_rows, limits.waiting_rows, self.metrics.batch_rows.observe)
        self.metrics.waiting_rows = lambda: self.batcher.waiting_rows
        self.page = page(model.description, has_token=token is not None)
        handlers = {
            HTTPException: _on_http, Refusal: _on_refusal, UserError: _on_user_error, ClientDisconnect: _on_disconnect,
            Exception: _on_error,
        }  # fmt: skip
        self.starlette = Starlette(routes=self._routes(), exception_handlers=handlers)

    def _routes(self) -> list[Route]:
        routes = [
            Route("/", self.show_page),
            Route("/predict", self.predict, methods=["POST"]),
            Route("/metrics", self.show_metrics),
            Route("/v2", self.server_metadata),
            Route("/v2/health/live", self.live),
            Route("/v2/health/ready", self.ready),
        ]
        for path in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
            routes += [
                Route(path, self.model_metadata),
                Route(f"{path}/ready", self.model_ready),
                Route(f"{path}/infer", self.infer, methods=["POST"]),
            ]
        return routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, count it and log it."""
        begin, status = time.perf_counter(), 0

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self.is_draining:
                    message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        try:
            refusal = self._refusal(scope)
            respond = self.starlette if refusal is None else _response_of(refusal)
            await respond(scope, receive, send_and_note)
        except Exception:  # the client has its answer by now, and is told nothing of this
            self._log_error(_endpoint(scope))
        finally:
            seconds, client = time.perf_counter() - begin, (scope.get("client") or ("",))[0]
            self.metrics.count(_endpoint(scope), status, seconds)
            self.log.request(_endpoint(scope), scope["method"], scope["path"], status, seconds, client)

    def _refusal(self, scope: Scope) -> Refusal | None:
        """Why a request may not be answered, if so."""
        if self.token is None:
            host = dict(scope["headers"]).get(b"host", b"localhost").decode("latin-1")
            if self.is_local and not is_local_name(_host_name(host)):
                return Refusal(421, "the Host of the request is not this machine; ask for localhost")
        elif scope["path"] not in _OPEN:
            kind, _, given = dict(scope["headers"]).get(b"authorization", b"").partition(b" ")
            if kind.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self.token.encode()):
                return Refusal(401, "the request needs the server's bearer token", {"WWW-Authenticate": "Bearer"})
        return None

    def _log_error(self, endpoint: str) -> None:
        """Log the exception that is handled."""
        self.log.error(endpoint, traceback.format_exc())

    # What the endpoints share

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self.limits.deadline_seconds

    def _submitted(
        self, rows: Sequence[RowT], function: Callable[[Sequence[RowT]], Sequence[AnswerT]], key: Hashable = None
    ) -> Future[Sequence[AnswerT]]:
        """The answers to rows, which wait in the queue. Raises Refusal."""
        if len(rows) > self.limits.rows:
            raise Refusal(413, f"the request has {len(rows):,} rows, but may have {self.limits.rows:,}")
        try:
            return self.batcher.submit(Job(rows, function, key))
        except QueueFull:
            raise Refusal(503, "too many rows are waiting for the model; try again", {"Retry-After": "1"}) from None

    async def _answers(
        self, request: Request, deadline: float, waiting: Future[Sequence[AnswerT]]
    ) -> Sequence[AnswerT]:
        """The answers, once they are there. Raises Refusal at the deadline, and if the client goes before."""
        answers = asyncio.wrap_future(waiting)
        gone = asyncio.ensure_future(_disconnected(request))
        try:
            remaining = deadline - asyncio.get_running_loop().time()
            await asyncio.wait({answers, gone}, timeout=remaining, return_when=asyncio.FIRST_COMPLETED)
            if answers.done():
                return answers.result()
            if gone.done():
                raise Refusal(CLIENT_GONE, "the client has gone")
            raise self.limits.too_late()
        finally:
            gone.cancel()
            answers.cancel()

    # predict

    async def predict(self, request: Request) -> Response:
        """The lines that `predict` gives for rows; with stream=1 the text of one row, piece by piece."""
        deadline = self._deadline()
        is_stream = _wants_stream(request)
        is_json = request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"
        asked = read_rows(await read_body(request, self.limits), is_json)
        rows = [self.model.checked(row, place) for place, row in asked.rows]
        if is_stream:
            return await self._stream(deadline, rows)
        answers = await self._answers(request, deadline, self._submitted(rows, self.model.answer, "rows"))
        return _predictions(asked, [answer.prediction | {"index": i} for i, answer in enumerate(answers)])

    async def _stream(self, deadline: float, rows: list[dict[str, object]]) -> Response:
        """Server-sent events: the pieces of the text, then the whole prediction. Raises Refusal and UserError."""
        if not self.model.description.streams:
            raise UserError("stream=1 needs a model that writes a text without beams (options.num_beams=1)")
        if len(rows) > 1:
            raise UserError(f"stream=1 needs one row, but {len(rows)} were sent")
        stream = TextStream(self.model, self.limits, deadline, lambda: self._log_error("predict"))
        await stream.begin(self._submitted(rows, stream.write))
        return StreamingResponse(stream.events(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    # The Open Inference Protocol

    async def live(self, request: Request) -> Response:
        """Whether the server runs."""
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> Response:
        """Whether the server takes requests."""
        return JSONResponse({"ready": not self.is_draining}, 503 if self.is_draining else 200)

    async def server_metadata(self, request: Request) -> Response:
        """What serves here."""
        return JSONResponse({"name": "twinstep", "version": "2", "extensions": protocol.EXTENSIONS})

    async def model_ready(self, request: Request) -> Response:
        """Whether the model takes requests."""
        self._refuse_other_models(request)
        content = {"name": self.model.description.name, "ready": not self.is_draining}
        return JSONResponse(content, 503 if self.is_draining else 200)

    async def model_metadata(self, request: Request) -> Response:
        """The inputs that the model takes, as texts or as token ids, and its outputs."""
        self._refuse_other_models(request)
        return JSONResponse(_metadata(self.model.description))

    async def infer(self, request: Request) -> Response:
        """The outputs for the inputs of a request, which are texts or token ids."""
        deadline = self._deadline()
        self._refuse_other_models(request)
        body = await read_body(request, self.limits)
        asked, tensors = protocol.read_request(body, request.headers.get(protocol.HEADER_LENGTH))
        model = self.model.description
        of_texts = is_of_texts(tensors, model)
        protocol.refuse_unknown_outputs(asked, ["answer", *model.text_outputs] if of_texts else model.token_outputs)
        if of_texts:
            rows = [self.model.checked(row, place) for place, row in rows_of_tensors(tensors, model)]
            answers = await self._answers(request, deadline, self._submitted(rows, self.model.answer, "rows"))
            found = [self._text_outputs(answer, i) for i, answer in enumerate(answers)]
        else:
            tokens = tokens_of_tensors(tensors, model)
            key = ("tokens", len(tokens[0][model.token_inputs[0]]))
            found = await self._answers(request, deadline, self._submitted(tokens, self.model.run_tokens, key))
        names = [output.name for output in asked.outputs] or list(found[0])
        outputs = {name: _stacked([row[name] for row in found], model.padding) for name in names}
        content, json_length = protocol.write_response(asked, model.name, VERSION, outputs)
        if json_length is None:
            return Response(content, media_type="application/json")
        headers = {protocol.HEADER_LENGTH: str(json_length)}
        return Response(content, media_type="application/octet-stream", headers=headers)

    def _text_outputs(self, answer: Answer, index: int) -> Outputs:
        line = protocol.text_array(json_line(answer.prediction | {"index": index}))
        return {"answer": line} | self.model.text_outputs(answer)

    def _refuse_other_models(self, request: Request) -> None:
        """Raise Refusal if the path names a model or a version that is not served."""
        name, version = request.path_params["name"], request.path_params.get("version", VERSION)
        if name != self.model.description.name:
            raise Refusal(404, f"there is no model {shorten(name, 80)}; {self.model.description.name} is served here")
        if version != VERSION:
            raise Refusal(
                404, f"there is no version {shorten(version, 20)} of the model; its only version is {VERSION}"
            )

    # For people and for monitoring

    async def show_metrics(self, request: Request) -> Response:
        """What the server counts, in Prometheus' text format."""
        return Response(self.metrics.text(), media_type=CONTENT_TYPE)

    async def show_page(self, request: Request) -> Response:
        """The page to try the model."""
        headers = {"Content-Security-Policy": PAGE_POLICY, "Referrer-Policy": "no-referrer"}
        return Response(self.page, media_type="text/html", headers=headers)


def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    told = {404: "there is nothing at this path", 405: "this path does not take this method"}
    message = told.get(error.status_code, error.detail)
    return _response_of(Refusal(error.status_code, message, dict(error.headers or {})))


def _on_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return _response_of(error)


def _on_user_error(request: Request, error: Exception) -> Response:
    return _response_of(Refusal(400, str(error)))


def _on_disconnect(request: Request, error: Exception) -> Response:
    return _response_of(Refusal(CLIENT_GONE, "the client has gone"))


def _on_error(request: Request, error: Exception) -> Response:
    return _response_of(Refusal(500, UNEXPECTED))


def _response_of(refusal: Refusal) -> Response:
    return JSONResponse({"error": refusal.message}, refusal.status, refusal.headers)


def is_local_name(host: str) -> bool:
    """Whether a host is this machine whatever network it is in."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _host_name(host: str) -> str:
    """The name in a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _endpoint(scope: Scope) -> str:
    """The name of the endpoint that has a request: of few different ones, as a metric's label must be."""
    return getattr(scope.get("endpoint"), "__name__", "none")


async def _disconnected(request: Request) -> None:
    """Return once the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _wants_stream(request: Request) -> bool:
    """Whether the query asks for a stream. Raises UserError for anything else in it."""
    if unknown := [name for name in request.query_params if name != "stream"]:
        raise UserError(f"there is no query parameter {shorten(unknown[0], 40)}; there is stream")
    value = request.query_params.get("stream", "0")
    if value not in ("0", "1"):
        raise UserError(f"stream is {shorten(value, 20)}, but must be 0 or 1")
    return value == "1"


def _predictions(asked: AskedRows, predictions: list[Prediction]) -> Response:
    """Predictions in the form in which the rows came."""
    lines = [json_line(prediction) for prediction in predictions]
    if asked.form == "object":
        return Response(lines[0] + "\n", media_type="application/json")
    if asked.form == "list":
        return Response(f"[{', '.join(lines)}]\n", media_type="application/json")
    return Response("".join(f"{line}\n" for line in lines), media_type="application/x-ndjson")


def _metadata(model: Description) -> dict[str, object]:
    """The model's metadata in the words of the protocol."""
    inputs = [_tensor(name, ("BYTES", (-1,) if name == model.list_field else ())) for name in model.fields]
    inputs += [_tensor(name, ("INT64", (-1,))) for name in model.token_inputs]
    outputs = {"answer": ("BYTES", ())} | dict(model.text_outputs) | dict(model.token_outputs)
    return {
        "name": model.name,
        "versions": [VERSION],
        "platform": model.platform,
        "inputs": inputs,
        "outputs": [_tensor(name, spec) for name, spec in outputs.items()],
    }


def _tensor(name: str, spec: Spec) -> dict[str, object]:
    datatype, shape = spec
    return {"name": name, "datatype": datatype, "shape": [-1, *shape]}


def _stacked(rows: list[NDArray], padding: int) -> NDArray:
    """The outputs of rows as one array; ids of different number are followed by padding."""
    if len({row.shape for row in rows}) == 1:
        return np.stack(rows)
    stacked = np.full((len(rows), max(map(len, rows))), padding, rows[0].dtype)
    for line, row in zip(stacked, rows, strict=True):
        line[: len(row)] = row
    return stacked
