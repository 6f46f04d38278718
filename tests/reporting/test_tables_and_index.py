"""Cells that a report marks as different, what is folded or not drawn, and the reports that the index can read."""

import json
import os
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest

from pipeline import UserError
from pipeline.comparison.records.sameness import ProbeDifference
from pipeline.comparison.results import SCHEMA_VERSION, MapDistance
from pipeline.deploy.report import deployment
from pipeline.reporting.figures import pictures
from pipeline.reporting.index import entries, write_index
from pipeline.reporting.sameness.tables import map_differences, sameness
from pipeline.reporting.tables import main_metrics, parts_folded, scores
from pipeline.reporting.writer import write_pages
from pipeline.runs.record import RunIdentity
from pipeline.tour import content as tour
from pipeline.utils.text import shorten, visible
from tests.helpers import tour_example
from tests.helpers.comparison_example import example


def test_how_far_maps_differ_stands_beside_the_control():
    results = example()
    ours = results.attention_maps[0]
    weights = [[[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.0, 0.375, 0.625]]] * 2] * 2
    theirs = ours.model_copy(update={"variant": "tensorflow/handwritten", "weights": weights})
    control = [MapDistance(largest=0.3751, mean=0.04), MapDistance(largest=0.25, mean=0.02)]
    changed = results.model_copy(update={"attention_maps": [ours, theirs], "map_control": control})
    table = map_differences(changed)
    assert table.groups == {
        "torch/handwritten and tensorflow/handwritten": [["1", "0.375", "0.0833"], ["2", "0.375", "0.0833"]],
        "control: torch/stock and itself": [["1", "0.375", "0.0400"], ["2", "0.250", "0.0200"]],
    }
    assert table.note
    assert not map_differences(results)
    without = map_differences(changed.model_copy(update={"map_control": []}))
    assert len(without.groups) == 1 and not without.note


def test_a_start_over_its_tolerance_is_marked_with_its_seeds():
    results = example()
    rows = [
        ProbeDifference(
            first="torch/stock", second="torch/handwritten", seed=seed, max_difference=difference, tolerance=1e-4,
            same_shape=True, within_tolerance=difference <= 1e-4,
        )
        for seed, difference in enumerate((3e-8, 0.25, 0.125))
    ]  # fmt: skip
    changed = results.model_copy(update={"sameness": results.sameness.model_copy(update={"probe": rows})})
    (first, *_) = sameness(changed).groups[""]
    assert (first[1].state, first[1].word) == ("bad", "Different")
    assert first[1].sentence == "2.5e-01, over the tolerance in seed 1, 2"


@pytest.mark.parametrize("schema", [1, 2, 3])
def test_the_index_reads_reports_of_earlier_schemas(tmp_path, schema):
    statement = {"state": "good", "sentence": "Fastest was torch/stock."}
    headline = {"same": statement, "speed": statement, "memory": statement, "notices": [statement]}
    old = {
        "schema": schema,
        "created": "2026-11-24T06:40:00+00:00",
        "recipe": "older",
        "headline": headline,
        "runs": [],
    }
    for name, content in (("old", old), ("unknown", old | {"schema": 7})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(content))
    readable, unknown = entries(tmp_path)
    assert (readable.title, readable.broken) == ("older", None)
    assert readable.answers["Which was faster, and by how much?"].sentence == "Fastest was torch/stock."
    assert unknown.broken.sentence == "its schema is 7, but must be 1 or 2 or 3 or 4 or 5"


# Texts and names of folders that would be markup, change the direction of a line, or be no text at all.
HOSTILE = [
    "<script>alert(1)</script>", "</svg><svg onload=alert(1)>", "\" onload='x' '", "]]><b>", "<!-- x", "&#x3c;b&#x3e;",
    "{{ 7*7 }}", "a\x00b\x1b[31m\x07", "\u202eevil\u202c", "\ud800x", "javascript:alert(1)", "%s %(x)s", "a" * 5000,
]  # fmt: skip


def page_parts(html):
    """The elements of a page with the names of their attributes, and all of its text."""

    class Parts(HTMLParser):
        elements, links, text = set(), [], ""

        def handle_starttag(self, tag, attributes):
            self.elements.add((tag, *sorted(name for name, _ in attributes)))
            self.links.extend(value for name, value in attributes if name == "href" and value[0] != "#")

        def handle_data(self, data):
            self.text += data

    parts = Parts()
    parts.feed(html)
    return parts


def report_folder(folder, name, text):
    """A report whose every text is this one, in a folder of this name."""
    statement = {"state": "good", "sentence": text}
    answer = statement | {"word": text}
    headline = dict.fromkeys(("training", "score", "time", "memory"), answer) | {"notices": [statement]}
    created = "2026-11-24T06:40:00+00:00"
    path = folder / name
    path.mkdir(parents=True)
    (path / "report.html").touch()
    content = {"schema": SCHEMA_VERSION, "created": created, "recipe": text, "headline": headline, "runs": []}
    (path / "results.json").write_text(json.dumps(content))


