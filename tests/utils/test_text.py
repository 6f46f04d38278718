"""Text for people: nothing in it can change a terminal or a page, and it is cut, counted and joined."""

import doctest

import pytest

from pipeline.utils import text
from pipeline.utils.text import (
    count,
    escape_controls,
    factor,
    flatten,
    join_names,
    one_line,
    shorten,
    visible,
    visible_lines,
)


def test_the_examples_of_the_docstrings_are_true():
    results = doctest.testmod(text)
    assert results.failed == 0 and results.attempted == 8


def test_controls_are_escaped_as_in_json():
    evil = "\x1b[31m\x07\x9b2J\u202ered\r"
    assert escape_controls(f"a\tb\n{evil}ü\ud800") == "a\tb\n\\u001b[31m\\u0007\\u009b2J\\u202ered\\u000dü\\ud800"


@pytest.mark.parametrize(
    ("raw", "shown"),
    [("a\0b", "a␀b"), ("a\r\nb", "a␍␊b"), ("\x7f", "␡"), ("\x9b", "⟨U+009B⟩"), ("\u2066é漢", "⟨U+2066⟩é漢"),
     ("\ud800", "⟨U+D800⟩"), ("\u2028", "⟨U+2028⟩"), ("a\u00a0b", "a\u00a0b"), (None, "None")],
)  # fmt: skip
def test_controls_are_visible(raw, shown):
    assert visible(raw) == shown


def test_logs_keep_their_lines():
    assert visible_lines("a\tb\r\nc\x1b[0m\n") == "a\tb\nc␛[0m"


@pytest.mark.parametrize(
    ("whole", "length", "short"),
    [
        ("one", 3, "one"),
        ("one two three", 9, "one two…"),  # the cut falls into a word
        ("one two three", 8, "one two…"),  # the cut falls between words
        ("abcdefghij klm", 8, "abcdefg…"),  # no end of a word is near
    ],
)
def test_a_text_is_cut_at_the_end_of_a_word_if_one_is_near(whole, length, short):
    assert shorten(whole, length) == short


def test_only_one_has_no_s():
    assert [count(number, "seed") for number in (0, 1, 2, 1000)] == ["0 seeds", "1 seed", "2 seeds", "1,000 seeds"]


def test_names_beyond_the_limit_are_counted():
    assert [join_names(list("abc"), most) for most in (1, 2, 3)] == ["a and 2 more", "a, b and 1 more", "a, b, c"]


def test_an_error_fits_on_a_line():
    assert one_line(ValueError("a\n  b\tc")) == "a b c"
    assert one_line("x" * 400) == "x" * 300


def test_nested_keys_are_joined_and_empty_mappings_stay():
    assert flatten({"a": {"b": {"c": 1}, "d": {}}, "e": [{"f": 2}]}) == {"a.b.c": 1, "a.d": {}, "e": [{"f": 2}]}
    assert flatten({"a": {"b": 1}}, separator=" ") == {"a b": 1}


@pytest.mark.parametrize(("value", "text"), [(0.8449, "0.84"), (0.996, "1.0"), (1, "1.0"), (12.4, "12"), (0.0, "0.0")])
def test_a_number_of_times_has_two_digits(value, text):
    assert factor(value) == text
