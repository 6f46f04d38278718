"""The package as a library: it leaves the process of its caller as it was."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import torch

from pipeline import UserError, attention_maps, check, finetune, predict

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


# In a process of its own, which has imported nothing.
IMPORTS_ALL = """
import os, warnings
import pipeline
from pipeline.backend import load_backend
names = [getattr(pipeline, name) for name in pipeline.__all__]
backends = [load_backend("torch"), load_backend("tensorflow")]
filters = [category.__module__ for _, _, category, _, _ in warnings.filters]
print([name for name in os.environ if name.startswith(("TORCH", "TF_"))])
print([module for module in filters if module.startswith("statsmodels")])
"""


@pytest.mark.slow
def test_importing_all_names_leaves_no_variable_and_no_filter_of_warnings():
    inherited = {name: os.environ[name] for name in ("PATH", "HOME")} | {"CUDA_VISIBLE_DEVICES": "-1"}
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS_ALL], env=inherited, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert done.stdout.splitlines() == ["[]", "[]"]


def draw():
    """A few numbers of every generator of this process."""
    layer = tf_keras.layers.Dense(2)
    layer.build([None, 2])
    return [
        random.random(), np.random.rand(), torch.rand(1).item(), tf.random.uniform([]).numpy(),
        tf.random.get_global_generator().uniform([]).numpy(), *layer.kernel.numpy().ravel(),
    ]  # fmt: skip


def seed_all():
    torch.manual_seed(5)
    tf_keras.utils.set_random_seed(5)  # Python's, NumPy's, TensorFlow's and Keras'
    tf.random.set_global_generator(tf.random.Generator.from_seed(5))


@pytest.mark.slow
def test_random_generators_continue_where_they_were(framework, small, tmp_path):
    seed_all()
    expected = [draw() for _ in range(5)]
    seed_all()
    drawn = [draw()]
    check(small, framework)
    drawn.append(draw())
    run = finetune(small, framework, "handwritten", out=tmp_path / "run")
    drawn.append(draw())
    assert len(list(predict(run, ["a fine film"]))) == 1
    drawn.append(draw())
    attention_maps(run, "a fine film")
    drawn.append(draw())
    assert drawn == expected


def test_random_generators_continue_where_they_were_after_a_run_that_fails(framework, small, tmp_path):
    seed_all()
    expected = [draw(), draw()]
    seed_all()
    drawn = [draw()]
    with pytest.raises(UserError, match="matches no weight"):
        finetune(small.override({"train.freeze": ["nothing"]}), framework, out=tmp_path / "run")
    drawn.append(draw())
    assert drawn == expected
