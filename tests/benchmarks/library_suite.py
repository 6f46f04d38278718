"""Runs the transformers library's own tests of BERT, GPT-2 and T5 twice: stock, and with the hand-written attention.

    python -m tests.benchmarks.library_suite [--tests FOLDER] [--framework torch] [-k WORDS] [FILE ...]

The library is installed without its tests, so FOLDER is a checkout of its sources:

    git clone --depth 1 --branch v4.57.6 https://github.com/huggingface/transformers FOLDER

What the tests import, `parameterized` for one, has to be installed, too. Each model is swapped when it is first called,
and has the stock attention again while it is saved or pruned, since a swapped one refuses both. A test that passes with
the stock attention and fails with the hand-written one is a fault, unless it looks at the stock module by nature
(`BY_NATURE` has those, with the reason), or passes an argument that a swapped model refuses by name. The exit code is
0 if there is no fault, 1 if there is, 2 if no test ran.
"""

# This file is also the plugin of pytest that swaps and notes what happened. It is loaded under its own name, since the
# library's tests are in a package named `tests`, too.

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
FAMILIES = ("bert", "gpt2", "t5")
PREFIXES = {"torch": "test_modeling_", "tensorflow": "test_modeling_tf_"}
# How the command tells the plugin in which framework to swap, if at all, and where to write what happened.
SWAP_IN, RESULT = "LIBRARY_SUITE_SWAP_IN", "LIBRARY_SUITE_RESULT"
# What a swapped model says of an argument that only the stock one takes, such as a mask of heads.
REFUSAL = "; call the stock model"
# Parts of the names of tests that cannot pass with another module in the place of the stock one.
BY_NATURE = {
    "test_initialization": "reads the names of the stock weights after a call",
    "test_head_pruning": "prunes the heads of a model that was called, and so swapped",
    "test_flash_attn": "asks for an attention of the library by its name",
    "test_sdpa": "asks for an attention of the library by its name",
    "test_eager_matches_sdpa": "compares two attentions of the library",
    "test_torch_fx": "traces the source of the stock module",
}


def main(words: list[str] | None = None) -> int:
    """Print what differs between the stock and the swapped run; returns the exit code."""
    options = _options(words)
    files = options.files or [f"tests/models/{name}/{PREFIXES[options.framework]}{name}.py" for name in FAMILIES]
    missing = [file for file in files if not (options.tests / file.partition("::")[0]).is_file()]
    if len(missing) == len(files):
        version = metadata.version("transformers")
        print(
            f"{options.tests} has no {missing[0]}: the installed transformers {version} brings no tests. Give a "
            f"checkout of its sources with --tests: git clone --depth 1 --branch v{version} "
            "https://github.com/huggingface/transformers"
        )
        return 2
    files = [file for file in files if file not in missing]
    stock, swapped = (_run(options, files, swap_in) for swap_in in ("", options.framework))
    return _report(stock, swapped)


def _options(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    installed = Path(str(metadata.distribution("transformers").locate_file("")))
    parser.add_argument("--tests", type=Path, default=installed, help="a checkout of transformers")
    parser.add_argument("--framework", choices=PREFIXES, default="torch")
    parser.add_argument("-k", dest="expression", default="", help="only tests whose names match, as pytest's -k")
    parser.add_argument("files", nargs="*", help="files in the checkout; by default those of the three models")
    return parser.parse_args(words)


def _run(options: argparse.Namespace, files: list[str], swap_in: str) -> dict[str, Any]:
    """What happened in one run of the tests: outcomes by test, and how many models were swapped and refused."""
    with tempfile.TemporaryDirectory() as folder:
        result, log = Path(folder, "result.json"), Path(folder, "log")
        # The checkout first: its package `tests` must not be taken from elsewhere.
        places = [options.tests.resolve(), Path(__file__).parent, ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, places)), "TF_USE_LEGACY_KERAS": "1"}
        environment |= {SWAP_IN: swap_in, RESULT: str(result)}
        command = [sys.executable, "-m", "pytest", "-p", Path(__file__).stem, "-p", "no:cacheprovider", "-q"]
        command += ["-c", os.devnull, "--rootdir", ".", "-n", "0", "-k", options.expression, *files]
        print(f"{'swapped' if swap_in else 'stock'}: {' '.join(command[1:])}", flush=True)
        with open(log, "wb") as output:
            subprocess.run(command, cwd=options.tests, env=environment, stdout=output, stderr=subprocess.STDOUT)
        if not result.exists() or not (found := json.loads(result.read_text(encoding="utf-8")))["outcomes"]:
            print(log.read_text(encoding="utf-8", errors="replace")[-3000:], file=sys.stderr)
            sys.exit(2)
        return found


