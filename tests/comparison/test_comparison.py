"""Runs made for a comparison, and comparisons of finished runs: what is run, kept, refused, shown and written."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline import UserError, compare, load_recipe
from pipeline import api as comparison
from pipeline.cli.main import execute
from pipeline.comparison import run_matrix as runner
from pipeline.comparison.attention_maps import maps_from_control
from pipeline.comparison.results import Results
from pipeline.comparison.run_set import read_run, with_variants
from pipeline.recipe.loading import load_shipped
from pipeline.utils import processes
from pipeline.utils.environment import THREAD_VARIABLES
from tests.helpers.run_writer import write_run

ROOT = Path(__file__).resolve().parents[2]
LIMITS = {
    "data.limit.train": 64, "data.limit.validation": 16, "train.epochs": 1, "train.dropout_masks": "shared",
}  # fmt: skip
QUICK = [part for key, value in LIMITS.items() for part in ("--set", f"{key}={value}")]
MINE = """
from pipeline.pytorch.attention import MultiHeadAttention

class Raises(MultiHeadAttention):
    def forward(self, *args, **kwargs):
        raise RuntimeError("this attention is broken")
"""


def verb(*arguments):
    """The verb in this process: exit code and what it wrote."""
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        code = execute(list(arguments))
    return SimpleNamespace(code=code, out=out.getvalue(), error=error.getvalue())


@pytest.fixture(scope="module", autouse=True)
def workplace(tmp_path_factory):
    """A working directory with a module of one's own."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("work")
        (folder / "mine.py").write_text(MINE)
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        patch.setattr(comparison, "LOCKSTEP_STEPS", 2)
        yield folder


@pytest.fixture(scope="module")
def with_a_failure():
    """PyTorch alone, with the library's attention and one that raises."""
    attentions = ["--frameworks", "torch", "--attentions", "stock mine:Raises", "--seeds", "0"]
    return verb("compare", "sentiment_bert", *attentions, *QUICK, "--out", "reports/first")


@pytest.fixture(scope="module")
def of_both(with_a_failure):
    """Both frameworks, from Python; PyTorch's run is there already, made with another margin."""
    recipe = load_recipe("sentiment_bert", LIMITS | {"margin": 0.02})
    (finished,) = Path("runs/sentiment_bert").glob("torch-stock-seed0-????????/metrics.json")
    before = finished.stat().st_mtime_ns
    comparison = compare(recipe, attentions=["stock"], seeds=[0], out="reports/second")
    assert finished.stat().st_mtime_ns == before, "a finished run was made again"
    return comparison


@pytest.mark.slow
def test_a_run_that_fails_is_shown_as_failed_and_the_others_go_on(with_a_failure):
    assert (with_a_failure.code, with_a_failure.error) == (1, "")
    assert "torch/mine:Raises seed 0  FAILED" in with_a_failure.out
    assert "Fault: The run torch/mine:Raises seed 0 failed" in with_a_failure.out
    results = json.loads(Path("reports/first/results.json").read_text())
    assert [(run["variant"], run["status"]) for run in results["runs"]] == [
        ("torch/stock", "completed"), ("torch/mine:Raises", "failed"),
    ]  # fmt: skip
    assert "this attention is broken" in results["runs"][1]["log_tail"]
    assert "this attention is broken" in Path("reports/first/report.html").read_text()
    assert results["headline"]["training"]["state"] == "unknown"
    assert not list(Path("runs/sentiment_bert").glob("torch-mine*"))


@pytest.mark.slow
def test_both_frameworks_are_compared_with_what_was_there(of_both):
    results = of_both.results
    assert results == Results.model_validate_json(Path("reports/second/results.json").read_text())
    assert of_both.path == Path("reports/second")
    assert [run.status for run in results.runs] == ["completed", "completed"]
    assert results.margin.value == 0.02
    versions = {run.environment.versions["transformers"] for run in results.runs}
    notices = [notice.sentence for notice in results.headline.notices]
    assert all(notice.startswith("Versions differ between the runs: ") for notice in notices)
    assert len(notices) == len(versions) - 1
    training, steps = results.headline.training, results.runs[0].train.steps
    compared = f"the first 2 of {steps} steps" if steps > 2 else "all 2 steps"
    assert training.state == "good" and training.sentence.startswith("Same start (outputs before training within ")
    assert training.sentence.endswith(
        f", same batches, same learning rates, same dropout masks, {compared} compared one by one and within bounds."
    )
    page = Path("reports/second/report.html").read_text()
    assert f"In lock-step, {compared} of seed 0 were taken, and the losses are equal except for rounding" in page
    control = results.sameness.control
    assert control.seeds == [0] and control.pairs[0].within and control.loss_distance < 1e-6
    (perturbed,) = Path("runs/sentiment_bert").glob("torch-stock-seed0-????????-control")
    assert "perturb_weights: true" in (perturbed / "recipe.yaml").read_text()
    logits = [np.load(folder / "probe.npz")["logits_before"] for folder in (perturbed, Path(results.runs[0].path))]
    assert 0 < np.abs(logits[0] - logits[1]).max() < 1e-5
    compared = with_variants(map(read_run, [results.runs[0].path, results.runs[1].path]))
    layers, problems = maps_from_control(compared, [read_run(perturbed)], "The food was great.")
    assert problems == [] and len(layers) == 3
    assert all(0 < layer.mean < layer.largest < 1e-4 for layer in layers)
    without = replace(read_run(perturbed), path=Path("gone"))
    layers, (problem,) = maps_from_control(compared, [without], "The food was great.")
    assert (layers, problem.code, problem.run) == ([], "control_failed", "torch/stock seed 0")
    assert "gone" in problem.error
    assert results.sameness.lockstep[0].same is True
    assert results.sameness.batches[0].basis == "rows"
    threads = {run.environment.threads for run in results.runs}
    assert threads == {os.environ["OMP_NUM_THREADS"]}


