"""Masked language modeling: predict hidden tokens from those on both sides."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import datasets
import numpy as np
from numpy.typing import NDArray

from pipeline.backend import Predictor
from pipeline.data.batches import Batch, Features
from pipeline.data.ragged import Ragged
from pipeline.data.token_stream import read_documents
from pipeline.tasks.base import Examples, Prediction, ScoredExample, Task, known, token_id
from pipeline.tasks.numerics import equal_weights, log_softmax, recorded
from pipeline.tasks.options import MaskedLanguageModelingOptions
from pipeline.tasks.validation import text_problems
from pipeline.utils.array_cache import shared
from pipeline.utils.errors import UserError
from pipeline.utils.mapped_arrays import GrowingArray

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerFast

MASKED_SHARE, RANDOM_SHARE = 0.8, 0.1
# Tokens that are hidden at a time.
BLOCK_TOKENS = 2**18


@dataclass(frozen=True, kw_only=True)
class MaskedTexts(Examples):
    """A tokenized split with the word of each token (-1 for special tokens) and, once tokens are hidden, the labels.

    Words of different texts have different numbers. `labels` are the hidden tokens, -1 at all other positions.
    """

    words: Ragged
    labels: Ragged | None = None


@dataclass(frozen=True)
class HiddenTokens:
    """All tokens of a split end to end, some of them hidden; the labels of these, -1 elsewhere; each row's number."""

    ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    num_targets: NDArray[np.int64]


