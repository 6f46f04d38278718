"""Commands as thin faces: which folder they choose, what they add to an error, and the names that they had before."""

import ast
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.main import get_command

from pipeline.cli.app import app
from pipeline.cli.explanations import explain, make_variable
from pipeline.cli.main import execute
from pipeline.recipe.loading import load_recipe
from pipeline.utils.errors import RunFailure, UserError, combine_errors
from tests.helpers.one_framework import skip_other_pythons
from tests.helpers.run_writer import write_run

ROOT = Path(__file__).resolve().parents[2]
EPOCH = {"train.epochs": 1}
SET_EPOCH = ["--set", "train.epochs=1"]


@pytest.fixture
def chosen_folder(tmp_path, monkeypatch):
    """The folder that `finetune` with some arguments would write, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    folders = []

    def refuse_to_write(directory, *arguments):
        folders.append(directory.path)
        raise UserError("this test writes no run")

    monkeypatch.setattr("pipeline.runs.directory.RunDirectory.finished_run", refuse_to_write)

    def choose(*arguments):
        assert execute(["finetune", *arguments]) == 2
        return str(folders.pop())

    return choose


def test_a_recipe_as_it_is_has_the_folder_of_its_name(chosen_folder):
    assert chosen_folder("sentiment_bert") == "runs/sentiment_bert/torch-stock-seed0"


def test_a_changed_recipe_has_a_folder_with_its_digest(chosen_folder):
    digest = load_recipe("sentiment_bert", EPOCH).digest()
    expected = f"runs/sentiment_bert/tensorflow-stock-seed3-{digest}"
    assert chosen_folder("sentiment_bert", "--framework", "tensorflow", "--seed", "3", *SET_EPOCH) == expected


def test_a_recipe_of_ones_own_is_compared_with_its_file(chosen_folder):
    recipe = load_recipe("sentiment_bert", EPOCH)
    Path("mine.yaml").write_text(recipe.to_yaml())
    assert chosen_folder("mine.yaml") == "runs/sentiment_bert/torch-stock-seed0"
    assert chosen_folder("mine.yaml", *SET_EPOCH) == "runs/sentiment_bert/torch-stock-seed0"
    changed = recipe.override({"train.epochs": 2})
    assert chosen_folder("mine.yaml", "--set", "train.epochs=2") == (
        f"runs/sentiment_bert/torch-stock-seed0-{changed.digest()}"
    )


def test_a_chosen_folder_is_taken_as_it_is(chosen_folder):
    assert chosen_folder("sentiment_bert", "--out", "here") == "here"


def test_a_recipes_file_is_executed_once(chosen_folder):
    code = "from pathlib import Path\nfrom pipeline import load_recipe\nRECIPE = load_recipe('sentiment_bert')\n"
    Path("mine.py").write_text(code + "open('executed', 'a').write('once ')\n")
    chosen_folder("mine.py", *SET_EPOCH)
    assert Path("executed").read_text() == "once "


@pytest.mark.parametrize("verb", ["finetune", "check", "kill-test"])
@pytest.mark.parametrize(
    ("given", "meant"), [("pytorch", "torch"), ("Torch", "torch"), ("tf", "tensorflow"), ("tensorflw", "tensorflow")]
)
def test_a_framework_by_another_name_gets_ours(verb, given, meant, capsys):
    assert execute([verb, "sentiment_bert", "--framework", given]) == 2
    message = f'framework is "{given}", but must be one of torch, tensorflow. Did you mean "{meant}"?'
    assert capsys.readouterr().err.splitlines()[0] == message


@pytest.mark.parametrize("verb", ["predict", "attention-maps"])
def test_a_framework_that_predicts_by_another_name_gets_ours(verb, capsys):
    assert execute([verb, "runs/mine", "--text", "a", "--framework", "tf"]) == 2
    assert 'Did you mean "tensorflow"?' in capsys.readouterr().err


def test_the_arguments_of_an_error_are_translated():
    error = RunFailure("continue with resume=True, or drop it with overwrite=True", arguments=("resume", "overwrite"))
    assert explain(error).splitlines() == [
        "continue with resume=True, or drop it with overwrite=True",
        "On the command line: --resume or --overwrite; with make: RESUME=1 or OVERWRITE=1.",
    ]
    assert explain(UserError("there is no such file")) == "there is no such file"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve", "x", "--port", "abc"], "'--port': must be a valid integer (with make: PORT; see --help)"),
        (["serve", "x", "--batch", "0"], "must be greater than or equal to 1 (with make: BATCH; see --help)"),
        (["lockstep", "x", "--dropout", "maybe"], "not one of 'on', 'off'. (with make: DROPOUT; see --help)"),
        (["serve"], "Missing argument 'RUN'. (see --help)"),
    ],
)
def test_a_wrong_value_is_said_to_users_of_make_too(arguments, said, capsys):
    assert execute(arguments) == 2
    assert capsys.readouterr().err.endswith(f"{said}\n")


def test_each_option_is_a_variable_of_make():
    makefile, found = (ROOT / "Makefile").read_text(), []
    names = {*re.findall(r"^(?:TEXTS|SWITCHES) := .*(?:\n  .*)?", makefile, flags=re.MULTILINE)}
    variables = set(" ".join(names).split())
    for command in get_command(app).commands.values():
        found += [name for option in command.params for name in option.opts if name.startswith("--")]
    assert {"--port", "--debug-eager"} <= set(found)
    assert {name for name in found if make_variable(name) not in variables} == set()


def test_errors_are_combined_with_each_line_and_argument_once():
    combined = combine_errors(
        [UserError("a", arguments=("out",)), UserError("b\na", arguments=("resume", "out")), UserError("c")]
    )
    assert (str(combined), combined.arguments) == ("a\nb\nc", ("out", "resume"))


def test_a_metric_from_the_hub_needs_the_users_permission(capsys):
    assert execute(["check", "sentiment_bert", "--set", "metrics=['hub:x@1']"]) == 2
    first, *_, last = capsys.readouterr().err.splitlines()
    assert "allow_hub_code=True" in first and "--" not in first
    assert last == "On the command line: --allow-hub-code; with make: ALLOW_HUB_CODE=1."


def test_an_unexpected_error_is_our_bug(capsys, monkeypatch):
    def broken():
        raise KeyError("x")

    monkeypatch.setattr("pipeline.cli.training_commands.recipe_names", broken)
    assert execute(["list"]) == 1
    error = capsys.readouterr().err
    assert error == ("KeyError: 'x'\nThis is a bug in twinstep. Run again with --debug and report the traceback.\n")


# The command line with a command that runs another program until it ends.
RUNS_A_PROGRAM = """
import signal
import sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup, under which tests may run, has processes ignore it
from pathlib import Path
from pipeline.cli import main
from pipeline.utils.processes import run_command
program = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
main.app = lambda *_, **__: run_command([sys.executable, "-c", program], Path(sys.argv[1]))
main.main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_a_command_started_ends_with_it_even_when_its_terminal_is_closed(number, tmp_path):
    log = tmp_path / "log"
    command = subprocess.Popen([sys.executable, "-c", RUNS_A_PROGRAM, str(log)], start_new_session=True)
    until = time.monotonic() + 60
    while not (log.exists() and log.read_text().strip()) and time.monotonic() < until:
        time.sleep(0.05)
    command.send_signal(number)
    assert command.wait(30) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(int(log.read_text()), 0)


