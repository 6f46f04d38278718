"""A drawn figure as an SVG element of the page: its colors are the page's, so it is legible in light and dark.

Parts of a figure that are marked with `mark` can be hidden with their variant, and say their value under the pointer;
`numbers` lists these values for whoever has none.
"""

from __future__ import annotations

import io
import re
from html import escape

import matplotlib
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from pipeline.utils.drawing import plain_texts
from pipeline.utils.text import visible

INK, LINE, GOOD = "#1b1f24", "#8a949e", "#17693a"
# Okabe and Ito's colors, told apart with any kind of color vision.
SERIES = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_VARIABLES = {INK: "currentColor", "#000000": "currentColor", LINE: "var(--rule)", GOOD: "var(--good)"} | {
    color: f"var(--series-{number})" for number, color in enumerate(SERIES, start=1)
}


_GID = re.compile(r"mark-(\d+)-([0-9a-f]*)")
_MARK = re.compile(f'id="{_GID.pattern}"')


def mark(artist: Artist, variant: int = 0, tip: str = "") -> None:
    """Make a part of a figure hide with the variant of this number, from 1, and show `tip` under the pointer."""
    # matplotlib writes the id into the SVG and nothing else; as digits, no text of a tip can be taken for markup.
    artist.set_gid(f"mark-{variant}-{visible(tip).encode().hex()}")


def numbers(figure: Figure) -> list[tuple[int, str]]:
    """What the parts of a figure say under the pointer, in the order in which they are drawn, with their variants."""
    marks = [_GID.fullmatch(artist.get_gid() or "") for artist in figure.findobj()]
    texts = [(int(found[1]), bytes.fromhex(found[2]).decode()) for found in marks if found]
    return [(variant, text) for variant, text in texts if text]


def inline(figure: Figure, name: str, title: str, description: str) -> str:
    """The figure as one <svg> element whose ids start with `name`, with title and description for screen readers."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with (
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "svg.image_inline": True}),
        plain_texts(),
    ):
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    drawn = buffer.getvalue()
    drawn = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", drawn, flags=re.S)
    element = re.search(r'<svg[^>]*? viewBox="([^"]*)"[^>]*>(.*)</svg>', drawn, flags=re.S)
    assert element is not None, "matplotlib writes one svg element"
    box, body = element.groups()
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.S)
    body = re.sub(r"<[^>]*>", lambda tag: _for_the_page(tag[0], name), body)
    # matplotlib names these by addresses in memory: the same results would not give the same page.
    for number, clip in enumerate(re.findall(r'<clipPath id="([^"]*)"', body)):
        body = body.replace(clip, f"{name}-clip{number}")
    body = re.sub(r"\s*\n\s*", "\n", body).strip()
    return (
        f'<svg viewBox="{box}" role="img" aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">{escape(visible(title))}</title>'
        f'<desc id="{name}-desc">{escape(visible(description))}</desc>\n{body}\n</svg>'
    )


def _for_the_page(tag: str, name: str) -> str:
    """One tag with ids of its own, the page's font and colors, and two decimals; texts stay as they are."""
    if marked := _MARK.search(tag):
        return _marked(int(marked[1]), bytes.fromhex(marked[2]).decode())
    if tag.startswith(("<g ", "<image ")):  # nothing refers to these, and equal images would have equal ids
        tag = re.sub(r' id="[^"]*"', "", tag)
    tag = re.sub(r'\bid="', f'id="{name}-', tag)
    tag = re.sub(r'(?:xlink:)?href="#', f'href="#{name}-', tag).replace("url(#", f"url(#{name}-").replace("xlink:", "")
    tag = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), tag)
    tag = re.sub(r" font-family: [^;\"]*;?", "", tag)
    for color, variable in _VARIABLES.items():
        tag = tag.replace(color, variable)
    return re.sub(r"\s*\n\s*", " ", tag)


def _marked(variant: int, tip: str) -> str:
    """The beginning of a group that belongs to a variant, or none, and has a tip, or none."""
    names = [*([f"v{variant}"] if variant else []), *(["tip"] if tip else [])]
    return f'<g class="{" ".join(names)}">' + (f"<title>{escape(tip)}</title>" if tip else "")
