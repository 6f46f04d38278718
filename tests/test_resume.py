"""Killed and resumed: the end is bit-identical to that of the run that never stopped."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from pipeline import finetune
from pipeline.progress import Progress
from pipeline.rundir import Run
from tests.families import recipe_of

ROOT = Path(__file__).resolve().parent.parent
FAMILIES = {"bert": "single-label", "gpt2": "causal rows", "t5": "sequence-to-sequence"}
# Everything that a resumed run must bring back: dropout, accumulation, best weights, patience. Three updates an epoch.
CHANGES = {
    "train.epochs": 2, "train.dropout": 0.1, "train.keep": "best", "train.keep_metric": "loss",
    "train.early_stopping": 1, "train.save_every": 2, "data.limit.validation": 8,
}  # fmt: skip


class Killed(BaseException):
    """In place of SIGKILL."""


class Kill(Progress):
    """Breaks the run off the first time that it tells of a chosen moment, such as ("update", 3)."""

    def __init__(self, *moment):
        self.moment, self.resumed_at, self.notes = moment, None, []

    def reached(self, *moment):
        if moment == self.moment:
            raise Killed

    def resumed(self, step, notes):
        self.resumed_at, self.notes = step, notes

    def update(self, line):
        self.reached("update", line["step"])

    def evaluating(self, epoch):
        self.reached("evaluating", epoch)

    def saving(self, step):
        self.reached("saving", step)

    def saved(self, step):
        self.reached("saved", step)


def killed(moment, *arguments, **options):
    """Run until the moment; returns the update after which this part began."""
    kill = Kill(*moment)
    with pytest.raises(Killed):
        finetune(*arguments, **options, progress=kill)
    return kill.resumed_at


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def outcome(folder):
    """All of a run that must not depend on whether it was killed."""
    report = Run.load(folder).report
    with np.load(folder / "probe.npz") as probe:
        logits = {name: probe[name].tobytes() for name in probe}
    return {
        "weights": hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest(),
        "predictions": (folder / "predictions.jsonl").read_bytes(),
        "history": [{k: v for k, v in line.items() if k != "seconds"} for line in lines(folder / "history.jsonl")],
        "probe": logits,
        "report": {k: report.get(k) for k in ("metrics", "evaluations", "kept_epoch", "test", "data")},
    }


def assert_same(first, second):
    first, second = outcome(first), outcome(second)
    for key in first:
        assert first[key] == second[key], key


@pytest.mark.parametrize("family", FAMILIES)
def test_a_killed_run_ends_as_the_one_that_never_stopped(framework, family, tmp_path):
    parts = {"train.gradient_accumulation": 2 if family == "bert" else 1}
    recipe = recipe_of(FAMILIES[family], tmp_path, changes=CHANGES | parts)
    # GPT-2 with our attention, whose dropout must come back too.
    how = {"framework": framework, "attention": "handwritten" if family == "gpt2" else "stock"}
    straight = finetune(recipe.override({"train.save_every": None}), **how, out=tmp_path / "straight")
    options = how | {"out": tmp_path / "killed"}
    killed(("update", 3), recipe, **options)
    assert killed(("evaluating", 2), recipe, **options, resume=True) == 2  # in the middle of the first epoch
    resumed = finetune(recipe, **options, resume=True)  # between the last update and its evaluation
    assert_same(straight.path, resumed.path)
    train = resumed.report["train"]
    assert (train["resumed_at"], straight.report["train"]["resumed_at"]) == ([2, 6], [])
    seconds = [line["seconds"] for line in lines(resumed.path / "history.jsonl")]
    assert seconds == sorted(seconds) and train["seconds"] == seconds[-1]
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix != ".jsonl") == ["killed", "straight"]
