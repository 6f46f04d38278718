"""Texts are tokenized some at a time, with the tokenizer's own tokens, in order."""

import datasets
import numpy as np
import pytest
import transformers

from pipeline.data.token_stream import CHUNK_TEXTS, CHUNKS_AHEAD, encodings, read_documents, tokenized
from pipeline.recipe.overrides import RECIPES
from tests.helpers.families import CHECKPOINTS, sentences

MANY = CHUNK_TEXTS * (CHUNKS_AHEAD + 2) + 5


@pytest.fixture(params=CHECKPOINTS)
def tokenizer(request):
    return transformers.AutoTokenizer.from_pretrained(RECIPES / "bundled" / CHECKPOINTS[request.param])


def texts():
    found = sentences(1000)
    return ["good" if i % 5 == 1 else f"{found[i % 1000]} {i} é" for i in range(MANY)]


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
    assert rows == [i for i in range(MANY) if i % 5]
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
