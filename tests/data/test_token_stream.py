"""Texts are tokenized some at a time, with the tokenizer's own tokens, in order."""

import random

import datasets
import numpy as np
import pytest
import transformers
from tokenizers import AddedToken
from tokenizers.normalizers import BertNormalizer, Replace

from pipeline.data.token_stream import CHUNK_TEXTS, CHUNKS_AHEAD, WordTokens, encodings, read_documents, tokenized
from pipeline.models.library import read_tokenizer
from pipeline.recipe.overrides import RECIPES
from tests.helpers.families import CHECKPOINTS, sentences

MANY = CHUNK_TEXTS * (CHUNKS_AHEAD + 2) + 5


@pytest.fixture(params=CHECKPOINTS)
def tokenizer(request):
    return read_tokenizer(str(RECIPES / "bundled" / CHECKPOINTS[request.param]))


def texts():
    found = sentences(1000)
    return ["good" if i % 5 == 1 else f"{found[i % 1000]} {i} é" for i in range(MANY)]


@pytest.mark.slow
@pytest.mark.parametrize("is_pair", [False, True])
def test_tokens_and_truncation_are_the_tokenizers_own(tokenizer, is_pair):
    first, second = texts(), texts()
    expected = tokenizer(first, second if is_pair else None, truncation=True, max_length=19)
    tokenizer(["another text"], max_length=3, truncation=True)  # leaves settings of its own behind
    features, truncated = tokenized(tokenizer, zip(first, second, strict=True) if is_pair else iter(first), 19)
    assert features.keys() == expected.keys() - {"attention_mask"}
    for name, ragged in features.items():
        assert [ragged[row].tolist() for row in range(MANY)] == expected[name]
    assert truncated.tolist() == [bool(encoding.overflowing) for encoding in expected.encodings]
    assert 0 < truncated.sum() < MANY


def test_no_texts_are_no_tokens(tokenizer):
    features, truncated = tokenized(tokenizer, [], 19)
    assert [ragged.lengths.tolist() for ragged in features.values()] == [[]] * len(features)
    assert truncated.tolist() == []


def test_documents_are_all_texts_in_order_without_blank_ones(tokenizer):
    given = [" " if i % 5 == 0 else text for i, text in enumerate(texts())]
    documents, rows = read_documents(datasets.Dataset.from_dict({"text": given}), tokenizer, keep_line_breaks=False)
    assert rows.tolist() == [i for i in range(MANY) if i % 5]
    for document, row in zip(documents, rows, strict=True):
        expected = tokenizer(given[row], add_special_tokens=False)
        assert document.ids.tolist() == expected["input_ids"]
        assert document.num_bytes.sum() == len(given[row].encode())
        assert document.ids.dtype == np.int32


def test_texts_are_read_only_a_little_ahead_of_their_tokens(tokenizer):
    read = []

    def texts_to_read():
        for number in range(MANY):
            read.append(number)
            yield "good"

    chunks = encodings(tokenizer, texts_to_read(), 19)
    assert len(next(chunks)) == CHUNK_TEXTS
    assert len(read) <= CHUNK_TEXTS * (CHUNKS_AHEAD + 1) < MANY
    assert sum(map(len, chunks)) == MANY - CHUNK_TEXTS == len(read) - CHUNK_TEXTS


# What the normalizer and the pre-tokenizer of BERT treat in different ways, alone and inside words.
PIECES = [
    *"abcdefilmnorstw", *"ABÉΣσς", "e\u0301", "\u0301", "İ", "ß", "ﬁ", "中", "한", "\u1100\u1161", "\u200b", "\u200d",
    "\ufeff", "\u00a0", "\u3000", "\u2028", "\x1c", "\x85", "\t", "\n", "\r\n", "\0", "\ufffd", "\U0001f600",
    "\U00020000", *".,!-'«", "[MASK]", "[SEP]", "[UNK]", "mask]", "<x>", "<y>", "film", "was", "WAS", "oo", "42",
    "ह", "ि", "x" * 101,
]  # fmt: skip


def odd_texts(rng, count):
    def word():
        return "".join(rng.choices(PIECES, k=rng.randrange(6)))

    return [
        "".join(word() + rng.choice([" "] * 6 + ["", "  "]) for _ in range(rng.randrange(12))) for _ in range(count)
    ]


def variant_of_bert(kind):
    tokenizer = transformers.AutoTokenizer.from_pretrained(RECIPES / "bundled" / CHECKPOINTS["bert"])
    if kind == "cased":
        tokenizer.backend_tokenizer.normalizer = BertNormalizer(False, False, False, False)
    if kind == "special tokens as text":
        tokenizer.backend_tokenizer.normalizer = BertNormalizer(True, True, True, False)
        tokenizer.split_special_tokens = True
    if kind == "added tokens":
        added = AddedToken("film", single_word=True), AddedToken("WAS", normalized=True), AddedToken("oo")
        tokenizer.add_tokens([*added, AddedToken("<x>", lstrip=True, rstrip=True)])
        tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken("<y>", lstrip=True, rstrip=True)]})
    return tokenizer


@pytest.mark.parametrize("kind", ["as published", "cased", "added tokens", "special tokens as text"])
def test_the_tokens_of_words_make_those_of_any_text(kind):
    tokenizer, rng = variant_of_bert(kind), random.Random(7)
    for max_length in (4, 5, 11, 64):
        first, second = odd_texts(rng, 150), odd_texts(rng, 150)
        assert WordTokens.of(tokenizer, max_length) is not None
        for texts, others in ((first, None), ([*zip(first, second, strict=True)], second)):
            expected = tokenizer(first, others, truncation=True, max_length=max_length)
            features, truncated = tokenized(tokenizer, texts, max_length)
            for name, ragged in features.items():
                assert [ragged[row].tolist() for row in range(len(first))] == expected[name]
            assert truncated.tolist() == [bool(encoding.overflowing) for encoding in expected.encodings]


def test_words_are_forgotten_when_there_are_too_many(monkeypatch):
    monkeypatch.setattr("pipeline.data.token_stream.MOST_WORDS", 300)
    tokenizer, given = variant_of_bert("as published"), texts()
    features, _ = tokenized(tokenizer, given, 19)
    expected = tokenizer(given, truncation=True, max_length=19)["input_ids"]
    assert [features["input_ids"][row].tolist() for row in range(MANY)] == expected


@pytest.mark.parametrize("change", ["an added token of two words", "another normalizer", "truncation on the left"])
def test_a_tokenizer_whose_words_depend_on_others_reads_whole_texts(change):
    tokenizer = variant_of_bert("as published")
    if change == "an added token of two words":
        tokenizer.add_tokens(["the film"])
    elif change == "another normalizer":
        tokenizer.backend_tokenizer.normalizer = Replace("e f", "ef")
    else:
        tokenizer.truncation_side = "left"
    given = ["the film was good", "one film"]
    features, _ = tokenized(tokenizer, given, 5)
    expected = tokenizer(given, truncation=True, max_length=5)["input_ids"]
    assert [features["input_ids"][row].tolist() for row in range(2)] == expected
    assert WordTokens.of(tokenizer, 5) is None
