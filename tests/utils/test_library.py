"""The package as a library: it leaves the process of its caller as it was."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Runs in a process of its own, where nothing has configured anything; the libraries set their own log levels first.
PROGRAM = """
import csv, json, logging, os, random, signal, sys
import datasets, evaluate, numpy, transformers

framework, configured, folder = sys.argv[1:]

def state():
    generator = numpy.random.get_state()
    loggers = ["", *(name for name in ("tensorflow", "datasets", "transformers", "absl", "torch", "accelerate"))]
    return {
        "environment": dict(os.environ),
        "signals": [repr(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)],
        "levels": {name: logging.getLogger(name).level for name in loggers},
        "progress bars": datasets.are_progress_bars_disabled(),
        "random": [repr(random.getstate()), repr(generator[1].tolist()), generator[2]],
        "csv": csv.field_size_limit(),
        "path": list(sys.path),
    }

if configured == "configured":
    from pipeline.utils.environment import configure_process
    configure_process(framework)
before = state()
from pipeline import finetune, load_recipe, predict
from pipeline.training.experiment import check

recipe = load_recipe("sentiment_bert", {"data.limit.train": 64, "data.limit.validation": 16, "train.epochs": 1})
seen = {"import": state()}
check(recipe, framework, "handwritten")
seen["check"] = state()
run = finetune(recipe, framework, "handwritten", out=folder)
seen["finetune"] = state()
predictions = list(predict(run, ["a fine film"]))
seen["predict"] = state()
changed = {
    f"{moment}: {what}": [value, now[what]]
    for moment, now in seen.items() for what, value in before.items() if now[what] != value
}
print(json.dumps({"changed": changed, "accuracy": run.metrics["accuracy"], "predictions": len(predictions)}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("configured", ["configured", "as it is"])
def test_a_caller_finds_the_process_as_it_was(framework, configured, tmp_path):
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "OMP_NUM_THREADS", "HF_DATASETS_CACHE")}
    environment = inherited | {"CUDA_VISIBLE_DEVICES": "-1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    out = subprocess.run(
        [sys.executable, "-c", PROGRAM, framework, configured, str(tmp_path / "run")],
        env=environment, stdout=subprocess.PIPE, text=True, check=True, cwd=tmp_path,
    ).stdout  # fmt: skip
    report = json.loads(out.splitlines()[-1])
    assert report["changed"] == {}
    assert 0 <= report["accuracy"] <= 1 and report["predictions"] == 1
