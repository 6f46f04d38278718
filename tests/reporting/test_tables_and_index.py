"""Cells that a report marks as different, and the reports that the index can read."""

import json

import pytest

from pipeline.comparison.results import ProbeDifference
from pipeline.reporting.index import entries
from pipeline.reporting.tables import sameness
from tests.helpers.comparison_example import example


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


@pytest.mark.parametrize("schema", [1, 2])
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
    assert unknown.broken.sentence == "its schema is 7, but must be 1 or 2 or 3"
