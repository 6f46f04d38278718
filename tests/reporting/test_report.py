"""The report of a comparison as a person meets it, in a browser and in a pull request; and hostile texts in it."""

import json
import re
import subprocess
from html import unescape
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt

from pipeline import UserError
from pipeline.comparison.results import Disagreement, Results
from pipeline.reporting.content import examples
from pipeline.reporting.first_screen import QUESTIONS, with_headline
from pipeline.reporting.index import write_index
from pipeline.reporting.writer import html, markdown, write_report
from pipeline.utils.text import shorten, visible, visible_lines
from tests.helpers.browser import CONTRAST, browser, program
from tests.helpers.comparison_example import example
from tests.helpers.first_screen import take

HOSTILE = (
    "<script>alert(1)</script>\"'&|\n\x1b[31m\u202e{{ 7*7 }}$x$ $\\frac$ ]]> --> `a` *b* _c_ [d](http://x) ~~e~~ \\|"
)


@pytest.fixture(scope="module")
def results():
    return with_headline(example())


@pytest.fixture(scope="module")
def folder(results, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports") / "one"
    write_report(results, folder)
    return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


class Outline(HTMLParser):
    """Tags, headings, ids and links of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.levels, self.ids, self.targets = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.levels += [int(tag[1])] if re.fullmatch("h[1-6]", tag) else []
        self.ids += [value for name, value in attrs if name == "id"]
        self.targets += [value for name, value in attrs if name in ("src", "href", "action", "data", "srcset")]


def changed(results, **changes):
    """The results with other content, headline included."""
    return Results.model_validate(results.to_json() | {"headline": None} | changes)


def hostile(value):
    """The same content with every text replaced by one that wants to break out."""
    if isinstance(value, dict):
        return {key: hostile(item) for key, item in value.items()}
    if isinstance(value, list):
        return [hostile(item) for item in value]
    return HOSTILE if isinstance(value, str) else value


def test_a_report_is_whole(folder, results):
    assert {path.name for path in folder.iterdir()} == {"report.html", "report.md", "results.json", "figures"}
    assert Results.model_validate_json((folder / "results.json").read_text()) == results
    pictures = list((folder / "figures").iterdir())
    assert len(pictures) >= 10
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)
    assert [path.name for path in folder.parent.iterdir()] == ["one"]


def test_the_same_results_give_the_same_page(folder, results):
    assert html(results) == (folder / "report.html").read_text(encoding="utf-8")


def test_the_page_stands_alone(folder):
    text = (folder / "report.html").read_text()
    outline = Outline(text)
    assert len(text.encode()) < 2_000_000
    assert not {"script", "link", "iframe", "object"} & set(outline.tags)
    assert [target for target in outline.targets if not target.startswith(("#", "data:"))] == []
    assert {target[1:] for target in outline.targets if target.startswith("#")} <= set(outline.ids)
    assert len(outline.ids) == len(set(outline.ids))
    assert "@import" not in text and "url(http" not in text


def test_headings_are_in_order(folder):
    levels = Outline((folder / "report.html").read_text()).levels
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)], ids=["desk", "phone"])
def test_the_first_screen_answers_and_nothing_overflows(page, folder, results, width, height, dark):
    page.open(folder / "report.html", width, height, dark)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    answers = page.evaluate(
        "[...document.querySelectorAll('.answer')].map(e => [e.getBoundingClientRect().bottom, e.innerText])"
    )
    for (bottom, text), kind in zip(answers, QUESTIONS, strict=True):
        assert bottom <= height
        assert getattr(results.headline, kind).sentence in text
    assert page.evaluate("document.querySelector('.notices').getBoundingClientRect().top") < height
    assert page.requests == []
    ink, paper = page.evaluate("(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))")
    assert (brightness(ink) > brightness(paper)) == dark


def brightness(color):
    return sum(map(int, re.findall(r"\d+", color)[:3]))


def test_no_table_scrolls_sideways_on_a_phone_and_each_cell_has_the_title_of_its_column(page, folder):
    page.open(folder / "report.html", 390, 844)
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    wide = page.evaluate(
        "[...document.querySelectorAll('table, .scroll, .terms')].filter(e => e.scrollWidth > e.clientWidth)"
        ".map(e => [e.innerText.slice(0, 40), e.scrollWidth])"
    )
    assert wide == []
    labels = page.evaluate(
        "[...document.querySelectorAll('tbody td')]"
        ".map(e => [e.dataset.label, getComputedStyle(e, '::before').content])"
    )
    assert len(labels) > 100 and all(label and content == f'"{label}"' for label, content in labels)
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_a_variant_can_be_hidden_in_the_figures_without_a_script(page, folder, results):
    page.open(folder / "report.html", 1280, 800)
    hidden = (
        "['v1', 'v2', 'v3'].map(c => [...document.querySelectorAll('svg .' + c)].map(e => getComputedStyle(e).display))"
    )
    assert all(set(shown) == {"inline"} and len(shown) > 10 for shown in page.evaluate(hidden))
    page.call("Emulation.setScriptExecutionDisabled", value=True)
    x, y = page.evaluate(
        "(e => { e.scrollIntoView(); const r = e.getBoundingClientRect();"
        " return [r.x + r.width / 2, r.y + r.height / 2] })"
        "(document.querySelector('#show-2'))"
    )
    for kind in ("mousePressed", "mouseReleased"):
        page.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
    assert [set(shown) for shown in page.evaluate(hidden)] == [{"inline"}, {"none"}, {"inline"}]
    entries = page.evaluate(
        "[...document.querySelectorAll('[aria-labelledby=training] figure text')]"
        ".filter(e => VARIANTS.includes(e.textContent) && e.getClientRects().length).map(e => e.textContent)".replace(
            "VARIANTS", str([variant.name for variant in results.variants])
        )
    )
    assert set(entries) == {"torch/stock", "tensorflow/stock"}
    page.call("Emulation.setScriptExecutionDisabled", value=False)


def test_points_say_their_numbers_under_the_pointer(page, folder, results):
    page.open(folder / "report.html", 1280, 800)
    said = page.evaluate("[...document.querySelectorAll('figure svg .tip > title')].map(e => e.textContent)")
    for variant, summary in results.metrics["accuracy"].variants.items():
        assert f"{variant}: {summary.mean:.4f}" in said
    assert "step 1: torch/stock 0.67, torch/handwritten 0.67, tensorflow/stock 0.67" in said
    assert "true positive, predicted negative: 7 (7.0%)" in said
    under = page.evaluate(
        "(s => { s.scrollIntoView(); const r = s.querySelector('path').getBoundingClientRect();"
        " return document.elementFromPoint(r.x + r.width / 2, r.y + 4).closest('.tip').textContent.trim() })"
        "([...document.querySelectorAll('.tip')].find(e => e.textContent.includes('step 4:')))"
    )
    assert under.startswith("step 4:")


def test_the_numbers_of_a_figure_are_read_by_keyboard_without_a_script(page, folder):
    page.open(folder / "report.html", 390, 844)
    unlisted = page.evaluate(
        "[...document.querySelectorAll('figure')].flatMap(f => { const listed = new Set([...f.querySelectorAll("
        "'.numbers li')].map(e => e.textContent)); return [...f.querySelectorAll('svg .tip > title')]"
        ".map(e => e.textContent).filter(text => !listed.has(text)) })"
    )
    assert unlisted == []
    lists = "[...document.querySelectorAll('.numbers ul')].map(e => e.checkVisibility({contentVisibilityAuto: true}))"
    seen = page.evaluate(lists)
    assert len(seen) > 10 and not any(seen)
    page.call("Emulation.setScriptExecutionDisabled", value=True)
    page.evaluate("document.querySelector('.numbers summary').focus()")
    for kind in ("keyDown", "keyUp"):
        key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
        page.call("Input.dispatchKeyEvent", type=kind, **key)
    assert page.evaluate(lists)[:2] == [True, False]
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.call("Emulation.setScriptExecutionDisabled", value=False)


def test_the_picture_of_the_main_page_ends_with_the_first_plot(folder, tmp_path):
    program("chromium")
    take(folder, tmp_path / "first.png")
    header = (tmp_path / "first.png").read_bytes()[16:24]
    width, height = int.from_bytes(header[:4]), int.from_bytes(header[4:])
    assert width == 1100 and 600 < height < 1400


def test_a_printed_heading_stays_with_what_follows_it(page, folder):
    page.open(folder / "report.html", 1280, 800)
    page.call("Emulation.setEmulatedMedia", media="print")
    style = "name => getComputedStyle(document.querySelector(name))"
    heads = ["section > h2[id]", "h3", "h4", "caption", "thead", ".fold > summary"]
    assert page.evaluate(f"{heads}.map({style}).map(each => each.breakAfter)") == ["avoid"] * len(heads)
    assert page.evaluate(f"['.note', 'thead + tbody > tr'].map({style}).map(each => each.breakBefore)") == ["avoid"] * 2
    page.call("Emulation.setEmulatedMedia", media="")


def test_a_request_would_be_seen(page, tmp_path):
    (tmp_path / "page.html").write_text('<!DOCTYPE html><title>x</title><img src="http://127.0.0.1:9/x.png">')
    page.open(tmp_path / "page.html", 1280, 800)
    assert page.requests == ["http://127.0.0.1:9/x.png"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_contrast(page, folder, scheme):
    page.open(folder / "report.html", 1280, 800, dark=scheme == "dark")
    poor = page.evaluate(CONTRAST)
    assert poor == []


def test_figures_have_words_and_no_labels_collide(page, folder):
    page.open(folder / "report.html", 390, 844)
    figures = page.evaluate(
        "[...document.querySelectorAll('figure svg')].map(e => [e.getAttribute('role'),"
        " e.getAttribute('aria-labelledby').split(' ').map(i => document.getElementById(i).textContent)])"
    )
    assert len(figures) >= 10
    assert all(role == "img" and all(words) for role, words in figures)
    outside = page.evaluate(
        "[...document.querySelectorAll('figure svg text')].filter(t => { const a = t.getBoundingClientRect(),"
        " b = t.ownerSVGElement.getBoundingClientRect(); return a.left < b.left - 1 || a.right > b.right + 1 ||"
        " a.top < b.top - 1 || a.bottom > b.bottom + 1 }).map(t => t.textContent)"
    )
    assert outside == []
    collisions = page.evaluate(
        "[...document.querySelectorAll('figure svg')].flatMap(s => { const t = [...s.querySelectorAll('text')];"
        " const r = t.map(e => e.getBoundingClientRect()); const found = [];"
        " for (let i = 0; i < t.length; i++) for (let j = 0; j < i; j++) { const a = r[i], b = r[j];"
        "  if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&"
        "      Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3.5)"
        "    found.push([t[j].textContent, t[i].textContent]) } return found })"
    )
    assert collisions == []


def test_the_pages_are_valid_html(folder, results, tmp_path):
    tidy = program("tidy")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "results.json").write_text(json.dumps(results.to_json()))
    for path in (folder / "report.html", write_index(tmp_path)):
        done = subprocess.run([tidy, "-q", "-e", str(path)], capture_output=True, text=True)
        # tidy takes the <title> of an SVG figure for that of the page, whose attributes are fewer.
        rest = [line for line in done.stderr.splitlines() if '<title> proprietary attribute "id"' not in line]
        assert rest == []


def test_hostile_texts_stay_texts(results, page, tmp_path):
    content = results.to_json()
    keys = ("recipe", "task", "checkpoint", "command", "disagreements", "machines")
    bad = hostile({key: content[key] for key in keys})
    runs = [run | {"log_tail": HOSTILE, "path": HOSTILE, "status": "failed"} for run in content["runs"]]
    maps = [
        each | {"variant": HOSTILE, "text": HOSTILE, "tokens": [HOSTILE] * len(each["tokens"])}
        for each in content["attention_maps"]
    ]
    text = html(changed(results, **bad, runs=runs, attention_maps=maps))
    outline = Outline(text)
    assert "script" not in outline.tags
    assert not set(text) & (set(map(chr, range(32))) - set("\n\t")) and "\u202e" not in text
    assert "␛[31m" in text and "⟨U+202E⟩" in text and "{{ 7*7 }}" in text
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    page.open(tmp_path / "page.html", 390, 844)
    assert page.evaluate("document.querySelector('h1').textContent") == visible(HOSTILE)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    drawn = page.evaluate("[...document.querySelectorAll('svg text')].map(e => e.textContent)")
    assert shorten(visible(HOSTILE), 14) in drawn


def test_hostile_texts_break_neither_tables_nor_fences_of_markdown(results):
    content = results.to_json()
    bad = hostile({key: content[key] for key in ("recipe", "checkpoint", "command", "disagreements", "machines")})
    runs = [run | {"log_tail": f"```\n{HOSTILE}", "status": "failed"} for run in content["runs"]]
    text = markdown(changed(results, **bad, runs=runs))
    rendered = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    outline = Outline(rendered)
    assert set(outline.tags) <= {
        "h1", "h2", "p", "strong", "em", "ul", "ol", "li", "blockquote", "table", "thead", "tbody", "tr", "th", "td",
        "pre", "code", "a", "details", "summary",
    }  # fmt: skip
    assert all(re.fullmatch(r"figures/[a-z0-9-]+\.png", target) for target in outline.targets)
    shown = unescape(rendered)
    assert f"<h1>{visible(HOSTILE)}: comparison</h1>" in shown
    assert f"<td>{visible(HOSTILE)}</td>" in shown
    assert f"```\n{visible_lines(HOSTILE)}\n</code></pre>" in shown
    plain = markdown(changed(results, runs=runs))
    assert cells(rendered) == cells(MarkdownIt("commonmark").enable("table").render(plain))


def cells(rendered):
    """How many cells each row of each table has."""
    return [len(re.findall("<t[hd]", row)) for row in re.findall("<tr>.*?</tr>", rendered, flags=re.S)]


def test_markdown_says_what_the_page_says(results):
    text = markdown(results)
    for kind in QUESTIONS:
        assert text.count(getattr(results.headline, kind).sentence) == 1
    assert text.startswith(f"# {results.recipe}")
    first = results.variants[0].name
    metric = next(iter(results.metrics.values()))
    assert f"| {first} | {metric.variants[first].mean:.4f} |" in text
    assert "(figures/loss.png)" in text
    assert "None" not in text and "nan" not in text.replace("names", "")


def test_what_is_undefined_is_a_dash(results):
    bare = blank(results)
    text = html(bare)
    assert ">–<" in text and ">None<" not in text and ">nan<" not in text
    assert "| – |" in markdown(bare)


def test_a_number_that_json_does_not_have_is_null_and_a_dash(results, tmp_path):
    content = blank(results).to_json()
    row = next(iter(content["metrics"]["loss"]["variants"].values()))
    row.update(n=2, mean=float("inf"), sd=float("nan"), values={"0": float("inf"), "1": 1.0})
    write_report(Results.model_validate(content), tmp_path / "report")
    written = json.loads((tmp_path / "report" / "results.json").read_text(), parse_constant=pytest.fail)
    assert next(iter(written["metrics"]["loss"]["variants"].values()))["mean"] is None
    assert not re.search(r"\b(nan|inf)\b", (tmp_path / "report" / "report.html").read_text(), flags=re.I)


def blank(results):
    """As after runs that all failed: nothing was measured."""
    content = results.to_json()
    for metric in content["metrics"].values():
        for row in metric["variants"].values():
            row.update(n=0, mean=None, sd=None, low=None, high=None, values={})
    for cost in content["costs"]:
        for row in cost["variants"].values():
            row.update(median=None, low=None, high=None, ratio=None)
    empty = {"probe": [], "batches": [], "optimization": [], "lockstep": [], "curves": {}, "evaluations": {}}
    nothing = {"cost": "examples_per_second", "higher_is_better": True, "is_same_machine": True, "pairs": []}
    return changed(
        results, metrics=content["metrics"], costs=content["costs"], sameness=empty | {"batch_sizes_vary": False},
        comparisons=[], disagreements=[], attention_maps=[], machines=[], time=nothing, speed=nothing, memory=nothing,
    )  # fmt: skip


def test_an_older_report_is_replaced_and_nothing_else_is(results, folder, tmp_path):
    write_report(changed(blank(results), recipe="newer"), folder)
    assert "newer" in (folder / "report.md").read_text()
    assert not (folder / "figures" / "lockstep.png").exists()
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"thesis\.tex"):
        write_report(results, tmp_path)
    (folder / "figures" / "mine.txt").write_text("notes")
    with pytest.raises(UserError, match=r"mine\.txt"):
        write_report(results, folder)
    (folder / "figures" / "mine.txt").unlink()
    with pytest.raises(UserError, match="is a file"):
        write_report(results, tmp_path / "thesis.tex")


def test_a_report_that_fails_half_way_leaves_the_older_one(results, folder):
    before = (folder / "report.html").read_bytes()
    with pytest.raises(TypeError):
        write_report(results.model_copy(update={"costs": None}), folder)
    assert (folder / "report.html").read_bytes() == before
    assert [path.name for path in folder.parent.iterdir()] == ["one"]


@pytest.mark.parametrize(
    ("reference", "prediction", "shown", "state"),
    [
        ("negative", "negative", "negative", "good"),
        ("negative", "positive", "negative", "bad"),
        (["O", "B-PER"], ["O", "O"], "O B-PER", "bad"),
        (["Paris", "in Paris"], "in Paris", "Paris / in Paris", "good"),
        ([], "Paris", "(none)", "bad"),
        (2.5, 2.4999, "2.5", None),
        (None, "a text", "–", None),
    ],
)
def test_a_prediction_is_called_right_only_where_that_can_be_told(results, reference, prediction, shown, state):
    row = Disagreement(index=1, seed=0, fields={}, reference=reference, predictions={"a/b": prediction})
    (example,) = examples(results.model_copy(update={"disagreements": [row]}))
    assert example.reference == shown
    assert getattr(example.predictions["a/b"], "state", None) == state


def test_the_index_has_an_entry_for_each_report_the_newest_first_and_names_a_broken_one(results, page, tmp_path):
    assert "no report in" in write_index(tmp_path / "none").read_text()
    for name, day in (("old", 1), ("new one", 2)):
        (tmp_path / name).mkdir()
        content = results.to_json() | {"recipe": f"{name} <b>", "created": f"2026-11-0{day}T10:00:00+00:00"}
        (tmp_path / name / "results.json").write_text(json.dumps(content))
        (tmp_path / name / "report.html").write_text("")
    for name, text in (("cut", "{"), ("strange", '{"schema": 7}'), ("list", "[1]"), ("bare", '{"schema": 1}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(text)
    index = write_index(tmp_path)
    page.open(index, 390, 844)
    titles = page.evaluate("[...document.querySelectorAll('li h2')].map(e => e.textContent)")
    assert titles == ["new one <b>", "old <b>", "bare", "cut", "list", "strange"]
    links = page.evaluate("[...document.querySelectorAll('li a')].map(e => e.getAttribute('href'))")
    assert links == ["new%20one/report.html", "old/report.html"]
    assert page.evaluate("document.body.innerText.match(/Broken/g).length") == 4
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.requests == []
    index.write_text("<p>my own page</p>")
    with pytest.raises(UserError, match="not an index of reports"):
        write_index(tmp_path)


@pytest.mark.parametrize(("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_a_missing_browser_is_skipped_here_and_fails_where_everything_must_be_tested(monkeypatch, ci, outcome):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="chromium is not installed"):
        program("chromium")
