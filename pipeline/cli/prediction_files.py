"""Where the predict command reads from and writes to: a text, a file, standard input; standard output or a file."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO

from pipeline.utils.errors import UserError
from pipeline.utils.files import atomic_write, json_line


@contextlib.contextmanager
def input_lines(text: str | None, source: str | None, encoding: str | None = None) -> Iterator[Iterable[str]]:
    """The lines to predict: a text, the lines of a file, or those of standard input for "-". Raises UserError.

    A file is decompressed if necessary and decoded, as UTF-8 by default.
    """
    if text is not None:
        yield [text]
    elif source == "-":
        yield sys.stdin
    else:
        if source is None or not os.access(source, os.R_OK) or not os.path.isfile(source):
            raise UserError(f"--input {source} is not a file that can be read")
        yield _lines_of_file(source, encoding)


def _lines_of_file(source: str, encoding: str | None) -> Iterator[str]:
    from pipeline.data.text_files import UNREADABLE, TextFile, cause_of

    try:
        yield from TextFile(Path(source), encoding).lines(newline=None)
    except UNREADABLE as error:
        raise UserError(
            f"--input {source} cannot be read as lines of text or JSON: {cause_of(error)}", arguments=("overrides",)
        ) from error


@contextlib.contextmanager
def prediction_writer(out: Path | None, overwrite: bool = False) -> Iterator[Callable[[Mapping[str, object]], None]]:
    """Writes JSON lines to standard output as they come, or to a file that appears when all are there.

    A device or a pipe is written into as the lines come. Raises UserError if the file cannot be written, and if it
    already exists, unless `overwrite`.
    """
    if out is None:
        yield lambda prediction: write_prediction(sys.stdout, prediction)
        return
    refuse_output(out, overwrite)
    with atomic_write(out) as file:
        yield lambda prediction: write_prediction(file, prediction)


def refuse_output(out: Path, overwrite: bool) -> None:
    """Raise UserError if a file cannot be written, or already exists and may not be replaced."""
    target = out.resolve()
    writes_into = out.exists() and not out.is_file()
    if out.is_dir() or not os.access(target if writes_into else target.parent, os.W_OK):
        raise UserError(f"--out {out} cannot be written; name a file in a folder that is there")
    if out.is_file() and not overwrite:
        raise UserError(f"--out {out} already exists; name another file, or replace it", arguments=("overwrite",))


def write_prediction(file: IO[str], prediction: Mapping[str, object]) -> None:
    """Write one prediction as a JSON line that cannot change a terminal."""
    file.write(json_line(prediction) + "\n")
    file.flush()
