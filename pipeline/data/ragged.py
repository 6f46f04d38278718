"""Rows of different lengths, texts, and lists of texts, each in few flat arrays that can lie in mapped files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.utils.mapped_arrays import GrowingArray

if TYPE_CHECKING:
    from pipeline.data.packing import Stream

# Texts that are written at a time.
_CHUNK_TEXTS = 256


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths in one flat array: row i is values[offsets[i]:offsets[i + 1]]."""

    values: NDArray
    offsets: NDArray[np.int64]

    @classmethod
    def of(cls, rows: Sequence[Sequence[int] | NDArray], dtype: type = np.int32) -> Ragged:
        """These rows, as they are in memory."""
        lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        values = np.fromiter((value for row in rows for value in row), dtype=dtype, count=int(offsets[-1]))
        return cls(values, offsets)

    @classmethod
    def joined(cls, parts: Sequence[Ragged]) -> Ragged:
        """The rows of several, in order."""
        return cls(np.concatenate([part.values for part in parts]), _offsets_joined([part.offsets for part in parts]))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """How long each row is."""
        return np.diff(self.offsets)

    def __getitem__(self, row: int) -> NDArray:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def laid_out(self, rows: NDArray, stream: Stream, fill: int) -> NDArray:
        """These rows where the layout of their batch has them, [R, L] int32, with `fill` for padding."""
        out = np.full(stream.examples.shape, fill, dtype=np.int32)
        is_real = stream.is_real
        out[is_real] = self.values[self.offsets[rows[stream.examples[is_real]]] + stream.positions[is_real]]
        return out


@dataclass(frozen=True)
class Texts:
    """Texts as their bytes in UTF-8, which need not be in memory."""

    utf8: Ragged

    @classmethod
    def of(cls, texts: Iterable[str]) -> Texts:
        """These texts, of which only some are in memory at a time."""
        texts, content, offsets, num_bytes = iter(texts), GrowingArray(np.uint8), GrowingArray(np.int64), 0
        offsets.append(np.zeros(1))
        while chunk := [text.encode() for text in islice(texts, _CHUNK_TEXTS)]:
            content.append(np.frombuffer(b"".join(chunk), np.uint8))
            offsets.append(num_bytes + np.cumsum([len(text) for text in chunk]))
            num_bytes += sum(map(len, chunk))
        return cls(Ragged(content.finished(), offsets.finished()))

    @classmethod
    def joined(cls, parts: Sequence[Texts]) -> Texts:
        """The texts of several, in order."""
        return cls(Ragged.joined([part.utf8 for part in parts]))

    def __len__(self) -> int:
        return len(self.utf8.offsets) - 1

    def __getitem__(self, index: int) -> str:
        return self.utf8[index].tobytes().decode()

    def __iter__(self) -> Iterator[str]:
        return map(self.__getitem__, range(len(self)))


@dataclass(frozen=True)
class TextLists:
    """Lists of texts: list i has those from offsets[i] to offsets[i + 1]."""

    texts: Texts
    offsets: NDArray[np.int64]

    @classmethod
    def of(cls, lists: Iterable[Sequence[str]]) -> TextLists:
        """These lists, of which only some are in memory at a time."""
        offsets = [0]

        def texts() -> Iterator[str]:
            for each in lists:
                offsets.append(offsets[-1] + len(each))
                yield from each

        return cls(Texts.of(texts()), np.array(offsets))

    @classmethod
    def joined(cls, parts: Sequence[TextLists]) -> TextLists:
        """The lists of several, in order."""
        return cls(Texts.joined([part.texts for part in parts]), _offsets_joined([part.offsets for part in parts]))

    def __getitem__(self, index: int) -> list[str]:
        first, end = self.offsets[index : index + 2].tolist()
        return [self.texts[number] for number in range(first, end)]


def _offsets_joined(parts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    firsts = np.cumsum([0, *(part[-1] for part in parts[:-1])])
    return np.concatenate([[0], *(part[1:] + first for part, first in zip(parts, firsts, strict=True))])
