"""Kills runs of many configurations at chosen moments, resumes them, and compares each with a run left alone.

    python -m tests.benchmarks.kill_matrix [--frameworks torch tensorflow] [--only NAME ...] [--seed 0]

Each row is a kill test on a small recipe with dropout on: 96 rows, twelve steps, a training checkpoint every two, and a
seed of its own. A row says in which phases the kills fell, and whether weights, predictions, history, probe and metrics
are those of the undisturbed run, to the bit. The exit code is 1 if a row differs or a kill is missing.
"""

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

from pipeline.training.kill_test import kill_test
from pipeline.utils.environment import configure_process
from tests.helpers.families import recipe_of, rows_of

TRAINING, SAVING, EVALUATION, FINAL = (
    (phase, "SIGKILL") for phase in ("training", "saving", "evaluation", "final save")
)
BASE = {"train.epochs": 2, "train.dropout": 0.1, "train.save_every": 2}
BEST = {"train.keep": "best", "train.keep_metric": "loss"}
# Kind of recipe, attention, changes, kills: by name.
CONFIGURATIONS = {
    "packed batches, shared masks": ("single-label", "stock", {}, [TRAINING, SAVING]),
    "framework's masks, padded": (
        "single-label", "stock", {"train.dropout_masks": "framework", "data.batching": "padded"}, [TRAINING, SAVING],
    ),
    "accumulation": ("single-label", "stock", {"train.gradient_accumulation": 4}, [TRAINING, SAVING]),
    "keep best": ("single-label", "stock", BEST, [TRAINING, EVALUATION, FINAL]),
    "early stopping": (
        "single-label", "stock", {"train.epochs": 5, "train.early_stopping": 1, "train.learning_rate": 1e-12},
        [TRAINING, EVALUATION],
    ),
    "test split": ("single-label", "stock", {"test split": True}, [TRAINING, FINAL]),
    "bf16": ("single-label", "stock", {"train.precision": "bf16"}, [TRAINING, SAVING]),
    "freeze": ("single-label", "stock", {"train.freeze": ["bert.embeddings.*"]}, [TRAINING, SAVING]),
    "class weights": ("single-label", "stock", {"train.class_weights": {"bad": 1.0, "good": 3.0}}, [TRAINING, SAVING]),
    "label smoothing": ("single-label", "stock", {"train.label_smoothing": 0.1}, [TRAINING, SAVING]),
    "hand-written": ("single-label", "handwritten", {}, [TRAINING, SAVING]),
    "T5": ("sequence-to-sequence", "stock", {}, [TRAINING, SAVING]),
    "T5, hand-written, best": ("sequence-to-sequence", "handwritten", BEST, [TRAINING, EVALUATION]),
    "GPT-2": ("causal rows", "stock", {}, [TRAINING, SAVING]),
    "GPT-2, hand-written, accumulation": (
        "causal blocks", "handwritten", {"train.gradient_accumulation": 2}, [TRAINING, SAVING],
    ),
    "SIGTERM": (
        "single-label", "stock", {}, [(phase, "SIGTERM") for phase in ("training", "evaluation", "saving")],
    ),
    "double Ctrl-C": (
        "single-label", "stock", {}, [(phase, "double SIGINT") for phase in ("training", "evaluation", "final save")],
    ),
    "evaluation": ("token-classification", "stock", {}, [EVALUATION, EVALUATION]),
    "final save": ("single-label", "stock", {}, [FINAL, FINAL, FINAL]),
}  # fmt: skip


def run(name, framework, seed, folder):
    """The kill test of a configuration."""
    kind, attention, changes, kills = CONFIGURATIONS[name]
    changes = dict(changes)
    has_test = changes.pop("test split", False)
    # The evaluation must last long enough to be hit.
    recipe = recipe_of(kind, folder, rows_of(kind, 96, 0), rows_of(kind, 128, 1), changes=BASE | changes)
    if has_test:
        recipe = recipe.override({"data.files.test": str(folder / "validation.jsonl")})
    return kill_test(recipe, framework, attention=attention, seed=seed, kills=kills)


def main(words=None):
    """Run the matrix and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--frameworks", nargs="+", default=["torch", "tensorflow"])
    parser.add_argument("--only", nargs="+", default=list(CONFIGURATIONS), choices=list(CONFIGURATIONS), metavar="NAME")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(words)
    configure_process()
    print("| configuration | framework | kills | fell in, after step | resumed after | equal to the bit |")
    print("|" + "---|" * 6)
    totals, passed = Counter(), True
    for framework in arguments.frameworks:
        for name in arguments.only:
            with tempfile.TemporaryDirectory() as folder:
                seed = arguments.seed + list(CONFIGURATIONS).index(name)
                report = run(name, framework, seed, Path(folder))
            kills = report.kills()
            fell = ", ".join(f"{kill.phase} {kill.step}" for kill in kills)
            resumed = ", ".join("over" if kill.resumed_at is None else str(kill.resumed_at) for kill in kills)
            same = ", ".join(f"not {name}" for name, same in report.identical.items() if not same) or "yes"
            print(
                f"| {name} | {framework} | {len(kills)} of {report.num_kills} | {fell} | {resumed} | {same} |",
                flush=True,
            )
            totals[framework] += len(kills)
            passed = passed and report.passed
    print("kills:", ", ".join(f"{number} in {framework}" for framework, number in totals.items()))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
