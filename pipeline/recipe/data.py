"""Data: the keys of a recipe that say where the examples come from and how columns become the task's fields."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from pipeline.recipe.formats import FORMATS, SPLITS
from pipeline.recipe.task_table import StrictModel
from pipeline.recipe.values import LIST, files_of_a_split, label_text, labels_as_texts, text_encoding

# Keys of `data` that only some formats read, with those formats.
_KEYS_OF_FORMATS = {
    "delimiter": ("csv",),
    "quoting": ("csv",),
    "field": ("json",),
    "encoding": ("csv", "json", "text", "squad", "conll"),
}


SplitFiles = Annotated[str | tuple[str, ...] | None, BeforeValidator(files_of_a_split)]
OneColumn = str | Annotated[int, Field(ge=0)]
FieldColumns = dict[str, Annotated[OneColumn | tuple[OneColumn, ...], LIST]]


class Files(StrictModel):
    """Local files of the splits, absolute or relative to the recipe's file.

    A path alone is a path, whatever characters it has. In a list there may be several, and patterns with `*`, `?` and
    `[...]`, which stand for all files that match.
    """

    train: SplitFiles = None
    """Local file of the training split, or a list of files and patterns, such as `[a.csv, "part-*.csv"]`."""
    validation: SplitFiles = None
    """Local file of the validation split."""
    test: SplitFiles = None
    """Local file of the test split."""


class Split(StrictModel):
    """Shares of the training split that are drawn for validation and test; `seed` chooses the rows."""

    validation: float | None = Field(default=None, gt=0, lt=1)
    """Share that becomes the validation split."""
    test: float | None = Field(default=None, gt=0, lt=1)
    """Share that becomes the test split."""
    seed: int = Field(default=0, ge=0)
    """Chooses the rows."""

    @model_validator(mode="after")
    def _leaves_rows_for_training(self) -> Split:
        if self.validation is None and self.test is None:
            raise ValueError("must give a share to validation or test")
        if (self.validation or 0) + (self.test or 0) >= 1:
            raise ValueError("leaves no rows for training")
        return self


# How the examples of a step lie in the rows that go through the model.
Batching = Literal["packed", "padded", "sorted"]


class Limit(StrictModel):
    """Keep the first N rows of a split."""

    train: int | None = Field(default=None, ge=1)
    """Use only the first N training rows."""
    validation: int | None = Field(default=None, ge=1)
    """Use only the first N validation rows."""
    test: int | None = Field(default=None, ge=1)
    """Use only the first N test rows."""


class Data(StrictModel):
    """Where the examples come from and how columns become the task's fields.

    `path` is a Hub id, or a format (csv, json, parquet, text, squad, conll) whose `files` are local. `columns` maps a
    field of the task to a column's name ("translation.en" reaches into a nested one), or to its position from 0 in a
    file without a header.
    """

    path: str = Field(min_length=1)
    """A data set on the Hub, or a format of local files."""
    name: str | None = None
    """Configuration of the Hub data set."""
    revision: str | None = None
    """Revision of the Hub data set."""
    files: Files = Files()
    """Local files of the splits."""
    train: str = "train"
    """Training split; `train[:90%]` takes a part."""
    validation: str = "validation"
    """Validation split, scored after every epoch."""
    test: str | None = None
    """Test split, scored once, at the end."""
    columns: FieldColumns = Field(default_factory=dict)
    """The column of each field of the task; a required field without an entry is read from the column of its own name.
    `text: [title, body]` joins two columns.
    """
    separator: str | None = None
    """What joins the columns of a field that has several; by default a space."""
    split_columns: dict[Literal["train", "validation", "test"], FieldColumns] = Field(default_factory=dict)
    """Columns that are other ones in a split, such as `{test: {label: gold}}`."""
    split: Split | None = None
    """Shares of the training split that are drawn for the others, such as `{validation: 0.1, test: 0.1, seed: 0}`; by
    label in single-label classification.
    """
    # More tokens would share keys of dropout; see models/dropout.py.
    max_length: int = Field(default=128, ge=4, le=65_536)
    """Longest input in tokens; longer texts are truncated and counted, contexts of questions are cut into windows."""
    batching: Batching = "packed"
    """`packed` and `padded` take the examples of a step from a plain shuffle: `packed` lays several in a row, each
    attending to itself only, which leaves hardly any padding and changes no loss or gradient; `padded` gives each a
    row, padded to the longest. `sorted` sorts windows of 64 batches by length before it pads: fast too, but such
    batches cost quality (SST-2, mean of eight seeds: accuracy 0.762, packed 0.766).
    """
    pad_to_multiple_of: int = Field(default=1, ge=1, le=10_000)
    """Round the width of a batch's rows up to a multiple of this length."""
    limit: Limit = Limit()
    """How many rows of each split to use."""
    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    """Delimiter of csv and tsv files; by default a comma and a tab."""
    quoting: bool | None = None
    """Whether csv and tsv files quote fields; by default csv files do. `true` also accepts a quoted field whose lines
    look like rows.
    """
    encoding: str | None = None
    """Encoding of text files, such as `latin-1` or `utf-16`; by default UTF-8."""
    field: str | None = Field(default=None, min_length=1)
    """Key of a JSON object under which its list of rows is, such as `data` or `data.rows`."""
    labels: Annotated[tuple[str, ...], LIST] | dict[str, str] | None = None
    """Names of the classes: a list in order, for labels that are numbers or have these names; or a mapping from a label
    in the data to the name of its class.
    """

    def columns_of(self, split: str) -> dict[str, str | int | tuple[str | int, ...]]:
        """The columns of a split's fields."""
        return self.columns | self.split_columns.get(split, {})  # pyright: ignore[reportArgumentType, reportCallIssue]

    def is_drawn(self, split: str) -> bool:
        """Whether the rows of a split are drawn from the training split."""
        return self.split is not None and getattr(self.split, split, None) is not None

    @property
    def is_local(self) -> bool:
        """Whether the examples come from files of this machine."""
        return self.path in FORMATS

    @field_validator("delimiter")
    @classmethod
    def _can_separate(cls, delimiter: str | None) -> str | None:
        if delimiter is not None and delimiter in '"\r\n':
            raise ValueError("is a quotation mark or a line break, which cannot separate fields")
        return delimiter

    @field_validator("labels", mode="before")
    @classmethod
    def _labels_are_texts(cls, labels: object) -> object:
        if isinstance(labels, list | tuple):
            labels = tuple(map(label_text, labels))
            if repeated := [name for name in labels if labels.count(name) > 1]:
                raise ValueError(f'names the class "{repeated[0]}" twice')
            names = set(labels)
        elif isinstance(labels, dict):
            labels = {label: label_text(name) for label, name in labels_as_texts(labels).items()}
            names = set(labels.values())
        elif labels is None:
            return None
        else:
            raise ValueError(
                f"is {labels!r}, but must be a list of names, or a mapping from a label in the data to the name of its "
                "class"
            )
        if len(names) < 2:
            raise ValueError("must name at least two classes")
        return labels

    @field_validator("encoding")
    @classmethod
    def _is_an_encoding(cls, encoding: str | None) -> str | None:
        return encoding if encoding is None else text_encoding(encoding)

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> Data:
        ignored = [key for key in _KEYS_OF_FORMATS if getattr(self, key) is not None]
        if self.is_local:
            ignored = [key for key in ignored if FORMATS[self.path] not in _KEYS_OF_FORMATS[key]]
            ignored += [key for key in ("name", "revision") if getattr(self, key) is not None]
        if ignored:
            raise ValueError(f"{' and '.join(ignored)} would be ignored with path {self.path}: leave out")
        return self

    @model_validator(mode="after")
    def _splits_have_one_source(self) -> Data:
        for split in ("validation", "test"):
            if not self.is_drawn(split):
                continue
            if getattr(self.files, split) is not None:
                raise ValueError(f"files.{split} and split.{split} are both given; set one of them to null")
            if getattr(self, split) not in (None, split):
                raise ValueError(f"{split} would be ignored with split.{split}: leave it out")
            object.__setattr__(self, split, split)
        joined = any(
            isinstance(c, tuple) for each in (self.columns, *self.split_columns.values()) for c in each.values()
        )
        if self.separator is not None and not joined:
            raise ValueError("separator would be ignored: no field has several columns")
        if self.split_columns.get("test") and self.test is None and self.files.test is None:
            raise ValueError("split_columns.test would be ignored: there is no test split")
        return self

    @model_validator(mode="after")
    def _files_belong_to_a_format(self) -> Data:
        given = [split for split in SPLITS if getattr(self.files, split)]
        if not self.is_local:
            if given:
                raise ValueError(f"files are given, so path must be one of {', '.join(FORMATS)}, not a Hub id")
        else:
            missing = [f"files.{split}" for split in SPLITS[:2] if split not in given and not self.is_drawn(split)]
            if missing:
                raise ValueError(f"path is {self.path}, so these must name a file: {', '.join(missing)}")
            if "test" in given and self.test is None:
                object.__setattr__(self, "test", "test")
            if self.test is not None and "test" not in given and not self.is_drawn("test"):
                raise ValueError("test is set, so files.test must name a file")
        if self.limit.test is not None and self.test is None:
            raise ValueError("limit.test would be ignored: there is no test split")
        return self
