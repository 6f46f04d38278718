"""Guesses the encoding of bytes that are not what a recipe says, so that a message can name the likely one."""

from __future__ import annotations

import codecs
import re

import charset_normalizer

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
    return western if _decodes(sample, western) else None


def _decodes(sample: bytes, encoding: str) -> bool:
    try:
        codecs.getincrementaldecoder(encoding)().decode(sample)
    except UnicodeDecodeError:
        return False
    return True
