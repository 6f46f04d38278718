"""Our metrics and our two generators against others, on the runs of `tests.benchmarks.real_text`."""

import collections
import json
import re
import string
import subprocess
import sys

from tests.benchmarks.real_sets import read_lines

ROWS = 500


def sacrebleu(run, work):
    """Ours and what sacreBLEU's own command line says of the same texts, to its last digit."""
    lines = read_lines(run / "predictions.jsonl")
    paths = []
    for key in ("prediction", "reference"):
        paths.append(work / f"{key}.txt")
        # A line break inside a text would be a new segment to the command line; BLEU's tokens know no breaks.
        texts = (" ".join(line[key].split("\n")) for line in lines)
        paths[-1].write_text("".join(text + "\n" for text in texts), encoding="utf-8")
    hypothesis, reference = map(str, paths)
    command = [sys.executable, "-m", "sacrebleu", reference, "-i", hypothesis, "-m", "bleu", "-b", "-w", "10"]
    theirs = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return _compared(f"sacreBLEU's command line, {len(lines)} texts", _metric(run, "sacrebleu"), theirs)


def squad(run, work):
    """Ours and SQuAD 1.1's official formula on the written predictions."""
    lines = read_lines(run / "predictions.jsonl")
    scores = [max(_f1(line["prediction"], answer) for answer in line["reference"]) for line in lines]
    return _compared(f"SQuAD F1, {len(lines)} answers", _metric(run, "squad_f1"), 100 * sum(scores) / len(scores))


def _normalised(text):
    """Lower case, without punctuation, articles and surplus white space: the order of evaluate-v1.1.py."""
    text = "".join(character for character in text.lower() if character not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def _f1(prediction, answer):
    found, wanted = _normalised(prediction).split(), _normalised(answer).split()
    common = sum((collections.Counter(found) & collections.Counter(wanted)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(found), common / len(wanted)
    return 2 * precision * recall / (precision + recall)


def generators(run, work, rows, environment):
    """How many of the same sources the two frameworks turn into different texts, with the same model."""
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
