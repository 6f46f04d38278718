"""Texts as tokens, with little memory for many texts; for language models with the bytes that each token stands for."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice, repeat
from typing import TYPE_CHECKING, cast

import datasets
import numpy as np
from numpy.typing import NDArray
from transformers.tokenization_utils_base import TruncationStrategy
from transformers.utils.generic import PaddingStrategy

from pipeline.data.ragged import Ragged
from pipeline.data.table import values_of
from pipeline.utils.mapped_arrays import GrowingArray

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer
    from transformers import PreTrainedTokenizerFast


# Texts that are tokenized at a time, few enough for the processor's cache, and how many times that are kept ahead.
CHUNK_TEXTS, CHUNKS_AHEAD = 256, 8
# Different words whose tokens are kept at a time.
MOST_WORDS = 2**17
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
    tokenizer: PreTrainedTokenizerFast, texts: Iterable[Text], max_length: int, is_target: bool = False
) -> tuple[dict[str, Ragged], NDArray[np.bool_]]:
    """Texts as the tokenizer's inputs of a model without the mask, and which of them were truncated, [N].

    `is_target` says that they are to be written, not read: a tokenizer can have other tokens for these.
    """
    if not tokenizer.is_fast:
        chunks = _read_slowly(tokenizer, texts, max_length, is_target)
    elif (by_words := WordTokens.of(tokenizer, max_length)) is not None:
        chunks = by_words.chunks(texts)
    else:
        chunks = _read_encodings(tokenizer, texts, max_length)
    ids, types = GrowingArray(np.min_scalar_type(len(tokenizer))), GrowingArray(np.uint8)
    offsets, truncated, num_tokens = GrowingArray(np.int64), GrowingArray(np.bool_), 0
    offsets.append(np.zeros(1))
    for chunk in chunks:
        ids.append(chunk.ids)
        types.append(chunk.types)
        offsets.append(num_tokens + chunk.lengths.cumsum())
        truncated.append(chunk.truncated)
        num_tokens += len(chunk.ids)
    features = {"input_ids": Ragged(ids.finished(), offsets.finished())}
    if "token_type_ids" in tokenizer.model_input_names:
        features["token_type_ids"] = Ragged(types.finished(), features["input_ids"].offsets)
    return features, truncated.finished()


@dataclass(frozen=True)
class _TokenChunk:
    """The tokens of some texts end to end: `ids` and their `types` [T], `lengths` of the texts and `truncated` [N]."""

    ids: NDArray[np.unsignedinteger]
    types: NDArray[np.uint8]
    lengths: NDArray[np.int64]
    truncated: NDArray[np.bool_]


def _read_encodings(
    tokenizer: PreTrainedTokenizerFast, texts: Iterable[Text], max_length: int
) -> Iterator[_TokenChunk]:
    """The tokens of texts, or of pairs, some at a time, with any tokenizer."""
    id_type = np.min_scalar_type(len(tokenizer))
    for chunk in encodings(tokenizer, texts, max_length):
        rows = [encoding.ids for encoding in chunk]
        yield _TokenChunk(
            np.fromiter(chain.from_iterable(rows), id_type),
            np.fromiter(chain.from_iterable(encoding.type_ids for encoding in chunk), np.uint8),
            np.fromiter(map(len, rows), np.int64, len(rows)),
            np.fromiter((bool(encoding.overflowing) for encoding in chunk), np.bool_, len(chunk)),
        )


def _read_slowly(
    tokenizer: PreTrainedTokenizerFast, texts: Iterable[Text], max_length: int, is_target: bool
) -> Iterator[_TokenChunk]:
    """The tokens of texts, some at a time, with a tokenizer that is written in Python; it takes no pairs."""
    id_type, texts = np.min_scalar_type(len(tokenizer)), iter(texts)
    while chunk := cast(list[str], list(islice(texts, CHUNK_TEXTS))):
        how = {"truncation": True, "max_length": max_length, "return_overflowing_tokens": True}
        found = [tokenizer(text_target=text, **how) if is_target else tokenizer(text=text, **how) for text in chunk]
        rows = [cast(list[int], tokens["input_ids"]) for tokens in found]
        # Version 5 of transformers says so only of texts that are cut off.
        cut_off = [tokens.get("overflowing_tokens") for tokens in found]
        ids = np.fromiter(chain.from_iterable(rows), id_type)
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        yield _TokenChunk(ids, np.zeros(len(ids), np.uint8), lengths, np.array([bool(tokens) for tokens in cut_off]))


class WordTokens:
    """Tokenizes with a tokenizer for which each word has the same tokens wherever it stands, such as BERT's.

    Every word is tokenized once, and the tokens of a text are put together from those of its words. They are the
    tokenizer's own, in a fraction of its time.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, max_length: int):
        self._tokenizer, self._max_length = tokenizer, max_length
        self._id_type = np.min_scalar_type(len(tokenizer))
        self._tokens: dict[str, bytes] = {}

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast, max_length: int) -> WordTokens | None:
        """None if the tokenizer is not such a one.

        BERT's normalizer changes each character by itself, its words end at every space, and its tokens are those of
        one word. Added tokens are found in the whole text, so they must not hold a space.
        """
        rules = json.loads(tokenizer.backend_tokenizer.to_str())
        kinds = [(rules[part] or {}).get("type") for part in ("normalizer", "pre_tokenizer", "model")]
        if (
            kinds == ["BertNormalizer", "BertPreTokenizer", "WordPiece"]
            and (rules["post_processor"] or {}).get("type") in ("TemplateProcessing", "BertProcessing")
            and all(token["content"].isascii() and " " not in token["content"] for token in rules["added_tokens"])
            and tokenizer.truncation_side == "right"
            and max_length > tokenizer.num_special_tokens_to_add(pair=True)
        ):
            return cls(tokenizer, max_length)
        return None

    def chunks(self, texts: Iterable[Text]) -> Iterator[_TokenChunk]:
        """The tokens of texts, or of pairs, some at a time."""
        texts = iter(texts)
        while chunk := list(islice(texts, CHUNK_TEXTS)):
            rows = [(text,) if isinstance(text, str) else text for text in chunk]
            tokens_of = iter(self._tokens_of([*chain.from_iterable(rows)]))
            yield self._laid_out(rows, [tuple(islice(tokens_of, len(row))) for row in rows])

    def _tokens_of(self, texts: list[str]) -> list[bytes]:
        """The ids of each text's tokens, without special ones."""
        words_of = [text.split(" ") for text in texts]
        words = set[str]().union(*words_of)
        missing = words - self._tokens.keys()
        if len(self._tokens) + len(missing) > MOST_WORDS:
            self._tokens, missing = {}, words
        encoded = self._unlimited().encode_batch_fast([*missing], False, False)
        for word, encoding in zip(missing, encoded, strict=True):
            self._tokens[word] = np.array(encoding.ids, self._id_type).tobytes()
        return [b"".join(map(self._tokens.__getitem__, words)) for words in words_of]

    def _laid_out(self, texts: list[tuple[str, ...]], tokens_of: list[tuple[bytes, ...]]) -> _TokenChunk:
        """The tokens of each text, or pair, truncated and with the special tokens around them."""
        # Texts of one letter, which is one token, show where the special tokens belong.
        template = self._unlimited().encode("a", "a" if len(texts[0]) == 2 else None)
        room = self._max_length - sum(template.special_tokens_mask)
        truncated = np.array([sum(map(len, tokens)) > room * self._id_type.itemsize for tokens in tokens_of])
        too_long = np.flatnonzero(truncated).tolist()
        for row, kept in zip(too_long, self._kept([texts[row] for row in too_long], room), strict=True):
            sizes = (number * self._id_type.itemsize for number in kept)
            tokens_of[row] = tuple(tokens[:size] for tokens, size in zip(tokens_of[row], sizes, strict=True))
        special = [np.array(token, self._id_type).tobytes() for token in template.ids]
        places = [*zip(template.sequence_ids, special, strict=True)]
        parts = [special if part is None else tokens[part] for tokens in tokens_of for part, special in places]
        sizes = np.fromiter(map(len, parts), np.int64, len(parts)) // self._id_type.itemsize
        return _TokenChunk(
            np.frombuffer(b"".join(parts), self._id_type),
            np.repeat(np.tile(np.array(template.type_ids, np.uint8), len(texts)), sizes),
            sizes.reshape(len(texts), -1).sum(axis=1),
            truncated,
        )

    def _kept(self, texts: list[tuple[str, ...]], room: int) -> Iterator[tuple[int, ...]]:
        """How many tokens of texts that are too long are kept; for pairs, of which text, only the tokenizer knows."""
        pairs = [text for text in texts if len(text) == 2]
        if not pairs:
            yield from repeat((room,), len(texts))
        for encoding in chain.from_iterable(encodings(self._tokenizer, pairs, self._max_length)):
            yield tuple(encoding.sequence_ids.count(part) for part in (0, 1))

    def _unlimited(self) -> Tokenizer:
        """The tokenizer without truncation."""
        backend = self._tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = self._tokenizer.split_special_tokens
        return backend


@dataclass(frozen=True)
class Document:
    """The tokens of one text: `ids`, `num_bytes` of UTF-8, and `words`, the word that each belongs to; each [T]."""

    ids: NDArray[np.int32]
    num_bytes: NDArray[np.int64]
    words: NDArray[np.int64]


def read_documents(
    rows: datasets.Dataset, tokenizer: PreTrainedTokenizerFast, keep_line_breaks: bool
) -> tuple[list[Document], NDArray[np.int64]]:
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
    return documents, np.array(sources, np.int64)


def _document(text: str, encoding: Encoding) -> Document:
    # bytes_before[c] is the length in bytes of the text's first c characters.
    widths = np.fromiter((len(character.encode()) for character in text), np.int64, len(text))
    bytes_before = np.concatenate([[0], np.cumsum(widths)])
    ends = np.maximum.accumulate(bytes_before[[end for _, end in encoding.offsets]])
    ends[-1] = bytes_before[-1]
    words = np.array([-1 if word is None else word for word in encoding.word_ids], np.int64)
    return Document(np.array(encoding.ids, np.int32), np.diff(ends, prepend=0), words)
