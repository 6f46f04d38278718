"""What a person should know about data before training: unknown tokens, rows that leak, how often each label is.

`check` shows it and a run records it; nothing of it changes a run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

import datasets
import numpy as np
from numpy.typing import NDArray

from pipeline.data.table import values_of
from pipeline.tasks.base import Examples, Task, token_id
from pipeline.tasks.sequence_classification import LabeledTexts
from pipeline.tasks.sequence_to_sequence import TextPairs
from pipeline.tasks.token_classification import TaggedSentences


@dataclass(frozen=True)
class Observations:
    """What one split shows: `counts` by what is counted, and how often each label is; no labels without classes."""

    counts: dict[str, int]
    labels: dict[str, int]


def observe(
    task: Task, splits: Mapping[str, datasets.Dataset], examples: Mapping[str, Examples]
) -> dict[str, Observations]:
    """The observations of each split."""
    # Of the training rows, which may be many, only those that another split has are kept.
    inputs = {split: [*_inputs(task, rows)] for split, rows in splits.items() if split != "train"}
    others = set(chain.from_iterable(inputs.values()))
    in_training = others.intersection(_inputs(task, splits["train"])) if others else set[int]()
    observed = {}
    for split in splits:
        counts = _unknown_tokens(task, examples[split])
        if split != "train":
            counts["rows that training has too"] = sum(each in in_training for each in inputs[split])
        observed[split] = Observations(counts, _label_counts(task, examples[split]))
    return observed


def _inputs(task: Task, rows: datasets.Dataset) -> Iterator[int]:
    """A number of 64 bits for what the model sees of each row, in this process; rows without any text are left out."""
    columns = [values_of(rows, name) for name in task.prediction_fields if name in rows.column_names]
    for values in zip(*columns, strict=True):
        if any(map(_has_text, values)):
            yield hash(values if all(isinstance(value, str) for value in values) else json.dumps(values))


def _has_text(value: object) -> bool:
    return bool(value.strip()) if isinstance(value, str) else bool(value)


def _unknown_tokens(task: Task, examples: Examples) -> dict[str, int]:
    """How many tokens stand for something that the vocabulary lacks; nothing where no token is only for that."""
    if task.tokenizer.unk_token_id in (None, task.tokenizer.eos_token_id, task.tokenizer.pad_token_id):
        return {}
    unknown = token_id(task.tokenizer, "unk")
    counts = {"unknown tokens": _count(unknown, examples.features["input_ids"].values)}
    if isinstance(examples, TextPairs) and examples.labels is not None:
        counts["unknown tokens in targets"] = _count(unknown, examples.labels.values)
    return counts


def _count(token: int, ids: NDArray[np.integer]) -> int:
    """How often a token is among many, a part of which is in memory at a time."""
    return sum(int((ids[start : start + 2**20] == token).sum()) for start in range(0, len(ids), 2**20))


def _label_counts(task: Task, examples: Examples) -> dict[str, int]:
    if isinstance(examples, TaggedSentences) and examples.tags is not None:
        return _named(task, np.bincount(examples.tags.values, minlength=len(task.labels)))
    if not isinstance(examples, LabeledTexts) or examples.labels is None or not task.labels:
        return {}
    labels = examples.labels
    totals = labels.sum(axis=0) if labels.ndim == 2 else np.bincount(labels, minlength=len(task.labels))
    return _named(task, totals)


def _named(task: Task, totals: NDArray) -> dict[str, int]:
    return {name: int(total) for name, total in zip(task.labels, totals, strict=True)}
