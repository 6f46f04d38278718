"""The README pages and the docstrings of recipes are true: commands, code, keys, metrics, files, printed output.

Every command is expanded by make and parsed by the real command line, and every recipe in one is loaded with its
overrides; tests/test_documented_commands.py runs them. Output in a page must be what is printed, except for numbers.
"""

import importlib.util
import inspect
import re
import shlex
from pathlib import Path

import pytest
import typer

import pipeline
from pipeline.cli.main import app
from pipeline.recipe.loading import load_recipe, recipe_names
from pipeline.recipe.schema import Data, Files, Limit, Lora, Recipe, Train
from tests.benchmarks import bench, real_text
from tests.helpers import pages
from tests.helpers.children import run_experiments_here, train_trials_here
from tests.helpers.one_framework import needs
from tests.helpers.pages import MAKEFILE, PAGES, ROOT, TEXT, blocks, names, shape, table

COMMANDS = list(dict.fromkeys(pages.commands()))
# What a person gives to make, and what the Makefile is put together from.
VARIABLES = set(
    " ".join(re.findall(r"^(?:TEXTS|SWITCHES) := ((?:.*\\\n)*.*)", MAKEFILE, flags=re.M)).replace("\\", "").split()
)
PARTS = {"MAKEFILE_LIST", *re.findall(r"^([A-Z_]+) :?= ", MAKEFILE, flags=re.M)}
TARGETS = dict(re.findall(r"^([a-z-]+):.*?##(.*)", MAKEFILE, flags=re.M))
SMALL = "data.limit.train=96 data.limit.validation=40 train.epochs=1"
PYTHON = [
    (page, code)
    for page in PAGES
    for code in blocks(page, "python")
    if not pages.FILE_NAME.match(code) and "class WindowAttention" not in code
]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """The working directory: it has the recipes and the attention class that the pages show."""
    for code in [*blocks("README.md", "python"), *blocks("recipes/README.md", "yaml")]:
        if file := pages.FILE_NAME.match(code):
            (tmp_path / file[1]).write_text(code, encoding="utf-8")
    attention = pages.block_with("README.md", "python", "class WindowAttention")
    (tmp_path / "my_attention.py").write_text(attention, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Commands


@pytest.mark.parametrize(("where", "command"), COMMANDS, ids=[f"{where}: {command}" for where, command in COMMANDS])
def test_every_command_is_one_that_the_program_takes(where, command, workplace):
    program, *words = shlex.split(command)
    if program == "make":
        assert words[0] in TARGETS
        variables = [word.partition("=")[0] for word in words[1:]]
        assert [name for name in variables if name not in VARIABLES] == []
    else:
        assert program == ".venv/bin/python"
    for _, module, *arguments in pages.expanded(command):
        if module == "pipeline":
            parse(arguments)
        elif module == "tests.benchmarks.bench":
            bench.parsed([str(workplace) if word.startswith("../shared") else word for word in arguments])
        elif module == "tests.benchmarks.real_text":
            real_text.parsed(arguments)
        else:
            assert importlib.util.find_spec(module)


def parse(arguments):
    """Fail unless the command line takes these words, and the recipe in them loads with its overrides."""
    verb, *options = arguments
    parsed = typer.main.get_command(app).commands[verb].make_context(verb, options).params
    if "recipe" in parsed:
        load_recipe(parsed["recipe"], parsed["settings"])


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ("finetun sentiment_bert", "finetun"),
        ("finetune sentiment_bert --frameworks torch", "frameworks"),
        ("finetune sentiment_bert --framework jax", "jax"),
        ("finetune sentiment_bert --set train.epoch=1", "epoch"),
        ("finetune sentiment", "sentiment"),
    ],
)
def test_a_wrong_command_would_be_seen(arguments, error):
    with pytest.raises(Exception, match=error):
        parse(arguments.split())


