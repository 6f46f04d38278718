"""A text that is sent while the model writes it, as server-sent events."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future

from pipeline.deploy.serving.requests import UNEXPECTED, Limits
from pipeline.deploy.serving.served_model import ServedModel
from pipeline.tasks.base import Prediction
from pipeline.utils.files import json_line

# The function of a job: rows in, a prediction for each.
Write = Callable[[Sequence[dict[str, object]]], Sequence[Prediction]]


class StreamEnded(Exception):
    """Ends the writing of a text that nobody waits for any more."""


class TextStream:
    """The text for one row: the batcher's thread calls `write`, and the event loop sends the `events`."""

    def __init__(self, model: ServedModel, limits: Limits, deadline: float, log_error: Callable[[], None]):
        """`deadline` is in the event loop's time; `log_error` logs the exception that is handled."""
        self.model, self.limits, self.deadline, self.log_error = model, limits, deadline, log_error
        self.loop, self.is_over = asyncio.get_running_loop(), threading.Event()
        # None follows the last piece.
        self.pieces: asyncio.Queue[str | None] = asyncio.Queue()

    def write(self, rows: Sequence[dict[str, object]]) -> Sequence[Prediction]:
        """Write the text for the row; the function of the stream's job."""
        return [self.model.stream(row, self._take) for row in rows]

    def _take(self, piece: str) -> None:
        if self.is_over.is_set():
            raise StreamEnded
        self.loop.call_soon_threadsafe(self.pieces.put_nowait, piece)

    async def begin(self, waiting: Future[Sequence[Prediction]]) -> None:
        """Wait for the first piece. Raises what is wrong with the row, and Refusal at the deadline."""
        self.predictions = asyncio.wrap_future(waiting)
        self.predictions.add_done_callback(lambda _: self.pieces.put_nowait(None))
        try:
            self.first = await self._next()
            if self.first is None:
                self.predictions.result()
        except TimeoutError:
            self._end()
            raise self.limits.too_late() from None
        except BaseException:
            self._end()
            raise

    async def events(self) -> AsyncIterator[str]:
        """The pieces of the text, then the whole prediction, or an error; whatever ends it, the writing ends."""
        try:
            piece = self.first
            while piece is not None:
                if piece:
                    yield _event("text", json.dumps({"text": piece}))
                piece = await self._next()
            yield _event("prediction", json_line(self.predictions.result()[0]))
        except TimeoutError:
            yield _event("error", json.dumps({"error": self.limits.too_late().message}))
        except Exception:
            self.log_error()
            yield _event("error", json.dumps({"error": UNEXPECTED}))
        finally:
            self._end()

    async def _next(self) -> str | None:
        return await asyncio.wait_for(self.pieces.get(), self.deadline - self.loop.time())

    def _end(self) -> None:
        self.is_over.set()
        self.predictions.cancel()


def _event(name: str, data: str) -> str:
    """A server-sent event; its data has no line breaks."""
    return f"event: {name}\ndata: {data}\n\n"
