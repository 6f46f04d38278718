"""Token classification: a tag for each word of a sentence, such as named entities in IOB2."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import datasets
import numpy as np
from numpy.typing import NDArray
from tokenizers.pre_tokenizers import ByteLevel

from pipeline.data.batches import Batch, Features
from pipeline.data.ragged import Ragged, TextLists
from pipeline.data.table import some_at_a_time, values_of
from pipeline.recipe.schema import Recipe
from pipeline.tasks.base import Examples, Prediction, ScoredExample, Task, joined, known
from pipeline.tasks.labels import (
    WHOLE_NUMBER,
    LabelNaming,
    class_names,
    in_checkpoint_order,
    label_maps,
    labels_in,
    listed,
    look_alikes,
    names_of_config,
    naming_of,
)
from pipeline.tasks.numerics import equal_weights, log_softmax, recorded, truncated_rows
from pipeline.tasks.validation import first_problems
from pipeline.utils.errors import did_you_mean
from pipeline.utils.text import shorten

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerFast

OUTSIDE = "O"


@dataclass(frozen=True, kw_only=True)
class TaggedSentences(Examples):
    """A tokenized split with each sentence's words and the ids of their tags.

    `word_starts` has the word that each piece begins, or -1.
    """

    words: TextLists
    word_starts: Ragged
    tags: Ragged | None = None


class TokenClassification(Task[TaggedSentences, ScoredExample, Prediction]):
    """The task for one recipe.

    The first piece of a word has its tag; the other pieces have no loss. A word that was truncated, or that the
    tokenizer drops (it may consist of control characters), is predicted to be outside of entities, and scored so.
    """

    auto_class = "AutoModelForTokenClassification"
    architectures = ("encoder",)
    outcomes = ("tags",)
    default_metrics = ("seqeval_f1", "seqeval_precision", "seqeval_recall")
    examples_class = TaggedSentences
    required = ("tokens", "tags")
    prediction_fields = ("tokens",)

    def __init__(self, recipe: Recipe):
        super().__init__(recipe)
        self.naming = LabelNaming()

    def row_problems(self, split: str, rows: datasets.Dataset) -> Iterable[str]:
        """Sentences without words, and sentences with more or fewer tags than words."""
        names = class_names(rows, "tags")
        columns = zip(values_of(rows, "tokens"), values_of(rows, "tags"), strict=True)

        def problems() -> Iterator[str]:
            for number, (tokens, tags) in enumerate(columns, start=1):
                where = f"{split} row {number}:"
                if not isinstance(tokens, list) or not all(isinstance(word, str) for word in tokens):
                    yield f"{where} tokens is {shorten(repr(tokens), 60)}, but must be a list of words"
                elif not tokens:
                    yield f"{where} tokens is empty; correct or remove the row"
                elif not isinstance(tags, list) or any(not isinstance(tag, str | int) for tag in tags):
                    yield f"{where} tags is {shorten(repr(tags), 60)}, but must be a list with a tag for each word"
                elif len(tags) != len(tokens):
                    yield f"{where} tokens has {len(tokens)} words, but tags has {len(tags)}; each word needs one"
                elif names is not None and any(not 0 <= tag < len(names) for tag in tags):
                    yield f"{where} tags has an id outside 0 to {len(names) - 1}"

        return first_problems(split, problems())

    def fit_labels(self, splits: dict[str, datasets.Dataset], checkpoint_labels: dict[str, int]) -> list[str]:
        """Take the tags from the training split, in the order of a checkpoint that has the same ones."""
        written = {tag for rows in splits.values() for tags in self._tags(rows) for tag in tags}
        try:
            self.naming = naming_of(self.recipe.data.labels, written)
        except ValueError as error:
            return [str(error)]
        in_training = {tag for tags in self._tags(splits["train"]) for tag in tags}
        known = in_training if self.naming.names is None else set(self.naming.names)
        lacks = "the training split" if self.naming.names is None else "data.labels"
        problems = look_alikes({tag for rows in splits.values() for tags in self._tags(rows) for tag in tags})
        for split, rows in splits.items():
            unknown = (
                f'{split} row {number}: the tag "{tag}" is not in {lacks} ({listed(sorted(known))}).'
                f"{did_you_mean(tag, known)}"
                for number, tags in enumerate(self._tags(rows), start=1)
                for tag in dict.fromkeys(tags)
                if tag not in known
            )
            problems += first_problems(split, unknown)
        names = self.naming.names or class_names(splits["train"], "tags") or tuple(sorted(known))
        hint = "; data.labels can name them" if all(map(WHOLE_NUMBER.fullmatch, known)) else ""
        if wrong := [name for name in names if name != OUTSIDE and not re.fullmatch(r"[BI]-.+", name)]:
            problems.append(f'tags must be "O", "B-..." or "I-..." (IOB2), but train has: {listed(wrong)}{hint}')
        if not problems and len(in_training) < 2:
            problems.append(
                f'train has only the tag "{listed(sorted(in_training))}"; is data.columns.tags the right column?'
            )
        self.labels = in_checkpoint_order(names, checkpoint_labels)
        return problems + self.setting_problems(("train.label_smoothing", "data.labels"))

    def _tags(self, rows: datasets.Dataset) -> Iterator[list[str]]:
        """Each row's tags as names."""
        stored_names = class_names(rows, "tags")
        return (list(self.naming.names_of(tags, stored_names)) for tags in labels_in(rows, "tags"))

    def _ids(self, tags: list[str]) -> list[int]:
        return [self.labels.index(tag) for tag in tags]

    def config_changes(self) -> dict[str, object]:
        """The tags with their numbers."""
        return label_maps(self.labels)

    def setup(self, config: PretrainedConfig, tokenizer: PreTrainedTokenizerFast) -> None:
        """Take config and tokenizer, and the tags of a trained model."""
        super().setup(config, tokenizer)
        self.labels = self.labels or names_of_config(config)
        begin_words_with_spaces(tokenizer)

    def encode(self, rows: datasets.Dataset) -> TaggedSentences:
        """Cut words into pieces and find the first piece of each; counts what truncation costs."""
        return joined([self._encode_some(some) for _, some in some_at_a_time(rows)])

    def _encode_some(self, rows: datasets.Dataset) -> TaggedSentences:
        words = rows["tokens"][:]
        encoded = self.tokenizer(
            words, is_split_into_words=True, truncation=True, max_length=self.recipe.data.max_length,
            return_attention_mask=False,
        )  # fmt: skip
        features = {key: Ragged.of(value) for key, value in encoded.items()}
        word_starts = [_first_pieces(encoded.word_ids(row)) for row in range(len(words))]
        kept = np.array([sum(word >= 0 for word in row) for row in word_starts], dtype=np.int64)
        truncated = truncated_rows(encoded)
        counts = {"rows": len(words), "truncated": int(truncated.sum())}
        tags = list(self._tags(rows)) if "tags" in rows.column_names else None
        if tags is not None:
            counts["words without label"] = int(sum(map(len, words)) - kept.sum())
            counts["entities cut"] = sum(map(_entities_cut, tags, word_starts))
        return TaggedSentences(
            features,
            lengths=features["input_ids"].lengths,
            num_targets=kept,
            counts=counts,
            truncated=truncated,
            words=TextLists.of(words),
            word_starts=Ragged.of(word_starts),
            tags=None if tags is None else Ragged.of([self._ids(sentence) for sentence in tags]),
        )

    def targets(self, examples: TaggedSentences, batch: Batch) -> Features:
        """`labels` [R, L] tag ids, and `loss_weights` that are 0 except on first pieces."""
        labels_of_rows = []
        for row in batch.rows:
            tag_ids, starts = known(examples.tags)[row], examples.word_starts[row]
            labels_of_rows.append(np.full(len(starts), -1))
            labels_of_rows[-1][starts >= 0] = tag_ids[starts[starts >= 0]]
        (stream,) = batch.layout(examples.lengths).streams
        labels = Ragged.of(labels_of_rows).laid_out(np.arange(len(batch.rows)), stream, -1)
        return {"labels": np.maximum(labels, 0), "loss_weights": equal_weights(labels >= 0)}

    def score_batch(self, output: NDArray, examples: TaggedSentences, rows: NDArray) -> list[ScoredExample]:
        """Predicted tags of all words beside the true ones."""
        scored = []
        for logits, predicted, row in zip(output, self.decode_batch(output, examples, rows), rows, strict=True):
            tag_ids, starts = known(examples.tags)[row], examples.word_starts[row]
            positions = np.flatnonzero(starts >= 0)
            truth, tags = tag_ids[starts[positions]], [self.labels[tag] for tag in tag_ids]
            loss = -float(log_softmax(logits[positions])[np.arange(len(positions)), truth].sum())
            line = {"prediction": predicted["tags"], "reference": tags}
            columns = {"predictions": predicted["tags"], "references": tags}
            scored.append(ScoredExample(line, columns, loss, len(positions)))
        return scored

    def decode_batch(self, output: NDArray, examples: TaggedSentences, rows: NDArray) -> list[Prediction]:
        """A tag for every word, and the entities that the tags form, with the mean probability of their words."""
        predictions: list[Prediction] = []
        for logits, row in zip(output, rows, strict=True):
            words, starts = examples.words[row], examples.word_starts[row]
            positions = np.flatnonzero(starts >= 0)
            best = logits[positions].argmax(axis=-1)
            probabilities = np.exp(log_softmax(logits[positions]))[np.arange(len(positions)), best]
            tags, scores = [OUTSIDE] * len(words), [1.0] * len(words)
            for position, tag, probability in zip(positions, best, probabilities, strict=True):
                tags[starts[position]], scores[starts[position]] = self.labels[tag], float(probability)
            entities = [
                {
                    "type": kind,
                    "text": " ".join(words[start:end]),
                    "start": start,
                    "end": end,
                    "score": float(recorded(np.array([sum(scores[start:end]) / (end - start)]))[0]),
                }
                for kind, start, end in spans(tags)
            ]
            predictions.append({"tokens": words, "tags": tags, "entities": entities})
        return predictions

    def field_of_row(self, name: str, row: Mapping[str, object]) -> object:
        """The words of a row, or of its text."""
        words, text = super().field_of_row(name, row), row.get("text")
        return self.row_from_text(text)[name] if words is None and isinstance(text, str) else words

    def field_problem(self, name: str, value: object) -> str | None:
        """What is wrong with the words of a row to predict."""
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            return f"is {str(value)[:60]!r}, but must be a list of words"
        return None if "".join(value).strip() else "is empty"

    def words_to_show(self, row: Mapping[str, object]) -> list[str]:
        """The row's words."""
        words = row["tokens"]
        assert isinstance(words, list), "`field_problem` has refused anything else"
        return words

    def row_from_text(self, text: str) -> dict[str, object]:
        """A plain text, split into words by the tokenizer's own rule."""
        parts = self.tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)
        # Some write words in an alphabet of bytes, or with the space before them.
        words = (text[start:end].strip() for _, (start, end) in parts)
        return {"tokens": [word for word in words if word]}


