"""The command line as a person meets it: exit codes, one message, nothing half-written."""

import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from rich.console import Console

from pipeline.cli.explanations import finetune_command, make_command
from pipeline.cli.main import app, execute
from pipeline.cli.progress import TerminalProgress
from pipeline.runs.directory import load_run
from pipeline.runs.record import StepRecord
from tests.helpers.pages import expanded
from tests.helpers.run_writer import write_run

ROOT = Path(__file__).resolve().parents[2]
QUICK = ["--set", "data.limit.train=64", "--set", "data.limit.validation=16", "--set", "train.epochs=1"]


def start(*arguments, cwd=ROOT, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", *arguments],
        cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"} | environment,
    )  # fmt: skip


def run(*arguments, **options):
    process = start(*arguments, **options)
    out, error = process.communicate(timeout=300)
    return process.returncode, out, error


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a small data set of one's own, and faulty ones."""
    monkeypatch.chdir(tmp_path)
    rows = [{"sentence": f"a {word} film", "label": word} for word in ("good", "bad") * 8]
    files = {
        "good.jsonl": rows,
        "odd_label.jsonl": [*rows, {"sentence": "a film", "label": "goood"}],
        "null.jsonl": [*rows, {"sentence": None, "label": "bad"}],
        "blank.jsonl": [*rows, {"sentence": " ", "label": "bad"}],
        "one_label.jsonl": rows[::2],
    }
    for name, content in files.items():
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in content))
    Path("empty.jsonl").write_text("")
    Path("torn.jsonl").write_text('{"sentence": "a", "lab')
    Path("notes.txt").write_text("a text without labels\n")
    Path("bare").mkdir()
    Path("three.jsonl").write_text("".join(json.dumps({"sentence": "x", "label": n}) + "\n" for n in "abc"))
    Path("taken").mkdir()
    Path("taken/file").write_text("mine")
    Path("mine.yaml").write_text("name: mine\ntask: sequence-classification\n")
    return tmp_path


def on(train="good.jsonl", validation="good.jsonl", *more):
    settings = [f"data.files.train={train}", f"data.files.validation={validation}", "data.columns.text=sentence", *more]
    return [part for setting in settings for part in ("--set", setting)]


