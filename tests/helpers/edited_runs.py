"""Runs as people leave them who edit their files by hand: one change at a random place, of any file that is read."""

import contextlib
import io
import json
import os
import random
import shutil
from collections import Counter
from unittest import mock

import numpy as np
import yaml
from safetensors.numpy import load_file, save_file

from pipeline import finetune
from pipeline.cli.main import execute
from tests.helpers.families import recipe_of

VALUES = [
    None, -1, 0, 1,
    2, 7, 10**30, 1.5, float("inf"), float("nan"), "", "a" * 300, "x", "\ud800", "\x1b[31m", [], [None], [1, 2], {},
    {"a": 1}, {"0": "x"}, True, False,
]  # fmt: skip
RECORDS = ("recipe.yaml", "metrics.json", "environment.json", "history.jsonl", "predictions.jsonl")
MODEL = (
    "model/config.json", "model/generation_config.json", "model/tokenizer.json", "model/tokenizer_config.json",
    "model/special_tokens_map.json", "model/model.safetensors", "model/vocab.txt", "model/vocab.json",
    "model/merges.txt",
)  # fmt: skip
# The verbs that read a run, and the files of it that each reads; those that matter more are more often edited.
VERBS = {
    "report": (*RECORDS, *RECORDS, "probe.npz", "model/config.json"),
    "predict": ("recipe.yaml", "metrics.json", "environment.json", *MODEL, "model/config.json"),
    "attention-maps": ("recipe.yaml", "metrics.json", "environment.json", *MODEL, "model/config.json"),
}
# Text that stands where JSON or YAML should.
TEXTS = ["", "null", "7", "[]", "{", '"', "[" * 100_000, "a: [", "\x00", "é\n", "<<<<<<< HEAD\n"]
# Bytes that are no text, or no file of weights.
CONTENTS = [b"", b"\xff\xfe\x00", b"PK\x03\x04", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ", bytes(range(256)) * 4]


def runs_to_edit(folder, framework):
    """A tiny run of each model family, that of BERT in `framework`; beside each is `other`, of another seed."""
    runs = []
    for kind in ("single-label", "causal rows", "sequence-to-sequence"):
        place = folder / kind.replace(" ", "-")
        place.mkdir(parents=True)
        # TensorFlow, which takes seconds to train, opens a model of PyTorch, too.
        trained_in = framework if kind == "single-label" else "torch"
        runs.append(finetune(recipe_of(kind, place, num_rows=16), trained_in, out=place / "run").path)
        other = shutil.copytree(runs[-1], place / "other")
        metrics = json.loads((other / "metrics.json").read_text(encoding="utf-8"))
        (other / "metrics.json").write_text(json.dumps(metrics | {"seed": 1}), encoding="utf-8")
    return runs


@contextlib.contextmanager
def undrawn():
    """Neither maps nor pages are drawn, which takes seconds; a file or a folder stands for them."""
    with (
        mock.patch("pipeline.runs.attention_figure.draw_attention_maps", lambda maps, path, title: path.touch()),
        mock.patch("pipeline.reporting.writer.write_report", lambda results, folder: folder.mkdir(parents=True)),
    ):
        yield


def count_edits(verb, runs, framework, folder, number, seed):
    """Make so many edits, each of a copy of one of the runs, and give each to a verb.

    Returns how often it ended with which exit code, and each end that is neither an answer nor one message.
    """
    rng, ends, wrong = random.Random(f"{verb} {seed}"), Counter(), []
    for _ in range(number):
        original = rng.choice(runs)
        run = shutil.copytree(original, folder / "run")
        # Else the digests alone would tell that a file of the model was edited.
        metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
        (run / "metrics.json").write_text(json.dumps(metrics | {"model_files": {}}), encoding="utf-8")
        done = edited(run, rng, VERBS[verb])
        code, error = _end_of(verb, run, original.with_name("other"), framework, folder / "out")
        ends[f"exit {code}"] += 1
        is_explained = bool(error.strip()) and "bug" not in error and "Traceback" not in error
        if code not in (0, 2) or is_explained != (code == 2) or (folder / "out").exists() != (code == 0):
            wrong.append(f"{verb} {run}: {done}: exit {code}: {error}")
        shutil.rmtree(folder)
    return ends, wrong


def _end_of(verb, run, other, framework, out):
    """The exit code of the verb with the run, and what it said to standard error."""
    words = [str(other)] if verb == "report" else ["--framework", framework, "--text", "good food"]
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = execute([verb, str(run), *words, "--out", str(out)])
    return code, said.getvalue()


def edited(run, rng, files):
    """Change one of the run's files at a random place, as by hand; returns what was done."""
    file = run / rng.choice([name for name in files if (run / name).is_file()])
    if file.name.endswith(".safetensors"):
        return f"{file.name}: {_edit_weights(file, rng)}"
    if file.name.endswith(".npz") or rng.random() < 0.15:
        return f"{file.name}: {_edit_file(file, rng)}"
    if file.name.endswith((".json", ".jsonl", ".yaml")):
        return f"{file.name}: {_edit_content(file, rng)}"
    return f"{file.name}: {_edit_text(file, rng)}"


def _edit_content(file, rng):
    """Another value, or none, at a random key of the file's JSON or YAML, in one of its lines if it has many."""
    text = file.read_text(encoding="utf-8")
    lines = text.splitlines() if file.suffix == ".jsonl" else [text]
    number = rng.randrange(len(lines))
    content = yaml.safe_load(lines[number]) if file.suffix == ".yaml" else json.loads(lines[number])
    place, path = content, []
    while isinstance(place, dict | list) and place:
        key = rng.choice(sorted(place)) if isinstance(place, dict) else rng.randrange(min(len(place), 40))
        path.append(key)
        if not isinstance(place[key], dict | list) or not place[key] or rng.random() < 0.3:
            break
        place = place[key]
    value = rng.choice([*VALUES, "delete", "rename", "add"])
    if not path:
        content = value
    elif value == "delete":
        del place[path[-1]]
    elif isinstance(place, dict) and value in ("rename", "add"):
        place["x"] = place.pop(path[-1]) if value == "rename" else place[path[-1]]
    else:
        place[path[-1]] = value
    lines[number] = yaml.safe_dump(content) if file.suffix == ".yaml" else json.dumps(content)
    file.write_text("\n".join(lines), encoding="utf-8")
    return f"line {number + 1}: {'.'.join(map(str, path))} = {value!r}"[:200]


def _edit_file(file, rng):
    """No file, another kind of file, or other content altogether."""
    way = rng.choice(["delete", "folder", "dangling", "loop", "text", "bytes", "cut"])
    content = file.read_bytes()
    file.unlink()
    if way == "folder":
        file.mkdir()
    elif way in ("dangling", "loop"):
        os.symlink("nowhere" if way == "dangling" else file.name, file)
    elif way == "text":
        file.write_text(rng.choice(TEXTS), encoding="utf-8")
    elif way == "bytes":
        file.write_bytes(rng.choice(CONTENTS))
    elif way == "cut":
        file.write_bytes(content[: rng.randrange(len(content) + 1)])
    return way


def _edit_text(file, rng):
    """A line of a plain file left out, repeated, or in other words."""
    lines = file.read_text(encoding="utf-8").splitlines()
    number, way = rng.randrange(len(lines)), rng.choice(["delete", "repeat", *TEXTS])
    lines[number : number + 1] = {"delete": [], "repeat": [lines[number]] * 2}.get(way, [way])
    file.write_text("\n".join(lines), encoding="utf-8")
    return f"line {number + 1}: {way!r}"[:200]


def _edit_weights(file, rng):
    """A tensor left out, cut, of another type or name, not finite; or another file altogether."""
    way = rng.choice(
        ["delete", "cut", "integers", "float16", "rename", "nan", "empty", "scalar", "add", "no format", "file"]
    )
    if way == "file":
        return _edit_file(file, rng)
    weights = load_file(file)
    name = rng.choice(sorted(weights))
    value = weights.pop(name)
    changes = {
        "cut": {name: value[:1].copy()}, "integers": {name: value.astype("i4")}, "float16": {name: value.astype("f2")},
        "rename": {f"x.{name}": value}, "nan": {name: np.full_like(value, np.nan)}, "empty": {name: value[:0].copy()},
        "scalar": {name: np.array(1, "f4")}, "add": {name: value, "x": value}, "no format": {name: value},
    }  # fmt: skip
    save_file(weights | changes.get(way, {}), file, metadata=None if way == "no format" else {"format": "pt"})
    return f"{way} {name}"
