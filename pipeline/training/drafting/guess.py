"""Guesses what a file is for: the task, the column of each of its fields, and its options."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from pipeline.training.drafting.look import FoundColumn, Look
from pipeline.utils.errors import UserError
from pipeline.utils.text import shorten

_LABELS = (
    "label", "labels", "class", "category", "sentiment", "intent", "topic", "stars", "rating", "score", "similarity",
    "target", "y",
)  # fmt: skip
_TAGS = ("tags", "ner_tags", "pos_tags", "labels", "ner", "pos")
# Names of a source and a target.
_PAIRS = (
    ("source", "target"), ("src", "tgt"), ("input", "output"), ("prompt", "completion"), ("instruction", "output"),
    ("article", "highlights"), ("document", "summary"), ("text", "summary"), ("dialogue", "summary"),
    ("question", "answer"), ("meaning_representation", "human_reference"),
)  # fmt: skip
_FIRST_TEXTS = ("text", "sentence1", "sentence", "premise", "question1", "review", "title", "content")


@dataclass(frozen=True)
class Guess:
    """What a recipe would say of a file; `reasons` are for the person who reads it.

    `text_columns` are those whose texts the model reads as one input, `target` the one that it learns to write.
    """

    task: str
    columns: dict[str, str | int]
    reasons: list[str]
    options: Mapping[str, object] = field(default_factory=dict)
    text_columns: tuple[FoundColumn, ...] = ()
    target: FoundColumn | None = None
    label: FoundColumn | None = None


def guess(look: Look) -> Guess:
    """The first guess that fits. Raises UserError, with the columns, if none does."""
    for attempt in _ATTEMPTS:
        if (found := attempt(look)) is not None:
            return found
    firsts = {column.name: str(column.values[0]) if column.values else "nothing" for column in look.columns}
    shown = "; ".join(f"{name}: {shorten(value, 40)}" for name, value in firsts.items())
    raise UserError(
        f"{look.path} has columns that fit none of the tasks ({shown}). A task needs a text and a label, words and "
        "tags, a question with context and answers, a source and a target, or texts alone; write the recipe by hand"
    )


def _questions(look: Look) -> Guess | None:
    question, context, answers = look.column("question"), look.column("context"), look.column("answers")
    if question is None or context is None or answers is None:
        return None
    empty = any(isinstance(value, dict) and not value.get("text") for value in answers.values)
    columns = {"question": question.name, "context": context.name, "answers": answers.name}
    if (identity := look.column("id")) is not None:
        columns["id"] = identity.name
    reasons = ["It has questions, contexts and answers." + (" Some questions have no answer." if empty else "")]
    options = {"unanswerable": True} if empty else {}
    return Guess("question-answering", columns, reasons, options, (question, context))


def _tagged_words(look: Look) -> Guess | None:
    if look.kind == "conll":
        words, tags = look.columns[0], look.columns[-1]
        if words is tags:
            return None
        reason = "The first column is taken for the words and the last one for their tags."
        return Guess("token-classification", {"tokens": words.name, "tags": tags.name}, [reason], {}, (words,))
    lists = [column for column in look.columns if isinstance(next(iter(column.values), None), list)]
    words = next((column for column in lists if column.is_list_of_texts), None)
    named = look.column(*_TAGS)
    for tags in ([named] if named in lists else []) + lists:
        if words is not None and tags is not words and list(map(len, tags.values)) == list(map(len, words.values)):  # pyright: ignore[reportArgumentType] (lists)
            reason = f"{words.name} and {tags.name} are lists of the same length in each row."
            return Guess("token-classification", {"tokens": words.name, "tags": tags.name}, [reason], {}, (words,))
    return None


def _labelled_texts(look: Look) -> Guess | None:
    texts = _texts(look)
    if not texts:
        return None
    label, options, kind = _label(look, texts)
    if label is None:
        return None
    columns = {"text": texts[0].name, "label": label.name}
    chosen = texts[:1]
    if len(texts) == 2 and label.name not in (texts[0].name, texts[1].name):
        chosen, columns = texts, {"text": texts[0].name, "text_pair": texts[1].name, "label": label.name}
    reasons = [f"{label.name} holds {kind}; {' and '.join(str(text.name) for text in chosen)} holds the text."]
    reasons += _others(look, columns)
    return Guess("sequence-classification", columns, reasons, options, tuple(chosen), label=label)


def _label(look: Look, texts: list[FoundColumn]) -> tuple[FoundColumn | None, dict[str, object], str]:
    """The column of the labels with the options for it and what it holds; a name goes before what is in the column."""
    candidates = [column for column in look.columns if column not in texts]
    named = [column for name in _LABELS for column in candidates if str(column.name).lower() == name]
    for column in [*named, *candidates]:
        if column.is_list_of_texts:
            return column, {"problem_type": "multi_label_classification"}, "lists of labels"
        if column.is_measure or (column.is_number and column in named and not column.is_label):
            return column, {"problem_type": "regression"}, "numbers to predict"
        if column.is_label:
            return column, {}, f"{len(column.distinct)} different labels"
    return None, {}, ""


def _sources_and_targets(look: Look) -> Guess | None:
    for source_name, target_name in _PAIRS:
        source, target = look.column(source_name), look.column(target_name)
        if source is not None and target is not None and source.texts and target.texts:
            return _writing(look, source, target)
    for column in look.columns:
        first = next(iter(column.values), None)
        if isinstance(first, dict) and len(first) == 2 and all(isinstance(text, str) for text in first.values()):
            return _nested_pair(column, *first)
    texts = _texts(look)
    return _writing(look, *texts) if len(texts) == 2 and len(look.columns) == 2 else None


def _writing(look: Look, source: FoundColumn, target: FoundColumn) -> Guess:
    columns = {"source": source.name, "target": target.name}
    reasons = [f"A model that reads {source.name} can learn to write {target.name}.", *_others(look, columns)]
    return Guess("sequence-to-sequence", columns, reasons, {}, (source,), target)


def _nested_pair(column: FoundColumn, first: str, second: str) -> Guess:
    source, target = (
        FoundColumn(
            f"{column.name}.{key}",
            [value.get(key) for value in column.values if isinstance(value, dict)],
            column.num_rows,
        )
        for key in (first, second)
    )
    reason = f"{column.name} holds two texts, {first} and {second}; exchange them to write {first}."
    return Guess(
        "sequence-to-sequence", {"source": source.name, "target": target.name}, [reason], {}, (source,), target
    )


def _texts_alone(look: Look) -> Guess | None:
    texts = _texts(look) or [column for column in look.columns if column.texts and look.kind == "text"]
    if not texts:
        return None
    columns = {} if texts[0].name == "text" else {"text": texts[0].name}
    reasons = ["It has texts without labels; masked-language-modeling is the task for a model that reads both ways."]
    reasons += _others(look, {"text": texts[0].name})
    return Guess("causal-language-modeling", columns, reasons, {}, (texts[0],))


def _texts(look: Look) -> list[FoundColumn]:
    """The columns of texts, those with a usual name first."""
    found = [column for column in look.columns if column.is_text and not _is_named_label(column)]
    usual = [column for column in found if str(column.name).lower() in _FIRST_TEXTS]
    return sorted(usual, key=lambda column: _FIRST_TEXTS.index(str(column.name).lower())) + [
        column for column in found if column not in usual
    ]


def _is_named_label(column: FoundColumn) -> bool:
    """Whether it holds labels of several words each."""
    return column.is_label and str(column.name).lower() in _LABELS


def _others(look: Look, columns: dict[str, str | int]) -> Iterator[str]:
    others = [str(column.name) for column in look.columns if column.name not in columns.values()]
    if others:
        yield f"Not used: {', '.join(others)}."


_ATTEMPTS: tuple[Callable[[Look], Guess | None], ...] = (
    _questions, _tagged_words, _labelled_texts, _sources_and_targets, _texts_alone,
)  # fmt: skip