class MaskedLanguageModeling(Task[MaskedTexts, ScoredExample, Prediction]):
    """The task for one recipe.

    Of each row, `options.masking_probability` of the tokens are chosen, at least one; 80% of them become [MASK], 10% a
    random token and 10% stay. Training draws anew every epoch from (seed, epoch); the other splits are masked once,
    the same for every seed. Source: Devlin et al. 2018, section 3.1.
    """

    auto_class = "AutoModelForMaskedLM"
    architectures = ("encoder",)
    outcomes = ("token_losses", "hidden_tokens")
    default_metrics = ("perplexity", "masked_accuracy")
    examples_class = MaskedTexts
    options: MaskedLanguageModelingOptions
    has_prediction_per_row = False
    required = ("text",)

    def row_problems(self, split: str, rows: datasets.Dataset) -> Iterable[str]:
        """Texts that are null; blank ones are dropped and counted."""
        return text_problems(split, "text", rows, blank_is_wrong=False)

    def fit_labels(self, splits: dict[str, datasets.Dataset], checkpoint_labels: dict[str, int]) -> list[str]:
        """There is nothing to take from the rows."""
        return self.setting_problems(("train.label_smoothing",))

    def setup(self, config: PretrainedConfig, tokenizer: PreTrainedTokenizerFast) -> None:
        """Take config and tokenizer. Raises UserError if there is no mask token."""
        super().setup(config, tokenizer)
        if tokenizer.mask_token_id is None:
            raise UserError(f"recipe {self.recipe.name}: the tokenizer of {self.recipe.checkpoint} has no mask_token")

    def encode(self, rows: datasets.Dataset) -> MaskedTexts:
        """Put texts between [CLS] and [SEP], in blocks or rows of at most `data.max_length` tokens."""
        room = self.recipe.data.max_length - 2
        documents, rows_read = read_documents(rows, self.tokenizer, keep_line_breaks=False)
        counts = {"rows": len(rows), "blank rows dropped": len(rows) - len(documents)}
        ids = [document.ids for document in documents]
        # Special tokens are not predicted, be they spelled out in a text or stand for what the vocabulary lacks.
        special = self.tokenizer.all_special_ids
        words = [np.where(np.isin(document.ids, special), -1, document.words) for document in documents]
        truncated = None
        if self.options.packing == "rows":
            truncated = np.array([len(row) > room for row in ids], dtype=bool)
            counts["truncated"] = int(truncated.sum())
        else:
            ids, words = self._blocks(ids, words, room)
        cls, sep = token_id(self.tokenizer, "cls"), token_id(self.tokenizer, "sep")
        tokens = Ragged.of([np.concatenate([[cls], row[:room], [sep]]) for row in ids])
        counts["tokens"] = int(tokens.lengths.sum())
        return MaskedTexts(
            {"input_ids": tokens},
            lengths=tokens.lengths,
            num_targets=tokens.lengths,
            counts=counts,
            truncated=truncated,
            rows_read=rows_read,
            words=Ragged.of([np.concatenate([[-1], row[:room], [-1]]) for row in words], np.int64),
        )

    def _blocks(self, ids: list[NDArray], words: list[NDArray], length: int) -> tuple[list[NDArray], list[NDArray]]:
        """Tokens and words of all texts end to end, cut every `length` tokens."""
        if self.options.separator != "none":
            ids = [np.append(row, np.int32(token_id(self.tokenizer, "sep"))) for row in ids]
            words = [np.append(row, -1) for row in words]
        num_words = np.cumsum([0] + [row.max(initial=0) + 1 for row in words])
        words = [np.where(row < 0, -1, row + first) for row, first in zip(words, num_words, strict=False)]
        return _cut(ids, length), _cut(words, length)

    def for_epoch(self, examples: MaskedTexts, key: list[int]) -> MaskedTexts:
        """Hide tokens, a pure function of `key`; of many tokens all processes of a machine have one copy."""
        tokens = examples.features["input_ids"]
        hidden = shared(
            lambda: self._hidden(examples, key), (HiddenTokens,), tokens.values.nbytes,
            lambda: [self._described(key), *(each.data for each in _arrays(examples))],
        )  # fmt: skip
        return replace(
            examples,
            features={"input_ids": Ragged(hidden.ids, tokens.offsets)},
            num_targets=hidden.num_targets,
            labels=Ragged(hidden.labels, tokens.offsets),
        )

    def _described(self, key: list[int]) -> bytes:
        """What `_hidden` reads besides the tokens and their words."""
        options, tokenizer = self.options.model_dump(mode="json"), self.tokenizer
        special = [len(tokenizer), tokenizer.mask_token_id, *sorted(tokenizer.all_special_ids)]
        return repr((key, options, special)).encode() + Path(__file__).read_bytes()

    def _hidden(self, examples: MaskedTexts, key: list[int]) -> HiddenTokens:
        """All tokens with some of them hidden, in blocks of rows, so that little is in memory at a time.

        The random numbers are those of all rows at once: first one for each unit that may be chosen, then one for the
        fate of each token, then a token for each. Each of these has its own generator, which begins where it must.
        """
        tokens, words = examples.features["input_ids"], examples.words
        blocks = [*_blocks_of_rows(tokens.offsets)]
        num_units = sum(len(units(*_owners_and_words(words, *rows), self.options.whole_word)[0]) for rows in blocks)
        rng, fates, others = (_random(key, skipped) for skipped in (0, num_units, num_units + len(tokens.values)))
        vocabulary = np.setdiff1d(np.arange(len(self.tokenizer)), self.tokenizer.all_special_ids).astype(np.int32)
        mask = np.int32(token_id(self.tokenizer, "mask"))
        ids, labels, num_targets = GrowingArray(np.int32), GrowingArray(np.int32), GrowingArray(np.int64)
        for first, end in blocks:
            owners, words_of_block = _owners_and_words(words, first, end)
            values = tokens.values[tokens.offsets[first] : tokens.offsets[end]]
            chosen = choose(owners, words_of_block, self.options.masking_probability, self.options.whole_word, rng)
            fate = fates.random(len(chosen))
            random_ids = vocabulary[others.integers(len(vocabulary), size=len(chosen))]
            masked = np.where(chosen & (fate < MASKED_SHARE), mask, values)
            ids.append(np.where(chosen & (fate >= 1 - RANDOM_SHARE), random_ids, masked))
            labels.append(np.where(chosen, values, -1))
            num_targets.append(np.bincount(owners, weights=chosen, minlength=end - first))
        return HiddenTokens(ids.finished(), labels.finished(), num_targets.finished())

    def targets(self, examples: MaskedTexts, batch: Batch) -> Features:
        """`labels` [R, L], the hidden tokens, and `loss_weights` that are 0 everywhere else."""
        (stream,) = batch.layout(examples.lengths).streams
        labels = known(examples.labels).laid_out(batch.rows, stream, -1)
        return {"labels": np.maximum(labels, 0), "loss_weights": equal_weights(labels >= 0)}

    def outputs(
        self, model: Predictor, inputs: Features, targets: Features | None
    ) -> NDArray | tuple[NDArray, NDArray]:
        """Each hidden token's loss, so that logits stay inside the framework; for a text with masks, all logits."""
        return model.logits(inputs) if targets is None else model.token_losses(inputs, targets)

    def score_batch(self, output: tuple[NDArray, NDArray], examples: MaskedTexts, rows: NDArray) -> list[ScoredExample]:
        """Summed loss and tokens of each row; the most probable token at each hidden place beside the true one."""
        scored = []
        for losses, predicted, row in zip(*output, rows, strict=True):
            labels = known(examples.labels)[row]
            places = np.flatnonzero(labels >= 0)
            loss = float(losses[places].sum(dtype=np.float64))
            correct = int((predicted[places] == labels[places]).sum())
            line = {
                "prediction": self.tokenizer.convert_ids_to_tokens(predicted[places].tolist()),
                "reference": self.tokenizer.convert_ids_to_tokens(labels[places].tolist()),
                "loss_sum": loss,
                "tokens": len(places),
                "correct": correct,
            }
            columns = {"loss_sums": loss, "tokens": len(places), "correct": correct}
            scored.append(ScoredExample(line, columns, loss, len(places)))
        return scored

    def decode_batch(self, output: NDArray, examples: MaskedTexts, rows: NDArray) -> list[Prediction]:
        """The most probable tokens for every mask of a text."""
        predictions: list[Prediction] = []
        for logits, row in zip(output, rows, strict=True):
            ids = examples.features["input_ids"][row]
            candidates = []
            for place in np.flatnonzero(ids == self.tokenizer.mask_token_id):
                probabilities = np.exp(log_softmax(logits[place]))
                best = np.argsort(-probabilities, kind="stable")[: self.options.top_k]
                tokens = self.tokenizer.convert_ids_to_tokens(best.tolist())
                scores = recorded(probabilities[best]).tolist()
                candidates.append([{"token": t, "score": s} for t, s in zip(tokens, scores, strict=True)])
            predictions.append({"masks": candidates})
        return predictions

    def prediction_changes(self, config: PretrainedConfig) -> dict[str, object]:
        """Each text is an example of its own."""
        return {"options.packing": "rows", "options.separator": None}


