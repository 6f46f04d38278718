"""A connection between two ranks, which carries values in both directions and knows when the other end is gone."""

from __future__ import annotations

import io
import pickle
import socket
import struct
import threading

# A machine that is gone closes no connection. The system asks after 3 silent seconds and then twice more.
KEEP_ALIVE = {"TCP_KEEPIDLE": 3, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 2}
# Of what a pickle can name, only values are accepted, so that nobody who reaches the port can have this process run
# anything: plain classes of these modules, and what NumPy's arrays and the errors are made with.
_OF_VALUES = ("pipeline.tasks.", "pipeline.training.", "pipeline.runs.")
_MAKERS = {
    "array": ("_array_reconstructor", "array"),
    "builtins": ("set", "frozenset", "complex", "slice", "range"),
    "numpy": ("dtype", "ndarray"),
    "numpy._core.multiarray": ("_reconstruct", "scalar"),
    "numpy._core.numeric": ("_frombuffer",),
    "pathlib": ("PosixPath",),
    "pathlib._local": ("PosixPath",),  # its name in Python 3.13
    "pipeline.distributed.failures": ("LostRank", "SilentRank"),
    "pipeline.utils.errors": ("_restored", "UserError", "ProofError", "RunFailure", "Stopped"),
}


class Connection:
    """One connection: values in both directions, each pickled and with its length before it."""

    def __init__(self, connected: socket.socket):
        self.socket, self._lock = connected, threading.Lock()
        if connected.family != socket.AF_UNIX:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name in KEEP_ALIVE.keys() & vars(socket).keys():  # which ones there are depends on the system
                connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), KEEP_ALIVE[name])

    def fileno(self) -> int:
        """For `select`."""
        return self.socket.fileno()

    def send(self, value: object) -> bool:
        """Send a value; returns whether the other end is there."""
        content = pickle.dumps(value)
        try:
            with self._lock:
                self.socket.sendall(struct.pack("<Q", len(content)) + content)
        except OSError:
            return False
        return True

    def receive(self) -> object:
        """The next value. Raises EOFError, OSError and UnpicklingError."""
        (length,) = struct.unpack("<Q", self._read(8))
        return _ValuesOnly(io.BytesIO(self._read(length))).load()

    def _read(self, length: int) -> bytes:
        content = bytearray()
        while len(content) < length:
            piece = self.socket.recv(min(length - len(content), 2**20))
            if not piece:
                raise EOFError
            content += piece
        return bytes(content)

    def close(self, goodbye: bool) -> None:
        """End the connection, with a last message that says that this rank is done."""
        if goodbye:
            self.send(None)
        self.socket.close()


class _ValuesOnly(pickle.Unpickler):
    """Reads pickles of values; raises UnpicklingError for those that name anything else."""

    def find_class(self, module: str, name: str) -> object:
        """A class of values."""
        if name in _MAKERS.get(module, ()) or module == "numpy.dtypes":
            return super().find_class(module, name)
        found = super().find_class(module, name) if module.startswith(_OF_VALUES) else None
        if isinstance(found, type):
            return found
        raise pickle.UnpicklingError(f"{module}.{name} is not a value")
