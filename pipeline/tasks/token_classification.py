"""Token classification: a tag for each word of a sentence, such as named entities in IOB2."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray

from pipeline.data.batches import Batch, Features, Ragged
from pipeline.metrics.specs import default_metrics_for, metrics_for
from pipeline.tasks.base import (
    Examples,
    ScoredExample,
    Task,
    class_names,
    cut_rows,
    equal_weights,
    first_problems,
    in_checkpoint_order,
    label_maps,
    listed,
    log_softmax,
)
from pipeline.utils.errors import did_you_mean

OUTSIDE = "O"


class TokenClassification(Task):
    """The rules of the family for one recipe.

    A word's tag stands on its first piece only; the other pieces have no loss. A word that truncation cut off, or that
    the tokenizer drops (it may consist of control characters), is predicted to be outside, and scored so.
    """

    auto_class = "AutoModelForTokenClassification"
    required = ("tokens", "tags")
    asked = ("tokens",)
    metrics = metrics_for("token-classification")
    default_metrics = default_metrics_for("token-classification")

    def row_problems(self, split: str, rows: datasets.Dataset) -> Iterable[str]:
        """Sentences without words, and tags that are not one a word."""
        names = class_names(rows, "tags")
        columns = zip(rows["tokens"][:], rows["tags"][:], strict=True)

        def problems() -> Iterator[str]:
            for number, (tokens, tags) in enumerate(columns, start=1):
                where = f"{split} row {number}:"
                if not isinstance(tokens, list) or not all(isinstance(word, str) for word in tokens):
                    yield f"{where} tokens is {_short(tokens)}, want a list of words"
                elif not tokens:
                    yield f"{where} tokens is empty; mend or remove the row"
                elif not isinstance(tags, list) or any(not isinstance(tag, str | int) for tag in tags):
                    yield f"{where} tags is {_short(tags)}, want a list with a tag for each word"
                elif len(tags) != len(tokens):
                    yield f"{where} tokens has {len(tokens)} words, but tags has {len(tags)}; want one for each"
                elif names is not None and any(not 0 <= tag < len(names) for tag in tags):
                    yield f"{where} tags has an id outside 0 to {len(names) - 1}"

        return first_problems(split, problems())

    def fit_labels(self, splits: dict[str, datasets.Dataset], checkpoint_labels: dict[str, int]) -> list[str]:
        """Take the tags from the training split, in the order of a checkpoint that has the same ones."""
        known = {tag for tags in _tags(splits["train"]) for tag in tags}
        problems = []
        for split, rows in splits.items():
            unknown = (
                f'{split} row {number}: the tag "{tag}" is one that training never has ({listed(sorted(known))}).'
                f"{did_you_mean(tag, known)}"
                for number, tags in enumerate(_tags(rows), start=1)
                for tag in dict.fromkeys(tags)
                if tag not in known
            )
            problems += first_problems(split, unknown)
        names = class_names(splits["train"], "tags") or tuple(sorted(known))
        if wrong := [name for name in names if name != OUTSIDE and not re.fullmatch(r"[BI]-.+", name)]:
            problems.append(f'tags must be "O", "B-..." or "I-..." (IOB2), but train has: {listed(wrong)}')
        if not problems and len(known) < 2:
            problems.append(f'train has the one tag "{listed(known)}"; is data.columns.tags the right column?')
        self.labels = in_checkpoint_order(names, checkpoint_labels)
        return problems + self.setting_problems(("label_smoothing",))

    def config_changes(self) -> dict[str, Any]:
        """What the model's config must say."""
        return label_maps(self.labels)

    def setup(self, config: Any, tokenizer: Any) -> None:
        """Take config and tokenizer, and the tags of a model that has learned them."""
        super().setup(config, tokenizer)
        self.labels = self.labels or tuple(config.id2label[i] for i in range(config.num_labels))

    def encode(self, rows: datasets.Dataset) -> Examples:
        """Cut words into pieces and find each word's first; what truncation costs is counted."""
        words = rows["tokens"][:]
        encoded = self.tokenizer(
            words, is_split_into_words=True, truncation=True, max_length=self.recipe.data.max_length,
            return_attention_mask=False,
        )  # fmt: skip
        features = {key: Ragged.of(value) for key, value in encoded.items()}
        # For each row, the word that begins at a position, or -1.
        begins = [_first_pieces(encoded.word_ids(row)) for row in range(len(words))]
        kept = np.array([sum(word >= 0 for word in row) for row in begins], dtype=np.int64)
        extra: dict[str, Any] = {"words": words, "begins": Ragged.of(begins), "cut": cut_rows(encoded)}
        counts = {"rows": len(words), "truncated": int(extra["cut"].sum())}
        if "tags" in rows.column_names:
            extra["tags"] = list(_tags(rows))
            counts["words without label"] = int(sum(map(len, words)) - kept.sum())
            counts["entities cut"] = sum(map(_entities_cut, extra["tags"], begins))
        return Examples(features, features["input_ids"].lengths, kept, counts, extra)

    def targets(self, examples: Examples, batch: Batch) -> Features:
        """`labels` [B, width] tag ids, and `loss_weights` that are 0 but on first pieces."""
        ids = {name: i for i, name in enumerate(self.labels)}
        begins = examples.extra["begins"].padded(batch.rows, batch.widths[0], -1)
        labels = np.zeros(begins.shape, np.int32)
        for i, row in enumerate(batch.rows):
            tag_ids = np.array([ids[tag] for tag in examples.extra["tags"][row]], np.int32)
            labels[i][begins[i] >= 0] = tag_ids[begins[i][begins[i] >= 0]]
        return {"labels": labels, "loss_weights": equal_weights(begins >= 0)}

    def score_batch(self, output: NDArray, examples: Examples, rows: NDArray) -> list[ScoredExample]:
        """Predicted tags of all words beside the true ones."""
        ids = {name: i for i, name in enumerate(self.labels)}
        scored = []
        for logits, response, row in zip(output, self.decode_batch(output, examples, rows), rows, strict=True):
            tags, begins = examples.extra["tags"][row], examples.extra["begins"][row]
            positions = np.flatnonzero(begins >= 0)
            truth = [ids[tags[begins[position]]] for position in positions]
            loss = -float(log_softmax(logits[positions])[np.arange(len(positions)), truth].sum())
            line = {"prediction": response["tags"], "reference": tags}
            columns = {"predictions": response["tags"], "references": tags}
            scored.append(ScoredExample(line, columns, loss, len(positions)))
        return scored

    def decode_batch(self, output: NDArray, examples: Examples, rows: NDArray) -> list[dict[str, Any]]:
        """A tag for every word, and the entities that the tags make, with the mean probability of their words."""
        responses = []
        for logits, row in zip(output, rows, strict=True):
            words, begins = examples.extra["words"][row], examples.extra["begins"][row]
            positions = np.flatnonzero(begins >= 0)
            best = logits[positions].argmax(axis=-1)
            probabilities = np.exp(log_softmax(logits[positions]))[np.arange(len(positions)), best]
            tags, scores = [OUTSIDE] * len(words), [1.0] * len(words)
            for position, tag, probability in zip(positions, best, probabilities, strict=True):
                tags[begins[position]], scores[begins[position]] = self.labels[tag], float(probability)
            entities = [
                {
                    "type": kind,
                    "text": " ".join(words[start:end]),
                    "start": start,
                    "end": end,
                    "score": round(sum(scores[start:end]) / (end - start), 6),
                }
                for kind, start, end in spans(tags)
            ]
            responses.append({"tokens": words, "tags": tags, "entities": entities})
        return responses

    def row_from_text(self, text: str) -> dict[str, Any]:
        """A plain text cut into words as the tokenizer's first step does it."""
        words = self.tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)
        return {"tokens": [word for word, _ in words]}


def spans(tags: list[str]) -> list[tuple[str, int, int]]:
    """Entities as (type, first word, word after the last); an I- that continues nothing begins an entity of its own."""
    found: list[tuple[str, int, int]] = []
    for i, tag in enumerate(tags):
        prefix, _, kind = tag.partition("-")
        if prefix == "I" and found and found[-1][0] == kind and found[-1][2] == i:
            found[-1] = (kind, found[-1][1], i + 1)
        elif prefix in ("B", "I"):
            found.append((kind, i, i + 1))
    return found


def _first_pieces(word_ids: list[int | None]) -> list[int]:
    """For each piece, the word that it begins, or -1."""
    previous, begins = None, []
    for word in word_ids:
        begins.append(-1 if word is None or word == previous else word)
        previous = word
    return begins


def _entities_cut(tags: list[str], begins: list[int]) -> int:
    """How many entities of a sentence lost a word."""
    kept = set(begins)
    return sum(any(word not in kept for word in range(start, end)) for _, start, end in spans(tags))


def _tags(rows: datasets.Dataset) -> Iterator[list[str]]:
    """Each row's tags as names."""
    names = class_names(rows, "tags")
    for tags in rows["tags"][:]:
        yield [str(tag) if names is None else names[tag] for tag in tags]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
