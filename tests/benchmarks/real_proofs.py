"""Checks our metrics and both generators against independent programs, on runs of `tests.benchmarks.real_text`."""

import collections
import json
import re
import string
import subprocess
import sys

from tests.benchmarks.real_sets import read_lines

ROWS = 500


def sacrebleu(run, work):
    """Compare our BLEU with that of the command line of sacreBLEU on the same texts, to its last digit."""
    lines = read_lines(run / "predictions.jsonl")
    paths = []
    for key in ("prediction", "reference"):
        paths.append(work / f"{key}.txt")
        # The command line takes each line as a segment, so a text must not have line breaks; BLEU ignores them.
        texts = (" ".join(line[key].split("\n")) for line in lines)
        paths[-1].write_text("".join(text + "\n" for text in texts), encoding="utf-8")
    hypothesis, reference = map(str, paths)
    command = [sys.executable, "-m", "sacrebleu", reference, "-i", hypothesis, "-m", "bleu", "-b", "-w", "10"]
    theirs = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return _compared(f"sacreBLEU's command line, {len(lines)} texts", _metric(run, "sacrebleu"), theirs)


def squad(run, work):
    """Compare our F1 with the official formula of SQuAD 1.1 on the predictions of a run."""
    lines = read_lines(run / "predictions.jsonl")
    scores = [max(_f1(line["prediction"], answer) for answer in line["reference"]) for line in lines]
    return _compared(f"SQuAD F1, {len(lines)} answers", _metric(run, "squad_f1"), 100 * sum(scores) / len(scores))


def _normalized(text):
    """Lower case, then no punctuation, articles or extra white space, in the order of evaluate-v1.1.py."""
    text = "".join(character for character in text.lower() if character not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def _f1(prediction, answer):
    predicted, expected = _normalized(prediction).split(), _normalized(answer).split()
    common = sum((collections.Counter(predicted) & collections.Counter(expected)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(predicted), common / len(expected)
    return 2 * precision * recall / (precision + recall)


def generators(run, work, rows, environment):
    """Count the sources for which the two frameworks generate different texts with the same model."""
    source = work / "asked.jsonl"
    source.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    answers = []
    for framework in ("torch", "tensorflow"):
        out = work / f"answers-{framework}.jsonl"
        command = [sys.executable, "-m", "pipeline", "predict", str(run), "--input", str(source)]
        subprocess.run([*command, "--framework", framework, "--out", str(out)], env=environment, check=True)
        answers.append([line["target"] for line in read_lines(out)])
    differ = sum(first != second for first, second in zip(*answers, strict=True))
    distinct = len(set(answers[0]))
    return f"greedy text of {len(rows)} rows in both frameworks: {differ} differ ({distinct} distinct texts)"


def _metric(run, name):
    return json.loads((run / "metrics.json").read_text(encoding="utf-8"))["metrics"][name]


def _compared(what, ours, theirs):
    return f"{what}: ours {ours:.10f}, theirs {theirs:.10f}, difference {abs(ours - theirs):.1e}"
