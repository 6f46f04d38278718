"""CoNLL files as people have them: comments, other numbers of columns, words that begin with #."""

import pytest

from pipeline import UserError, load_recipe
from pipeline.data.splits import read_splits


def read(tmp_path, text, tokens=0, tags=1):
    path = tmp_path / "a.conll"
    path.write_text(text)
    files = {"data.path": "conll", "data.files.train": str(path), "data.files.validation": str(path)}
    recipe = load_recipe("sentiment_bert", files | {"data.columns": {"tokens": tokens, "tags": tags}})
    rows = read_splits(recipe, ("tokens", "tags"), ())["train"]
    return [list(zip(row["tokens"], row["tags"], strict=True)) for row in rows]


SENTENCES = [[("Anna", "B-PER"), ("sings", "O")], [("Oslo", "B-LOC")]]


@pytest.mark.parametrize("separator", ["\t", " "])
@pytest.mark.parametrize("comment", ["# id 1\tdomain=en", "# newdoc", "#", "# a b c d e"])
def test_comments_before_sentences_are_no_words(tmp_path, separator, comment):
    words = [[separator.join((word, "_", "_", tag)) for word, tag in sentence] for sentence in SENTENCES]
    text = "".join(f"{comment}\n" + "\n".join(lines) + "\n\n" for lines in words)
    assert read(tmp_path, text, tags=3) == SENTENCES


def test_words_that_begin_with_a_hash_are_words(tmp_path):
    assert read(tmp_path, "#metoo\tB-X\n#\tO\n\n#\tO\nx\tO\n") == [
        [("#metoo", "B-X"), ("#", "O")],
        [("#", "O"), ("x", "O")],
    ]


def test_a_comment_between_words_is_refused_with_its_line(tmp_path):
    with pytest.raises(UserError, match="line 2 has 3 columns, but the first word has 2"):
        read(tmp_path, "Anna O\n# a comment\nsings O\n")
