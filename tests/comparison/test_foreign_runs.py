"""Runs that a report reads and did not make: what no run writes is named by file, line, field and what was wanted."""

import json
import math
import random

import numpy as np
import pytest

from pipeline import UserError
from pipeline.cli.main import execute
from pipeline.comparison.run_set import read_run
from tests.helpers.edited_runs import VERBS, edited
from tests.helpers.run_writer import write_run


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run")


def change_lines(file, number, changes):
    """Put a line of a file in other words: with changes to its object, or another line altogether."""
    lines = file.read_text(encoding="utf-8").splitlines()
    lines[number - 1] = changes if isinstance(changes, str) else json.dumps(json.loads(lines[number - 1]) | changes)
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "number", "changes", "message"),
    [
        ("history.jsonl", 3, {"step": 7}, "history.jsonl line 3: step is 7, but must be 3"),
        (
            "history.jsonl",
            2,
            {"loss": None},
            "history.jsonl line 2 is not what a run writes: loss is null, but must be",
        ),
        ("history.jsonl", 2, {"loss": math.inf}, "history.jsonl line 2 cannot be read as JSON: Infinity is not JSON"),
        ("history.jsonl", 2, {"seconds": -1.0}, "history.jsonl line 2 is not what a run writes: seconds is -1.0, but"),
        ("history.jsonl", 4, "", "history.jsonl line 4 cannot be read as JSON"),
        ("history.jsonl", 1, "[" * 100_000, "history.jsonl line 1 cannot be read as JSON"),
        ("predictions.jsonl", 3, "[" * 100_000, "predictions.jsonl cannot be read: line 3: "),
        ("predictions.jsonl", 2, "7", "predictions.jsonl line 2 is 7, but must be an object"),
        ("predictions.jsonl", 2, {"index": 0}, "predictions.jsonl line 2: index is 0, but must be 1"),
        ("predictions.jsonl", 9, {"score": "high"}, 'line 9: score is "high", but must be a number as in the lines'),
        ("predictions.jsonl", 9, {"score": math.nan}, "predictions.jsonl cannot be read: line 9: NaN is not JSON"),
        ("predictions.jsonl", 5, '{"index": 4}', "line 5: prediction is missing, but the lines before have it"),
        ("predictions.jsonl", 6, '{"index"', "predictions.jsonl cannot be read: line 6"),
    ],
)
def test_a_wrong_line_is_named_with_its_field(run, file, number, changes, message):
    change_lines(run / file, number, changes)
    with pytest.raises(UserError) as refused:
        read_run(run)
    assert message in str(refused.value)


def test_a_score_that_is_not_finite_is_named(tmp_path):
    run = write_run(tmp_path / "run", report={"metrics": {"accuracy": math.inf, "loss": 0.3}})
    with pytest.raises(UserError, match="metrics.json cannot be read as JSON: Infinity is not JSON"):
        read_run(run)


def test_a_score_that_is_too_large_for_a_number_is_named(run):
    """1e999 is JSON, and is read as infinity."""
    record = json.loads((run / "metrics.json").read_text())
    text = json.dumps(record | {"metrics": {"accuracy": "SCORE"}}).replace('"SCORE"', "1e999")
    (run / "metrics.json").write_text(text)
    with pytest.raises(UserError, match=r"metrics.json: metrics.accuracy is inf, but must be finite"):
        read_run(run)


def test_a_history_that_is_cut_off_is_named(run):
    lines = (run / "history.jsonl").read_text().splitlines(keepends=True)
    (run / "history.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(
        UserError, match=r"history.jsonl has 3 lines, but .*metrics.json has train.steps 4; the run was"
    ):
        read_run(run)


@pytest.mark.parametrize(
    "logits", [np.array(["a"]), np.zeros((3, 2), np.float32), np.float32(1), np.zeros((8, 2), int)]
)
def test_a_probe_of_another_form_is_named(run, logits):
    before = np.zeros((8, 2), np.float32)
    np.savez(run / "probe.npz", logits_before=before, logits_after=logits)
    with pytest.raises(UserError, match=r"probe.npz: logits_after is .*, but must be the probe's logits"):
        read_run(run)


def test_a_damaged_probe_is_named(run):
    whole, rng = (run / "probe.npz").read_bytes(), random.Random(3)
    for content in (b"", b"PK", whole[:100], whole[:-30], *(rng.randbytes(200) for _ in range(20))):
        (run / "probe.npz").write_bytes(content)
        with pytest.raises(UserError, match=r"probe.npz cannot be read"):
            read_run(run)


@pytest.mark.slow
def test_a_report_on_runs_that_were_edited_by_hand_is_written_or_refused_in_one_message(tmp_path, capsys, monkeypatch):
    """Never is it called a bug, and never is half a report left. The page itself is not drawn, which takes seconds."""
    monkeypatch.setattr("pipeline.reporting.writer.write_report", lambda results, folder: folder.mkdir(parents=True))
    rng, codes = random.Random(11), {}
    for i in range(120):
        folders = [write_run(tmp_path / f"{i}-{name}", name) for name in ("torch", "tensorflow")]
        done = edited(folders[1], rng, VERBS["report"])
        code = execute(["report", *map(str, folders), "--out", str(tmp_path / f"report{i}")])
        error = capsys.readouterr().err
        assert code in (0, 2) and "bug" not in error, f"{done}: {error}"
        assert (tmp_path / f"report{i}").exists() is (code == 0), done
        codes[code] = codes.get(code, 0) + 1
    assert codes[2] > 40
