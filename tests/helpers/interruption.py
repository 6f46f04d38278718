"""Runs that are interrupted at a chosen moment, and what two runs of one recipe must have in common."""

import hashlib
import json

import numpy as np
import pytest

from pipeline import finetune, load_run
from pipeline.training.callbacks import TrainingCallback


class Killed(BaseException):
    """In place of SIGKILL."""


class Kill(TrainingCallback):
    """Interrupts the run when it first reports a chosen moment, such as ("step", 3); notes where it was resumed."""

    def __init__(self, *moment):
        self.moment, self.resumed_at, self.notes = moment, None, []

    def reached(self, *moment):
        if moment == self.moment:
            raise Killed

    def on_resume(self, step, notes):
        self.resumed_at, self.notes = step, notes

    def on_step_end(self, record):
        self.reached("step", record.step)

    def on_evaluate_begin(self, epoch):
        self.reached("evaluate", epoch)

    def on_save_begin(self, step):
        self.reached("save", step)

    def on_save_end(self, step):
        self.reached("saved", step)


def kill_at(moment, *arguments, **options):
    """Run until the moment; returns the step after which this part of the run began."""
    kill = Kill(*moment)
    with pytest.raises(Killed):
        finetune(*arguments, **options, callback=kill)
    return kill.resumed_at


def with_state(checkpoint, **values):
    """Change the state of a training checkpoint, and have its manifest say what its files hold now."""
    state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8")) | values
    (checkpoint / "state.json").write_text(json.dumps(state), encoding="utf-8")
    manifest = json.loads((checkpoint / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"] = {
        name: {"bytes": (checkpoint / name).stat().st_size, "sha256": sha256(checkpoint / name)}
        for name in manifest["files"]
    }
    (checkpoint / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def read_lines(path):
    """The objects of a JSON lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def sha256(path):
    """The SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def outcome(folder):
    """Everything of a run that must not depend on whether it was ever interrupted."""
    record = load_run(folder).record.model_dump()
    with np.load(folder / "probe.npz") as probe:
        logits = {name: probe[name].tobytes() for name in probe}
    return {
        "weights": sha256(folder / "model" / "model.safetensors"),
        "predictions": (folder / "predictions.jsonl").read_bytes(),
        "history": [{k: v for k, v in line.items() if k != "seconds"} for line in read_lines(folder / "history.jsonl")],
        "probe": logits,
        "record": {k: record.get(k) for k in ("metrics", "evaluations", "kept_epoch", "test", "data", "batches")},
    }


def assert_same_outcome(first, second):
    """Two run directories hold the same results, to the bit."""
    first, second = outcome(first), outcome(second)
    for key in first:
        assert first[key] == second[key], key
