"""Local formats of the tasks beyond classification: SQuAD, CoNLL, plain text, nested columns, texts like dates."""

import json

import pytest

from pipeline import UserError, load_recipe
from pipeline.data.splits import read_splits

QUESTION = {"id": 1, "question": "Who?", "answers": [{"text": "Ann", "answer_start": 0}]}
SQUAD = {"data": [{"title": "A", "paragraphs": [{"context": "Ann saw Bob.", "qas": [QUESTION]}]}]}


def read(path, fields, **changes):
    data = {f"data.files.{split}": str(path) for split in ("train", "validation")}
    data["data.path"] = path.suffix.lstrip(".")
    kept = {"data.columns": {field: field for field in fields}}
    return read_splits(load_recipe("sentiment_bert", data | kept | changes), fields, ())["train"]


def test_squad_files_become_questions(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(SQUAD), encoding="utf-8-sig")
    rows = read(tmp_path / "a.json", ("id", "question", "context", "answers"), **{"data.path": "squad"})
    assert rows[0] == {
        "id": "1", "question": "Who?", "context": "Ann saw Bob.", "answers": {"text": ["Ann"], "answer_start": [0]},
    }  # fmt: skip


def test_conll_columns_become_sentences(tmp_path):
    text = "-DOCSTART- -X- O\n\nAnn NNP B-PER\nsaw VBD O\n\n\nBob NNP B-PER"
    for separator in (" ", "\t"):
        (tmp_path / "a.conll").write_text(text.replace(" ", separator), encoding="utf-8-sig")
        columns = {"data.path": "conll", "data.columns": {"tokens": 0, "tags": 2}}
        rows = read(tmp_path / "a.conll", ("tokens", "tags"), **columns)
        assert rows["tokens"][:] == [["Ann", "saw"], ["Bob"]]
        assert rows["tags"][:] == [["B-PER", "O"], ["B-PER"]]
    for limit, count in (("train[:1]", 1), ("train[50%:]", 1), ("train", 2)):
        assert len(read(tmp_path / "a.conll", ("tokens", "tags"), **columns, **{"data.train": limit})) == count


def test_text_that_looks_like_a_date_stays_text_and_a_key_may_come_late(tmp_path):
    lines = '{"text": "1999-12-31"}\n{"text": "2000-01-01T00:00:00", "more": 1}\n'
    (tmp_path / "a.jsonl").write_text(lines)
    assert read(tmp_path / "a.jsonl", ("text",))["text"][:] == ["1999-12-31", "2000-01-01T00:00:00"]
    assert read(tmp_path / "a.jsonl", ("text", "more"))["more"][:] == [None, 1]


def test_a_nested_column_is_named_with_dots(tmp_path):
    rows = [{"translation": {"en": "Hi", "fr": "Salut"}}, {"translation": {"en": "No", "fr": "Non"}}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"data.columns": {"source": "translation.en", "target": "translation.fr"}}
    found = read(tmp_path / "a.jsonl", ("source", "target"), **columns)
    assert (found["source"][:], found["target"][:]) == (["Hi", "No"], ["Salut", "Non"])
    with pytest.raises(UserError, match='data.columns.source is "translation.de", but train has: translation'):
        read(tmp_path / "a.jsonl", ("source",), **{"data.columns": {"source": "translation.de"}})


def test_a_text_file_keeps_its_lines(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\n two\n")
    assert read(tmp_path / "a.txt", ("text",))["text"][:] == ["one\n", "\n", " two\n"]


@pytest.mark.parametrize(
    ("name", "content", "changes", "message"),
    [
        ("a.json", "{}", {"data.path": "squad"}, 'must be an object with "data"'),
        ("a.json", '{"data": [{"title": "A"}]}', {"data.path": "squad"}, "article 1 has no 'paragraphs'"),
        ("a.json", "{", {"data.path": "squad"}, "cannot be read as squad"),
        ("a.conll", "a B\nb\n", {"data.columns": {"question": 0}}, "line 2 has 1 columns, but the first word has 2"),
        ("a.conll", "a B\n", {"data.columns": {"question": "word"}}, "question must be a position from 0"),
        ("a.conll", "a B\n", {"data.columns": {"question": 7}}, "position 7, but train has columns 0 to 1"),
        ("a.jsonl", '{"question": "a"}\n3\n', {}, "line 2 is 3, but must be an object"),
        ("a.jsonl", '{"question": "a"}\n{"question": [1]}\n', {}, r"row 2: question is \[1\], which is a list"),
        ("a.jsonl", '{"question": "a"}\n{"q\n', {}, "line 2"),
    ],
)
def test_a_file_of_the_wrong_shape_is_refused_with_its_place(tmp_path, name, content, changes, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        read(tmp_path / name, ("question",), **changes)
