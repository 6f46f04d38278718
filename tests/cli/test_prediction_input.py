"""The file that predict reads: compressed or not, in the encoding of the recipe or of an override."""

import bz2
import gzip
import json
import lzma
import os
import subprocess
import sys
import threading

import pyarrow
import pytest

from pipeline.cli.main import execute
from pipeline.runs import prediction
from tests.helpers.run_writer import write_run

LINES = ["die Küche war kalt", '{"text": "très bon"}']
COMPRESSED = {
    "plain": lambda data: data,
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda data: pyarrow.compress(data, codec="zstd", asbytes=True),
}


@pytest.fixture
def predict(tmp_path, monkeypatch, capsys):
    """Runs predict on a file with a run that predicts each line as it is; returns exit code, lines and error."""
    monkeypatch.setattr(prediction, "open_run", lambda run, framework, changes: sorted(changes))
    monkeypatch.setattr(prediction, "predict_lines", lambda trained, lines, on_bad: ({"line": line} for line in lines))

    def run(data, *arguments, settings=None):
        if not (tmp_path / "run").exists():
            write_run(tmp_path / "run", settings=settings)
        (tmp_path / "input").write_bytes(data)
        code = execute(["predict", str(tmp_path / "run"), "--input", str(tmp_path / "input"), *arguments])
        printed = capsys.readouterr()
        return code, [json.loads(line)["line"].strip() for line in printed.out.splitlines()], printed.err

    return run


@pytest.mark.parametrize("kind", COMPRESSED)
def test_a_compressed_file_is_read_as_what_is_inside_it(kind, predict):
    assert predict(COMPRESSED[kind]("\n".join(LINES).encode())) == (0, LINES, "")


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_file_is_read_in_the_encoding_of_an_override(encoding, predict):
    data = "\n".join(LINES).encode(encoding)
    assert predict(data, "--set", f"data.encoding={encoding}") == (0, LINES, "")


def test_a_file_is_read_in_the_encoding_of_the_recipe_unless_an_override_names_another(predict):
    data = "\n".join(LINES).encode("latin-1")
    assert predict(data, settings={"data.encoding": "latin-1"}) == (0, LINES, "")


def test_an_override_of_the_encoding_goes_before_the_recipe(predict):
    settings = {"data.encoding": "latin-1"}
    assert predict("\n".join(LINES).encode(), "--set", "data.encoding=utf-8", settings=settings) == (0, LINES, "")


@pytest.mark.parametrize(
    ("data", "arguments", "message"),
    [
        ("ein Café\n".encode("latin-1"), (), "line 1 has the byte 0xe9; it is not encoded in utf-8; it looks like"),
        (gzip.compress(b"a film\n" * 999, mtime=0)[:40], (), "EOFError: Compressed file ended before"),
        (b"PAR1\0\0", (), "it is a parquet file, which data.path=parquet reads"),
        (b"a film", ("--set", "data.encoding=utf-99"), 'data.encoding is "utf-99", which is not a text encoding'),
        (b"a film", ("--set", "data.encoding=3"), 'data.encoding is "3", which is not a text encoding'),
    ],
)
def test_a_file_that_cannot_be_read_is_one_message(data, arguments, message, predict):
    code, _, error = predict(data, *arguments)
    assert code == 2 and message in error and "bug" not in error


@pytest.mark.slow
def test_the_encoding_of_a_text_would_be_ignored_and_is_refused(tmp_path):
    run = write_run(tmp_path / "run")
    command = [sys.executable, "-m", "pipeline", "predict", str(run), "--text", "a", "--set", "data.encoding=utf-8"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "data.encoding would be ignored" in done.stderr


def test_a_file_that_is_there_is_replaced_only_if_that_is_asked_for(tmp_path, predict):
    out, link = tmp_path / "out", tmp_path / "link"
    link.symlink_to(out)
    out.write_text("years of work")
    for path in (out, link):
        code, _, error = predict(b"a film", "--out", str(path))
        assert code == 2 and "already exists" in error and "OVERWRITE=1" in error
        assert out.read_text() == "years of work"
    assert predict(b"a film", "--out", str(link), "--overwrite") == (0, [], "")
    assert link.is_symlink() and json.loads(out.read_text()) == {"line": "a film"}


def test_a_device_or_a_pipe_is_written_into_and_stays_one(tmp_path, predict):
    assert predict(b"a film", "--out", os.devnull) == (0, [], "")
    assert os.path.exists(os.devnull) and not os.path.isfile(os.devnull)
    os.mkfifo(tmp_path / "pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()), daemon=True)
    reader.start()
    assert predict(b"a film", "--out", str(tmp_path / "pipe")) == (0, [], "")
    reader.join(10)
    assert json.loads(read[0]) == {"line": "a film"} and (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("place", ["missing/out", "."])
def test_an_output_that_cannot_be_written_is_refused_before_anything_is_loaded(place, tmp_path, monkeypatch, predict):
    monkeypatch.setattr(prediction, "open_run", None)
    code, _, error = predict(b"a film", "--out", str(tmp_path / place))
    assert code == 2 and "cannot be written" in error