def _report(stock: dict[str, Any], swapped: dict[str, Any]) -> int:
    before, after = stock["outcomes"], swapped["outcomes"]
    passed = [test for test, outcome in before.items() if outcome == "passed"]
    failed = [test for test in passed if after.get(test) != "passed"]
    errors = {test: swapped["errors"].get(test, after.get(test, "it did not run")) for test in failed}
    refused = [test for test in failed if REFUSAL in errors[test]]
    by_nature = {test: reason for test in failed for name, reason in BY_NATURE.items() if f"::{name}" in test}
    print(f"{len(passed)} tests pass with the stock attention, {len(passed) - len(failed)} of them when swapped")
    print(f"{swapped['swapped']} models were swapped, and their attentions called {swapped['calls']} times")
    for reason, number in swapped["refused"].items():
        print(f"not swapped, {number} times: {reason}")
    for test, reason in by_nature.items():
        print(f"fails by nature: {test} {reason}")
    for test in refused:
        print(f"is refused: {test}: {errors[test]}")
    faults = [test for test in failed if test not in by_nature and test not in refused]
    for test in faults:
        print(f"FAILS WHEN SWAPPED: {test}: {errors[test]}")
    for test, outcome in before.items():
        if outcome == "failed":
            print(f"fails with the stock attention, too: {test}: {stock['errors'].get(test, '')}")
    return 1 if faults or not passed or not swapped["swapped"] else 0


# --- the plugin


class Suite:
    """Swaps each model when it is first called, and notes what happens."""

    def __init__(self) -> None:
        self.outcomes: dict[str, str] = {}
        self.errors: dict[str, str] = {}
        self.refused: Counter[str] = Counter()
        self.num_swapped = self.num_calls = self.num_refused_around = 0
        self.swap: Any = None

    def install(self, framework: str) -> None:
        """Have every model of the framework swapped by its first call, outside of graphs and compilers."""
        if framework == "torch":
            import torch
            from transformers import PreTrainedModel as base

            from pipeline.pytorch import sites, swap

            is_traced = torch.compiler.is_compiling
        else:
            import tensorflow as tf
            from transformers import TFPreTrainedModel as base

            from pipeline.tensorflow import sites, swap

            is_traced = tf.inside_function
        self.swap, call = swap, base.__call__

        @functools.wraps(call)
        def swapped_call(model: Any, *args: Any, **kwargs: Any) -> Any:
            if not is_traced():
                self.swap_once(model)
            before = sum(swap.attention_calls(model))
            is_refused = getattr(model, "suite_is_refused", False)
            self.num_refused_around += is_refused
            try:
                return call(model, *args, **kwargs)
            finally:
                self.num_refused_around -= is_refused
                self.num_calls += sum(swap.attention_calls(model)) - before

        base.__call__ = swapped_call
        sites.guard_stock_only()  # has a swapped model refuse these methods; what follows goes around that
        for name in ("save_pretrained", "prune_heads"):
            setattr(base, name, self.with_stock_attention(getattr(base, name)))

    def swap_once(self, model: Any) -> None:
        """Swap a model that is called for the first time, unless it is swapped or one around it was refused."""
        if hasattr(model, "suite_is_refused") or self.num_refused_around or self.swap.attention_sites(model):
            return
        from pipeline.utils.errors import UserError

        object.__setattr__(model, "suite_is_refused", False)
        try:
            self.swap.swap_attention(model)
            self.num_swapped += 1
        except UserError as error:
            object.__setattr__(model, "suite_is_refused", True)
            self.refused[re.sub(r"\{.*?\}", "{...}", str(error))] += 1

    def with_stock_attention(self, method: Any) -> Any:
        """The method with the stock attention in the model meanwhile."""

        @functools.wraps(method)
        def on_stock(model: Any, *args: Any, **kwargs: Any) -> Any:
            is_swapped = self.swap.attention_sites(model) and self.swap.restore_attention(model)
            try:
                return method(model, *args, **kwargs)
            finally:
                if is_swapped and not getattr(model.config, "pruned_heads", None):
                    self.swap.swap_attention(model)

        return on_stock


SUITE = Suite()


def pytest_configure() -> None:
    """Swap from here on, if the command asks for it."""
    if framework := os.environ.get(SWAP_IN):
        SUITE.install(framework)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note how a test ended."""
    if report.when == "call" or report.outcome != "passed":
        SUITE.outcomes[report.nodeid] = report.outcome
    if report.failed:
        lines = report.longreprtext.strip().splitlines()
        raised = [line[1:].strip() for line in lines if line.startswith("E ")]
        SUITE.errors[report.nodeid] = (raised or lines[-1:])[0][:300]


def pytest_sessionfinish() -> None:
    """Write what happened where the command looks for it."""
    if file := os.environ.get(RESULT):
        found = {"outcomes": SUITE.outcomes, "errors": SUITE.errors, "refused": SUITE.refused}
        found |= {"swapped": SUITE.num_swapped, "calls": SUITE.num_calls}
        Path(file).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
