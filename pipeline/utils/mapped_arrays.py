"""Arrays that may be larger than memory: large ones lie in a file without a name, which is mapped into memory.

The system reads from such a file what is needed, drops it from memory when others need that, and removes the file when
its last user ends, however that happens.
"""

from __future__ import annotations

import logging
import mmap
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.typing import DTypeLike, NDArray

from pipeline.utils.files import reason

if TYPE_CHECKING:
    import pyarrow

# How much of an array stays in memory before it is written to a file.
MOST_BYTES = 2**26


def cache_folder() -> Path:
    """Where arrays are kept or shared, and files without a name are made: beside the cache of `datasets`."""
    from datasets import config  # takes half a second, and this module is imported by every command

    return Path(config.HF_DATASETS_CACHE) / "twinstep"


class GrowingArray:
    """A flat array that grows at its end; it stays in memory while it is small, or if the file cannot be written."""

    def __init__(self, dtype: DTypeLike):
        self._parts: list[NDArray] = [np.zeros(0, dtype)]
        self._num_bytes_of_parts = self._num_bytes_written = 0
        self._file: IO[bytes] | None = None
        self._is_writable = True

    def append(self, values: NDArray) -> None:
        """Add values at the end, in the array's own type."""
        part = values.astype(self._parts[0].dtype, copy=False)
        self._parts.append(part)
        self._num_bytes_of_parts += part.nbytes
        if self._is_writable and self._num_bytes_of_parts > MOST_BYTES:
            self._write()

    def finished(self) -> NDArray:
        """All values; they must not be written if they are mapped."""
        if self._file is not None and self._is_writable:
            self._write()
        in_memory = np.concatenate(self._parts)
        if self._file is None or not self._num_bytes_written:
            return in_memory
        mapped = np.memmap(self._file, in_memory.dtype, "r", shape=self._num_bytes_written // in_memory.itemsize)
        return np.concatenate([mapped, in_memory]) if len(in_memory) else mapped.view(np.ndarray)

    def _write(self) -> None:
        try:
            self._file = self._file or nameless_file(buffering=0)
            left = np.concatenate(self._parts).data.cast("B")
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            say_that_data_stay_in_memory(reason(error))
            self._is_writable = False
        else:
            self._num_bytes_written += self._num_bytes_of_parts
            self._parts, self._num_bytes_of_parts = self._parts[:1], 0


def mapped_batches(batches: Sequence[pyarrow.RecordBatch]) -> Sequence[pyarrow.RecordBatch]:
    """The same rows in a file, or in memory if it cannot be written."""
    from pyarrow import ipc, py_buffer

    try:
        with nameless_file() as file:
            with ipc.new_stream(file, batches[0].schema) as writer:
                for batch in batches:
                    writer.write_batch(batch)
            file.flush()
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        say_that_data_stay_in_memory(reason(error))
        return batches
    return ipc.open_stream(py_buffer(content)).read_all().to_batches()


def held_batches(batches: Iterable[pyarrow.RecordBatch]) -> Iterator[pyarrow.RecordBatch]:
    """The same rows, of which as many as may stay in memory do, and the others lie in files."""
    held: list[pyarrow.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        if sum(each.nbytes for each in held) > MOST_BYTES:
            yield from mapped_batches(held)
            held = []
    yield from held


def nameless_file(buffering: int = -1) -> IO[bytes]:
    """A file to write and read that vanishes when it is closed and not mapped any more. Raises OSError."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryFile(dir=folder, buffering=buffering)


@cache
def say_that_data_stay_in_memory(cause: str) -> None:
    """Say it once for each cause, for it is no error as long as the data fit."""
    logging.getLogger("twinstep").warning(
        "%s cannot be written (%s), so all texts and tokens are kept in memory; if they do not fit, set "
        "HF_DATASETS_CACHE to a folder with room", cache_folder(), cause,
    )  # fmt: skip
