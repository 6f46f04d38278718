"""Reads the README pages and the docstrings of recipes: commands, code, tables, names of files; runs their commands."""

import ast
import contextlib
import functools
import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.helpers.children import run_program_here

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    "README.md",
    "recipes/README.md",
    "pipeline/README.md",
    "pipeline/comparison/README.md",
    "pipeline/distributed/README.md",
    "pipeline/deploy/README.md",
    "pipeline/tour/README.md",
    "pipeline/sweeps/README.md",
    "tests/benchmarks/README.md",
    "recipes/bundled/sentiment/README.md",
    "recipes/bundled/dates/README.md",
    "recipes/bundled/stories/README.md",
    "recipes/bundled/translation/README.md",
]
TEXT = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
# The file name in the first comment of a Python or YAML block, such as "# mine.py".
FILE_NAME = re.compile(r"# (\w+\.(?:py|yaml))\n")
# Files and folders that a reader or a run makes.
_MADE = re.compile(r"(?:runs|reports|exports|sweeps)/\S|figures/|mine\.|my_attention\.py|reviews\.jsonl")


def blocks(page, language):
    """The fenced blocks of a page in one language; "" is a block without a language."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT[page], flags=re.M | re.S)
    return [text for name, text in fenced if name == language]


def block_with(page, language, text):
    """The one block of a page that contains `text`."""
    (block,) = (block for block in blocks(page, language) if text in block)
    return block


def commands():
    """Every command of the pages and of the docstrings of recipes, as (where, command)."""
    for page in PAGES:
        for block in blocks(page, "sh"):
            yield from ((page, line) for line in block.replace("\\\n", "").splitlines())
    for path in sorted((ROOT / "recipes").glob("*_*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        lines = docstring.replace("\\\n", "").splitlines()
        yield from ((f"recipes/{path.name}", line.strip()) for line in lines if line.startswith("    "))


@functools.cache
def expanded(command):
    """The Python programs that a command starts, each as the words after the interpreter."""
    words = shlex.split(command)
    return started_by_make(words[1:]) if words[0] == "make" else [words[1:]]


def started_by_make(arguments, variables=None):
    """The programs that make starts with these arguments: it runs with an interpreter that only notes its own.

    `variables` are added to the environment.
    """
    with tempfile.TemporaryDirectory() as folder:
        noted, interpreter = Path(folder, "noted"), Path(folder, "bin", "python")
        interpreter.parent.mkdir()
        interpreter.write_text(f'#!/bin/sh\nprintf "%s\\0" "$@" >> {noted}; printf "\\1" >> {noted}\n')
        interpreter.chmod(0o755)
        for tool in ("ruff", "basedpyright"):
            interpreter.with_name(tool).symlink_to("/bin/true")
        Path(folder, ".installed").touch()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        command = ["make", *arguments, f"VENV={folder}"]
        environment |= variables or {}
        subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True)
        programs = noted.read_text(encoding="utf-8").split("\1")[:-1] if noted.exists() else []
    return [program.split("\0")[:-1] for program in programs]


def run(command, folder, overrides=""):
    """Run a command of a page in `folder`, with more overrides of its recipe; returns what it prints.

    Commands of the pipeline run in this process, whose working directory is the folder.
    """
    extra = [word for override in overrides.split() for word in ("--set", override)]
    printed = ""
    for program in expanded(command):
        words = [sys.executable, *program, *extra]
        if program[1] == "pipeline":
            output = io.StringIO()
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                code = run_program_here(words).returncode
            text = output.getvalue()
        else:
            done = subprocess.run(
                words, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
            code, text = done.returncode, done.stdout
        assert code == 0, text
        printed += text
    return printed


def shape(text):
    """The lines of a printed text without what differs between two runs of a command: numbers, paths, weight names.

    A line of dots stands for lines that are left out.
    """
    text = re.sub(r"\S*runs?/\S*", "PATH", text)
    text = re.sub(r"\(\w+(\.\w+)+\)", "(WEIGHT)", text)
    text = re.sub(r"\d[\d.,]*(?:e[-+]\d+)?", "#", text)
    return [" ".join(line.split()) for line in text.splitlines() if line.strip() != "..."]


def names(cell):
    """What stands between backticks."""
    return re.findall(r"`([^`]+)`", cell)


def table(page, header):
    """The rows of every table of a page whose first column has this header, as lists of cells."""
    rows = []
    for block in re.findall(r"(?:^\|.*\n)+", TEXT[page], flags=re.M):
        lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in block.splitlines()]
        rows += lines[2:] if lines[0][0] == header else []
    return rows


def file_names(page):
    """The files and folders that a page names: targets of links, paths between backticks, and the tree of folders."""
    yield from re.findall(r"\]\(([^)#:\s]+)[^):]*\)", TEXT[page])
    for name in names(re.sub(r"^```.*?^```$", "", TEXT[page], flags=re.M | re.S)):
        is_file = re.fullmatch(r"[\w./-]+\.(?:py|yaml|toml|json|jsonl|cff|html|npz)", name)
        if (is_file or re.fullmatch(r"[\w./-]*[a-z0-9]/", name)) and not _MADE.match(name):
            yield name
    for block in blocks(page, ""):
        if block.startswith("recipes/ "):
            entries = re.findall(r"^(  )?([\w./]+)  ", block, flags=re.M)
            yield from (f"pipeline/{name}" if indented else name for indented, name in entries)
