"""Made-up evaluations of every kind: the lines of predictions.jsonl, and the columns that metrics read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

NUM_EXAMPLES = 61
WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "17", "dogs", "ran", "home", ",", "quickly", "!"]
LABELS = ("bad", "fair", "good")


@dataclass(frozen=True)
class Evaluation:
    """The same examples as predictions.jsonl holds them and as metrics read them."""

    lines: list[dict[str, Any]]
    columns: dict[str, list]
    labels: tuple[str, ...] = ()


def one_class(rng, labels=LABELS):
    """One class for each example; the scores have ties."""
    references, predictions = rng.integers(len(labels), size=(2, NUM_EXAMPLES))
    predictions = np.where(rng.random(NUM_EXAMPLES) < 0.6, references, predictions)
    scores = rng.uniform(1 / len(labels), 1, NUM_EXAMPLES).round(1)
    triples = zip(predictions, references, scores, strict=True)
    lines = [{"prediction": labels[p], "reference": labels[r], "score": float(s)} for p, r, s in triples]
    columns = {"predictions": predictions.tolist(), "references": references.tolist()}
    if len(labels) == 2:
        of_class_1 = np.where(predictions == 1, scores, 1 - scores)
        columns["scores"] = np.stack([1 - of_class_1, of_class_1], axis=1).tolist()
    else:
        columns["scores"] = rng.random((NUM_EXAMPLES, len(labels))).round(1).tolist()
        for line, of_classes in zip(lines, columns["scores"], strict=True):
            line["scores"] = of_classes
    return Evaluation(lines, columns, labels)


def two_classes(rng):
    """One of two classes for each example."""
    return one_class(rng, LABELS[:2])


def any_labels(rng):
    """Any number of labels for each example."""
    is_true = rng.random((NUM_EXAMPLES, len(LABELS))) < 0.3
    scores = np.clip(0.5 * is_true + rng.random(is_true.shape) * 0.7, 0, 1).round(1)
    is_predicted = scores > 0.5

    def chosen(flags):
        return [name for name, is_set in zip(LABELS, flags, strict=True) if is_set]

    lines = [
        {"prediction": chosen(p), "reference": chosen(r), "score": dict(zip(LABELS, s.tolist(), strict=True))}
        for p, r, s in zip(is_predicted, is_true, scores, strict=True)
    ]
    columns = {"predictions": is_predicted.astype(int).tolist(), "references": is_true.astype(int).tolist()}
    return Evaluation(lines, columns | {"scores": scores.tolist()}, LABELS)


def numbers(rng):
    """A number for each example, with ties."""
    references = rng.integers(1, 9, NUM_EXAMPLES) / 2
    predictions = references + rng.normal(size=NUM_EXAMPLES).round(1)
    lines = [{"prediction": float(p), "reference": float(r)} for p, r in zip(predictions, references, strict=True)]
    return Evaluation(lines, {"predictions": predictions.tolist(), "references": references.tolist()})


def tags(rng):
    """Tagged words."""
    known = ["O", "O", "B-person", "I-person", "B-place", "I-place"]
    references = [rng.choice(known, rng.integers(1, 9)).tolist() for _ in range(NUM_EXAMPLES)]
    predictions = [[tag if rng.random() < 0.8 else str(rng.choice(known)) for tag in row] for row in references]
    lines = [{"prediction": p, "reference": r} for p, r in zip(predictions, references, strict=True)]
    return Evaluation(lines, {"predictions": predictions, "references": references})


def answers(rng):
    """Answers to questions, a third of which have none."""
    texts = _pairs_of_texts(rng)
    accepted = [[reference, "the cat"] if i % 3 else [] for i, (_, reference) in enumerate(texts)]
    lines = [{"prediction": p, "reference": several} for (p, _), several in zip(texts, accepted, strict=True)]
    return Evaluation(lines, {"predictions": [p for p, _ in texts], "references": accepted})


def generated(rng):
    """Generated texts, with the losses of their references."""
    texts, losses = _pairs_of_texts(rng), token_losses(rng)
    lines = [
        {"prediction": p, "reference": r, "loss_sum": line["loss_sum"], "tokens": line["tokens"]}
        for (p, r), line in zip(texts, losses.lines, strict=True)
    ]
    return Evaluation(
        lines, losses.columns | {"predictions": [p for p, _ in texts], "references": [[r] for _, r in texts]}
    )


def token_losses(rng):
    """Texts whose tokens are predicted one by one."""
    tokens = rng.integers(1, 20, NUM_EXAMPLES)
    lines = [
        {
            "loss_sum": float(count * rng.uniform(0.5, 3)),
            "tokens": int(count),
            "bytes": int(4 * count),
            "correct": int(rng.integers(count + 1)),
            "floor": float(count / 2),
        }
        for count in tokens
    ]
    columns = {"loss_sum": "loss_sums", "floor": "floor_nats"}
    return Evaluation(lines, {columns.get(key, key): [line[key] for line in lines] for key in lines[0]})


# One or more evaluations that hold each outcome.
MAKERS = {
    "class": (two_classes, one_class),
    "labels": (any_labels,),
    "number": (numbers,),
    "tags": (tags,),
    "answer": (answers,),
    "text": (generated,),
    "token_losses": (token_losses, generated),
    "token_bytes": (token_losses,),
    "loss_floor": (token_losses,),
    "hidden_tokens": (token_losses,),
}


def _pairs_of_texts(rng):
    """(prediction, reference) of each example; some are equal, and others have the words in another order."""
    references = [" ".join(rng.choice(WORDS, rng.integers(1, 12))) for _ in range(NUM_EXAMPLES)]
    return [(r if rng.random() < 0.3 else " ".join(rng.permutation(r.split())[1:]), r) for r in references]
