"""Sequence classification: one sentence or a pair, one label."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray

from pipeline.batches import Features, Ragged
from pipeline.data import empty_text_problems
from pipeline.errors import UserError, did_you_mean
from pipeline.recipe import Recipe


@dataclass(frozen=True)
class Examples:
    """One tokenised split: `features` by model input name, `labels` [N] as class ids, `lengths` [N] in tokens."""

    features: dict[str, Ragged]
    labels: NDArray[np.int32]
    lengths: NDArray[np.int64]
    truncated: int


class Task:
    """The rules of the family for one recipe; `learn_labels` must have seen the splits before anything else."""

    auto_class = "AutoModelForSequenceClassification"
    families = ("bert", "gpt2")
    required = ("text", "label")
    optional = ("text_pair",)
    default_metrics = ("accuracy",)

    def __init__(self, recipe: Recipe):
        self.recipe = recipe
        self.labels: tuple[str, ...] = ()

    def learn_labels(self, splits: dict[str, datasets.Dataset], checkpoint_labels: dict[str, int]) -> None:
        """Take the label names from the training split, in the order of a checkpoint that has the same names.

        Raises UserError with every fault of texts and labels at once.
        """
        problems = []
        for split, rows in splits.items():
            for field in ("text", "text_pair"):
                if field in rows.column_names:
                    problems += empty_text_problems(split, field, rows[field][:])
        problems += self._label_problems(splits)
        names = _label_names(splits["train"]) if not problems else ()
        if set(names) == set(checkpoint_labels):
            names = tuple(sorted(names, key=checkpoint_labels.get))
        if not problems:
            problems += self._setting_problems(names)
        if problems:
            raise UserError("\n".join(f"recipe {self.recipe.name}: {text}" for text in problems))
        self.labels = names

    def config_changes(self) -> dict[str, Any]:
        """What the model's config must say."""
        return {
            "num_labels": len(self.labels),
            "id2label": dict(enumerate(self.labels)),
            "label2id": {name: i for i, name in enumerate(self.labels)},
            "problem_type": "single_label_classification",
        }

    def encode(self, rows: datasets.Dataset, tokenizer: Any) -> Examples:
        """Tokenise one split; rows over `data.max_length` tokens are cut and counted."""
        pairs = [rows["text_pair"][:]] if "text_pair" in rows.column_names else []
        encoded = tokenizer(
            rows["text"][:], *pairs, truncation=True, max_length=self.recipe.data.max_length,
            return_attention_mask=False, return_overflowing_tokens=False,
        )  # fmt: skip
        features = {key: Ragged.of(value) for key, value in encoded.items()}
        truncated = sum(bool(encoding.overflowing) for encoding in encoded.encodings)
        ids = {name: i for i, name in enumerate(self.labels)}
        labels = np.array([ids[name] for name in _names(rows)], dtype=np.int32)
        return Examples(features, labels, features["input_ids"].lengths, truncated)

    def collate(self, examples: Examples, rows: NDArray, width: int, pad_token_id: int) -> Features:
        """Inputs of the model for these rows, each [B, width]."""
        batch = {
            key: ragged.padded(rows, width, pad_token_id if key == "input_ids" else 0)
            for key, ragged in examples.features.items()
        }
        batch["attention_mask"] = (np.arange(width) < examples.lengths[rows][:, None]).astype(np.int32)
        return batch

    def targets(self, examples: Examples, rows: NDArray) -> Features:
        """`labels` [B] and `loss_weights` [B] that sum to 1 over these rows, which make one whole update.

        The loss of an update is the weighted sum of its examples' losses, so splitting the update into micro-batches
        or among processes cannot change it.
        """
        labels = examples.labels[rows]
        weights = self._class_weights(examples)[labels]
        return {"labels": labels, "loss_weights": (weights / weights.sum()).astype(np.float32)}

    def losses(self, logits: NDArray, examples: Examples, rows: NDArray) -> NDArray[np.float64]:
        """Cross-entropy of each row in nats, [B], in float64: the plain one, without smoothing or class weights."""
        return -_log_softmax(logits)[np.arange(len(rows)), examples.labels[rows]]

    def decode(self, logits: NDArray) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Predicted class ids [B] and their probabilities [B] from logits [B, classes]."""
        predicted = logits.argmax(axis=-1)
        return predicted, np.exp(_log_softmax(logits))[np.arange(len(logits)), predicted]

    def describe(self, predicted: int, score: float, reference: int) -> dict[str, Any]:
        """A line of predictions.jsonl, less its index."""
        return {
            "prediction": self.labels[predicted],
            "reference": self.labels[reference],
            "score": round(float(score), 6),
        }

    def _label_problems(self, splits: dict[str, datasets.Dataset]) -> list[str]:
        problems: list[str] = []
        known = set(_names(splits["train"]))
        for split, rows in splits.items():
            wrong = []
            is_class_label = isinstance(rows.features["label"], datasets.ClassLabel)
            for number, (raw, name) in enumerate(zip(rows["label"][:], _names(rows), strict=True), start=1):
                if raw is None or raw == "":
                    wrong.append(f"{split} row {number}: label is {'null' if raw is None else 'empty'}")
                elif is_class_label and raw < 0:
                    wrong.append(f"{split} row {number}: label is {raw}, which marks a row without a label")
                elif not isinstance(raw, str | int):
                    wrong.append(f"{split} row {number}: label is {raw!r}, want a whole number or text")
                elif name not in known:
                    wrong.append(
                        f'{split} row {number}: label is "{name}", which training never has '
                        f"({_listed(sorted(known))}).{did_you_mean(name, known)}"
                    )
            problems += wrong[:3] + ([f"{split}: {len(wrong) - 3} more rows like these"] if wrong[3:] else [])
        if not problems and len(known) < 2:
            problems.append(f'train has the one label "{known.pop()}"; classification wants at least two')
        if not problems and len(known) > 1000:
            problems.append(f"train has {len(known)} different labels; is data.columns.label the right column?")
        return problems

    def _setting_problems(self, names: tuple[str, ...]) -> list[str]:
        weights = self.recipe.train.class_weights
        if isinstance(weights, tuple) and len(weights) != len(names):
            return [f"train.class_weights has {len(weights)} numbers for {len(names)} labels: {_listed(names)}"]
        if isinstance(weights, dict) and set(weights) != set(names):
            return [f"train.class_weights names {_listed(sorted(weights))}, but the labels are {_listed(names)}"]
        return []

    def _class_weights(self, examples: Examples) -> NDArray[np.float64]:
        """A weight for each class [classes]; "balanced" is scikit-learn's N / (classes · count)."""
        weights = self.recipe.train.class_weights
        if weights is None:
            return np.ones(len(self.labels))
        if weights == "balanced":
            counts = np.bincount(examples.labels, minlength=len(self.labels))
            return len(examples.labels) / (len(self.labels) * np.maximum(counts, 1))
        return np.array([weights[name] for name in self.labels] if isinstance(weights, dict) else weights)


def _names(rows: datasets.Dataset) -> Iterator[str]:
    """Each row's label as its name: ClassLabel ids by their names, numbers and texts as they are written."""
    feature = rows.features["label"]
    for value in rows["label"][:]:
        if isinstance(feature, datasets.ClassLabel) and isinstance(value, int) and 0 <= value < len(feature.names):
            yield feature.names[value]
        else:
            yield str(value)


def _label_names(rows: datasets.Dataset) -> tuple[str, ...]:
    """All label names, in the order of their ids: ClassLabel's own, numbers by size, texts by alphabet."""
    feature = rows.features["label"]
    if isinstance(feature, datasets.ClassLabel):
        return tuple(feature.names)
    return tuple(str(value) for value in sorted(set(rows["label"][:])))


def _listed(names: Any) -> str:
    names = list(names)
    return ", ".join(names[:10]) + (f", ... ({len(names)} in all)" if len(names) > 10 else "")


def _log_softmax(logits: NDArray) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