WRONG = {
    "an unknown recipe": (["sentimnt_bert"], 'Did you mean "sentiment_bert"'),
    "a recipe file that is not there": (["none.yaml"], "no such file"),
    "a recipe without data": (["mine.yaml"], "data is missing"),
    "an unknown key": (["sentiment_bert", "--set", "train.epoch=1"], 'Did you mean "epochs"'),
    "a value of the wrong type": (["sentiment_bert", "--set", "train.epochs=many"], 'train.epochs is "many"'),
    "a value out of range": (["sentiment_bert", "--set", "train.batch_size=0"], "train.batch_size is 0"),
    "a setting without a value": (
        ["sentiment_bert", "--set", "train.epochs"],
        "must be KEY=VALUE, as in train.epochs=1\nOn the command line: --set KEY=VALUE; with make: SET=",
    ),
    "settings that contradict": (["sentiment_bert", "--set", "train.gradient_accumulation=5"], "must divide"),
    "an unknown task": (["sentiment_bert", "--set", "task=sequence-clasification"], 'Did you mean "sequence-cl'),
    "an unknown metric": (["sentiment_bert", "--set", "metrics=[acuracy]"], 'Did you mean "accuracy"'),
    "a Hub metric not allowed": (["sentiment_bert", "--set", "metrics=['hub:x@1']"], "--allow-hub-code"),
    "an unknown metric to keep by": (
        ["sentiment_bert", "--set", "train.keep=best", "--set", "train.keep_metric=bleu"],
        'train.keep_metric is "bleu"',
    ),
    "an unknown framework": (["sentiment_bert", "--framework", "jax"], "jax"),
    "an unknown attention": (["sentiment_bert", "--attention", "handwriten"], 'Did you mean "handwritten"'),
    "an unknown architecture": (["sentiment_bert", "--architecture", "handwriten"], 'Did you mean "handwritten"'),
    "an architecture for another family": (
        ["sentiment_bert", "--architecture", "handwritten"],
        "attention=handwritten-model does not fit checkpoint",
    ),
    "an architecture and an attention": (
        ["sentiment_bert", "--architecture", "handwritten", "--attention", "mine:Own"],
        "but attention is mine:Own; leave one of them out",
    ),
    "an unknown option": (["sentiment_bert", "--epochs", "3"], "--epochs"),
    "a seed that is no number": (["sentiment_bert", "--seed", "x"], "--seed"),
    "a negative seed": (["sentiment_bert", "--seed", "-1"], "seed is -1"),
    "a checkpoint that is not there": (["sentiment_bert", "--set", "checkpoint=./none"], "no such folder"),
    "a folder that is no checkpoint": (["sentiment_bert", "--set", "checkpoint=./bare"], "cannot be read as a checkp"),
    "the Hub without a network": (["sst2_bert"], "try the recipe sentiment_bert, which needs no network"),
    "a missing column": (
        ["sentiment_bert", *on("good.jsonl", "good.jsonl", "data.columns.text=sentense")],
        'data.columns.text is "sentense", but train has: sentence, label. Did you mean "sentence"',
    ),
    "a data file that is not there": (["sentiment_bert", *on("god.jsonl")], 'Did you mean "good.jsonl"'),
    "an empty file": (["sentiment_bert", *on("empty.jsonl")], "is empty"),
    "a torn file": (["sentiment_bert", *on("torn.jsonl")], "cannot be read as json"),
    "a null text": (["sentiment_bert", *on("null.jsonl")], "train row 17: text is null"),
    "a blank text": (["sentiment_bert", *on("blank.jsonl")], "train row 17: text is empty"),
    "a label that training never has": (
        ["sentiment_bert", *on("good.jsonl", "odd_label.jsonl")],
        'validation row 17: label is "goood", which the training split does not have (bad, good). Did you mean "good"',
    ),
    "a single label": (["sentiment_bert", *on("one_label.jsonl", "one_label.jsonl")], "at least two"),
    "a metric for two labels on three": (["sentiment_bert", *on("three.jsonl", "three.jsonl")], "use f1_macro"),
    "more tokens than positions": (["sentiment_bert", "--set", "data.max_length=5000"], "data.max_length is 5000"),
    "an output folder with other files": (["sentiment_bert", "--out", "taken"], "holds something that is not a run"),
    "an output that cannot be made": (["sentiment_bert", *QUICK, "--out", "mine.yaml/run"], "cannot be written"),
    "a freeze pattern without match": (["sentiment_bert", "--set", "train.freeze=[nothing*]"], "matches no weight"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_input_gets_one_message_and_exit_code_2(folder, capsys, what):
    arguments, message = WRONG[what]
    before = sorted(folder.rglob("*"))
    code = execute(["finetune", *arguments])
    out, error = capsys.readouterr()
    assert message in error
    assert code == 2
    assert out == "" and "Traceback" not in error
    assert sorted(folder.rglob("*")) == before


def test_two_faults_in_different_places_are_reported_together(folder, capsys):
    code = execute(["finetune", "sentiment_bert", *on("god.jsonl"), "--set", "metrics=[acuracy]"])
    error = capsys.readouterr().err
    assert code == 2 and "god.jsonl" in error and "acuracy" in error


def test_debug_shows_where(folder, capsys):
    assert execute(["finetune", "sentiment_bert", "--set", "train.epochs=0", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_list_imports_no_framework_and_is_quick():
    code = (
        "import sys, time; began = time.perf_counter(); from pipeline.cli.main import execute; execute(['list']);"
        "seconds = time.perf_counter() - began;"
        "print([m for m in ('torch', 'tensorflow', 'transformers', 'datasets') if m in sys.modules], seconds)"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1].startswith("[] ")
    assert {line.split()[0] for line in out.splitlines()[:-1]} >= {"sentiment_bert", "sst2_bert", "mrpc_bert"}


@pytest.mark.slow
def test_a_run_is_calm_and_true(framework, tmp_path, capsys):
    code, out, error = run("finetune", "sentiment_bert", "--framework", framework, *QUICK, "--out", str(tmp_path / "r"))
    assert (code, error) == (0, "")
    assert "Traceback" not in out and "Warning" not in out
    report = json.loads((tmp_path / "r" / "metrics.json").read_text())
    assert re.search(rf"validation accuracy +{report['metrics']['accuracy']:.4f}", out)
    assert "make finetune" in out
    environment = json.loads((tmp_path / "r" / "environment.json").read_text())
    assert environment["command"][:5] == ["python", "-m", "pipeline", "finetune", "sentiment_bert"]
    assert ("torch" in environment["framework"]) == (framework == "torch")

    assert execute(["finetune", "sentiment_bert", "--framework", framework, *QUICK, "--out", str(tmp_path / "r")]) == 0
    out, error = capsys.readouterr()
    assert error == "" and "Already done" in out and "--overwrite" in out


@pytest.mark.slow
def test_check_needs_no_training(capsys):
    assert execute(["check", "sentiment_bert"]) == 0
    out, error = capsys.readouterr()
    assert error == ""
    assert "labels: negative, positive" in out and "largest batch: 32 examples" in out and "is ready" in out


# Both signals have one handler, which tests/training/test_stop.py sends both.
@pytest.mark.slow
@pytest.mark.parametrize(("framework", "stop"), [("torch", signal.SIGINT), ("tensorflow", signal.SIGTERM)])
def test_stopping_saves_a_run_and_says_where(framework, tmp_path, stop):
    process = start("finetune", "sentiment_bert", "--framework", framework, "--set", "train.epochs=50",
                    "--out", str(tmp_path / "r"))  # fmt: skip
    while "left" not in process.stdout.readline():
        assert process.poll() is None, process.stderr.read()
    process.send_signal(stop)
    _, error = process.communicate(timeout=90)  # all fifty epochs take minutes
    assert process.returncode == 1
    first, second, third = error.strip().splitlines()
    assert first == "stopping: saving after the current step; a second signal stops without saving"
    assert re.fullmatch(r"stopped; .*r\.checkpoints/step-\d{8} is saved; resume=True continues from there", second)
    assert third == "On the command line: --resume; with make: RESUME=1."
    assert [entry.name for entry in tmp_path.iterdir()] == ["r.checkpoints"]


def test_an_attention_that_breaks_its_promise_stops_the_run(framework, capsys, monkeypatch, tmp_path):
    from pipeline.models import attention_check

    monkeypatch.setattr(attention_check, "TOLERANCE", -1.0)
    arguments = ["--framework", framework, "--attention", "handwritten", *QUICK, "--out", str(tmp_path / "r")]
    assert execute(["finetune", "sentiment_bert", *arguments]) == 1
    assert "over the tolerance" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "given",
    [
        {"recipe": "sentiment_bert"},
        {
            "recipe": "my recipes/mine.py",
            "attention": "handwritten",
            "seed": 3,
            "settings": ["train.epochs=1", "a.b='c;d'"],
        },
        {"recipe": "x.yaml", "out": Path("it's/$HOME"), "allow_hub_code": True, "allow_pickle": True},
        {"recipe": "x y.yaml", "settings": ["options.prefix=to English: ", "a=1"], "out": Path("a b"), "seed": 1},
    ],
)
def test_the_command_that_is_shown_gives_what_was_given(given):
    """The shell, make and the command line read it as it was meant."""
    ((_, module, verb, *words),) = expanded(finetune_command(framework="tensorflow", **given))
    command = typer.main.get_command(app).commands[verb]
    read = command.make_context(verb, words).params
    expected = {"framework": "tensorflow", "attention": "stock", "seed": 0, "settings": [], "out": None} | given
    assert (
        module == "pipeline"
        and {name: list(read[name] or []) if name == "settings" else read[name] for name in expected} == expected
    )


def test_the_command_that_is_shown_is_for_the_environment_of_its_framework(monkeypatch):
    monkeypatch.setenv("STACK", "split")
    assert finetune_command("mine", "torch") == "make finetune RECIPE=mine FRAMEWORK=torch STACK=split"
    spaced = finetune_command("mine", "torch", settings=["options.prefix=a b"])
    assert spaced.startswith(".venv-torch/bin/python -m pipeline finetune mine --framework torch")
    assert make_command("check", {"RECIPE": "my recipe.yaml"}) == "make check RECIPE='my recipe.yaml' STACK=split"


def test_a_run_of_one_step_whose_learning_rate_is_0_says_so(tmp_path, capsys):
    rows = ["--set", "data.limit.train=32", "--set", "data.limit.validation=8", "--set", "train.epochs=1"]
    how = ["--attention", "handwritten", "--out", str(tmp_path / "r")]
    assert execute(["finetune", "sentiment_bert", *rows, *how]) == 0
    shown = capsys.readouterr().out
    assert "learning rate 0, so nothing was trained; set train.warmup_ratio=0" in shown
    following = "Next: make finetune RECIPE=sentiment_bert FRAMEWORK=tensorflow ATTENTION=handwritten SET="
    assert following in shown and "r-tensorflow" in shown


def test_check_ends_with_the_command_that_was_checked(capsys):
    rows = ["--set", "data.limit.train=32", "--set", "data.limit.validation=8"]
    assert execute(["check", "sentiment_bert", "--attention", "handwritten", *rows]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        "sentiment_bert is ready: make finetune RECIPE=sentiment_bert FRAMEWORK=torch ATTENTION=handwritten "
        "SET='data.limit.train=32 data.limit.validation=8'"
    )


@pytest.mark.parametrize(
    "setting",
    [
        "train.epochs=1000000000",
        "train.batch_size=65537",  # beyond these two numbers dropout masks would repeat
        "data.max_length=65537",
        "options.num_beams=1000000",
    ],
)
def test_settings_that_would_take_for_ever_are_refused(setting, capsys):
    recipe = "dates_t5" if "beams" in setting else "sentiment_bert"
    assert execute(["check", recipe, "--set", setting]) == 2
    assert "must be less than or equal to" in capsys.readouterr().err


def test_names_that_no_file_system_allows_are_one_message(capsys):
    for arguments in (
        ["check", "x" * 300],
        ["finetune", "sentiment_bert", "--out", "x" * 300],
        ["predict", "x" * 300, "--text", "a"],
    ):
        assert execute(arguments) == 2
        error = capsys.readouterr().err
        assert "bug" not in error and len(error) < 1000


def shown_lines(capsys, *steps_and_seconds):
    """What is printed of a run of 11 steps of 10 examples each, the first line left out."""
    progress = TerminalProgress("a run", Console(highlight=False, width=100))
    progress.on_train_begin(11, num_epochs=1)
    for step, seconds in steps_and_seconds:
        progress.on_step_end(
            StepRecord(
                step=step, epoch=1, loss=0.5, learning_rate=0.1, grad_norm=1.0, examples=10, tokens=90, seconds=seconds
            )
        )
    return capsys.readouterr().out.splitlines()[1:]


def test_results_are_whole_lines_however_narrow_the_output_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("runs") / "a_recipe_with_a_long_name" / "torch-handwritten-model-seed0-0123abcd"
    run, output = load_run(write_run(folder)), io.StringIO()
    progress = TerminalProgress("a run", Console(file=output, highlight=False, width=40))
    progress.on_train_begin(1, num_epochs=1)
    progress.on_run_end(run)
    first, *lines = output.getvalue().splitlines()
    assert first == "a run: 1 step in 1 epoch"
    assert lines[0].split() == ["validation", "accuracy", f"{run.metrics['accuracy']:.4f}"]
    assert f"results              {folder}" in lines and not any(line.endswith(" ") for line in lines)


def test_the_time_left_is_not_computed_from_the_first_step(capsys):
    assert shown_lines(capsys, (1, 30.0), (2, 32.0), (11, 50.0)) == [  # tracing took 28 of the first step's 30
        "  1/11  loss 0.5000  0 examples/s",
        "  2/11  loss 0.5000  1 examples/s  18 s left",
        "  11/11  loss 0.5000  1 examples/s  0 s left",
    ]


def test_the_speed_of_a_resumed_run_counts_the_steps_of_this_process_alone(capsys):
    assert shown_lines(capsys, (7, 100.0), (8, 101.0), (9, 102.0)) == [
        "  7/11  loss 0.5000",
        "  8/11  loss 0.5000  10 examples/s  3 s left",
        "  9/11  loss 0.5000  10 examples/s  2 s left",
    ]
