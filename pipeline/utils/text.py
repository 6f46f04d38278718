"""Text for people: made safe to print, shortened, counted and joined."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence

from pydantic import JsonValue

# Control characters but tab and newline; marks that reorder a line or break it unseen; halves of surrogate pairs.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# Characters without a mark of their own get Unicode's picture of them: a reader could not see them otherwise.
_PICTURES = {code: chr(0x2400 + code) for code in range(0x20)} | {0x7F: "\N{SYMBOL FOR DELETE}"}
_UNSEEN_CATEGORIES = ("Cc", "Cf", "Cs", "Cn", "Zl", "Zp")
_KEPT_SPACES = "\u00a0\u202f"


def escape_controls(text: str) -> str:
    """The text with each control character written out as JSON would, so that none can change the terminal.

    For everything that is printed to a terminal or as JSON lines. A JSON text stays the same JSON: its control
    characters can only stand inside strings.

    >>> print(escape_controls("a \\x1b[31mred\\x07 name"))
    a \\u001b[31mred\\u0007 name
    """
    return _UNSEEN.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def visible(text: object) -> str:
    """The text on one line with every control character shown as a picture (␤) or a code (⟨U+202E⟩), for reports."""
    return "".join(_visible_character(character) for character in str(text))


def visible_lines(text: object) -> str:
    """As `visible`, but line breaks and tabs keep their meaning: for logs."""
    return "\n".join("\t".join(map(visible, line.split("\t"))) for line in str(text).splitlines())


def shorten(text: str, length: int) -> str:
    """At most `length` characters, to the end of a word if one is near; an ellipsis says that there was more.

    >>> shorten("one two three", 9)
    'one two…'
    """
    if len(text) <= length:
        return text
    kept = text[: length - 1]
    whole = kept if text[length - 1].isspace() else kept.rpartition(" ")[0]
    return (whole if len(whole) > length // 2 else kept).rstrip() + "…"


def count(number: int, noun: str) -> str:
    """A number with its noun, which is in the plural unless there is one of it.

    >>> count(1, "seed"), count(3000, "seed"), count(2, "process")
    ('1 seed', '3,000 seeds', '2 processes')
    """
    plural = "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}" + ("" if number == 1 else plural)


def join_names(names: Sequence[str], most: int) -> str:
    """The first `most` names separated by commas, and how many more there are.

    >>> join_names(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def one_line(error: object, length: int = 300) -> str:
    """What an error says, on one line and cut to `length` characters."""
    return " ".join(str(error).split())[:length]


def last_line(error: object) -> str:
    """The last line of what an error says: of a traceback, the error itself, without the call's arguments of Keras.

    >>> last_line("ValueError: in layer\\n\\nit is wrong\\n\\nCall arguments received by layer:\\n  training=False")
    'it is wrong'
    """
    return str(error).partition("\n\nCall arguments received")[0].strip().rpartition("\n")[2]


def requirement(message: str) -> str:
    """What pydantic says of a wrong value, as the end of a sentence.

    >>> requirement("Input should be a valid integer"), requirement("String should have at least 1 character")
    ('must be a valid integer', 'must have at least 1 character')
    >>> requirement("Input should be a valid tuple")
    'must be a list'
    """
    text = re.sub(r"^\w+ should ", "must ", message)
    text = text.replace("a valid tuple", "a list").replace("a valid dictionary", "a mapping")
    return text[:1].lower() + text[1:]


def flatten(values: Mapping[str, JsonValue], separator: str = ".") -> dict[str, JsonValue]:
    """A nested mapping with one level of joined keys; empty mappings stay as values.

    >>> flatten({"train": {"epochs": 1}})
    {'train.epochs': 1}
    """
    flat: dict[str, JsonValue] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= {f"{key}{separator}{inner}": item for inner, item in flatten(value, separator).items()}
        else:
            flat[key] = value
    return flat


def _visible_character(character: str) -> str:
    code = ord(character)
    if code in _PICTURES:
        return _PICTURES[code]
    if code < 0x7F or character in _KEPT_SPACES:
        return character
    return f"⟨U+{code:04X}⟩" if unicodedata.category(character) in _UNSEEN_CATEGORIES else character


def factor(value: float) -> str:
    """A number of times, to two digits: "0.84", "1.0", "12"."""
    text = f"{value:.2g}"
    return f"{text}.0" if len(text) == 1 else text
