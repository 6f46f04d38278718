"""Masked language modeling: predict hidden tokens from those on both sides."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import datasets
import numpy as np
from numpy.typing import NDArray

from pipeline.backend import Predictor
from pipeline.data.batches import Batch, Features, Ragged
from pipeline.data.token_stream import read_documents
from pipeline.tasks.base import Examples, Prediction, ScoredExample, Task, known, token_id
from pipeline.tasks.numerics import equal_weights, log_softmax
from pipeline.tasks.options import MaskedLanguageModelingOptions
from pipeline.tasks.validation import text_problems
from pipeline.utils.errors import UserError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerFast

MASKED_SHARE, RANDOM_SHARE = 0.8, 0.1


@dataclass(frozen=True, kw_only=True)
class MaskedTexts(Examples):
    """A tokenized split with the word of each token (-1 for special tokens) and, once tokens are hidden, the labels.

    Words of different texts have different numbers. `labels` are the hidden tokens, -1 at all other positions.
    """

    words: Ragged
    labels: Ragged | None = None


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
        """Hide tokens, a pure function of `key`."""
        rng, ragged = np.random.default_rng([*key, 0x3A5C]), examples.features["input_ids"]
        owners = np.repeat(np.arange(len(ragged.lengths)), ragged.lengths)
        words = examples.words.values
        chosen = choose(owners, words, self.options.masking_probability, self.options.whole_word, rng)
        fate = rng.random(len(chosen))
        vocabulary = np.setdiff1d(np.arange(len(self.tokenizer)), self.tokenizer.all_special_ids).astype(np.int32)
        random_ids = vocabulary[rng.integers(len(vocabulary), size=len(chosen))]
        hidden = np.where(chosen & (fate < MASKED_SHARE), np.int32(token_id(self.tokenizer, "mask")), ragged.values)
        hidden = np.where(chosen & (fate >= 1 - RANDOM_SHARE), random_ids, hidden)
        labels = np.where(chosen, ragged.values, -1)
        num_targets = np.bincount(owners, weights=chosen, minlength=len(ragged.lengths)).astype(np.int64)
        return replace(
            examples,
            features={"input_ids": Ragged(hidden, ragged.offsets)},
            num_targets=num_targets,
            labels=Ragged(labels, ragged.offsets),
        )

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
                scores = [round(float(p), 6) for p in probabilities[best]]
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
    rows, words = owners[candidates], words[candidates]
    begins = np.ones(len(candidates), bool)
    if whole_word:
        begins[1:] = (rows[1:] != rows[:-1]) | (words[1:] != words[:-1])
    unit_of_token = np.cumsum(begins) - 1
    unit_rows, unit_sizes = rows[begins], np.bincount(unit_of_token)
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


def _cut(rows: list[NDArray], length: int) -> list[NDArray]:
    """All rows end to end, cut every `length` entries."""
    stream = np.concatenate(rows) if rows else np.zeros(0, np.int32)
    return [stream[i : i + length] for i in range(0, len(stream), length)]
