"""Readers of local files that `datasets` does not read as we need them: JSON, the JSON of SQuAD, columns of CoNLL."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def read_json(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON array or of JSON lines, each value as it is written. Raises ValueError with the line.

    The reader of `datasets` turns texts that look like dates into timestamps.
    """
    text = path.read_text(encoding="utf-8-sig")
    if text.lstrip().startswith("["):
        rows = json.loads(text)
    else:
        rows = []
        for number, line in enumerate(text.split("\n"), start=1):
            try:
                rows += [json.loads(line)] if line.strip() else []
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise ValueError(f"row {number} is {str(row)[:40]!r}, but must be an object whose keys are the columns")
    keys = dict.fromkeys(key for row in rows for key in row)
    return [{key: row.get(key) for key in keys} for row in rows]


def read_squad(path: Path) -> list[dict[str, Any]]:
    """The questions of a SQuAD file: id, title, context, question, and answers with their texts and starts.

    Raises ValueError. Source: Rajpurkar et al. 2016 and 2018; from version 2 on a question may have no answers.
    """
    content = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(content, dict) or not isinstance(content.get("data"), list):
        raise ValueError('the file must be an object with "data", a list of articles, as in SQuAD')
    rows = []
    for article_number, article in enumerate(content["data"], start=1):
        try:
            rows += _questions(article)
        except (KeyError, TypeError) as error:
            raise ValueError(f"article {article_number} has no {error}") from None
    return rows


def _questions(article: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for paragraph in article["paragraphs"]:
        for question in paragraph["qas"]:
            answers = question["answers"]
            yield {
                "id": str(question["id"]),
                "title": article.get("title", ""),
                "context": paragraph["context"],
                "question": question["question"],
                "answers": {
                    "text": [answer["text"] for answer in answers],
                    "answer_start": [answer["answer_start"] for answer in answers],
                },
            }


def read_conll(path: Path) -> list[dict[str, list[str]]]:
    """The sentences of a file with a word per line and a blank line after each sentence: column "0", "1", ... as lists.

    Columns are separated by tabs if the file has any, else by white space. Lines with -DOCSTART- are skipped. Raises
    ValueError with the line. Source: Tjong Kim Sang and De Meulder 2003.
    """
    text = path.read_text(encoding="utf-8-sig")
    separator = "\t" if "\t" in text else None
    rows: list[dict[str, list[str]]] = []
    sentence: list[list[str]] = []
    for number, line in enumerate([*text.split("\n"), ""], start=1):
        fields = [field.strip() for field in line.strip("\r\n").split(separator)]
        if not line.strip() or fields[0] == "-DOCSTART-":
            if sentence:
                rows.append({str(i): list(column) for i, column in enumerate(zip(*sentence, strict=True))})
            sentence = []
            continue
        if sentence and len(fields) != len(sentence[0]):
            raise ValueError(f"line {number} has {len(fields)} columns, but the line before has {len(sentence[0])}")
        sentence.append(fields)
    return rows


READERS: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
    "json": read_json,
    "squad": read_squad,
    "conll": read_conll,
}