def test_the_index_lists_comparisons_deployment_reports_the_tour_and_sweeps(tmp_path):
    toured = tour_example.example().model_copy(update={"created": "2026-11-26T10:00:00+00:00"})
    deployed = toured.deployment.model_copy(update={"created": "2026-11-25T10:00:00+00:00"})
    run = RunIdentity(recipe="mine", framework="torch", attention="stock", seed=3)
    pages = deployment.content_of(deployed.model_copy(update={"run": run})), deployed.model_copy(update={"run": run})
    for place, (content, results) in {
        "elsewhere": pages, "deployment/mine/one": pages, "tour": (tour.content_of(toured), toured),
    }.items():  # fmt: skip
        write_pages(tmp_path / place, replace(content, pictures=[]), results.model_dump(mode="json"))
    (tmp_path / "swept").mkdir()
    (tmp_path / "swept" / "sweep.html").touch()
    created = "2026-11-23T10:00:00+00:00"
    (tmp_path / "swept" / "sweep.json").write_text(json.dumps({"recipe": "mine", "created": created}))
    report_folder(tmp_path, "compared", "A recipe")
    found = entries(tmp_path)
    assert [(entry.title, entry.link) for entry in found] == [
        ("Tour of both frameworks", "tour/tour.html"),
        ("Deployment of mine torch/stock seed 3", "deployment/mine/one/report.html"),
        ("Deployment of mine torch/stock seed 3", "elsewhere/report.html"),
        ("A recipe", "compared/report.html"),
        ("Sweep of mine", "swept/sweep.html"),
    ]
    assert not any(entry.broken for entry in found) and all((tmp_path / entry.link).is_file() for entry in found)


def test_texts_and_names_of_folders_are_only_text_on_the_index(tmp_path):
    for number in range(len(HOSTILE)):
        report_folder(tmp_path / "harmless", f"report{number}", f"a text {number}")
    names = [name.replace("/", "\\")[:90] for name in HOSTILE]
    for name, text in zip(names, HOSTILE, strict=True):
        name = os.fsdecode(b"\xff") if "\ud800" in name else name.replace("\x00", "")
        report_folder(tmp_path / "hostile", name, text)
    harmless, hostile = (
        page_parts(write_index(tmp_path / kind).read_text(encoding="utf-8")) for kind in ("harmless", "hostile")
    )
    assert hostile.elements == harmless.elements
    assert len(hostile.links) == len(harmless.links)
    for link in hostile.links:
        assert (tmp_path / "hostile" / os.fsdecode(unquote_to_bytes(link))).is_file()
    for text in HOSTILE:
        assert shorten(visible(text), 150).rstrip("…") in hostile.text
    assert not set("\x00\x1b\x07\u202e\u202c\ud800") & set(hostile.text)


@pytest.mark.parametrize(
    "content", ["[" * 100_000, "[]", "null", '{"schema": 2}', "{", "\x00", '{"schema": [1]}', "\xff"]
)
def test_results_that_are_none_are_named_on_the_index(tmp_path, content):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "results.json").write_text(content, encoding="latin-1")
    (entry,) = entries(tmp_path)
    assert entry.title == "broken" and entry.broken.sentence.startswith(("results.json", "its schema"))


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, Path.touch])
def test_what_is_not_an_index_is_not_replaced_by_one(tmp_path, make):
    make(tmp_path / "index.html")
    with pytest.raises(UserError, match="index.html is not an index of reports; move it away"):
        write_index(tmp_path)


def test_metrics_of_a_single_type_are_folded_and_have_no_figure():
    results = example()
    metric = results.metrics["accuracy"]
    metrics = {"f1": metric, "f1.person": metric, "v1.5": metric}
    changed = results.model_copy(update={"metrics": metrics})
    seen, folded = parts_folded(changed, scores(changed))
    assert [name.partition(" ")[0] for name in seen.groups] == ["f1", "v1.5"] and not seen.is_folded
    assert [name.partition(" ")[0] for name in folded.groups] == ["f1.person"] and folded.is_folded
    assert not parts_folded(results, scores(results))[1]
    assert main_metrics(changed) == ["f1", "v1.5"]


def test_what_no_model_changes_is_in_the_tables_but_not_drawn():
    results = example()
    by_name = {"perplexity_floor": results.metrics["accuracy"], "accuracy": results.metrics["accuracy"]}
    changed = results.model_copy(update={"metrics": by_name})
    titles = [picture.title for picture in pictures(changed) if picture.name.startswith("scores")]
    assert titles == ["accuracy by variant"]
    assert [heading.partition(" ")[0] for heading in scores(changed).groups] == [*by_name]
