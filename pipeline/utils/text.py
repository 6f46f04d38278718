"""Text from data, file names and recipes made harmless for a terminal."""

from __future__ import annotations

import re

# Control characters but tab and newline; marks that reorder a line or break it unseen; halves of surrogate pairs.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def escaped(text: str) -> str:
    """The text with each control character written out as JSON would, so that none can paint the terminal.

    A JSON text stays the same JSON: its control characters can only stand inside strings.

    >>> print(escaped("a \\x1b[31mred\\x07 name"))
    a \\u001b[31mred\\u0007 name
    """
    return _UNSEEN.sub(lambda found: f"\\u{ord(found.group()):04x}", text)
