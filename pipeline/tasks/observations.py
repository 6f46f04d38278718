"""What a person should know about data before training: unknown tokens, rows that leak, how often each label is.

`check` shows it and a run records it; nothing of it changes a run.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain

import datasets
import numpy as np
from numpy.typing import NDArray

from pipeline.data.table import values_of
from pipeline.tasks.base import Examples, Task
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
    in_training = _inputs(task, splits["train"]) if len(splits) > 1 else None
    observed = {}
    for split, rows in splits.items():
        counts = _unknown_tokens(task, examples[split])
        if split != "train" and in_training is not None:
            counts["rows that training has too"] = int(np.isin(_inputs(task, rows), in_training).sum())
        observed[split] = Observations(counts, _label_counts(task, examples[split]))
    return observed


def _inputs(task: Task, rows: datasets.Dataset) -> NDArray[np.uint64]:
    """A digest of what the model sees of each row; rows without any text are left out."""
    columns = [values_of(rows, name) for name in task.prediction_fields if name in rows.column_names]
    shown = (json.dumps(values) for values in zip(*columns, strict=True) if any(map(_has_text, values)))
    digests = (blake2b(text.encode(), digest_size=8).digest() for text in shown)
    return np.fromiter((int.from_bytes(digest, "big") for digest in digests), np.uint64)


def _has_text(value: object) -> bool:
    return bool(value.strip()) if isinstance(value, str) else bool(value)


def _unknown_tokens(task: Task, examples: Examples) -> dict[str, int]:
    """How many tokens stand for something that the vocabulary lacks; nothing where no token is only for that."""
    unknown = task.tokenizer.unk_token_id
    if unknown is None or unknown in (task.tokenizer.eos_token_id, task.tokenizer.pad_token_id):
        return {}
    counts = {"unknown tokens": int((examples.features["input_ids"].values == unknown).sum())}
    if isinstance(examples, TextPairs) and examples.labels is not None:
        counts["unknown tokens in targets"] = int((examples.labels.values == unknown).sum())
    return counts


def _label_counts(task: Task, examples: Examples) -> dict[str, int]:
    if isinstance(examples, TaggedSentences) and examples.tags is not None:
        counted = Counter(chain.from_iterable(examples.tags))
        return {name: counted[name] for name in task.labels}
    if not isinstance(examples, LabeledTexts) or examples.labels is None or not task.labels:
        return {}
    labels = examples.labels
    totals = labels.sum(axis=0) if labels.ndim == 2 else np.bincount(labels, minlength=len(task.labels))
    return {name: int(total) for name, total in zip(task.labels, totals, strict=True)}
