"""Texts as tokens, with little memory for many texts; for language models with the bytes that each token stands for."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING

import datasets
import numpy as np
from numpy.typing import NDArray
from transformers.tokenization_utils_base import TruncationStrategy
from transformers.utils.generic import PaddingStrategy

from pipeline.data.batches import Ragged
from pipeline.data.table import values_of

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerFast


# Texts that are tokenized at a time, few enough for the processor's cache, and how many times that are kept ahead.
CHUNK_TEXTS, CHUNKS_AHEAD = 256, 8
# A text, or a pair of texts.
Text = str | tuple[str, str]


def encodings(
    tokenizer: PreTrainedTokenizerFast,
    texts: Iterable[Text],
    max_length: int | None,
    has_offsets: bool = False,
    add_special_tokens: bool = True,
) -> Iterator[list[Encoding]]:
    """The tokenizer's encodings of texts in order, some at a time, of at most `max_length` tokens each.

    `has_offsets` says whether the place of each token in its text is needed.

    While the caller works on some, another thread tokenizes the next: the tokenizer does not need Python's lock. The
    encodings of all texts would take a hundred times the memory of their tokens.
    """
    how = TruncationStrategy.DO_NOT_TRUNCATE if max_length is None else TruncationStrategy.LONGEST_FIRST
    tokenizer.set_truncation_and_padding(PaddingStrategy.DO_NOT_PAD, how, max_length or 0, 0, None, None)
    backend = tokenizer.backend_tokenizer
    encode = backend.encode_batch if has_offsets else backend.encode_batch_fast
    waiting: deque[Future[list[Encoding]]] = deque()
    backend.encode_special_tokens = tokenizer.split_special_tokens
    texts = iter(texts)
    with ThreadPoolExecutor(max_workers=1) as pool:
        while chunk := list(islice(texts, CHUNK_TEXTS)):
            waiting.append(pool.submit(encode, chunk, False, add_special_tokens))
            if len(waiting) > CHUNKS_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def tokenized(
    tokenizer: PreTrainedTokenizerFast, texts: Iterable[Text], max_length: int
) -> tuple[dict[str, Ragged], NDArray[np.bool_]]:
    """Texts as the tokenizer's inputs of a model without the mask, and which of them were truncated, [N]."""
    has_types = "token_type_ids" in tokenizer.model_input_names
    id_type = np.min_scalar_type(len(tokenizer))  # half the memory while the parts are kept, for most vocabularies
    # The empty arrays are the type of no texts at all.
    lengths, truncated = [np.zeros(1, np.int64)], [np.zeros(0, np.bool_)]
    ids, types = [np.zeros(0, id_type)], [np.zeros(0, np.int8)]
    for chunk in encodings(tokenizer, texts, max_length):
        rows = [encoding.ids for encoding in chunk]
        lengths.append(np.fromiter(map(len, rows), np.int64, len(rows)))
        truncated.append(np.fromiter((bool(encoding.overflowing) for encoding in chunk), np.bool_, len(chunk)))
        ids.append(np.fromiter(chain.from_iterable(rows), id_type))
        if has_types:
            types.append(np.fromiter(chain.from_iterable(encoding.type_ids for encoding in chunk), np.int8))
    offsets = np.concatenate(lengths).cumsum()
    features = {"input_ids": Ragged(np.concatenate(ids, dtype=np.int32), offsets)}
    if has_types:
        features["token_type_ids"] = Ragged(np.concatenate(types, dtype=np.int32), offsets)
    return features, np.concatenate(truncated)


@dataclass(frozen=True)
class Document:
    """The tokens of one text: `ids`, `num_bytes` of UTF-8, and `words`, the word that each belongs to; each [T]."""

    ids: NDArray[np.int32]
    num_bytes: NDArray[np.int64]
    words: NDArray[np.int64]


def read_documents(
    rows: datasets.Dataset, tokenizer: PreTrainedTokenizerFast, keep_line_breaks: bool
) -> tuple[list[Document], list[int]]:
    """Tokenize every text that is not blank, without special tokens; returns the documents and their rows from 0.

    The bytes of a document's tokens sum to its length in UTF-8: white space between two tokens counts as part of the
    later one, and text after the last token as part of that.
    """
    waiting = deque[tuple[int, str]]()

    def texts_to_read() -> Iterator[str]:
        for row, text in enumerate(map(str, values_of(rows, "text"))):
            text = text if keep_line_breaks else text.rstrip("\r\n")
            if text if keep_line_breaks else text.strip():
                waiting.append((row, text))
                yield text

    documents, sources = [], []
    for encoding in chain.from_iterable(
        encodings(tokenizer, texts_to_read(), None, has_offsets=True, add_special_tokens=False)
    ):
        row, text = waiting.popleft()
        if encoding.ids:
            documents.append(_document(text, encoding))
            sources.append(row)
    return documents, sources


def _document(text: str, encoding: Encoding) -> Document:
    # bytes_before[c] is the length in bytes of the text's first c characters.
    widths = np.fromiter((len(character.encode()) for character in text), np.int64, len(text))
    bytes_before = np.concatenate([[0], np.cumsum(widths)])
    ends = np.maximum.accumulate(bytes_before[[end for _, end in encoding.offsets]])
    ends[-1] = bytes_before[-1]
    words = np.array([-1 if word is None else word for word in encoding.word_ids], np.int64)
    return Document(np.array(encoding.ids, np.int32), np.diff(ends, prepend=0), words)