def test_every_make_target_is_described_in_some_page():
    described = {shlex.split(command)[1] for _, command in COMMANDS if command.startswith("make ")}
    described |= {name for text in TEXT.values() for name in re.findall(r"`make ([a-z-]+)", text)}
    assert {name for name, help_text in TARGETS.items() if "the former name of" not in help_text} - described == set()
    assert described <= set(TARGETS)


def test_every_variable_of_make_is_described_in_some_page_or_by_make_help():
    described = "\n".join([*TEXT.values(), *TARGETS.values()])
    undescribed = {name for name in VARIABLES if not re.search(rf"\b{name}\b", described)}
    assert {"RECIPE", "DEBUG", "PYTHON"} <= VARIABLES and undescribed == set()


def test_every_variable_of_make_is_a_text_or_a_switch():
    """Else make would expand a dollar sign in its value, or the shell would run what is behind a semicolon."""
    used = set(re.findall(r"\$\(([A-Z_]+)\)|\$\$([A-Z_]+)\b", MAKEFILE))
    assert {make or shell for make, shell in used} - PARTS == VARIABLES


HOSTILE = "x'; touch made; ' \"$(touch made)\" `touch made` $HOME $(shell touch made) * (a, b) # c"


@pytest.mark.parametrize(
    ("verb", "before", "after"),
    [
        ("finetune", "RECIPE ATTENTION SEED OUT", "{} --framework torch --attention {} --seed {} --out {}"),
        (
            "compare",
            "RECIPE SEEDS",
            "{} --frameworks torch~tensorflow --attentions stock~handwritten --seeds {} --control on",
        ),
        ("check", "RECIPE FRAMEWORK", "{} --framework {} --attention stock"),
        ("check", "RECIPE ATTENTION ARCHITECTURE", "{} --framework torch --attention {} --architecture {}"),
        (
            "finetune",
            "RECIPE PROCESSES RESTARTS",
            "{} --framework torch --attention stock --seed 0 --processes {} --restarts {}",
        ),
        ("kill-test", "RECIPE KILLS", "{} --framework torch --kills {} --attention stock --seed 0"),
        ("lockstep", "STEPS DROPOUT", "sentiment_bert --steps {} --dropout {} --attention stock --seed 0"),
        ("predict", "RUN TEXT INPUT FRAMEWORK OUT", "{} --text {} --input {} --framework {} --out {}"),
        ("attention-maps", "RUN TEXT FRAMEWORK OUT", "{} --text {} --framework {} --out {}"),
        ("index", "OUT", "{}"),
        (
            "serve",
            "RUN PORT BATCH QUEUE DEADLINE",
            "{} --port {} --host 127.0.0.1 --batch {} --queue {} --deadline {}",
        ),
    ],
)
def test_a_value_that_is_given_to_make_is_a_text_and_runs_nothing(verb, before, after):
    """In both places where it can be given: as an argument of make, and in its environment."""
    expected = [verb, *(HOSTILE if word == "{}" else word.replace("~", " ") for word in after.split())]
    given = {name: HOSTILE for name in before.split()}
    for arguments, variables in (([f"{name}={value}" for name, value in given.items()], {}), ([], given)):
        assert pages.started_by_make([verb, *arguments], variables) == [["-m", "pipeline", *expected]]
    assert not (ROOT / "made").exists()


def test_words_of_a_list_that_is_given_to_make_are_texts():
    words = HOSTILE.split()
    assert pages.started_by_make(["report", f"RUNS={HOSTILE}"]) == [["-m", "pipeline", "report", *words]]
    settings = [argument for word in words for argument in ("--set", word)]
    assert pages.started_by_make(["check", f"SET={HOSTILE}"])[0][-len(settings) :] == settings
    switch = pages.started_by_make(["list", "DEBUG=$(shell touch made)"])
    assert switch == [["-m", "pipeline", "list", "--debug"]] and not (ROOT / "made").exists()


# Printed output and Python code