@pytest.mark.slow
def test_a_notebook_has_frames_and_a_page(of_both):
    runs = of_both.runs
    assert list(runs["framework"]) == ["torch", "tensorflow"]
    assert list(runs["accuracy"]) == [run.metrics["accuracy"] for run in of_both.results.runs]
    assert (runs["train_steps"] == 2).all()
    verdicts = of_both.verdicts
    assert list(verdicts["metric"]) == ["accuracy", "f1", "loss"]
    assert set(verdicts["state"]) == {"unknown"}
    # After two steps, models may still find no positive row at all: F1 is 0.
    assert set(verdicts["code"]) <= {"too_few_seeds", "all_zero"}
    assert verdicts["code"].iloc[0] == "too_few_seeds"
    assert of_both.to_html() == Path("reports/second/report.html").read_text()
    assert repr(of_both) == "Comparison(sentiment_bert: 2 variants, 2 runs; report in reports/second)"
    shown = of_both._repr_html_()
    assert "<table" in shown and "Same start" in shown


@pytest.mark.slow
def test_finished_runs_are_planned_as_done_and_again_with_rerun(of_both):
    shipped = load_shipped("sentiment_bert")
    recipe = shipped.override(LIMITS)
    choice = (["torch", "tensorflow"], ["stock"], [0, 1])
    planned = runner.plan(recipe, shipped, *choice, rerun=False)
    assert [(run.framework, run.seed, run.done) for run in planned] == [
        ("torch", 0, True), ("tensorflow", 0, True), ("tensorflow", 1, False), ("torch", 1, False),
    ]  # fmt: skip
    assert not any(run.done for run in runner.plan(recipe, shipped, *choice, rerun=True))


@pytest.mark.slow
def test_a_run_made_before_recipes_had_margins_is_used_again(of_both):
    (folder,) = Path("runs/sentiment_bert").glob("torch-stock-seed0-????????")
    text = (folder / "recipe.yaml").read_text()
    (folder / "recipe.yaml").write_text("".join(f"{line}\n" for line in text.splitlines() if "margin:" not in line))
    recipe = load_recipe("sentiment_bert", LIMITS | {"margin": 0.07})
    (run,) = runner.plan(recipe, load_shipped("sentiment_bert"), ["torch"], ["stock"], [0], rerun=False)
    assert run.done and run.folder == folder
    (folder / "recipe.yaml").write_text(text)


