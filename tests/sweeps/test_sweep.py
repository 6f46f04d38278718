"""Sweeps: trials are runs, poor ones are pruned, the best becomes a recipe, and what was interrupted goes on."""

import json
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time

import pytest

import pipeline.sweeps.search
import pipeline.sweeps.sweep
from pipeline import SweepCallback, finetune, load_recipe, load_run, sweep
from pipeline.sweeps.space import read_space
from pipeline.sweeps.study import Study, StudyFile
from pipeline.sweeps.trial import Outcome
from pipeline.utils.errors import RunFailure, UserError
from pipeline.utils.processes import EndedBySignal, ProcessError
from tests.helpers.children import train_trials_here
from tests.helpers.pages import ROOT

SPACE = "train.learning_rate=log(1e-6,3e-3) train.batch_size=16,32"
SETTINGS = ["data.limit.train=320", "data.limit.validation=100", "train.epochs=3"]
SETTINGS += [f"data.files.test={ROOT}/recipes/bundled/sentiment/validation.jsonl", "data.limit.test=100"]
TRIALS = 8


def recipe(*settings):
    return load_recipe("sentiment_bert", [*SETTINGS, *settings])


@pytest.fixture(scope="module", autouse=True)
def trials_in_this_process():
    """Trials one after the other in this process, which has imported everything."""
    with pytest.MonkeyPatch.context() as patch:
        train_trials_here(patch)
        yield


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A finished sweep; what a test changes, it changes in a copy."""
    return sweep(recipe(), SPACE, TRIALS, out=tmp_path_factory.mktemp("sweeps") / "sweep")


@pytest.fixture
def copied(swept, tmp_path):
    shutil.copytree(swept.path, tmp_path / "sweep")
    return tmp_path / "sweep"


@pytest.fixture
def no_trial(monkeypatch):
    """Fails if a trial is trained."""
    monkeypatch.setattr(pipeline.sweeps.search, "run_trial", lambda *arguments: pytest.fail("a trial was trained"))


@pytest.mark.slow
def test_each_trial_is_a_run_with_its_values(swept):
    trials = swept.results.trials
    assert len(trials) == TRIALS and {trial.state for trial in trials} == {"completed", "pruned"}
    for trial in trials:
        values = trial.values
        assert 1e-6 <= values["train.learning_rate"] <= 3e-3 and values["train.batch_size"] in (16, 32)
        if trial.state == "completed":
            run = load_run(swept.path / "trials" / f"{trial.number:04d}")
            made = run.directory.recipe().train
            assert (made.learning_rate, made.batch_size) == (values["train.learning_rate"], values["train.batch_size"])
            assert run.metrics["accuracy"] == trial.score == trial.scores[3]
    own = recipe().train
    assert trials[0].values == {"train.learning_rate": own.learning_rate, "train.batch_size": own.batch_size}
    assert len({trial.values["train.learning_rate"] for trial in trials}) == TRIALS


@pytest.mark.slow
def test_a_trial_is_pruned_if_it_is_worse_than_the_median_and_ends_as_a_stopped_run(swept):
    trials = swept.results.trials
    for trial in trials:
        before = [each for each in trials[: trial.number] if each.state == "completed"]
        for epoch in trial.scores:
            best_so_far = max(score for at, score in trial.scores.items() if at <= epoch)
            is_poor = len(before) >= 4 and best_so_far < statistics.median(each.scores[epoch] for each in before)
            is_end = epoch == max(trial.scores)
            assert is_poor == (trial.state == "pruned" and is_end) or epoch == 3
    pruned = next(trial for trial in trials if trial.state == "pruned")
    folder = swept.path / "trials" / f"{pruned.number:04d}"
    assert not folder.exists() and len(list(folder.with_name(f"{folder.name}.checkpoints").iterdir())) == 1


@pytest.mark.slow
def test_no_trial_is_scored_on_test_and_the_best_recipe_trains_to_the_scores_of_the_report(swept, tmp_path):
    metrics = [json.loads(file.read_text()) for file in swept.path.glob("trials/*/metrics.json")]
    assert metrics and not any("test" in each for each in metrics)
    best = swept.results.trial(swept.results.best)
    assert best.score == max(trial.score for trial in swept.results.trials if trial.state == "completed")
    assert swept.results.tested == [best.number]
    run = finetune(swept.path / "best.yaml", out=tmp_path / "best")
    assert run.record.recipe == "sentiment_bert-best"
    assert run.metrics["accuracy"] == best.score
    assert run.record.test == pytest.approx(swept.results.test, abs=1e-6)
    assert swept.best_recipe.override({"name": "sentiment_bert", **swept.results.trials[0].values}) == recipe()
    assert swept.best_run.metrics["accuracy"] == best.score


@pytest.mark.slow
def test_the_report_has_every_trial_and_says_what_the_results_say(swept):
    report = swept.path / "report"
    page, text = (report / "sweep.html").read_text(), (report / "sweep.md").read_text()
    results = json.loads((report / "sweep.json").read_text())
    assert [trial["number"] for trial in results["trials"]] == list(range(TRIALS))
    best = next(trial for trial in results["trials"] if trial["number"] == results["best"])
    assert f"Trial {results['best']}. train.learning_rate {best['values']['train.learning_rate']:.3g}" in text
    assert f"accuracy {best['score']:.4f} on validation" in text and f"{results['test']['accuracy']:.4f}" in text
    rows = [line for line in text.splitlines() if line.startswith("| ") and ("best |" in line or "ed |" in line)]
    assert len(rows) == TRIALS and page.count("<svg viewBox") == len(list((report / "figures").glob("*.png"))) >= 3
    assert sum(results["importance"].values()) == pytest.approx(1.0)
    assert "<Sweep sentiment_bert: 8 trials, accuracy" in repr(swept)
    assert list(swept.trials["trial"]) == list(range(TRIALS)) and "<table" in swept._repr_html_()


@pytest.mark.slow
def test_the_same_call_trains_nothing_again(swept, copied, no_trial):
    assert sweep(recipe(), SPACE, TRIALS, out=copied).results.trials == swept.results.trials


@pytest.mark.slow
def test_more_trials_go_on_from_those_that_are_there(swept, copied):
    more = sweep(recipe(), SPACE, TRIALS + 1, out=copied).results.trials
    assert more[:TRIALS] == swept.results.trials and len(more) == TRIALS + 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"space": "train.learning_rate=log(1e-6,3e-3)"}, "a sweep of another space"),
        ({"seed": 1}, "a sweep of another seed"),
        ({"framework": "tensorflow"}, "a sweep of another framework"),
        ({"recipe": ["train.dropout=0.2"]}, "a sweep of another recipe"),
    ],
)
def test_a_folder_with_another_sweep_is_refused_and_stays(swept, arguments, words, no_trial):
    given = {"space": SPACE, "recipe": [], **arguments}
    before = (swept.path / "settings.json").read_text()
    with pytest.raises(UserError, match=words):
        sweep(recipe(*given.pop("recipe")), trials=TRIALS, out=swept.path, **given)
    assert (swept.path / "settings.json").read_text() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"trials": 0}, "trials is 0, but must be a whole number from 1"),
        ({"workers": "2"}, "workers is '2', but must be a whole number from 1"),
        ({"framework": "jax"}, 'framework is "jax"'),
        ({"attention": "handwriten"}, 'Did you mean "handwritten"?'),
        ({"seed": -1}, "seed is -1"),
        ({"space": "x"}, '"x" is not a setting of a sweep'),
    ],
)
def test_a_wrong_call_is_refused_before_anything_is_written(tmp_path, arguments, words):
    with pytest.raises(UserError) as error:
        sweep("sentiment_bert", **({"space": SPACE, "out": tmp_path / "sweep"} | arguments))
    assert words in str(error.value) and error.value.arguments == tuple(arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(UserError, match="holds something that is not a sweep"):
        sweep("sentiment_bert", SPACE, out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


# The study alone


def drawn(study, space, most, count, own=None):
    """Draw and complete so many trials."""
    trials = []
    for _ in range(count):
        trial = study.next_trial(space, most, [], own)
        if trial is None:
            break
        study.complete(trial.number, float(len(trials)), 1.0)
        trials.append(trial.values)
    return trials


def space_of(text):
    return read_space(text, load_recipe("sentiment_bert"))


@pytest.mark.slow
def test_a_sweep_that_goes_on_draws_what_it_would_have_drawn(tmp_path):
    space = space_of(SPACE)
    whole = drawn(StudyFile(tmp_path / "whole.db", False, 3).open(), space, 14, 14)
    for first in (1, 12):
        file = StudyFile(tmp_path / f"{first}.db", False, 3)
        parts = drawn(file.open(), space, 14, first)
        study = file.open()
        study_scores = []
        while (trial := study.next_trial(space, 14, [], None)) is not None:
            study.complete(trial.number, float(len(parts) + len(study_scores)), 1.0)
            study_scores.append(trial.values)
        assert parts + study_scores == whole
    assert len({values["train.learning_rate"] for values in whole}) == 14


def test_an_interrupted_trial_is_handed_out_again_with_its_values_and_scores(tmp_path):
    file, space = StudyFile(tmp_path / "study.db", False, 0), space_of(SPACE)
    study = file.open()
    first = study.next_trial(space, 5, [], None)
    study.report(first.number, 1, 0.5)
    other = study.next_trial(space, 5, [first.number], None)
    assert other.number == 1
    again = file.open().next_trial(space, 5, [], None)
    assert again.number == first.number and again.values == first.values and again.scores == {1: 0.5}
    assert file.open().report(first.number, 1, 0.9) is False and file.open().trials()[0].scores == {1: 0.5}


def test_a_small_space_is_searched_point_by_point_beginning_with_the_recipes_own_values(tmp_path):
    space = space_of("train.batch_size=16,32 train.epochs=int(1,3)")
    own = {"train.batch_size": 32, "train.epochs": 3}
    found = drawn(StudyFile(tmp_path / "study.db", False, 0).open(), space, 20, 20, own)
    points = [{"train.batch_size": size, "train.epochs": epochs} for size in (16, 32) for epochs in (1, 2, 3)]
    assert found[0] == own and sorted(map(str, found)) == sorted(map(str, points))


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (RunFailure("the loss of step 3 is nan"), "the loss of step 3 is nan"),
        (
            ProcessError("Traceback\n  line 7\nZeroDivisionError: by zero"),
            "ZeroDivisionError: by zero; the end of what .* is in ",
        ),
        (
            EndedBySignal("Traceback\n  line 7", 9),
            "the process was ended by signal 9; the end of .* is in ",
        ),
        (EndedBySignal("", 9), "the process was ended by signal 9"),
    ],
    ids=["failure", "crash", "killed", "killed in silence"],
)
def test_a_trial_that_fails_is_recorded_and_without_any_completed_one_the_sweep_fails(
    error, cause, tmp_path, monkeypatch
):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(pipeline.sweeps.search, "run_trial", fail)
    monkeypatch.setattr(pipeline.sweeps.sweep, "check_recipe", lambda recipe, plan: ("accuracy",))
    ended = []

    class Noting(SweepCallback):
        def on_trial_end(self, trial):
            ended.append((trial.number, trial.state, trial.cause))

    with pytest.raises(RunFailure, match=f"no trial was completed; the last one failed: {cause}"):
        sweep("sentiment_bert", SPACE, 2, out=tmp_path / "sweep", callback=Noting())
    assert [(number, state) for number, state, _ in ended] == [(0, "failed"), (1, "failed")]
    for number, _, found in ended:
        log = tmp_path / "sweep" / "trials" / f"{number:04d}.log"
        file = f"trials/{log.name}" if cause.endswith("is in ") else ""
        assert re.fullmatch(cause + file, found)
        assert log.exists() == bool(file) and (not file or "line 7" in log.read_text())


def test_a_trial_has_the_result_of_one_of_its_values_that_was_completed_but_not_of_one_that_failed(
    tmp_path, monkeypatch
):
    """What ended the one that failed, such as a kill or a full disk, need not end another."""
    results = [EndedBySignal("", 9), Outcome(0.5)]

    def run_trial(*arguments):
        result = results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    def draw_the_same(study, space, most, *_):
        return study._draw(space, {"train.batch_size": 16}) if len(study.trials()) < most else None

    monkeypatch.setattr(pipeline.sweeps.search, "run_trial", run_trial)
    monkeypatch.setattr(pipeline.sweeps.sweep, "check_recipe", lambda recipe, plan: ("accuracy",))
    monkeypatch.setattr(Study, "next_trial", draw_the_same)
    found = sweep("sentiment_bert", "train.batch_size=16,32", 3, out=tmp_path / "sweep", quiet=True)
    states = [(trial.state, trial.score, trial.repeats) for trial in found.results.trials]
    assert states == [("failed", None, None), ("completed", 0.5, None), ("completed", 0.5, 1)]


# Killed for real


@pytest.mark.slow
@pytest.mark.heavy
def test_a_sweep_that_is_killed_goes_on_and_finds_what_it_would_have_found(swept, tmp_path):
    command = [sys.executable, "-m", "pipeline", "sweep", "sentiment_bert", "--space", SPACE, "--trials", "2"]
    command += [part for setting in SETTINGS for part in ("--set", setting)] + ["--out", str(tmp_path / "sweep")]
    folder = tmp_path / "sweep" / "trials"
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        until = time.monotonic() + 120
        while not list(folder.glob("0001.checkpoints/step-*")) and time.monotonic() < until:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    done = subprocess.run([*command, "--workers", "2"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of them done already" in done.stdout and "trial 1 goes on from its training checkpoint" in done.stdout
    found = json.loads((tmp_path / "sweep" / "report" / "sweep.json").read_text())["trials"]
    whole = json.loads((swept.path / "report" / "sweep.json").read_text())["trials"]
    assert [(each["values"], each["scores"]) for each in found] == [
        (each["values"], each["scores"]) for each in whole[:2]
    ]
    assert load_run(folder / "0001").record.train.resumed_at != []
