"""What the command line adds to an error: how the Python arguments that it speaks of are given here."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.utils.errors import PipelineError

# Python argument: how the command line, and how make, is given it.
WAYS = {
    "allow_hub_code": ("--allow-hub-code", "ALLOW_HUB_CODE=1"),
    "allow_pickle": ("--allow-pickle", "ALLOW_PICKLE=1"),
    "architecture": ("--architecture NAME", "ARCHITECTURE=name"),
    "attention": ("--attention NAME", "ATTENTION=name"),
    "change_processes": ("--change-processes", "CHANGE_PROCESSES=1"),
    "cross": ("--cross", "CROSS=1"),
    "debug_eager": ("--debug-eager", "DEBUG_EAGER=1"),
    "framework": ("--framework NAME", "FRAMEWORK=name"),
    "host": ("--host HOST", "HOST=host"),
    "out": ("--out FOLDER", "OUT=folder"),
    "overrides": ("--set KEY=VALUE", 'SET="key=value"'),
    "overwrite": ("--overwrite", "OVERWRITE=1"),
    "port": ("--port NUMBER", "PORT=number"),
    "private": ("--private", "PRIVATE=1"),
    "processes": ("--processes NUMBER", "PROCESSES=number"),
    "repo": ("--repo USER/NAME", "REPO=user/name"),
    "report": ("--report FOLDER", "REPORT=folder"),
    "rerun": ("--rerun", "RERUN=1"),
    "restarts": ("--restarts NUMBER", "RESTARTS=number"),
    "resume": ("--resume", "RESUME=1"),
    "seed": ("--seed NUMBER", "SEED=number"),
    "space": ("--space TEXT", 'SPACE="key=log(low,high) key=value,value"'),
    "trials": ("--trials NUMBER", "TRIALS=number"),
    "workers": ("--workers NUMBER", "WORKERS=number"),
}


def explain(error: PipelineError) -> str:
    """The error's message, and a line that translates the arguments it names."""
    ways = [WAYS[name] for name in dict.fromkeys(error.arguments) if name in WAYS]
    if not ways:
        return str(error)
    options, variables = (" or ".join(each) for each in zip(*ways, strict=True))
    return f"{error}\nOn the command line: {options}; with make: {variables}."


def make_variable(option: str) -> str:
    """The variable of make that an option of the command line is, such as PORT for --port."""
    return option.removeprefix("--").replace("-", "_").upper()


def make_command(target: str, variables: Mapping[str, object]) -> str:
    """The command of make with those variables that have a value, and with STACK if it was given."""
    given = {**variables, "STACK": os.environ.get("STACK")}
    return " ".join(["make", target, *(f"{name}={shlex.quote(str(value))}" for name, value in given.items() if value)])


def finetune_command(
    recipe: str, framework: str, attention: str = "stock", seed: int = 0, settings: Sequence[str] = (),
    out: Path | None = None, processes: int = 1, *, allow_hub_code: bool = False, allow_pickle: bool = False,
) -> str:  # fmt: skip
    """The command that fine-tunes with these arguments; with make, unless it would split a setting at a space.

    In the environment of the framework, if make was told that each has its own.
    """
    if any(len(setting.split()) != 1 for setting in settings):
        words = ["finetune", recipe, "--framework", framework, "--attention", attention, "--seed", str(seed)]
        words += [word for setting in settings for word in ("--set", setting)]
        words += ["--out", str(out)] if out else []
        words += ["--processes", str(processes)] if processes > 1 else []
        words += ["--allow-hub-code"] * allow_hub_code + ["--allow-pickle"] * allow_pickle
        folder = f".venv-{framework}" if os.environ.get("STACK") else ".venv"
        return f"{folder}/bin/python -m pipeline {shlex.join(words)}"
    variables = {
        "RECIPE": recipe, "FRAMEWORK": framework, "ATTENTION": attention if attention != "stock" else "",
        "SEED": seed or "", "SET": " ".join(settings), "OUT": out or "",
        "PROCESSES": processes if processes > 1 else "",
        "ALLOW_HUB_CODE": "1" * allow_hub_code, "ALLOW_PICKLE": "1" * allow_pickle,
    }  # fmt: skip
    return make_command("finetune", variables)
