"""Every text that reaches a figure stays a text, in SVG and in PNG, whatever it holds."""

import json
import xml.etree.ElementTree as ElementTree

import pytest

from pipeline.comparison.results import Results
from pipeline.reporting.drawing.plots import in_lines
from pipeline.reporting.figures import lockstep, pictures
from pipeline.reporting.first_screen import with_headline
from pipeline.utils.text import shorten, visible
from tests.helpers.comparison_example import example

ATTACKS = [
    "<script>alert(1)</script>", "]]><script>", "&#x3c;b&#x3e;&amp;", "-->", "<!-- x", "</text></svg><svg onload=x>",
    "\" onload='x' '", 'id="a" url(#a) #1b1f24 1.23456', "a\x00b\x1b[31mc\x07", "\u202eevil\u202c\u200f", "\ud800x", 
    "\ufeff\ufffe",
    "$x$", "$\\frac{1}{0}$", "\\$5 \\n \\", "$", "{{ 7*7 }}", "%s %d %", "", " ", "\n\n\t", "_hidden", "_", "a" * 5000,
    "漢字 עברית 😀", "e\u0301" * 50,
]  # fmt: skip
# Where a text stands in the results that figures read, beside the tokens of attention maps.
PLACES = ("torch/stock", "torch/handwritten", "tensorflow/stock", "accuracy")


def with_texts(results, attacks):
    """The results with these texts as names of variants and of a metric, also where they are keys, and as tokens."""
    content = results.to_json() | {"headline": None}
    for each in content["attention_maps"]:
        each["tokens"] = (attacks * len(each["tokens"]))[: len(each["tokens"])]
    text = json.dumps(content)
    for place, attack in zip(PLACES, attacks, strict=False):
        text = text.replace(json.dumps(place), json.dumps(attack))
    return with_headline(Results.model_validate(json.loads(text)))


def parsed(picture):
    return ElementTree.fromstring(picture.svg())


def texts_of(element):
    return ["".join(each.itertext()) for each in element.iter() if each.tag in ("text", "title", "desc")]


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("torch/stock", ["torch/stock"]),
        ("torch/stock \N{MINUS SIGN} tensorflow/stock", ["torch/stock \N{MINUS SIGN}", "tensorflow/stock"]),
        ("torch/stock (lora=rank 8, alpha 16)", ["torch/stock", "(lora=rank 8, alpha 16)"]),
        ("torch/stock (learning_rate=0.001, lora=rank 4, alpha 16)",
         ["torch/stock", "(learning_rate=0.001,", "lora=rank 4, alpha 16)"]),
        ("torch/stock (lora=rank 8) \N{MINUS SIGN} tensorflow/stock (lora=rank 8)",
         ["torch/stock \N{MINUS SIGN}", "tensorflow/stock", "(lora=rank 8)"]),
        ("torch/stock (lora=rank 8) \N{MINUS SIGN} torch/stock (lora=none)",
         ["torch/stock", "(lora=rank 8) \N{MINUS SIGN}", "torch/stock", "(lora=none)"]),
        ("tensorflow/handwritten-model", ["tensorflow/", "handwritten-model"]),
        ("torch/handwritten-model \N{MINUS SIGN} tensorflow/handwritten-model",
         ["torch/handwritten-model \N{MINUS SIGN}", "tensorflow/", "handwritten-model"]),
        ("torch/mine:MyVeryOwnAttentionClass", ["torch/", "mine:MyVeryOwnAttentionCl…"[:25] + "…"]),
        (f"torch/stock (data={'x' * 200})",
         ["torch/stock", "(data=" + "x" * 18, "x" * 24, "x" * 24, "…", "x" * 14 + ")"]),
    ],
)  # fmt: skip
def test_names_of_variants_keep_what_tells_them_apart(name, lines):
    assert in_lines(name, 26) == lines and all(len(line) <= 26 for line in lines)


@pytest.fixture(scope="module")
def results():
    return with_headline(example())


@pytest.fixture(scope="module")
def tags(results):
    """The elements and attributes of the figures of harmless results."""
    elements = [element for picture in pictures(results) for element in parsed(picture).iter()]
    return {element.tag for element in elements}, {name for element in elements for name in element.attrib}


def texts_if_only_they_differ(picture, tags):
    """The texts of a figure, if it has no other elements and attributes than figures of harmless texts."""
    root = parsed(picture)
    elements = list(root.iter())
    assert {element.tag for element in elements} <= tags[0]
    assert {name for element in elements for name in element.attrib} <= tags[1]
    for text in texts_of(root):
        assert text == visible(text), "a control character, or one that reorders, is shown as a sign of its own"
    return texts_of(root)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, len(ATTACKS), len(PLACES)))
def test_a_text_in_a_figure_is_a_text(first, results, tags, tmp_path):
    attacks = ATTACKS[first : first + len(PLACES)]
    drawn = pictures(with_texts(results, attacks))
    seen = [text for picture in drawn for text in texts_if_only_they_differ(picture, tags)]
    if first == 12:  # dollar signs, which could be formulas
        for picture in drawn:
            picture.save_png(tmp_path)
    for attack in attacks:
        assert any(visible(attack) in text for text in seen), "whole, in a description"
    for token in attacks[: len(results.attention_maps[0].tokens)]:
        label = shorten(visible(token), 14)
        assert label in seen or not label.strip(), f"{token!r} as a label"


def test_a_map_of_cross_attention_has_the_written_tokens_as_rows_and_the_read_ones_as_columns():
    content = example().to_json() | {"headline": None}
    (one,) = content["attention_maps"]
    one |= {"tokens": ["read-a", "read-b", "read-c"], "written": ["wrote-x", "wrote-y"]}
    one["weights"] = [[[[0.1, 0.7, 0.2], [0.6, 0.3, 0.1]]] * 2] * 2
    drawn = pictures(with_headline(Results.model_validate(content)))
    (last_layer,) = (picture for picture in drawn if picture.name == "attention-1")
    texts = texts_of(parsed(last_layer))
    assert {*one["tokens"], *one["written"]} <= set(texts)
    assert any("wrote-x → read-b; wrote-y → read-a" in text for text in texts)
    assert "the token that the model wrote" in last_layer.caption


def test_a_step_between_two_without_a_difference_is_marked_and_the_legend_is_whole(results):
    (found,) = results.sameness.lockstep[:1]
    distances = [0.0, 6e-8, 0.0, 0.0, 5e-8]
    few = found.model_copy(update={"loss_by_step": distances, "control_loss_by_step": distances})
    many = found.model_copy(update={"loss_by_step": [6e-8] * 50})
    for shown, marker in ((few, "."), (many, "")):
        (picture,) = lockstep([shown])
        (axis,) = picture.figure.axes
        assert axis.lines[0].get_marker() == marker
        assert [text.get_text() for text in picture.figure.legends[0].get_texts()] == [
            "stock attention", "two PyTorch trainings",
        ]  # fmt: skip
