"""The readers of local files by format; delimited files and JSON have files of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NotRequired, TypedDict

import datasets
import pyarrow
import pyarrow.parquet

from pipeline.data.delimited import read_delimited
from pipeline.data.json_files import parse_json, read_json
from pipeline.data.table import CHUNK_ROWS, Column, ColumnValues, Table, table_of
from pipeline.data.text_files import TextFile
from pipeline.recipe.data import Data
from pipeline.utils.mapped_arrays import held_batches

_SQUAD_COLUMNS = ("id", "title", "context", "question", "answers")


class _Answer(TypedDict):
    text: str
    answer_start: int


class _Question(TypedDict):
    id: str
    question: str
    answers: list[_Answer]


class _Paragraph(TypedDict):
    context: str
    qas: list[_Question]


class _Article(TypedDict):
    """What a file of SQuAD has a list of; whether an article really has this shape shows when it is read."""

    title: NotRequired[str]
    paragraphs: list[_Paragraph]


def read_text(file: TextFile, wanted: Sequence[Column], data: Data) -> Table:
    """A row for each line, in the column "text", with its line break: a language model may need it."""
    rows = ColumnValues(file.lines(newline=None))
    return Table(("text",), {"text": rows} if "text" in wanted else {}, len(rows))


def read_parquet(file: TextFile, wanted: Sequence[Column], data: Data) -> Table:
    """The wanted columns with their types; those that are not wanted are not read."""
    with pyarrow.parquet.ParquetFile(file.path) as parquet:
        schema = parquet.schema_arrow
        names = [name for name in schema.names if _is_wanted(name, wanted)]
        wanted_schema = pyarrow.schema([schema.field(name) for name in names], schema.metadata)
        table = pyarrow.Table.from_batches(held_batches(parquet.iter_batches(CHUNK_ROWS, columns=names)), wanted_schema)
    for position, name in enumerate(names):
        if pyarrow.types.is_dictionary(table.schema.field(name).type):  # pandas' categories
            table = table.set_column(position, name, table.column(name).cast(table.schema.field(name).type.value_type))
    found = table_of(datasets.Dataset(table), wanted)
    return Table(tuple(schema.names), found.columns, table.num_rows, found.features)


def _is_wanted(name: str, wanted: Sequence[Column]) -> bool:
    return any(column == name or str(column).startswith(f"{name}.") for column in wanted)


def read_squad(file: TextFile, wanted: Sequence[Column], data: Data) -> Table:
    """The questions of a SQuAD file: id, title, context, question, and answers with their texts and starts.

    Raises ValueError. Source: Rajpurkar et al. 2016 and 2018; from version 2 on a question may have no answers.
    """
    content = parse_json(file.text(), "")
    if not isinstance(content, dict) or not isinstance(content.get("data"), list):
        raise ValueError('the file must be an object with "data", a list of articles, as in SQuAD')
    rows: list[dict[str, object]] = []
    for number, article in enumerate(content["data"], start=1):
        try:
            rows += _questions(article)
        except KeyError as error:
            raise ValueError(f"article {number} has no {error}") from None
        except (TypeError, AttributeError):
            raise ValueError(f"article {number} does not have the shape of an article of SQuAD") from None
    columns = {column: [row[column] for row in rows] for column in _SQUAD_COLUMNS if column in wanted}
    return Table(_SQUAD_COLUMNS, columns, len(rows))


def _questions(article: _Article) -> Iterator[dict[str, object]]:
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


def read_conll(file: TextFile, wanted: Sequence[Column], data: Data) -> Table:
    """The sentences of a file with a word per line and a blank line after each sentence: column "0", "1", ... as lists.

    Columns are separated by tabs if the file has any, else by white space. Lines with -DOCSTART- are skipped, and so
    are comments: lines before a sentence that begin with # and have another number of columns than its words. Raises
    ValueError with the line. Source: Tjong Kim Sang and De Meulder 2003.
    """
    lines = [line.rstrip("\r\n") for line in file.lines("\n")]
    words = [line for line in lines if not line.startswith("#")] or lines
    separator = "\t" if any("\t" in line for line in words) else None
    num_columns = _columns_of_words(lines, separator)
    columns: dict[str, list[list[str]]] = {str(c): [] for c in wanted if isinstance(c, int) and c < num_columns}
    sentence: list[list[str]] = []
    num_rows = 0
    for number, line in enumerate([*lines, ""], start=1):
        fields = [field.strip() for field in line.split(separator)]
        if not line.strip() or fields[0] == "-DOCSTART-":
            if sentence:
                num_rows += 1
                for column, values in columns.items():
                    values.append([word[int(column)] for word in sentence])
            sentence = []
        elif len(fields) == num_columns and (separator or "\t" not in line):
            sentence.append(fields)
        elif sentence or not line.startswith("#"):
            raise ValueError(f"line {number} has {len(fields)} columns, but the first word has {num_columns}")
    return Table(tuple(map(str, range(num_columns))), columns, num_rows)


def _columns_of_words(lines: list[str], separator: str | None) -> int:
    """The number of columns of the first line that is a word for sure; of the first line if each begins with #."""
    words = [line for line in lines if line.strip() and not line.startswith("-DOCSTART-")]
    first = next((line for line in words if not line.startswith("#")), words[0] if words else "")
    return len(first.split(separator))


READERS: dict[str, Callable[[TextFile, Sequence[Column], Data], Table]] = {
    "csv": read_delimited,
    "json": read_json,
    "parquet": read_parquet,
    "text": read_text,
    "squad": read_squad,
    "conll": read_conll,
}
