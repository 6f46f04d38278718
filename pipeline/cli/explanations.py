"""What the command line adds to an error: how the Python arguments that it speaks of are given here."""

from __future__ import annotations

from pipeline.utils.errors import PipelineError

# Python argument: how the command line, and how make, is given it.
WAYS = {
    "allow_hub_code": ("--allow-hub-code", "ALLOW_HUB_CODE=1"),
    "allow_pickle": ("--allow-pickle", "ALLOW_PICKLE=1"),
    "attention": ("--attention NAME", "ATTENTION=name"),
    "framework": ("--framework NAME", "FRAMEWORK=name"),
    "out": ("--out FOLDER", "OUT=folder"),
    "overrides": ("--set KEY=VALUE", 'SET="key=value"'),
    "overwrite": ("--overwrite", "OVERWRITE=1"),
    "rerun": ("--rerun", "RERUN=1"),
    "resume": ("--resume", "RESUME=1"),
    "seed": ("--seed NUMBER", "SEED=number"),
}


def explain(error: PipelineError) -> str:
    """The error's message, and a line that translates the arguments it names."""
    ways = [WAYS[name] for name in dict.fromkeys(error.arguments) if name in WAYS]
    if not ways:
        return str(error)
    options, variables = (" or ".join(each) for each in zip(*ways, strict=True))
    return f"{error}\nOn the command line: {options}; with make: {variables}."