def choose(
    owners: NDArray, words: NDArray, probability: float, whole_word: bool, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Which tokens to predict, [T]: in each row the share `probability`, rounded, but at least one token.

    `owners` [T] is each token's row, `words` [T] its word, or -1 for a special token, which is never chosen. With
    `whole_word`, words are taken in random order until the number would be exceeded, but at least one.
    """
    candidates = np.flatnonzero(words >= 0)
    unit_rows, unit_of_token = units(owners, words, whole_word)
    unit_sizes, rows = np.bincount(unit_of_token), owners[candidates]
    order = np.lexsort((rng.random(len(unit_rows)), unit_rows))
    sizes, sorted_rows = unit_sizes[order], unit_rows[order]
    # How many tokens of its row are chosen up to each unit.
    total = np.cumsum(sizes)
    is_first = np.ones(len(order), bool)
    is_first[1:] = sorted_rows[1:] != sorted_rows[:-1]
    before = np.maximum.accumulate(np.where(is_first, total - sizes, 0))
    quota = np.round(probability * np.bincount(rows, minlength=owners.max(initial=-1) + 1))[sorted_rows]
    chosen_units = np.zeros(len(order), bool)
    chosen_units[order] = (total - before <= quota) | is_first
    chosen = np.zeros(len(owners), bool)
    chosen[candidates] = chosen_units[unit_of_token]
    return chosen


def units(owners: NDArray, words: NDArray, whole_word: bool) -> tuple[NDArray, NDArray[np.int64]]:
    """The row of each unit that may be chosen, a token or a word, and the unit of each token that is not special."""
    rows, words = owners[words >= 0], words[words >= 0]
    begins = np.ones(len(words), bool)
    if whole_word:
        begins[1:] = (rows[1:] != rows[:-1]) | (words[1:] != words[:-1])
    return rows[begins], np.cumsum(begins) - 1


def _random(key: list[int], num_skipped: int) -> np.random.Generator:
    """The generator of an epoch after so many numbers of its `random`."""
    bits = np.random.PCG64([*key, 0x3A5C])
    return np.random.Generator(bits.advance(num_skipped))


def _blocks_of_rows(offsets: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """The first row of each block and the one after its last: about BLOCK_TOKENS tokens, but at least one row."""
    first, num_rows = 0, len(offsets) - 1
    while first < num_rows:
        end = max(first + 1, int(np.searchsorted(offsets, offsets[first] + BLOCK_TOKENS, side="right")) - 1)
        yield first, end
        first = end


def _owners_and_words(words: Ragged, first: int, end: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each token of these rows the number of its row, from 0, and its word."""
    offsets = words.offsets[first : end + 1]
    return np.repeat(np.arange(end - first), np.diff(offsets)), words.values[offsets[0] : offsets[-1]]


def _arrays(examples: MaskedTexts) -> list[NDArray]:
    tokens, words = examples.features["input_ids"], examples.words
    return [tokens.values, tokens.offsets, words.values]


def _cut(rows: list[NDArray], length: int) -> list[NDArray]:
    """All rows end to end, cut every `length` entries."""
    stream = np.concatenate(rows) if rows else np.zeros(0, np.int32)
    return [stream[i : i + length] for i in range(0, len(stream), length)]