def begin_words_with_spaces(tokenizer: PreTrainedTokenizerFast) -> None:
    """Have a tokenizer for which the space before a word is a part of it take words one by one, in place.

    Without a space the first word of a text would be another one, and so would each word of a list of words. Saved, the
    tokenizer stays so.
    """
    rule = tokenizer.backend_tokenizer.pre_tokenizer
    if isinstance(rule, ByteLevel) and not rule.add_prefix_space:
        rule.add_prefix_space = True
        tokenizer.add_prefix_space = tokenizer.init_kwargs["add_prefix_space"] = True


def spans(tags: list[str]) -> list[tuple[str, int, int]]:
    """Entities as (type, first word, word after the last); an I- that continues nothing begins an entity."""
    entities: list[tuple[str, int, int]] = []
    for i, tag in enumerate(tags):
        prefix, _, kind = tag.partition("-")
        if prefix == "I" and entities and entities[-1][0] == kind and entities[-1][2] == i:
            entities[-1] = (kind, entities[-1][1], i + 1)
        elif prefix in ("B", "I"):
            entities.append((kind, i, i + 1))
    return entities


def _first_pieces(word_ids: list[int | None]) -> list[int]:
    """For each piece, the word that it begins, or -1."""
    previous, starts = None, []
    for word in word_ids:
        starts.append(-1 if word is None or word == previous else word)
        previous = word
    return starts


def _entities_cut(tags: list[str], word_starts: list[int]) -> int:
    """How many entities of a sentence lost a word to truncation."""
    kept = set(word_starts)
    return sum(any(word not in kept for word in range(start, end)) for _, start, end in spans(tags))
