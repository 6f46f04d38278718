"""Flips bits of tokenized data, training checkpoints and model files, one at a time, and counts what is made of them.

    python -m tests.benchmarks.damage_counts [--frameworks torch tensorflow] [--flips 6000] [--edits 300]

A tiny run is trained in each framework; every file of each kind gets its share of the flips. A flip is *seen* if
what reads the files says so in the way that is meant for damage: a tokenized split is made anew, a training checkpoint
is skipped, a model is refused. It is *harmless* if what is read is what was written, as with another white space in
JSON. It *passes* if something else is read in silence, and any other error is *uncaught*. So many of the flips in model
files are also tried with the commands predict and attention-maps. The exit code is 1 if a flip passes or is uncaught.

Then runs are edited as by hand, so many times for each verb that reads them, with the digests of the model's files
taken out. A verb must answer (exit code 0), or say in one message what is wrong (2).
"""

import argparse
import contextlib
import io
import itertools
import sys
import tempfile
from collections import Counter
from pathlib import Path

import datasets

from pipeline import finetune
from pipeline.cli.main import execute
from pipeline.data.ragged import Ragged
from pipeline.runs.model_files import MODEL_CARD, refuse_altered
from pipeline.training.checkpoints import TrainingCheckpoints
from pipeline.training.experiment import prepare
from pipeline.utils.array_cache import read_entry
from pipeline.utils.environment import configure_process
from pipeline.utils.errors import UserError
from pipeline.utils.mapped_arrays import cache_folder
from tests.helpers.checkpoints import changed_checkpoint
from tests.helpers.damage import flips
from tests.helpers.edited_runs import VERBS, count_edits, runs_to_edit, undrawn
from tests.helpers.families import recipe_of
from tests.helpers.interruption import kill_at

# GPT-2, of which there are the most kinds of files.
SMALL = {"n_embd": 6, "n_head": 2, "n_layer": 1}
DAMAGE_OF_AN_ENTRY = (OSError, ValueError, EOFError, KeyError)


def count_flips(folder, number, seed, verdict):
    """How many flips in a folder are seen, harmless, pass, or raise what they should not."""
    counts = Counter()
    for file, flipped in flips(folder, number, seed):
        try:
            found = verdict(file)
        except Exception as error:
            found = "uncaught"
            print(f"{flipped}: {type(error).__name__}: {error}", file=sys.stderr)
        counts[found] += 1
    return counts


def tokenized_splits(recipe, number, seed):
    """Counts of the entries of the cache."""
    kinds = (type(prepare(recipe).examples["train"]), Ragged)

    def verdict(file):
        try:
            read_entry(file.parent, kinds)
        except DAMAGE_OF_AN_ENTRY:
            return "seen"
        return "passes"

    return count_flips(cache_folder(), number, seed, verdict)


def training_checkpoints(recipe, framework, folder, number, seed):
    """Counts of the newest training checkpoint of an interrupted run."""
    kill_at(("step", 3), recipe.override({"train.save_every": 1}), framework, out=folder / "run")
    checkpoints = TrainingCheckpoints(folder / "run.checkpoints", 2)
    written, _ = checkpoints.newest()

    def verdict(file):
        newest, _ = checkpoints.newest()
        if newest == written:
            return "harmless" if file.name == "manifest.json" else "passes"
        return "seen"

    return count_flips(written.path, number, seed, verdict)


def model_files(recipe, framework, folder, number, num_commands, seed):
    """Counts of the files of a run's model, by what verifies them and by two commands."""
    run = finetune(recipe, framework, out=folder / "run")
    model = run.directory.model_folder
    (model / MODEL_CARD).unlink()

    def verdict(file):
        try:
            refuse_altered(model, run.record.model_files, thorough=True)
        except UserError as error:
            return "seen" if file.name in str(error) else "passes"
        return "passes"

    verbs = itertools.cycle(["predict", "predict", "attention-maps"])

    def command_verdict(file):
        verb = next(verbs)
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            code = execute([verb, str(run.path), "--text", "It was good.", "--out", str(folder / "out"), "--overwrite"])
        is_seen = code == 2 and f"{file.name} was altered" in said.getvalue() and not (folder / "out").exists()
        return "seen" if is_seen else f"exit {code}"

    return count_flips(model, number, seed, verdict), count_flips(model, num_commands, seed + 1, command_verdict)


def main(words=None):
    """Print a row for each kind of file and framework."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--frameworks", nargs="+", default=["torch", "tensorflow"])
    parser.add_argument("--flips", type=int, default=6000)
    parser.add_argument("--commands", type=int, default=24)
    parser.add_argument("--edits", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(words)
    configure_process()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        datasets.config.HF_DATASETS_CACHE = folder / "cache"
        counts = []
        if arguments.flips:
            counts += all_counts(folder, arguments.frameworks, arguments.flips, arguments.commands, arguments.seed)
        if arguments.edits:
            counts += all_edits(folder / "edits", arguments.frameworks, arguments.edits, arguments.seed)
    return 1 if any(set(found) - {"seen", "harmless", "exit 0", "exit 2"} for found in counts) else 0


def shown(what, counts):
    """The counts, printed as a row of a table."""
    print(f"| {what} | {counts.total():,} | {', '.join(f'{v:,} {k}' for k, v in counts.items())} |", flush=True)
    return counts


def all_edits(folder, frameworks, number, seed):
    """How each verb ended with runs that were edited."""
    print("\n| verb | edits | found |\n|---|---|---|")
    for framework in frameworks:
        runs = runs_to_edit(folder / framework, framework)
        with undrawn():
            for verb in VERBS:
                ends, wrong = count_edits(verb, runs, framework, folder / "edited", number, seed)
                print(*wrong, sep="\n", end="\n" if wrong else "", file=sys.stderr)
                yield shown(f"{verb}, {framework}", ends + Counter({"wrong": len(wrong)}))


def all_counts(folder, frameworks, number, num_commands, seed):
    """The counts of each kind of file."""
    print("| files | flips | found |\n|---|---|---|")
    recipe = changed_checkpoint(recipe_of("causal rows", folder), folder / "gpt2", SMALL)
    recipe = recipe.override({"weights": "random"})
    yield shown("tokenized splits", tokenized_splits(recipe, number, seed))
    for framework in frameworks:
        own = folder / framework
        own.mkdir()
        yield shown(f"training checkpoint, {framework}", training_checkpoints(recipe, framework, own, number, seed))
        direct, by_command = model_files(recipe, framework, folder / f"{framework}-model", number, num_commands, seed)
        yield shown(f"model files, {framework}", direct)
        yield shown(f"model files, {framework}, by command", by_command)


if __name__ == "__main__":
    sys.exit(main())