@pytest.mark.slow
def test_finetune_prints_what_the_readme_shows(workplace):
    lines = shape(pages.block_with("README.md", "", "validation accuracy"))
    # Two epochs, since the page shows several.
    printed = shape(pages.run("make finetune", workplace, f"{SMALL} train.epochs=2"))
    assert [line for line in lines if line not in printed] == []


@pytest.mark.slow
def test_lockstep_prints_what_the_readme_shows(workplace):
    lines = shape(pages.block_with("README.md", "", "initial logits"))
    printed = shape(pages.run("make lockstep STEPS=2", workplace, SMALL))
    assert [line for line in lines if line not in printed] == []


def test_list_shows_every_recipe(workplace):
    printed = pages.run("make list", workplace)
    assert [name for name in recipe_names() if name not in printed] == []


def test_the_recipes_of_the_pages_are_the_same_in_python_and_yaml(workplace):
    assert load_recipe("mine.yaml") == load_recipe("mine.py").override({"metrics": ["accuracy", "f1_macro"]})
    (workplace / "mine.py").write_text(pages.block_with("recipes/README.md", "python", "# mine.py"), encoding="utf-8")
    assert load_recipe("mine.yaml") == load_recipe("mine.py")


@pytest.mark.slow
@pytest.mark.parametrize(("page", "code"), PYTHON, ids=[f"{page} {i}" for i, (page, _) in enumerate(PYTHON)])
def test_python_code_runs(page, code, workplace, monkeypatch, small):
    """The code as it stands, but with a recipe of few rows, and comparing one framework and one seed."""
    compare, signature = pipeline.compare, inspect.signature(pipeline.compare)

    def compare_little(*arguments, **keywords):
        signature.bind(*arguments, **keywords)
        return compare(small, frameworks=("torch",), seeds=(0,))

    monkeypatch.setattr("recipes.sentiment_bert.RECIPE", small)
    monkeypatch.setattr(pipeline, "load_recipe", lambda *arguments: load_recipe(*arguments) and small)
    monkeypatch.setattr(pipeline, "compare", compare_little, raising=False)
    run_experiments_here(monkeypatch)
    train_trials_here(monkeypatch)
    exec(compile(code, page, "exec"), {})


def test_the_window_attention_of_the_readme_runs_and_is_reported(small, workplace, monkeypatch):
    monkeypatch.syspath_prepend(workplace)
    finished = pipeline.finetune(small, attention="my_attention:WindowAttention", out=workplace / "run")
    assert finished.record.attention_sites > 0
    assert finished.record.attention_max_difference > 1e-4


# Keys, tasks, options, recipes (tests/metrics has the table of metrics)


def keys(model, prefix=""):
    """The dotted keys of a model of the recipe with their defaults."""
    nested = {Data: "data.", Train: "train.", Files: "data.files.", Limit: "data.limit."}
    groups = {Lora | None: (Lora, "train.lora.")}
    defaults = {}
    for name, field in model.model_fields.items():
        if field.annotation in nested:
            defaults |= keys(field.annotation, nested[field.annotation])
        else:
            default = "required" if field.is_required() else field.get_default(call_default_factory=True)
            defaults[prefix + name] = str(default)
        if field.annotation in groups:
            defaults |= keys(*groups[field.annotation])
    return defaults


def test_every_key_of_a_recipe_is_described_with_its_default():
    described = {names(key)[0]: default.strip("`") for key, default, *_ in table("recipes/README.md", "key")}
    assert described == keys(Recipe)


def test_every_task_and_its_options_are_described():
    tasks = [names(row[0])[0] for row in table("recipes/README.md", "`task`")]
    code = Path(ROOT, "pipeline", "tasks").glob("*.py")
    assert set(tasks) == {file.stem.replace("_", "-") for file in code if "auto_class = " in file.read_text()}
    described = {task: {} for task in tasks}
    for task, option, default, _ in table("recipes/README.md", "task"):
        described[names(task)[0]][names(option)[0]] = default.strip("`").strip('"')
    data = {"path": "json", "files": {"train": "a.json", "validation": "b.json"}}
    for task in tasks:
        options = Recipe.model_validate({"name": "x", "task": task, "checkpoint": "x", "data": data}).options
        assert described[task] == {key: str(value) for key, value in options.model_dump().items()}, task


