"""Texts as tokens for language models, with the number of bytes that each token stands for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import datasets
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerFast


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
    texts = rows["text"][:]
    texts = texts if keep_line_breaks else [text.rstrip("\r\n") for text in texts]
    kept = [i for i, text in enumerate(texts) if (text if keep_line_breaks else text.strip())]
    if not kept:
        return [], []
    encoded = tokenizer([texts[i] for i in kept], add_special_tokens=False, return_attention_mask=False)
    assert encoded.encodings is not None, "a fast tokenizer keeps its encodings"
    documents, sources = [], []
    for i, encoding in zip(kept, encoded.encodings, strict=True):
        if encoding.ids:
            documents.append(_document(texts[i], encoding))
            sources.append(i)
    return documents, sources


def _document(text: str, encoding: Encoding) -> Document:
    # bytes_before[c] is the length in bytes of the text's first c characters.
    widths = np.fromiter((len(character.encode()) for character in text), np.int64, len(text))
    bytes_before = np.concatenate([[0], np.cumsum(widths)])
    ends = np.maximum.accumulate(bytes_before[[end for _, end in encoding.offsets]])
    ends[-1] = bytes_before[-1]
    words = np.array([-1 if word is None else word for word in encoding.word_ids], np.int64)
    return Document(np.array(encoding.ids, np.int32), np.diff(ends, prepend=0), words)