def test_remains_of_a_run_are_replaced_and_anything_else_is_refused():
    shipped = load_shipped("sentiment_bert")

    def planned(seed, rerun=False):
        (run,) = runner.plan(shipped, shipped, ["torch"], ["stock"], [seed], rerun)
        return run

    torn = planned(21).folder
    torn.mkdir(parents=True)
    (torn / "recipe.yaml").write_text(shipped.to_yaml())
    (torn / "metrics.json").write_text('{"recipe": "sent')
    assert not planned(21).done
    (torn / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"metrics\.json cannot be read as JSON.*; move it away, or .* rerun=True"):
        planned(21)
    other = write_run(planned(22).folder, seed=22, settings={"train.learning_rate": 1e-3})
    with pytest.raises(UserError, match=r"holds a run of another setting of the recipe; .* with rerun=True"):
        planned(22)
    assert not planned(22, rerun=True).done
    for folder in (torn, other):
        shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (
            ["--frameworks", "torhc"],
            'framework is "torhc", but must be one of torch, tensorflow. Did you mean "torch"?',
        ),
        (["--frameworks", "torch torch"], "framework torch is given twice"),
        (["--frameworks", ""], "no framework is given"),
        (
            ["--attentions", "handwriten"],
            'attention is "handwriten", but must be stock, handwritten, handwritten-model or module:Class.',
        ),
        (["--attentions", "mine:Nothing"], "mine has no"),
        (["--seeds", "0 one"], '--seeds has "one", but needs whole numbers'),
        (["--seeds", "-1"], '--seeds has "-1", but needs whole numbers'),
        (["--seeds", "4294967296"], "seed is 4294967296, but must be a whole number from 0 to 2^32 - 1"),
        (["--seeds", ""], "no seed is given"),
        (["--set", "train.epoch=1"], 'Did you mean "epochs"'),
        (["--out", "mine.py"], "mine.py"),
        (["--out", "."], "holds something that is not a report"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_refused_before_anything_runs(choice, message, monkeypatch, with_a_failure):
    monkeypatch.setattr(runner, "execute", lambda *_: pytest.fail("a run was started"))
    before = sorted(Path().rglob("*"))
    result = verb("compare", "sentiment_bert", *QUICK, "--frameworks", "torch", "--seeds", "5", *choice)
    assert (result.code, result.out.count("FAILED")) == (2, 0)
    assert message in result.error
    assert sorted(Path().rglob("*")) == before


@pytest.mark.slow
def test_ctrl_c_ends_a_comparison_at_once_and_keeps_what_is_done(with_a_failure):
    (finished,) = Path("runs/sentiment_bert").glob("torch-stock-seed0-????????")
    arguments = [
        "compare",
        "sentiment_bert",
        "--frameworks",
        "torch",
        "--attentions",
        "stock",
        "--seeds",
        "0 8",
        *QUICK,
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", *arguments], start_new_session=True, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    while "torch/stock seed 8 ..." not in process.stdout.readline():
        assert process.poll() is None, process.stderr.read()
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert error == "stopped; finished runs are kept, and the same command continues from them\n"
    assert (finished / "metrics.json").exists()
    assert not list(Path("runs/sentiment_bert").glob("*seed8*"))


@pytest.mark.slow
def test_a_report_is_made_of_finished_runs(of_both):
    runs = sorted(map(str, Path("runs/sentiment_bert").glob("t*-stock-seed0-*")))
    result = verb("report", *runs, "--out", "reports/third")
    assert (result.code, result.error) == (0, "")
    assert result.out.splitlines()[-1] == "report: reports/third/report.html"
    third = json.loads(Path("reports/third/results.json").read_text())
    assert {run["variant"] for run in third["runs"]} == {"torch/stock", "tensorflow/stock"}
    assert [record["steps"] for record in third["sameness"]["lockstep"]] in ([2], [])


@pytest.mark.slow
def test_the_index_shows_every_report(of_both):
    result = verb("index")
    assert result.code == 0
    page = Path(result.out.strip()).read_text()
    assert page.count("sentiment_bert") >= 2 and "second/report.html" in page


@pytest.fixture(scope="module")
def written(workplace):
    """Runs that do not compare with the first one."""
    other = {"metrics": {"accuracy": 0.9, "pearson": 0.1}}
    return {
        "a": write_run(Path("written/a")),
        "b": write_run(Path("written/b"), framework="tensorflow"),
        "again": write_run(Path("written/again")),
        "data": write_run(Path("written/data"), seed=1, report={"data": {"fingerprint": "another"}}),
        "checkpoint": write_run(Path("written/checkpoint"), seed=1, report={"checkpoint_fingerprint": "another"}),
        "metrics": write_run(Path("written/metrics"), seed=1, report=other),
    }


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a"], "a report needs two or more run directories, but got 1"),
        (["a", "again"], "written/a and written/again are both torch/stock seed 0; give only one of them"),
        (["a", "none"], "none is not a finished run"),
        (["a", "data"], "data: written/a has 0123456789abcdef, but written/data has another"),
        (["a", "b", "checkpoint"], "checkpoint: written/a has fedcba9876543210, but written/checkpoint has another"),
        (["a", "metrics"], "metrics: written/a has accuracy, loss, but written/metrics has accuracy, pearson"),
    ],
)
def test_runs_that_do_not_compare_are_refused(written, names, message):
    result = verb("report", *(str(written.get(name, name)) for name in names), "--out", "reports/refused")
    assert (result.code, result.out) == (2, "")
    assert message in result.error
    assert not Path("reports/refused").exists()


def test_a_report_never_replaces_what_is_none(written):
    Path("precious").mkdir()
    Path("precious/file").write_text("mine")
    result = verb("report", str(written["a"]), str(written["b"]), "--out", "precious")
    assert result.code == 2 and "holds something that is not a report" in result.error
    assert Path("precious/file").read_text() == "mine"


def test_both_frameworks_get_as_many_threads(monkeypatch):
    for name in THREAD_VARIABLES:
        monkeypatch.delenv(name)
    variables = processes.child_environment()
    assert {variables[name] for name in THREAD_VARIABLES} == {str(len(os.sched_getaffinity(0)))}
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    variables = processes.child_environment()
    assert [variables[name] for name in THREAD_VARIABLES] == ["3", "3", "3"]
    monkeypatch.setenv("TF_NUM_INTEROP_THREADS", "5")
    assert processes.child_environment()["TF_NUM_INTEROP_THREADS"] == "5"
