"""Runs the server: the socket that it listens on, signals, and an end that loses no request that it has taken."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
import time
from collections.abc import Callable, Iterator

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from pipeline.deploy.serving.app import ServerApp, is_local_name
from pipeline.deploy.serving.requests import Limits
from pipeline.deploy.serving.served_model import ServedModel
from pipeline.utils.errors import UserError
from pipeline.utils.files import reason

_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# How long a connection may wait for its next request.
KEEP_ALIVE_SECONDS = 65
# The largest head of a request.
_HEAD_BYTES = 16 * 2**10
# How long the threads have to end after the last answer.
_END_SECONDS = 5


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket bound to a port of a host, which nobody can connect to yet; port 0 chooses a free one.

    Raises UserError if there is no such host, or if the port is taken.
    """
    if not 0 <= port <= 65535:
        raise UserError(f"port is {port}, but must be 0 to 65535", arguments=("port",))
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # With the protocol: asyncio sends small answers at once on connections that are known to be TCP.
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise UserError(f"host {host} is not known: {reason(error)}", arguments=("host",)) from error
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise _cannot_listen(host, port, error) from error
    return listener


def _cannot_listen(host: str, port: int, error: OSError) -> UserError:
    if error.errno == errno.EADDRINUSE:
        return UserError(f"port {port} of {host} is in use; choose another", arguments=("port",))
    return UserError(f"port {port} of {host} cannot be used: {reason(error)}", arguments=("host", "port"))


def serve(
    model: ServedModel, listener: socket.socket, limits: Limits, token: str | None = None,
    on_ready: Callable[[str], None] = lambda url: None,
) -> None:  # fmt: skip
    """Serve a model until SIGTERM, SIGINT or SIGHUP; then answer what was taken, and return.

    `on_ready` is called with the server's address once it takes requests. Raises UserError if the port has been taken
    by another process since it was chosen.
    """
    host, port = listener.getsockname()[:2]
    app = ServerApp(model, limits, token, is_local=is_local_name(host))
    shown = f"[{host}]" if ":" in host else host
    server = _Server(app, limits, lambda: on_ready(f"http://{shown}:{port}"))
    try:
        server.run([listener])
    except OSError as error:
        raise _cannot_listen(host, port, error) from error
    finally:
        app.batcher.close(_END_SECONDS)


class _Server(uvicorn.Server):
    """uvicorn's server with an end that waits for requests on their way, and without patience for silent clients."""

    def __init__(self, app: ServerApp, limits: Limits, on_ready: Callable[[], None]):
        self.app, self.limits, self.on_ready = app, limits, on_ready
        self.silent_since: dict[object, float] = {}
        config = uvicorn.Config(
            app, http="h11", ws="none", loop="asyncio", lifespan="off", log_config=None, log_level="critical",
            access_log=False, proxy_headers=False, server_header=False, timeout_keep_alive=KEEP_ALIVE_SECONDS,
            limit_concurrency=limits.connections, h11_max_incomplete_event_size=_HEAD_BYTES,
            timeout_graceful_shutdown=round(limits.deadline_seconds + limits.read_seconds),
        )  # fmt: skip
        super().__init__(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        self.on_ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals that stop the server end it well: unlike uvicorn's own handlers, these do not raise them again."""
        before = {number: signal.getsignal(number) for number in _STOPS}
        for number, handler in before.items():
            if handler != signal.SIG_IGN:  # nohup ignores SIGHUP
                signal.signal(number, self.handle_exit)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def on_tick(self, counter: int) -> bool:
        """Once a second, close connections on which the head of a request has been incomplete for too long."""
        if counter % 10 == 0:
            self._close_silent_connections(time.monotonic())
        return await super().on_tick(counter)

    def _close_silent_connections(self, now: float) -> None:
        silent = {
            connection: self.silent_since.get(connection, now)
            for connection in self.server_state.connections
            if isinstance(connection, H11Protocol) and _is_silent(connection)
        }
        for connection, since in silent.items():
            if now - since > self.limits.read_seconds:
                connection.transport.abort()
        self.silent_since = dict(silent)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no new connections; answer the requests on those there are, each with the word that it is the last.

        For a moment connections without a request stay open: one may be on its way.
        """
        self.app.is_draining = True
        for server in self.servers:
            server.close()
        end = time.monotonic() + self.limits.drain_seconds
        while self.server_state.connections and time.monotonic() < end and not self.force_exit:
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)


def _is_silent(connection: H11Protocol) -> bool:
    """Whether a connection has no request in work and none that its client may take its time for."""
    has_request = connection.cycle is not None and not connection.cycle.response_complete
    return not has_request and connection.timeout_keep_alive_task is None