def test_every_recipe_is_described():
    section = TEXT["recipes/README.md"].partition("## Recipes in this folder")[2]
    assert set(recipe_names()) <= set(names(section))
    assert {name for row in table("recipes/README.md", "recipe") for name in names(row[0])} <= set(recipe_names())


# Files, size and language


@pytest.mark.parametrize("page", PAGES)
def test_every_file_and_folder_that_a_page_names_exists(page):
    homes = ((ROOT / page).parent, ROOT, ROOT / "pipeline")
    of_a_run = {"recipe.yaml", "metrics.json", "history.jsonl", "predictions.jsonl", "probe.npz", "environment.json"}
    of_an_export = {"manifest.json", "tokenizer.json", "model.pt2", "model.onnx", "model.tflite", "model.pt", "model/"}
    made = of_a_run | of_an_export | {"model/", "results.json", "report.html", "reports/", "tour.json"}
    made |= {"progress.json", "wandb/", "reviews.yaml"}
    made |= {"adapter/", "best.yaml", "settings.json", "report/", "trials/", "trials/0007/", "sweep.html", "sweep.json"}
    assert {name for name in pages.file_names(page) if not any((home / name).exists() for home in homes)} <= made


def test_the_folders_in_the_readme_are_those_of_the_code():
    tree = pages.block_with("README.md", "", "recipes/ ")
    folders = {path.parent.name for path in (ROOT / "pipeline").glob("*/__init__.py")}
    assert folders - set(re.findall(r"^  (\w+)/", tree, flags=re.M)) == {"utils"}


def walk(title):
    """The files of a numbered list in pipeline/README.md, in its order."""
    section = re.split(r"^## ", TEXT["pipeline/README.md"].partition(f"## {title}\n")[2], maxsplit=1, flags=re.M)[0]
    return [name for line in re.findall(r"^\d+\. .*", section, flags=re.M) for name in names(line.partition(":")[0])]


def test_no_walk_through_the_code_meets_a_file_twice():
    for title in ("Ten files to read", "What finetune does", "What compare does"):
        assert walk(title) and len(walk(title)) == len(set(walk(title))), title
    assert len(walk("Ten files to read")) == 10


@pytest.mark.slow
def test_the_walks_through_the_code_are_in_the_order_in_which_files_are_called(workplace, monkeypatch):
    needs("torch", "tensorflow")
    monkeypatch.setenv(
        "HF_DATASETS_CACHE", str(workplace / "cache")
    )  # what is tokenized already is not tokenized again
    commands = {
        "What finetune does": "finetune sentiment_bert --attention handwritten --out run",
        "What compare does": "compare sentiment_bert --attentions stock --seeds 0 --out report",
    }
    small = "".join(f" --set {setting}" for setting in SMALL.split())
    words = " then ".join(command + small for command in commands.values())
    printed = pages.run(f".venv/bin/python -m tests.helpers.walk {words}", workplace)
    # They run before Python calls anything, or in a process of their own.
    elsewhere = {"Makefile", "__main__.py", "comparison/lockstep.py"}
    for title, command in commands.items():
        met = re.findall(rf"^met: {command.split()[0]} (.*)$", printed, flags=re.M)
        described = [name for name in walk(title) if name not in elsewhere]
        assert described == [name for name in met if name in described], title


def test_the_readme_is_one_page():
    assert len(TEXT["README.md"].split()) <= 1100


@pytest.mark.parametrize("page", PAGES)
def test_pages_are_spelled_in_american_english(page):
    british = re.findall(
        r"\b\w*(?:isation|[iy]sed|ising|modelling|labelled|vour|olour|neighbour|licence)\w*\b", TEXT[page]
    )
    assert set(british) <= {"raised", "raising", "promised", "compromised"}
