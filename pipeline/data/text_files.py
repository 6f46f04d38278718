"""Local files of text: compressed or not, in any encoding, and the place of what cannot be read as text."""

from __future__ import annotations

import bz2
import codecs
import contextlib
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import charset_normalizer
import pyarrow

from pipeline.utils.text import one_line

# What reading a file can raise, apart from the ValueError of our own readers.
UNREADABLE = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, pyarrow.ArrowException)
# How much of a file is read to guess its encoding.
_SAMPLE_BYTES = 2**18
# How files that are no text at all begin, and what to do with them.
_OTHER_KINDS = {
    b"PK\x03\x04": "it is a zip archive or a spreadsheet: unpack it, or save it as csv",
    b"\xd0\xcf\x11\xe0": "it is a spreadsheet of an old kind: save it as csv",
    b"PAR1": "it is a parquet file, which data.path=parquet reads",
    b"ARROW1": "it is an Arrow file: save it as parquet",
    b"7z\xbc\xaf": "it is a 7z archive: unpack it",
    b"%PDF": "it is a PDF file",
}

# Longer marks first: that of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
# In Western European texts letters with accents stand alone, in all others they come in rows.
_ROW_OF_HIGH_BYTES = re.compile(rb"[\x80-\xff]{2,}")
_HIGH_BYTE = re.compile(rb"[\x80-\xff]")
_OF_CP1252 = re.compile(rb"[\x80-\x9f]")
# Encodings that charset_normalizer names for Western texts, which those below describe better.
_RARE = ("mac_", "cp775", "cp85", "cp43", "hp_roman8", "cp125")
_CYRILLIC = ("cp1251", "mac_cyrillic")


@dataclass(frozen=True)
class TextFile:
    """A file whose text is read line by line or as a whole, decompressed and decoded; UTF-8 is the default.

    What cannot be read raises ValueError with its line, and OSError, EOFError or the errors of the compression.
    """

    path: Path
    encoding: str | None = None

    def lines(self, newline: str | None) -> Iterator[str]:
        """The lines with their ends, which `newline` decides as in `open`."""
        self._refuse_other_kinds()
        with self._opened() as binary:
            text = io.TextIOWrapper(cast(BinaryIO, binary), encoding=self.encoding or "utf-8", newline=newline)
            try:
                for number, line in enumerate(text, start=1):
                    if "\0" in line:
                        raise ValueError(self._nul_fault(number))
                    yield line if number > 1 else line.removeprefix("\ufeff")
            except UnicodeDecodeError as error:
                raise ValueError(self._decoding_fault(error)) from error

    def text(self) -> str:
        """The whole text."""
        return "".join(self.lines(newline=""))

    @contextlib.contextmanager
    def _opened(self) -> Iterator[io.BufferedIOBase]:
        """The decompressed bytes. The content says how they are compressed: names can be wrong."""
        with open(self.path, "rb") as file:
            start = file.read(16)
        with _opener(start)(self.path) as binary:
            yield binary

    def _refuse_other_kinds(self) -> None:
        with self._opened() as binary:
            start = binary.read(512)
        for magic, advice in _OTHER_KINDS.items():
            if start.startswith(magic):
                raise ValueError(advice)
        if start[257:262] == b"ustar":
            raise ValueError("it is a tar archive: unpack it")
        marked = marked_encoding(start)
        if self.encoding is None and marked not in (None, "utf-8"):
            raise ValueError(f"it begins with the byte-order mark of {marked}: set data.encoding={marked}")

    def _nul_fault(self, number: int) -> str:
        likely = likely_encoding(self._sample())
        hint = f"; it looks like {likely}: set data.encoding={likely}" if likely and "16" in likely else ""
        return f"line {number} holds a NUL character, which no text does{hint}"

    def _decoding_fault(self, error: UnicodeDecodeError) -> str:
        """The first line that cannot be decoded, and the encoding that the file seems to have."""
        place = ""
        if not error.encoding.startswith(("utf-16", "utf-32")):  # whose line breaks are not one byte
            with self._opened() as binary:
                faults = ((number, _bad_byte(line, error.encoding)) for number, line in enumerate(binary, start=1))
                number, byte = next((fault for fault in faults if fault[1] is not None), (0, 0))
            place = f"line {number} has the byte 0x{byte:02x}; " if number else ""
        likely = likely_encoding(self._sample())
        hint = f"; it looks like {likely}: set data.encoding={likely}" if likely else "; set data.encoding"
        return f"{place}it is not encoded in {error.encoding}{hint}"

    def _sample(self) -> bytes:
        """The beginning of the file and its first lines that are not ASCII."""
        with self._opened() as binary:
            sample = binary.read(_SAMPLE_BYTES)
            if b"\0" in sample or not sample.isascii():
                return sample
            return b"".join(line for line, _ in zip(_not_ascii(binary), range(1000), strict=False))


def _opener(start: bytes) -> Callable[[Path], io.BufferedIOBase]:
    """What opens a file that begins with these bytes."""
    if start.startswith(b"\x1f\x8b"):
        return lambda path: gzip.open(path, "rb")
    if re.match(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)", start):
        return lambda path: bz2.open(path, "rb")
    if start.startswith(b"\xfd7zXZ\x00"):
        return lambda path: lzma.open(path, "rb")
    if start.startswith(b"\x28\xb5\x2f\xfd"):
        return lambda path: io.BufferedReader(_ZstdStream(pyarrow.input_stream(str(path), compression="zstd")))
    return lambda path: open(path, "rb")


class _ZstdStream(io.RawIOBase):
    """Arrow's stream of decompressed bytes as a stream of Python's."""

    def __init__(self, stream: pyarrow.NativeFile):
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:
        content = self._stream.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        self._stream.close()
        super().close()


def cause_of(error: BaseException) -> str:
    """What an error of reading says; its kind too, unless our own readers wrote the sentence."""
    return one_line(error if type(error) is ValueError else f"{type(error).__name__}: {error}", 500)


def _not_ascii(lines: io.BufferedIOBase) -> Iterator[bytes]:
    return (line for line in lines if not line.isascii())


def _bad_byte(line: bytes, encoding: str) -> int | None:
    """The first byte that cannot be decoded, or None."""
    try:
        line.decode(encoding)
    except UnicodeDecodeError as error:
        return line[error.start]
    return None


def marked_encoding(start: bytes) -> str | None:
    """The encoding that the byte-order mark at the start of a file stands for, or None."""
    return next((encoding for mark, encoding in _MARKS if start.startswith(mark)), None)


def likely_encoding(sample: bytes) -> str | None:
    """The encoding that the beginning of a text seems to have, by a name for `data.encoding`; None if none fits."""
    if marked := marked_encoding(sample):
        return marked
    if sample.count(0) > len(sample) // 5:
        return "utf-16-le" if sample[1::2].count(0) >= sample[0::2].count(0) else "utf-16-be"
    in_rows = sum(len(row) for row in _ROW_OF_HIGH_BYTES.findall(sample))
    if in_rows > len(_HIGH_BYTE.findall(sample)) // 2:
        for match in charset_normalizer.from_bytes(sample):
            if match.encoding in _CYRILLIC or not match.encoding.startswith(_RARE):
                return match.encoding
    western = "cp1252" if _OF_CP1252.search(sample) else "latin-1"
    return western if _can_decode(sample, western) else None


def _can_decode(sample: bytes, encoding: str) -> bool:
    try:
        codecs.getincrementaldecoder(encoding)().decode(sample)
    except UnicodeDecodeError:
        return False
    return True