def test_a_former_name_does_the_same_and_says_the_new_one(capsys, tmp_path):
    outputs = []
    for name in ("index", "gallery"):
        assert execute([name, str(tmp_path)]) == 0
        outputs.append(capsys.readouterr())
    assert outputs[0].out == outputs[1].out == f"{tmp_path / 'index.html'}\n"
    assert (outputs[0].err, outputs[1].err) == ("", "gallery is now called index\n")


@pytest.mark.parametrize(
    ("former", "name"), [("drill", "kill-test"), ("gallery", "index"), ("attention", "attention-maps")]
)
def test_a_former_name_has_the_same_options_and_says_so_in_its_help(former, name, capsys):
    helps = []
    for command in (former, name):
        execute([command, "--help"])
        helps.append(capsys.readouterr().out)
    assert f"The former name of {name}." in helps[0]
    options = [re.findall(r"--[a-z-]+", text) for text in helps]
    assert options[0] == options[1] and len(options[0]) > 1


def texts_of(path):
    """The string constants of a file that are not docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and isinstance(node.body[0], ast.Expr)
    }
    constants = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in docstrings)
    return [(node.lineno, node.value) for node in constants if isinstance(node.value, str)]


def test_only_the_command_line_speaks_of_options_and_make():
    """An option alone, such as "--resume", is an argument of a process that is started, not a message."""
    of_the_command_line = re.compile(r"(^|\s)--[a-z]|\b[A-Z]{3,}=1|\bmake (finetune|compare|check|list|report|predict)")
    messages = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path in sorted((ROOT / "pipeline").rglob("*.py"))
        if path.parent.name != "cli"
        for line, text in texts_of(path)
        if of_the_command_line.search(text) and not re.fullmatch(r"--[a-z-]+", text)
    ]
    assert messages == []


def test_the_version_is_that_of_the_package(capsys):
    stated = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), flags=re.M)
    assert execute(["--version"]) == 0
    assert capsys.readouterr().out == f"twinstep {stated[1]}\n"


def test_shells_complete_the_names_of_recipes():
    words = {"_TWINSTEP_COMPLETE": "complete_bash", "COMP_WORDS": "twinstep finetune dates", "COMP_CWORD": "2"}
    program = "import sys; sys.argv = ['twinstep']; from pipeline.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=os.environ | words, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["dates_t5"], done.stderr


@pytest.mark.parametrize(("only", "outcome"), [("torch", pytest.fail.Exception), ("tensorflow", pytest.skip.Exception)])
@pytest.mark.parametrize("words", [["check", "sentiment_bert"], ["predict", "run", "--text", "a"]], ids=" ".join)
def test_where_one_framework_is_tested_a_command_for_it_that_leaves_its_python_fails(
    words, only, outcome, tmp_path, monkeypatch
):
    write_run(tmp_path / "run")
    (tmp_path / "python").symlink_to(sys.executable)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TWINSTEP_PYTHON_TORCH", str(tmp_path / "python"))
    monkeypatch.setattr(os, "execve", os.execve)  # it is put back
    skip_other_pythons(only)
    with pytest.raises(outcome, match="goes on in"):
        execute(words)
