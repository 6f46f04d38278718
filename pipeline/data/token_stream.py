"""Texts as one stream of tokens for language models, with the bytes that each token stands for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Document:
    """One text's tokens: `ids` [T], `num_bytes` [T] of UTF-8, `words` [T], the number of the word each belongs to."""

    ids: NDArray[np.int32]
    num_bytes: NDArray[np.int64]
    words: NDArray[np.int64]


def read_documents(rows: datasets.Dataset, tokenizer: Any, keep_line_breaks: bool) -> tuple[list[Document], list[int]]:
    """Tokenise every text that is not blank, without special tokens; returns the documents and their rows from 0.

    The bytes of a document's tokens sum to its UTF-8 length: what lies between two tokens counts with the later one,
    and what follows the last with the last.
    """
    texts = rows["text"][:]
    texts = texts if keep_line_breaks else [text.rstrip("\r\n") for text in texts]
    kept = [i for i, text in enumerate(texts) if (text if keep_line_breaks else text.strip())]
    if not kept:
        return [], []
    encoded = tokenizer([texts[i] for i in kept], add_special_tokens=False, return_attention_mask=False)
    documents, sources = [], []
    for i, encoding in zip(kept, encoded.encodings, strict=True):
        if encoding.ids:
            documents.append(_document(texts[i], encoding))
            sources.append(i)
    return documents, sources


def _document(text: str, encoding: Any) -> Document:
    # bytes_before[c] is the length in bytes of the text's first c characters.
    widths = np.fromiter((len(character.encode()) for character in text), np.int64, len(text))
    bytes_before = np.concatenate([[0], np.cumsum(widths)])
    ends = np.maximum.accumulate(bytes_before[[end for _, end in encoding.offsets]])
    ends[-1] = bytes_before[-1]
    words = np.array([-1 if word is None else word for word in encoding.word_ids], np.int64)
    return Document(np.array(encoding.ids, np.int32), np.diff(ends, prepend=0), words)
