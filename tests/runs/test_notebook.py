"""A run as a notebook shows it, and the progress that calls from Python print."""

import re
import sys
from html.parser import HTMLParser

import pytest

import pipeline
from pipeline import compare, finetune, load_run
from pipeline.runs.notebook import run_html, smoothed
from pipeline.runs.record import EvaluationRecord, StepRecord
from pipeline.training.callbacks import TrainingCallback, python_console
from tests.helpers.run_writer import write_run


def history(losses, steps_per_epoch=5):
    return [
        StepRecord(
            step=step, epoch=(step - 1) // steps_per_epoch + 1, loss=loss, learning_rate=0.1, grad_norm=1.0,
            examples=8, tokens=80, seconds=float(step),
        )
        for step, loss in enumerate(losses, start=1)
    ]  # fmt: skip


def points_of(html):
    return [
        [tuple(map(float, pair.split(","))) for pair in points.split()]
        for points in re.findall(r'<polyline points="([^"]*)"', html)
    ]


class Tags(HTMLParser):
    """Fails for a tag that is not closed in its place."""

    def __init__(self):
        super().__init__()
        self.open, self.text = [], ""

    def handle_starttag(self, tag, attrs):
        self.open += [] if tag in ("br", "circle", "polyline") and tag == "br" else [tag]

    def handle_startendtag(self, tag, attrs):
        """It is closed."""

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += f" {data}"


def test_a_run_shows_its_scores_and_its_curve(tmp_path):
    run = load_run(write_run(tmp_path / "<b>torch"))
    evaluations = [
        EvaluationRecord.model_validate({"epoch": epoch, "loss": loss}) for epoch, loss in ((1, 0.6), (2, 0.4))
    ]
    record = run.record.model_copy(update={"evaluations": evaluations, "test": {"accuracy": 0.25}})
    html = run_html(record, history([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]), str(run.path))
    tags = Tags()
    tags.feed(html)
    assert tags.open == [] and str(run.path) in tags.text and "<b>torch" not in html
    assert f"{run.metrics['accuracy']:.4f}" in tags.text and "0.2500" in tags.text
    raw, smooth = points_of(html)
    # The highest loss is on top at the left, the lowest at the bottom at the right, the steps are evenly spaced.
    assert raw[0] == (24.0, 24.0) and raw[-1] == (456.0, 126.0) and len(raw) == len(smooth) == 10
    assert raw[1][0] - raw[0][0] == pytest.approx(432 / 9, abs=0.1)
    # The validation loss of 0.6 after step 5 is as high as a training loss of 0.6 would be, which step 5 has.
    assert f'<circle cx="{raw[4][0]}" cy="{raw[4][1]}"' in html and html.count("<circle") == 2


def test_the_smoothed_loss_is_an_exponential_moving_average():
    assert smoothed([1.0, 0.0, 2.0]) == pytest.approx([1.0, 0.9, 1.01])


def test_a_long_run_has_few_points_and_a_short_one_or_one_without_history_no_curve(tmp_path):
    run = load_run(write_run(tmp_path / "run"))
    raw, _ = points_of(run_html(run.record, history([0.5] * 1000, 1000), "run"))
    assert 300 <= len(raw) <= 400
    assert "<svg" not in run_html(run.record, history([0.5]), "run")
    (run.path / "history.jsonl").unlink()
    assert "<table" in run._repr_html_() and "<svg" not in run._repr_html_()


@pytest.fixture(autouse=True)
def is_in_a_script(monkeypatch):
    """Other tests of the process may have imported what says that a notebook runs."""
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)


def test_a_call_from_python_prints_its_progress_unless_it_is_quiet_or_has_a_callback(small, tmp_path, capsys):
    run = finetune(small, out=tmp_path / "run")
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("sentiment_bert torch/stock seed 0: 3 steps in 1 epoch\n")
    assert f"validation accuracy  {run.metrics['accuracy']:.4f}\n" in printed.err
    again = {"out": tmp_path / "run"}
    finetune(small, **again)
    assert "overwrite=True repeats it" in capsys.readouterr().err
    finetune(small, **again, quiet=True)
    finetune(small, **again, callback=TrainingCallback())
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "")


def test_in_a_notebook_progress_goes_to_the_cell(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    python_console().print("a line")
    assert capsys.readouterr() == ("a line\n", "")


@pytest.mark.parametrize(("quiet", "begins"), [(False, "sentiment_bert: 2 runs"), (True, "")])
def test_a_comparison_prints_its_progress_unless_it_is_quiet(small, tmp_path, monkeypatch, capsys, quiet, begins):
    monkeypatch.chdir(tmp_path)

    def stop(*arguments):
        raise pipeline.UserError("enough")

    monkeypatch.setattr("pipeline.comparison.run_matrix.check", stop)
    with pytest.raises(pipeline.UserError, match="enough"):
        compare(small, frameworks="torch", attentions=["stock", "handwritten"], seeds=0, control=False, quiet=quiet)
    assert capsys.readouterr().err.startswith(begins) and (begins or capsys.readouterr().err == "")
