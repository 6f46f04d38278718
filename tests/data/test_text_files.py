"""Compressed files and files in other encodings: read as they are, or refused with the setting that reads them."""

import bz2
import gzip
import json
import lzma
import tarfile
import zipfile

import pyarrow
import pytest

from pipeline import UserError, load_recipe
from pipeline.data.splits import read_splits


def zstd(content):
    """A frame as `zstd -c` writes it."""
    out = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(out, "zstd") as file:
        file.write(content)
    return out.getvalue().to_pybytes()


COMPRESSIONS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstd}
QUESTION = {"id": "1", "question": "Qui?", "answers": [{"text": "Zoë", "answer_start": 0}]}
SQUAD = {"data": [{"paragraphs": [{"context": "Zoë saw Bob.", "qas": [QUESTION]}]}]}
WORDS = ["déjà", "vu"]
# Format: its content, the field to read, and what is right.
CONTENTS = {
    "csv": ("text,label\n" + "".join(f"{word},x\n" for word in WORDS), {"text": "text"}, WORDS),
    "tsv": ("text\tlabel\n" + "".join(f"{word}\tx\n" for word in WORDS), {"text": "text"}, WORDS),
    "json": (json.dumps([{"text": word} for word in WORDS], ensure_ascii=False, indent=1), {"text": "text"}, WORDS),
    "jsonl": (
        "".join(json.dumps({"text": word}, ensure_ascii=False) + "\n" for word in WORDS),
        {"text": "text"},
        WORDS,
    ),
    "txt": ("".join(f"{word}\n" for word in WORDS), {"text": "text"}, [f"{word}\n" for word in WORDS]),
    "squad": (json.dumps(SQUAD, ensure_ascii=False), {"text": "context"}, ["Zoë saw Bob."]),
    "conll": ("".join(f"{word} O\n" for word in WORDS), {"text": 0}, [WORDS]),
}


def read(path, kind, **changes):
    files = {"data.path": kind, "data.files.train": str(path), "data.files.validation": str(path)}
    columns = {"data.columns": CONTENTS[kind][1]}
    return read_splits(load_recipe("sentiment_bert", files | columns | changes), ("text",), ())["train"]["text"][:]


def refusal(path, kind, **changes):
    with pytest.raises(UserError) as error:
        read(path, kind, **changes)
    text = str(error.value).split("\n")[0]
    assert str(path) in text
    return text


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("kind", CONTENTS)
def test_compressed_files_are_read_as_what_is_inside(tmp_path, kind, compression):
    content, _, right = CONTENTS[kind]
    packed = COMPRESSIONS[compression](content.encode())
    for name in (f"a.{kind}.{compression}", f"misnamed.{kind}"):
        (tmp_path / name).write_bytes(packed)
        assert read(tmp_path / name, kind) == right


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_damaged_compressed_file_is_named(tmp_path, compression):
    packed = COMPRESSIONS[compression](CONTENTS["csv"][0].encode() * 50)
    (tmp_path / "a.csv").write_bytes(packed[: len(packed) // 2])
    assert "cannot be read as csv" in refusal(tmp_path / "a.csv", "csv")


@pytest.mark.parametrize("compression", ["", *(f".{name}" for name in COMPRESSIONS)])
def test_the_suffix_before_the_compression_tells_the_format(tmp_path, compression):
    hub = load_recipe("sst2_bert", {"data.files.train": f"a.tsv{compression}", "data.files.validation": "b.tsv"})
    assert hub.data.path == "tsv"


@pytest.mark.parametrize(
    "encoding", ["latin-1", "cp1252", "utf-16", "utf-16-le", "utf-32", "utf-8", "utf-8-sig", "mac-roman"]
)
@pytest.mark.parametrize("kind", CONTENTS)
def test_data_encoding_reads_other_encodings(tmp_path, kind, encoding):
    content, _, right = CONTENTS[kind]
    (tmp_path / "a").write_bytes(content.encode(encoding))
    assert read(tmp_path / "a", kind, **{"data.encoding": encoding}) == right
    (tmp_path / "a.gz").write_bytes(gzip.compress(content.encode(encoding)))
    assert read(tmp_path / "a.gz", kind, **{"data.encoding": encoding}) == right


TEXTS = {
    "latin-1": "un film très réussi, déjà vu",
    "cp1252": "un film “très réussi” – déjà vu",
    "utf-16": "un film très réussi",
    "utf-16-le": "un film très réussi",
    "utf-16-be": "un film très réussi",
    "utf-32": "un film très réussi",
    "cp1251": "Привет, это очень хороший фильм, смотрите все",
    "gb18030": "你好，世界，今天天气不错，我们去看电影吧",
    "cp932": "日本語のテキストです。今日は天気がいいですね",
}


@pytest.mark.parametrize("encoding", TEXTS)
@pytest.mark.parametrize("kind", ["txt", "csv", "jsonl"])
def test_a_file_in_another_encoding_is_refused_with_the_likely_one(tmp_path, kind, encoding):
    line = TEXTS[encoding]
    content = {"txt": f"{line}\n", "csv": f'text,label\n"{line}",x\n', "jsonl": f'{{"text": "{line}"}}\n'}[kind]
    (tmp_path / "a").write_bytes((content * (1 if kind == "csv" else 3)).encode(encoding))
    text = refusal(tmp_path / "a", kind)
    named = text.rpartition("set data.encoding=")[2]
    assert named.replace("_", "-") == encoding, text
    (found, *_) = read(tmp_path / "a", kind, **{"data.encoding": named})
    assert found.rstrip("\n") == line


def test_the_line_and_the_byte_that_cannot_be_decoded_are_named(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"text,label\none,x\ntwo \xe9,x\n")
    assert "line 3 has the byte 0xe9; it is not encoded in utf-8; it looks like latin-1" in refusal(
        tmp_path / "a.csv", "csv"
    )
    assert "line 3 has the byte 0xe9; it is not encoded in ascii" in refusal(
        tmp_path / "a.csv", "csv", **{"data.encoding": "ascii"}
    )


def test_a_stray_nul_is_refused_in_every_format_of_lines(tmp_path):
    for kind in ("csv", "tsv", "txt", "conll", "jsonl"):
        (tmp_path / "a").write_bytes(CONTENTS[kind][0].encode() + b"\0x\n")
        assert "holds a NUL character" in refusal(tmp_path / "a", kind)


def test_files_that_are_no_text_are_called_by_their_name(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.csv", CONTENTS["csv"][0])
    (tmp_path / "a.csv").write_text(CONTENTS["csv"][0])
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "a.csv", "a.csv")
    (tmp_path / "a.parquet").write_bytes(b"PAR1" + b"\0" * 20 + b"PAR1")
    for name, message in (("a.zip", "zip archive"), ("a.tar.gz", "tar archive"), ("a.parquet", "data.path=parquet")):
        assert message in refusal(tmp_path / name, "csv")


@pytest.mark.parametrize("encoding", ["klingon", "rot13", "base64", "a\0b", ""])
def test_an_encoding_that_is_none_is_refused(encoding):
    with pytest.raises(UserError, match="data.encoding is"):
        load_recipe("sentiment_bert", {"data.encoding": encoding})
